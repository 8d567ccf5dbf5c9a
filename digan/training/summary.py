"""Texts that a training run prints: what will run, tables of the networks, where to find the results."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import accelerate
import torch
from torch import nn

import fused_inr as fi
from digan.config import TrainConfig, flag
from digan.data.training_data import TrainingData
from digan.models.discriminator import Discriminator
from digan.models.generator import Generator
from digan.run_dir import SAMPLES, SNAPSHOTS, metric_path
from digan.training.flops import count_macs, counter, forward_macs, naive_render_macs, render_macs, step_flops
from digan.training.trainer import Trainer
from digan.wording import counted


def start(trainer: Trainer, data: TrainingData, resume: Path | None) -> str:
    """Return a description of the run about to start; for a dry run also every option and the table of the networks."""
    config, accelerator = trainer.config, trainer.accelerator
    lines = [
        task(config),
        f"  devices    {accelerator.num_processes} x {accelerator.device.type}, discriminators in "
        f"{_precision(accelerator.mixed_precision)}, "
        f"{counted(trainer.micro_batches, 'micro-batch', 'micro-batches')} per step",
        f"  software   torch {torch.__version__}, accelerate {accelerate.__version__}, kernels: {_backends()}",
        f"  networks   G {_count(trainer.g):,} parameters, D_I + D_M {_count(trainer.d_image, trainer.d_motion):,}",
        *(f"  {'data' if i == 0 else '    '}       {line}" for i, line in enumerate(data.summary())),
    ]
    if resume:
        lines.append(f"  resuming   {resume}")
    if config.dry_run:
        lines += ["", options(config), "", networks(trainer), "", "Dry run: no run was started."]
    return "\n".join(lines)


def end(folder: Path, config: TrainConfig, clips_seen: int) -> str:
    """Return the text that ends a run: whether it is complete, where the results are, and how to resume."""
    finished = clips_seen >= round(config.kimg * 1000)
    head = "Done." if finished else f"Stopped at {clips_seen / 1000:.2f} of {config.kimg:g} kimg."
    places = {
        "samples": (folder / SAMPLES, ": fakes*.mp4, always from the same latents, and reals.mp4 for comparison"),
        "networks": (folder / SNAPSHOTS, ""),
        **{name: (metric_path(folder, name), "") for name in config.metric_names()},
    }
    return "\n".join(
        [
            f"{head} The results are in {folder}",
            *(f"  {name:<11}  {path}{text}" for name, (path, text) in places.items() if path.exists()),
            f"  resume with  {resume_options(folder, config, clips_seen)}",
        ]
    )


def resume_options(folder: Path, config: TrainConfig, clips_seen: int) -> str:
    """Return the options that resume a run; if it is finished, they double its length."""
    finished = clips_seen >= round(config.kimg * 1000)
    return f"--resume {shlex.quote(str(folder))}" + (f" --kimg {config.kimg * 2:g}" if finished else "")


def clock(seconds: float) -> str:
    """Format seconds in the two largest units, such as "1h 5m" or "1d 0h"; less than a minute in seconds alone."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")]
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    return " ".join(f"{n}{unit}" for n, unit in parts[:2])


def speed(record: Mapping[str, float]) -> str:
    """Return the speed in a record of the statistics, such as "4.2 clips/s, 0.71 TFLOP/s (38% of peak)"."""
    text = f"{record['clips_per_second']:.3g} clips/s"
    if not {"share_of_peak", "tflops_per_second"} <= record.keys():  # records of an older version
        return text
    return f"{text}, {record['tflops_per_second']:.3g} TFLOP/s ({record['share_of_peak']:.0%} of peak)"


def task(config: TrainConfig) -> str:
    """Return a one-line description of what is trained."""
    return (
        f"DIGAN at {config.resolution}x{config.resolution}, clips of {config.frames} frames, "
        f"{config.kimg:g} kimg in batches of {config.batch}"
    )


def options(config: TrainConfig) -> str:
    """Return every option with its value, one per line."""
    return "\n".join(f"  {flag(f.name):<19} {getattr(config, f.name)}" for f in fields(config))


def networks(trainer: Trainer) -> str:
    """Return the table of parameters and multiply-accumulates: of G and D_I for one frame, of D_M for a pair.

    The operations of the logged speed are counted in the same way: rendering is in its lowered form. The table also
    shows the naive form.
    """
    rows = generator_rows(trainer.g)
    for title, d in (("D_I", trainer.d_image), ("D_M", trainer.d_motion)):
        rows += discriminator_rows(title, d, trainer.num_classes)
    totals = (
        f"  G has {_count(trainer.g):,} parameters, D_I and D_M together {_count(trainer.d_image, trainer.d_motion):,}."
    )
    return f"{table(rows)}\n{totals}\n  {iteration(trainer.config, trainer.num_classes)}"


def iteration(config: TrainConfig, num_classes: int = 0) -> str:
    """Return a sentence with the operations of an average iteration and of its updates."""
    flops = step_flops(forward_macs(config, num_classes))
    parts = {"G": flops.update_g, "D": flops.update_d}
    if config.gamma:
        parts[f"R1 (one iteration in {config.r1_interval})"] = flops.update_r1
    if config.pl_weight:
        parts[f"path length (one iteration in {config.pl_interval})"] = flops.update_path_length
    listed = ", ".join(f"{name} {config.batch * value / 1e12:.3g}" for name, value in parts.items())
    return (
        f"An iteration of {config.batch} clips takes {config.batch * flops.weighted(config) / 1e12:.3g} TFLOP, two "
        f"operations per multiply-accumulate: {listed}."
    )


class Row(NamedTuple):
    """A part of a network and its size."""

    network: str
    part: str
    parameters: int
    macs: int  # multiply-accumulates


def generator_rows(generator: Generator) -> list[Row]:
    """Return the parts of G: the mapping and the heads, computed once per clip, and the rendering of one frame."""
    g = Generator(generator.config).to("meta")
    c = g.config
    z, one = torch.empty(1, c.z_dim, device="meta"), torch.empty(1, 1, device="meta")
    slots = torch.empty(1, g.num_slots, c.w_dim, device="meta")
    label = torch.zeros(1, dtype=torch.int64, device="meta") if c.num_classes else None
    inr = g.inr_from_slots(slots, z, one)
    return [
        Row("G", "mapping", _count(g.mapping), count_macs(lambda: g.mapping(z, label))),
        Row("", "heads, per clip", _count(g.blocks), count_macs(lambda: g.inr_from_slots(slots, z, one))),
        Row("", "rendering a frame", 0, render_macs(inr, g.grid())),
        Row("", "  in naive form", 0, naive_render_macs(inr, g.grid())),
    ]


def table(rows: Sequence[Row]) -> str:
    """Format parts of networks as a table, one per line."""
    head = f"  {'':<4} {'part':<18} {'parameters':>14} {'MMAC':>12}"
    body = [f"  {t:<4} {part:<18} {count:>14,} {macs / 1e6:>12,.1f}" for t, part, count, macs in rows]
    return "\n".join([head, *body])


def discriminator_rows(title: str, d: Discriminator, num_classes: int = 0) -> list[Row]:
    """Return the parts of a discriminator, counted for one of its inputs."""
    label = torch.empty(1, dtype=torch.int64, device="meta") if num_classes else None
    d = Discriminator(d.config, d.channels_in).to("meta")
    size = d.config.resolution
    x = torch.empty(1, d.channels_in, size, size, device="meta")
    with counter(depth=3) as flops:
        d(x, label)
    counts = {
        name.removeprefix("Discriminator."): sum(ops.values()) // 2 for name, ops in flops.get_flop_counts().items()
    }
    parts: dict[str, nn.Module] = {"from_rgb": d.from_rgb, **{f"blocks.{n}": b for n, b in d.blocks.items()}}
    rows = [(name.replace("blocks.", "block "), _count(part), counts.get(name, 0)) for name, part in parts.items()]
    rest = counts["Discriminator"] - sum(macs for _, _, macs in rows)
    rows.append(("epilogue", _count(d) - sum(n for _, n, _ in rows), rest))
    return [Row(title if i == 0 else "", *row) for i, row in enumerate(rows)]


def _count(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def _precision(name: str) -> str:
    return {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[name]


def _backends() -> str:
    return ", ".join(name for name, state in fi.backends().items() if state == "ready")
