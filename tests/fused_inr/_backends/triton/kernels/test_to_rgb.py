"""The running image: upsampled, with a bias and with partial sums of a read-out, against PyTorch in float64."""

import pytest
import torch

from fused_inr._backends.triton.kernels import launch, to_rgb
from fused_inr._backends.triton.kernels.to_rgb import Canvas


@pytest.mark.parametrize(
    ("blocks", "ratio", "size"),
    [(0, 1, (1, 1)), (0, 3, (3, 5)), (1, 1, (3, 5)), (1, 2, (1, 63)), (3, 3, (2, 3))],
    ids=["upsample1", "upsample3", "bias", "bias-upsample2", "sums-upsample3"],
)
def test_added(blocks, ratio, size, assert_close, device):
    n, t, colours, height, width = 2, 2, 3, *(ratio * side for side in size)
    image, bias = torch.randn(n, t, colours, *size), torch.randn(colours) if blocks else None
    partial = torch.randn(blocks, n, t, colours, height, width) if blocks else None
    exact = image.double().repeat_interleave(ratio, 3).repeat_interleave(ratio, 4)
    if blocks:
        exact += partial.double().sum(0) + bias.double()[:, None, None]
    on_device = (tensor if tensor is None else tensor.to(device) for tensor in (partial, bias))
    canvas = Canvas(image.to(device), 2, torch.device(device))
    launch.run([to_rgb.added(canvas, *on_device, (n, t, height, width), 2 * ratio)], torch.device(device))
    assert canvas.scale == 2 * ratio
    assert_close("image", exact, canvas.pixels.cpu().double(), 1e-6)  # measured in the interpreter: 4.7e-8


def test_the_first_read_out_has_no_image_before_it(device):
    canvas = Canvas(None, 1, torch.device(device))
    partial, bias = torch.randn(1, 1, 1, 5, 2, 3, device=device), torch.zeros(5, device=device)
    launch.run([to_rgb.added(canvas, partial, bias, (1, 1, 2, 3), 1)], torch.device(device))
    assert torch.equal(canvas.pixels, partial[0])


def test_arguments_without_a_read_out():
    arguments = to_rgb.arguments(None, torch.float16, None, 4)
    read_out = torch.randn(2, 20, 9), torch.randn(20)
    others = to_rgb.arguments(read_out, torch.float16, Canvas(None, 1, torch.device("cpu")), 4)
    assert arguments.keys() == others.keys() | {"rgb_out"}
    assert (others["rgb"].dtype, others["rgb_bias"].dtype) == (torch.float16, torch.float32)
    # A block of colours is a power of two of at least 16, the minimum of matrix instructions.
    assert (others["colours"], others["COLOURS"], others["rgb_clip"], others["IMAGE_RATIO"]) == (20, 32, 20 * 9, 4)
