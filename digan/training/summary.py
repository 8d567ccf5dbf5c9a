"""Texts for the person in front of a training run: what will run, tables of the networks, where to look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import accelerate
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fused_inr as fi
from digan.config import TrainConfig, flag
from digan.data.training_data import TrainingData
from digan.models.discriminator import Discriminator
from digan.models.generator import Generator
from digan.run_dir import SAMPLES, SNAPSHOTS, metric_path
from digan.training.trainer import Trainer


def start(
    config: TrainConfig, accelerator: Accelerator, trainer: Trainer, feed: TrainingData, resume: Path | None
) -> str:
    """What a run is about to do. A dry run adds every option and the tables of the networks."""
    lines = [
        task(config),
        f"  devices    {accelerator.num_processes} x {accelerator.device}, discriminators in "
        f"{_precision(accelerator.mixed_precision)}, {trainer.micro_batches} micro-batch(es) per step",
        f"  software   torch {torch.__version__}, accelerate {accelerate.__version__}, kernels: {_backends()}",
        f"  networks   G {_count(trainer.g):,} parameters, D_I + D_M {_count(trainer.d_image, trainer.d_motion):,}",
        *(f"  {'data' if i == 0 else '    '}       {line}" for i, line in enumerate(feed.summary())),
    ]
    if resume:
        lines.append(f"  resuming   {resume}")
    if config.dry_run:
        lines += ["", options(config), "", networks(trainer), "", "Dry run: no run was started."]
    return "\n".join(lines)


def end(folder: Path, config: TrainConfig, clips_seen: int) -> str:
    """Where to look when a run has ended or was stopped: what is there, and how to go on."""
    finished = clips_seen >= round(config.kimg * 1000)
    head = "Done." if finished else f"Stopped at {clips_seen / 1000:.2f} of {config.kimg:g} kimg."
    places = {
        "samples": (folder / SAMPLES, ": fakes*.mp4 beside reals.mp4, the same clips in every one"),
        "networks": (folder / SNAPSHOTS, ""),
        **{name: (metric_path(folder, name), "") for name in config.metric_names()},
    }
    return "\n".join(
        [
            f"{head} Everything is in {folder}",
            *(f"  {name:<11}  {path}{text}" for name, (path, text) in places.items() if path.exists()),
            f"  go on with   {go_on(folder, config, clips_seen)}",
        ]
    )


def go_on(folder: Path, config: TrainConfig, clips_seen: int) -> str:
    """The options that continue a run: for as long again, if it is finished."""
    finished = clips_seen >= round(config.kimg * 1000)
    return f"--resume {folder}" + (f" --kimg {config.kimg * 2:g}" if finished else "")


def clock(seconds: float) -> str:
    """Seconds as "1 h 5 m"; the two largest units."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"))
    shown = [f"{n}{unit}" for n, unit in parts if n or unit == "s"]
    return " ".join(shown[:2])


def speed(record: Mapping[str, float]) -> str:
    """What a record of the statistics says of the speed: "4.2 clips/s, 0.71 TFLOP/s (38% of peak)"."""
    text = f"{record['clips_per_second']:.3g} clips/s"
    if "share_of_peak" not in record:  # records of an older version
        return text
    return f"{text}, {record['tflops_per_second']:.3g} TFLOP/s ({record['share_of_peak']:.0%} of peak)"


def task(config: TrainConfig) -> str:
    """What is trained, in a few words."""
    return (
        f"DIGAN at {config.resolution}x{config.resolution}, clips of {config.frames} frames, "
        f"{config.kimg:g} kimg in batches of {config.batch}"
    )


def options(config: TrainConfig) -> str:
    """Every option with its value, a line each."""
    return "\n".join(f"  {flag(f.name):<19} {getattr(config, f.name)}" for f in fields(config))


def networks(trainer: Trainer) -> str:
    """Parameters and multiply-accumulates: of G and D_I for one frame, of D_M for a pair of frames."""
    rows = generator_rows(trainer.g)
    label = torch.empty(1, dtype=torch.int64, device="meta") if trainer.num_classes else None
    for title, d in (("D_I", trainer.d_image), ("D_M", trainer.d_motion)):
        rows += _discriminator_rows(title, d, label)
    totals = (
        f"  G has {_count(trainer.g):,} parameters, D_I and D_M together {_count(trainer.d_image, trainer.d_motion):,}."
    )
    return f"{table(rows)}\n{totals}"


class Row(NamedTuple):
    """A part of a network."""

    network: str
    part: str
    parameters: int
    macs: int  # multiply-accumulates


def generator_rows(generator: Generator) -> list[Row]:
    """The parts of G: the mapping and the heads, which a clip needs once, and the rendering of one frame."""
    g = Generator(generator.config).to("meta")
    c = g.config
    z, one = torch.empty(1, c.z_dim, device="meta"), torch.empty(1, 1, device="meta")
    slots = torch.empty(1, g.num_slots, c.w_dim, device="meta")
    inr = g.inr_from_slots(slots, z, one)
    mapping = sum(p.numel() for n, p in g.mapping.named_parameters() if n.endswith("weight"))
    return [
        Row("G", "mapping", _count(g.mapping), mapping),
        Row("", "heads, per clip", _count(g.blocks), _macs(lambda: g.inr_from_slots(slots, z, one))),
        Row("", "rendering a frame", 0, _macs(lambda: fi.render(inr, g.grid(), backend="reference"))),
    ]


def table(rows: Sequence[Row]) -> str:
    """Parts of networks, a line each."""
    head = f"  {'':<4} {'part':<18} {'parameters':>14} {'MMAC':>12}"
    body = [f"  {t:<4} {part:<18} {count:>14,} {macs / 1e6:>12,.1f}" for t, part, count, macs in rows]
    return "\n".join([head, *body])


def _discriminator_rows(title: str, d: Discriminator, label: torch.Tensor | None) -> list[Row]:
    d = Discriminator(d.config, d.channels_in).to("meta")
    size = d.config.resolution
    x = torch.empty(1, d.channels_in, size, size, device="meta")
    with FlopCounterMode(depth=3, display=False) as counter:
        d(x, label)
    counts = {
        name.removeprefix("Discriminator."): sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()
    }
    parts: dict[str, nn.Module] = {"from_rgb": d.from_rgb, **{f"blocks.{n}": b for n, b in d.blocks.items()}}
    rows = [(name.replace("blocks.", "block "), _count(part), counts.get(name, 0)) for name, part in parts.items()]
    rest = counts["Discriminator"] - sum(macs for _, _, macs in rows)
    rows.append(("epilogue", _count(d) - sum(n for _, n, _ in rows), rest))
    return [Row(title if i == 0 else "", *row) for i, row in enumerate(rows)]


def _macs(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2


def _count(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def _precision(name: str) -> str:
    return {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[name]


def _backends() -> str:
    return ", ".join(name for name, state in fi.backends().items() if state == "ready")
