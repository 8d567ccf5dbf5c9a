"""Texts for the person in front of a training run: what will run, tables of the networks, where to look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import accelerate
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fused_inr as fi
from digan.config import TrainConfig, flag
from digan.discriminator import Discriminator
from digan.feed import Feed
from digan.generator import Generator
from digan.trainer import Trainer


def start(config: TrainConfig, accelerator: Accelerator, trainer: Trainer, feed: Feed, resume: Path | None) -> str:
    """What a run is about to do. A dry run adds every option and the tables of the networks."""
    lines = [
        f"DIGAN at {config.resolution}x{config.resolution}, clips of {config.frames} frames, "
        f"{config.kimg:g} kimg in batches of {config.batch}",
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


def end(folder: Path, config: TrainConfig) -> str:
    """Where to look when a run has ended."""
    lines = [
        f"Done. Everything is in {folder}",
        f"  samples      {folder / 'samples'}: fakes*.mp4 beside reals.mp4, the same clips in every one",
        f"  networks     {folder / 'snapshots'}",
        *(f"  {name:<11}  {folder / f'metric-{name}.jsonl'}" for name in config.metric_names()),
        f"  go on with   --resume {folder} --kimg {config.kimg * 2:g}",
    ]
    return "\n".join(lines)


def options(config: TrainConfig) -> str:
    """Every option with its value, a line each."""
    return "\n".join(f"  {flag(f.name):<19} {getattr(config, f.name)}" for f in fields(config))


def networks(trainer: Trainer) -> str:
    """Parameters and multiply-accumulates: of G and D_I for one frame, of D_M for a pair of frames."""
    g = Generator(trainer.g.config).to("meta")
    c = g.config
    z, one = torch.empty(1, c.z_dim, device="meta"), torch.empty(1, 1, device="meta")
    label = torch.empty(1, dtype=torch.int64, device="meta") if c.num_classes else None
    slots = torch.empty(1, g.num_slots, c.w_dim, device="meta")
    inr = g.inr_from_slots(slots, z, one)
    heads = _macs(lambda: g.inr_from_slots(slots, z, one))
    mapping = sum(p.numel() for n, p in g.mapping.named_parameters() if n.endswith("weight"))
    rows = [("G", "mapping", _count(g.mapping), mapping), ("", "heads, per clip", _count(g.blocks), heads)]
    rows.append(("", "rendering a frame", 0, _macs(lambda: fi.render(inr, g.grid(), backend="reference"))))
    for title, d in (("D_I", trainer.d_image), ("D_M", trainer.d_motion)):
        rows += _discriminator_rows(title, d, label)
    head = f"  {'':<4} {'part':<18} {'parameters':>14} {'MMAC':>12}"
    body = [f"  {t:<4} {part:<18} {count:>14,} {macs / 1e6:>12,.1f}" for t, part, count, macs in rows]
    totals = [
        f"  G has {_count(trainer.g):,} parameters, D_I and D_M together {_count(trainer.d_image, trainer.d_motion):,}."
    ]
    return "\n".join([head, *body, *totals])


Row = tuple[str, str, int, int]  # network, part, parameters, multiply-accumulates


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
    return [(title if i == 0 else "", *row) for i, row in enumerate(rows)]


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
