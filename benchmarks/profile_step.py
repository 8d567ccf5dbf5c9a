"""Profile a training iteration: `python -m benchmarks.profile_step [options of digan train]`.

Prints the slowest operations and every wait of the host for the device, and writes a trace for chrome://tracing or
ui.perfetto.dev (`--trace FILE`). The iteration includes the R1 penalty, follows iterations that warm up, and uses data
that is on the device already; the data loader has a benchmark of its own (`-k data`). The exit status is 1 if the host
waited.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from digan.cli.train import parse_options, resolve
from digan.config import TrainConfig
from digan.data.loader import to_device
from digan.training.distributed import make_accelerator
from digan.training.trainer import Reals, Trainer

WARM_UP = 2
ITERATION = "iteration"
SHOWN = 25
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")  # of the host for a GPU


def random_reals(trainer: Trainer) -> list[Reals]:
    """Return micro-batches of noise."""
    c = trainer.config
    n = trainer.sharding.clips
    batch = {
        "frames": torch.randint(0, 256, (n, 2, 3, c.resolution, c.resolution), dtype=torch.uint8),
        "delta_t": torch.rand(n),
        "label": torch.zeros(n, dtype=torch.int64),
    }
    return [trainer.reals(to_device(batch, trainer.device)) for _ in range(trainer.micro_batches)]


def waits(events: Iterable[FunctionEvent]) -> Counter[str]:
    """Count the waits of the host within the iteration by call; the profiler itself waits after it."""
    events = list(events)
    (whole,) = (e.time_range for e in events if e.name == ITERATION and e.device_type == DeviceType.CPU)
    return Counter(e.name for e in events if e.name in WAITS and whole.start <= e.time_range.start <= whole.end)


def profiled(trainer: Trainer, reals: list[Reals]) -> profile:
    """Profile one iteration."""
    cuda = trainer.device.type == "cuda"
    for _ in range(WARM_UP):
        trainer.step(reals)
    if cuda:
        torch.cuda.synchronize()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, record_shapes=True) as result, record_function(ITERATION):
        trainer.step(reals)
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, default=Path(tempfile.gettempdir()) / "digan-step.json")
    own, rest = parser.parse_known_args(argv)
    # Without a preset, the published networks. The data is not read.
    config: TrainConfig = resolve(parse_options(["--data", "unused", *rest]))
    trainer = Trainer(config, make_accelerator(config.mixed_precision or "no", config.threads))
    result = profiled(trainer, random_reals(trainer))
    sort = "self_cuda_time_total" if trainer.device.type == "cuda" else "self_cpu_time_total"
    events = result.key_averages(group_by_input_shape=True)
    print(events.table(sort_by=sort, row_limit=SHOWN, max_name_column_width=48, max_shapes_column_width=64))
    own.trace.parent.mkdir(parents=True, exist_ok=True)
    result.export_chrome_trace(str(own.trace))
    counts = waits(result.events())
    print("waits for the device:", ", ".join(f"{count} x {call}" for call, count in counts.items()) or "none")
    print(f"trace: {own.trace}")
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main())
