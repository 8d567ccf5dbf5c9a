"""Gradients of layers of more than 2^31 elements: results of each kernel's last program; see `test_large_images`."""

import pytest
import torch

import fused_inr as fi
from fused_inr._backends.triton.kernels import fourier_features_backward, layers_backward
from fused_inr._backends.triton.kernels.layers import Tables

pytestmark = pytest.mark.usefixtures("untouched_memory")

SIZE = (1, 1, 1 << 14, (1 << 13) + 8)  # N, T, H, W
CHANNELS = 16


@pytest.fixture
def huge(device, interpreted):
    """Return activations [1, 1, H, W, CHANNELS] of zeros whose last pixel is 1, 2, ..., CHANNELS."""

    def make() -> torch.Tensor:
        x = torch.empty(*SIZE, CHANNELS, dtype=torch.float16, device=device)
        assert x.numel() > 1 << 31
        if not interpreted:  # memory that comes fresh from the operating system is zero
            x.zero_()
        x[0, 0, -1, -1] = last_pixel(device)
        return x

    return make


def last_pixel(device: str) -> torch.Tensor:
    return torch.arange(1, CHANNELS + 1, dtype=torch.float16, device=device)


@pytest.fixture(autouse=True)
def many_short_spans(monkeypatch):
    monkeypatch.setattr(layers_backward, "_WEIGHT_PROGRAMS", 1 << 30)


def test_output_gradient(huge, run_last, device):
    weight = torch.randint(-3, 4, (1, CHANNELS, CHANNELS)).to(device, torch.float16)
    layer = fi.Layer(weight, torch.zeros(CHANNELS), "linear", gain=2.0)
    following = layers_backward.Following(huge(), weight)
    actual, (launch,) = layers_backward.output_gradient(layer, huge(), torch.float16, following, None, None)
    run_last(launch)
    exact = 2 * last_pixel(device).float() @ weight[0].float()
    assert torch.equal(actual.dz[0, 0, -1, -1].float(), exact)
    assert torch.equal(actual.bias[0, 0, -1], exact)


def test_weight_gradient(huge, run_last, device):
    partial, (launch,) = layers_backward.weight_gradient(huge(), huge(), True)
    run_last(launch)
    last = last_pixel(device).float()
    assert torch.equal(partial[0, -1], last[:, None] * last)


def test_children_sum(huge, run_last, device):
    out, (launch,) = layers_backward.children_sum(huge(), 2)
    run_last(launch)
    assert torch.equal(out[0, 0, -1, -1], last_pixel(device))


def tables(device: str) -> Tables:
    """Return tables of angles of 0: sines are 0 and cosines 1."""
    rows = torch.tensor([0.0, 1.0], device=device).half()[:, None].expand(1, 1, SIZE[2], 2, 1).contiguous()
    columns = torch.tensor([0.0, 1.0], device=device).half()[:, None].expand(1, SIZE[3], 2, 1).contiguous()
    return Tables(rows, columns, True)


def test_phase_gradient(huge, run_last, device):
    weight = torch.randint(-3, 4, (1, CHANNELS, 2)).to(device, torch.float16)
    grid = fi.Grid(*SIZE[2:], x=(0.0, 1.0), y=(1.0, 2.0))
    partial, (launch,) = fourier_features_backward.phase_gradient(huge(), weight, tables(device), grid)
    run_last(launch)
    g = (last_pixel(device).float() @ weight[0, :, 0].float()).item()
    exact = torch.tensor([g, g * (SIZE[3] - 1) / SIZE[3], g], device=device)
    assert torch.allclose(partial[0, 0, -1, :, 0], exact, rtol=1e-6)


def test_feature_weight(huge, run_last, device):
    partial, (launch,) = fourier_features_backward.feature_weight_gradient(huge(), tables(device))
    run_last(launch)
    last = last_pixel(device).float()
    assert torch.equal(partial[0, -1], torch.stack([torch.zeros_like(last), last], 1))
