"""Training iterations of DIGAN at 128x128: the trainer compared with the naive one.

On a GPU, at batch 32, the naive path in half precision is included too, with and without torch.compile. On a CPU,
compiling it would take a large part of the run; the renderer and the discriminators are compiled on their own.
"""

from __future__ import annotations

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from benchmarks import naive
from benchmarks.device import on_cuda, pick
from benchmarks.harness import Case, Sequel, on_reference
from benchmarks.limits import Limit, gemm_ceiling
from benchmarks.memory import Kept, Path
from benchmarks.sizes import full, scaled, tiny
from digan.config import TrainConfig
from digan.data.loader import to_device
from digan.training.distributed import make_accelerator
from digan.training.flops import forward_macs, step_flops
from digan.training.trainer import Reals, Trainer

NAIVE = "naive, float32"
RIVALS = ("naive, bfloat16", "compiled, bfloat16")
# At learning rate 0, every update does all of its work but leaves the networks unchanged, the same for all paths.
COMMON = dict(
    data="unused",
    batch=pick(cpu=scaled(tiny=2, default=1, full=4), cuda=scaled(tiny=2, default=32)),
    lr=0.0,
    report_to="none",
    metrics="none",
)
SMALL = dict(resolution=32, z_dim=16, w_dim=16, fourier_dim=8, fmm_rank=2, channel_base=512, channel_max=16, gamma=1.0)
# For the gradients that reach Adam in bfloat16, relative to those of the naive path in float32.
TOLERANCE = 0.3
# Every 16th row of each gradient is compared: keeping all of them would need memory that a step does not use.
ROWS = slice(None, None, 16)


def trainer(config: TrainConfig, mixed_precision: str, kind: type[Trainer] = Trainer, **options: object) -> Trainer:
    AcceleratorState._reset_state()  # accelerate allows one precision in a process
    return kind(config, make_accelerator(mixed_precision, torch.get_num_threads()), **options)


def naive_update(trainer: naive.NaiveTrainer, update: str, reals: list[Reals]) -> tuple[Tensor, ...]:
    before = trainer.judged
    gradients = sampled_gradients(trainer, update, reals)
    if trainer.judged == before:
        raise RuntimeError("the trainer no longer calls its discriminators: this is not the naive path")
    return gradients


def sampled_gradients(trainer: Trainer, update: str, reals: list[Reals]) -> tuple[Tensor, ...]:
    """Run an update, such as "update_g", and return part of the gradients of each optimizer step as a vector."""
    samples: list[Tensor] = []

    def sample(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        samples.append(torch.cat([torch.atleast_1d(g)[ROWS].flatten() for g in gradients]))

    hooks = [optimizer.register_step_pre_hook(sample) for optimizer in (trainer.opt_g, trainer.opt_d)]
    getattr(trainer, update)(reals)
    for hook in hooks:
        hook.remove()
    return tuple(samples)


@pytest.fixture
def trainers(monkeypatch) -> dict[str, Trainer]:
    if not on_cuda():
        monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    config = TrainConfig(**COMMON, **(SMALL if tiny() else {}))
    half = torch.bfloat16
    rivals = {
        name: trainer(config, "no", naive.NaiveTrainer, dtype=half, compiled=name.startswith("compiled"))
        for name in RIVALS
        if on_cuda()
    }
    return {
        NAIVE: trainer(config, "no", naive.NaiveTrainer),
        **rivals,
        **({"ours, float32": trainer(config, "no")} if full() or on_cuda() else {}),
        "ours, bfloat16": trainer(config, "bf16"),
    }


def real_batch(config: TrainConfig) -> dict[str, Tensor]:
    """Return a batch like those of the data loader."""
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

    counted = step_flops(forward_macs(config))

    def step(name: str, update: str) -> Case:
        flops = config.batch * getattr(counted, update)

        def path(title: str, trainer: Trainer) -> Path:
            reals = [trainer.reals(to_device(batch, trainer.device))]
            if title in (NAIVE, *RIVALS):
                return on_reference(lambda: naive_update(trainer, update, reals))
            return Kept(lambda: sampled_gradients(trainer, update, reals))

        return Case(
            name=f"{name} {size}",
            dtype=None,
            paths={title: path(title, trainer) for title, trainer in trainers.items()},
            flops=flops,
            limits=[Limit("f32 gemm", lambda: flops / gemm_ceiling(torch.float32))],
            truth=None,
            tolerance=TOLERANCE,
        )

    parts = [
        (step("G step", "update_g"), 1.0),
        (step("D step", "update_d"), 1.0),
        (step("R1 step", "update_r1"), 1 / config.r1_interval),
    ]
    compare(Sequel(f"iteration, G + D + R1/{config.r1_interval} {size}", parts))
