"""The weight gradient of `conv2d`: its shape, dtype and memory format, and its value as PyTorch computes it."""

import torch
import torch.nn.functional as F

from fused_inr.primitives import conv2d


def test_conv2d_weight(layout, dtype, make_image):
    x = make_image(layout, dtype)
    dy = torch.empty(4, 5, 8, 10, dtype=dtype, device="meta").contiguous(memory_format=layout)
    dw = torch.ops.fused_inr.conv2d_weight(x, dy, [3, 3], 1, 1)
    assert (list(dw.shape), dw.dtype) == ([5, 6, 3, 3], dtype)
    assert dw.is_contiguous(memory_format=layout)
    assert conv2d.supports(x, dw, 1, 1) == (True, "")


def test_pytorch_weight(layout, assert_close):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 5).contiguous(memory_format=layout)
    weight, dy = torch.zeros(4, 3, 3, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 4, 4, 3)
    (exact,) = torch.autograd.grad(F.conv2d(x.double(), weight, stride=2, padding=1), weight, dy.double())
    actual = conv2d.pytorch_weight(x, dy, [3, 3], 2, 1)
    assert actual.is_contiguous(memory_format=layout)
    assert_close("weight gradient", exact, actual.double(), 1e-6)  # measured: 5.1e-8
