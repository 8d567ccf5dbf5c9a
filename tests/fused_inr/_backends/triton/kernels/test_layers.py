"""Layers on the Triton kernels: properties that tests of whole INRs do not cover."""

import pytest
import torch

import fused_inr as fi
from fused_inr._backends.triton.kernels import configs, layers
from fused_inr._backends.triton.kernels.launch import run
from fused_inr._backends.triton.kernels.layers import Input
from fused_inr._backends.triton.kernels.to_rgb import Canvas

TAIL = 8


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_linear(bias, assert_close, device):
    x, weight = torch.randn(2, 3, 5, 7, 20), torch.randn(2, 9, 30)[:, :, 4:24]  # padded rows
    offset = torch.randn(2, 3, 9) if bias else None
    source = Input((2, 3, 5, 7), 1, x.to(device))
    on_device = offset if offset is None else offset.to(device)
    actual, launches = layers.linear(weight.to(device), source, on_device, torch.float32)
    run(launches, actual.device)
    exact = torch.einsum("nthwi,noi->nthwo", x.double(), weight.double())
    exact = exact if offset is None else exact + offset.double()[:, :, None, None]
    assert_close("linear", exact, actual.cpu().double(), 1e-6)  # measured in the interpreter: 2e-7


def test_the_same_call_gives_the_same_bits(device):
    torch.manual_seed(1)
    layer = fi.Layer(torch.randn(2, 80, 12), torch.randn(80), to_rgb=(torch.randn(2, 3, 80), torch.randn(3)))
    layer = fi.Layer(layer.weight.to(device), layer.bias.to(device), to_rgb=tuple(t.to(device) for t in layer.to_rgb))
    x = torch.randn(2, 1, 6, 7, 12, device=device)
    images = []
    for _ in range(2):
        canvas = Canvas(None, 1, x.device)
        source = Input((2, 1, 6, 7), 1, x)
        with configs.using(BLOCK_N=64):
            out, launches = layers.layer(layer, layer.weight, source, store=False, canvas=canvas)
        assert out is None
        assert len(launches) == 2  # two blocks of outputs, whose sums a second launch adds
        run(launches, x.device)
        images.append(canvas.pixels)
    assert torch.equal(*images)


@pytest.mark.parametrize(
    "size", [(3, 1, 1 << 12, 1 << 12), (1, 3, 1 << 12, 1 << 12), (1, 1, 1 << 14, 3 << 10)], ids=str
)
def test_more_than_2_31_elements(size, untouched_memory, run_last, device, interpreted):
    """Check the last pixel of activations, parents and outputs of more than 2^31 elements."""
    n, t, height, width = size
    channels = 64
    x = torch.empty(n, t, height, width, channels, dtype=torch.float16, device=device)
    assert x.numel() > 1 << 31
    if not interpreted:  # memory that comes fresh from the operating system is zero
        x.zero_()
    x[-1, -1, -1, -1, :TAIL] = torch.arange(1, TAIL + 1)
    weight = torch.eye(channels, dtype=torch.float16, device=device)[None]
    layer = fi.Layer(weight, torch.zeros(channels, device=device), "linear", gain=1.0)
    with configs.using(BLOCK_M=64, BLOCK_N=64):
        out, launches = layers.layer(layer, weight, Input(size, 1, x, parent=x))
    run_last(launches[0])
    last = out[-1, -1, -1, -1, :TAIL].float().cpu()
    assert torch.equal(last, 2 * torch.arange(1, TAIL + 1).float())
