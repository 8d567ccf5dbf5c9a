"""A training configuration that is small enough for tests, and batches for it."""

import pytest
import torch

from digan.config import TrainConfig, check

TINY = {
    "data": "unused",
    "resolution": 32,
    "batch": 8,
    "z_dim": 8,
    "w_dim": 8,
    "fourier_dim": 4,
    "fmm_rank": 2,
    "channel_base": 128,
    "channel_max": 8,
    "workers": 0,
    "report_to": "none",
    "metrics": "none",
}


@pytest.fixture
def tiny():
    """Makes a small TrainConfig with the options given."""
    return lambda **options: check(TrainConfig(**{**TINY, **options}))


@pytest.fixture
def real_batch():
    """Makes what the data loader yields for a whole batch of n pairs, a function of the seed."""

    def make(n: int, seed: int, classes: int = 1, resolution: int = 32) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 256, (n, 2, 3, resolution, resolution), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, classes, (n,), generator=generator)
        return {"frames": frames, "delta_t": torch.rand(n, generator=generator), "label": labels}

    return make
