"""Gradients of single layers, against autograd in float64; `test_render_backward` tests those of whole INRs."""

import pytest
import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr._backends.triton.kernels import launch, layers_backward
from fused_inr._backends.triton.kernels.layers_backward import Following

SIZE, CHANNELS, INNER, COLOURS = (2, 1, 3, 7), 19, 21, 3  # N, T, H, W


@pytest.fixture
def launched(device):
    """Return a function that runs the launches of a (result, launches) pair and returns the result."""

    def launched(pair: tuple):
        launch.run(pair[1], torch.device(device))
        return pair[0]

    return launched


@pytest.mark.parametrize("terms", ["following", "direct", "colours", "following-direct-colours"])
@pytest.mark.parametrize(("activation", "gain"), [("lrelu", 1.3), ("lrelu", -1.3), ("relu", 1.0), ("sine", 1.2)])
def test_output_gradient(activation, gain, terms, assert_close, launched, device):
    z = torch.randn(*SIZE, CHANNELS)
    weight, rgb = torch.randn(2, INNER, CHANNELS), torch.randn(1, COLOURS, CHANNELS)
    dz, direct, image = torch.randn(*SIZE, INNER), torch.randn(*SIZE, CHANNELS), torch.randn(*SIZE, COLOURS)
    exact_z, exact_rgb = z.double().requires_grad_(), rgb.double().requires_grad_()
    y = gain * reference.activation(exact_z, activation, 2.0)
    total = (y * direct).sum() if "direct" in terms else 0 * y.sum()
    if "following" in terms:
        total = total + torch.einsum("nthwi,nio,nthwo->", dz.double(), weight.double(), y)
    if "colours" in terms:
        total = total + torch.einsum("nthwc,mco,nthwo->", image.double(), exact_rgb, y)
    exact, of_rgb = torch.autograd.grad(total, [exact_z, exact_rgb], materialize_grads=True)

    to_rgb = (rgb.to(device), torch.zeros(COLOURS, device=device))
    layer = fi.Layer(torch.empty(1, CHANNELS, 4), torch.empty(CHANNELS), activation, gain, 2.0, to_rgb)
    result = launched(
        layers_backward.output_gradient(
            layer,
            (z if activation == "sine" else y.detach().float()).to(device),
            torch.float32,
            Following(dz.to(device), weight.to(device)) if "following" in terms else None,
            direct.to(device) if "direct" in terms else None,
            image.to(device) if "colours" in terms else None,
        )
    )
    # Measured in the interpreter: 2.4e-7 at most.
    assert_close("dz", exact, result.dz.cpu().double(), 2e-6)
    assert_close("bias", exact.sum((0, 1, 2, 3)), result.bias.sum((0, 1, 2)).cpu().double(), 2e-6)
    if "colours" in terms:
        assert_close("rgb", of_rgb[0], result.rgb.sum((0, 1, 2)).cpu().double(), 2e-6)
    else:
        assert result.rgb is None


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_weight_gradient(shared, assert_close, launched, device, monkeypatch):
    monkeypatch.setattr(layers_backward, "_MIN_PIXELS", 16)  # several spans of pixels
    dz, x = torch.randn(*SIZE, CHANNELS), torch.randn(*SIZE, INNER)
    exact = torch.einsum("nthwo,nthwi->noi", dz.double(), x.double())
    partial = launched(layers_backward.weight_gradient(dz.to(device), x.to(device), shared))
    assert (len(partial), partial.shape[1] > 1) == (1 if shared else 2, shared)
    actual = partial.sum(1).cpu().double()
    # Measured in the interpreter: 7.9e-8.
    assert_close("weight", exact.sum(0, keepdim=True) if shared else exact, actual, 1e-6)


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_children_sum(ratio, assert_close, launched, device):
    x = torch.randn(2, 1, 2 * ratio, 3 * ratio, CHANNELS)
    actual = launched(layers_backward.children_sum(x.to(device), ratio))
    exact = x.double().unflatten(3, (3, ratio)).unflatten(2, (2, ratio)).sum((3, 5))
    assert_close("parents", exact, actual.cpu().double(), 1e-6)  # measured in the interpreter: 5.4e-8


def test_splits_cover_all_pixels_with_whole_blocks():
    for pixels, tiles in ((1, 1), (512, 1), (1 << 20, 1), (1 << 20, 300), (100_003, 7)):
        splits, span = layers_backward.pixel_splits(pixels, tiles, 32)
        assert span % 32 == 0
        assert (splits - 1) * span < pixels <= splits * span
        assert splits == 1 or pixels // splits >= 256  # at least about half of `_MIN_PIXELS` per program
