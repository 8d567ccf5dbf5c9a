"""Whole training steps of DIGAN at 128x128: the trainer against the same one on the naive path.

On a GPU, at batch 32, the naive path in half precision under torch.compile stands beside it.
"""

from __future__ import annotations

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from benchmarks import naive
from benchmarks.device import on_cuda, pick
from benchmarks.harness import Case, Path, Sequel, on_reference
from digan import Discriminator
from digan.config import TrainConfig
from digan.processes import make_accelerator
from digan.trainer import Reals, Trainer

NAIVE = "naive, float32"
RIVALS = ("naive, bfloat16", "compiled, bfloat16")
# At learning rate 0 every update does all of its work and leaves the networks as they are, for all paths the same.
COMMON = dict(data="unused", batch=pick(cpu=4, cuda=32), lr=0.0, report_to="none", metrics="none")
SMALL = dict(resolution=32, z_dim=16, w_dim=16, fourier_dim=8, fmm_rank=2, channel_base=512, channel_max=16, gamma=1.0)
# Of the gradients that reach Adam in bfloat16, relative to those of the naive path in float32.
TOLERANCE = 0.3
# The gradients that are compared: every 16th row of each parameter, as keeping all would be memory that no step takes.
ROWS = slice(None, None, 16)


class NaiveForward:
    """Takes the place of a discriminator's forward method, in one type whatever type is asked for.

    Args:
        dtype: of the highest resolutions; None is float32.
        compiled: but for second derivatives, which torch.compile does not have.
    """

    def __init__(self, d: Discriminator, dtype: torch.dtype | None = None, compiled: bool = False) -> None:
        self.d, self.dtype, self.calls = d, dtype, 0
        self.judge = torch.compile(naive.judge) if compiled else naive.judge

    def __call__(self, x: Tensor, labels: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        self.calls += 1
        twice = x.requires_grad and self.d.out.weight.requires_grad
        return (naive.judge if twice else self.judge)(self.d, x, self.dtype)


def trainer(config: TrainConfig, mixed_precision: str) -> Trainer:
    AcceleratorState._reset_state()  # accelerate allows one precision in a process
    return Trainer(config, make_accelerator(mixed_precision, torch.get_num_threads()))


def naive_trainer(config: TrainConfig, dtype: torch.dtype | None = None, compiled: bool = False) -> Trainer:
    """With discriminators of separate calls; the rest becomes naive on the reference backend."""
    made = trainer(config, "no")
    for d in (made.d_image, made.d_motion):
        d.forward = NaiveForward(d, dtype, compiled)
    if compiled:
        made._generate = torch.compile(made._render)
    return made


def naive_update(trainer: Trainer, update: str, reals: list[Reals]) -> tuple[Tensor, ...]:
    forwards = [d.forward for d in (trainer.d_image, trainer.d_motion)]
    before = [f.calls for f in forwards]
    found = sampled_gradients(trainer, update, reals)
    if any(f.calls == n for f, n in zip(forwards, before, strict=True)):
        raise RuntimeError("the trainer no longer calls its discriminators: this is not the naive path")
    return found


def sampled_gradients(trainer: Trainer, update: str, reals: list[Reals]) -> tuple[Tensor, ...]:
    """Part of what an update, such as "update_g", hands to its optimizer: a vector for every step that it makes."""
    seen: list[Tensor] = []

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        seen.append(torch.cat([torch.atleast_1d(g)[ROWS].flatten() for g in gradients]))

    hooks = [optimizer.register_step_pre_hook(look) for optimizer in (trainer.opt_g, trainer.opt_d)]
    getattr(trainer, update)(reals)
    for hook in hooks:
        hook.remove()
    return tuple(seen)


@pytest.fixture
def trainers(quick, monkeypatch) -> dict[str, Trainer]:
    if not on_cuda():
        monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    config = TrainConfig(**COMMON, **(SMALL if quick else {}))
    half = torch.bfloat16
    rivals = {name: naive_trainer(config, half, name.startswith("compiled")) for name in RIVALS if on_cuda()}
    return {
        NAIVE: naive_trainer(config),
        **rivals,
        "ours, float32": trainer(config, "no"),
        "ours, bfloat16": trainer(config, "bf16"),
    }


def real_batch(config: TrainConfig) -> dict[str, Tensor]:
    """What the data loader gives."""
    generator = torch.Generator().manual_seed(0)
    size = (config.batch, 2, 3, config.resolution, config.resolution)
    return {
        "frames": torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),
        "delta_t": torch.rand(config.batch, generator=generator),
        "label": torch.zeros(config.batch, dtype=torch.int64),
    }


def test_training_iteration(compare, trainers):
    config = trainers[NAIVE].config
    batch = real_batch(config)

    size = f"N{config.batch}-R{config.resolution}"

    def step(name: str, update: str) -> Case:
        def path(title: str, trainer: Trainer) -> Path:
            reals = [trainer.reals(batch)]
            if title in (NAIVE, *RIVALS):
                return on_reference(lambda: naive_update(trainer, update, reals))
            return lambda: sampled_gradients(trainer, update, reals)

        return Case(
            name=f"{name} {size}",
            dtype=None,
            paths={title: path(title, trainer) for title, trainer in trainers.items()},
            flops=0,
            truth=None,
            tolerance=TOLERANCE,
            rounds=3,
            rivals=RIVALS,
        )

    parts = [
        (step("G step", "update_g"), 1.0),
        (step("D step", "update_d"), 1.0),
        (step("R1 step", "update_r1"), 1 / config.r1_interval),
    ]
    compare(Sequel(f"iteration, G + D + R1/{config.r1_interval} {size}", parts))
