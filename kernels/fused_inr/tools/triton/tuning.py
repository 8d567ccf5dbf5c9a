"""Search for block sizes by timing kernels on the local GPU, for the table of `configs`.

The launches of the ahead-of-time cases are timed on tensors of their shapes. For each entry of the table that they use,
one option after another is halved and doubled (pipeline stages: one less, one more), and a faster value is kept, until
no change is faster. Which widths run several layers in one kernel is not tuned: those entries are set by hand.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from fused_inr._backends.triton.kernels import configs
from fused_inr._backends.triton.kernels.configs import Entry
from fused_inr._backends.triton.kernels.launch import Launch, run
from fused_inr.tools.triton.case import Case

MIN_GAIN = 0.02
"""Smallest relative gain in time that counts; less is noise."""
_BOUNDS = {"num_warps": (1, 16), "num_stages": (1, 6)}
_BLOCK_BOUNDS = (16, 256)


def neighbours(options: dict[str, int]) -> Iterable[dict[str, int]]:
    """Yield options with one block size, the warps or the pipeline stages changed by one step, within bounds."""
    for name, value in options.items():
        if name not in _BOUNDS and not name.startswith("BLOCK_"):
            continue
        low, high = _BOUNDS.get(name, _BLOCK_BOUNDS)
        steps = (value - 1, value + 1) if name == "num_stages" else (value // 2, value * 2)
        for step in steps:
            if low <= step <= high:
                yield {**options, name: step}


def descend(options: dict[str, int], seconds: Callable[[dict[str, int]], float]) -> tuple[dict[str, int], float]:
    """Return options that no neighbour beats by `MIN_GAIN`, and their time; `seconds` is infinite for failures."""
    best, tried = seconds(options), {json.dumps(options, sort_keys=True)}
    faster = True
    while faster:
        faster = False
        for candidate in neighbours(options):
            key = json.dumps(candidate, sort_keys=True)
            if key in tried:
                continue
            tried.add(key)
            time = seconds(candidate)
            if time < best * (1 - MIN_GAIN):
                options, best, faster = candidate, time, True
                break
    return options, best


def on_device(launch: Launch) -> Launch:
    """Return a launch with random tensors of the same shapes and strides in place of "meta" tensors."""

    def replaced(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        extent = sum(stride * (size - 1) for stride, size in zip(value.stride(), value.shape, strict=True)) + 1
        contents = torch.randn(extent, device="cuda").to(value.dtype)
        return contents.as_strided(value.shape, value.stride())

    return replace(launch, arguments={name: replaced(value) for name, value in launch.arguments.items()})


def seconds_of(launches: Iterable[Launch]) -> float:
    """Return the median time of running launches in order, or infinity if it does not fit or spills registers."""
    try:
        ready = [on_device(launch) for launch in launches]
        for launch in ready:
            kernel = launch.kernel[(launch.programs,)](**launch.arguments, **launch.options)
            if kernel.n_spills:
                return math.inf
        torch.cuda.synchronize()
        return triton.testing.do_bench(lambda: run(ready, torch.device("cuda")), return_mode="median") / 1000
    except (TritonError, RuntimeError):  # a failing compiler pass raises the latter
        torch.cuda.synchronize()  # raises again if the GPU itself has failed
        return math.inf


def _tune_entry(entry: Entry, cases: Iterable[Case], target: str) -> str:
    """Write the fastest options to the table in memory, and return a line that reports them."""
    kernel, kind, width = entry
    table = configs.table()
    shipped = table.get(target, {}).get(kernel, {}).get(kind) or table[configs.FALLBACK][kernel][kind]
    widths = table.setdefault(target, {}).setdefault(kernel, {}).setdefault(kind, dict(shipped))

    def seconds(options: dict[str, int]) -> float:
        widths[width] = options
        return math.fsum(seconds_of(case.launches_on(target)) for case in cases)

    before = widths[width]
    start = seconds(before)
    widths[width], best = descend(before, seconds) if math.isfinite(start) else (before, start)
    return f"{kernel} {kind} {width}: {start * 1e3:.3f} ms -> {best * 1e3:.3f} ms, {json.dumps(widths[width])}"


def tune(cases: Iterable[Case]) -> None:
    """Tune all entries that the cases use, print a line for each, and write the table.

    Raises:
        SystemExit: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise SystemExit("tune needs a GPU to time kernels on: run it on a machine with the GPU to tune for.")
    target = configs.architecture(torch.device("cuda", torch.cuda.current_device()))
    users: dict[Entry, list[Case]] = {}
    for case in cases:
        if case.matrix_instructions:
            with configs.recorded() as entries:
                case.launches_on(target)
            for entry in entries:
                users.setdefault(entry, []).append(case)
    for entry in sorted(users):
        print(_tune_entry(entry, users[entry], target), flush=True)
        configs.PATH.write_text(configs.text(configs.table()))
