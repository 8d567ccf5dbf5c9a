"""The naive discriminator against `digan.Discriminator`, with the same parameters."""

import pytest
import torch

import fused_inr as fi
from benchmarks import naive
from digan import Discriminator
from digan.config import DiscriminatorConfig
from digan.models.discriminator import IMAGE_CHANNELS

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
