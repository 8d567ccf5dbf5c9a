"""The naive discriminator against `digan.Discriminator`, with the same parameters."""

import pytest
import torch

import fused_inr as fi
from benchmarks import naive, profile_step
from digan import Discriminator
from digan.config import DiscriminatorConfig, TrainConfig
from digan.models.discriminator import IMAGE_CHANNELS
from digan.training.distributed import make_accelerator

SMALL = DiscriminatorConfig(resolution=16, channel_base=128, channel_max=8)


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(SMALL, IMAGE_CHANNELS)


def test_the_same_logits_and_gradients(discriminator):
    x = torch.randn(4, IMAGE_CHANNELS, 16, 16).requires_grad_()
    parameters = [x, *discriminator.parameters()]
    expected = discriminator(x)
    with fi.backend("reference"):
        actual = naive.judge(discriminator, x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    pairs = zip(*(torch.autograd.grad(y.square().sum(), parameters) for y in (actual, expected)), strict=True)
    for a, b in pairs:
        assert (a - b).norm() <= 1e-5 * b.norm()  # measured: 3.4e-7 at most


def test_r1_is_half_the_squared_gradient():
    """The logit of a linear judge has the same gradient everywhere, so R1 is known."""
    slope = torch.arange(3.0 * 4 * 4).view(3, 4, 4)
    penalty = naive.r1(None, torch.randn(2, 3, 4, 4), judge=lambda d, x, dtype: (x * slope).sum((1, 2, 3)))
    assert penalty == slope.square().sum() / 2


def test_every_update_of_a_naive_trainer_asks_the_naive_discriminator(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    widths = dict(z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8)
    config = TrainConfig(data="unused", batch=2, resolution=32, report_to="none", metrics="none", **widths)
    trainer = naive.NaiveTrainer(config, make_accelerator("no", torch.get_num_threads()))
    (reals,) = profile_step.random_reals(trainer)
    for update in (trainer.update_g, trainer.update_d, trainer.update_r1):
        before = trainer.judged
        with fi.backend("reference"):
            update([reals])
        assert trainer.judged > before
