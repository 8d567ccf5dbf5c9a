"""Shapes, dtypes and memory formats of `upfirdn2d` on "meta" tensors, and unsupported calls."""

import torch

from fused_inr.primitives import upfirdn2d


def test_upfirdn2d(layout, dtype, make_image):
    x, taps = make_image(layout, dtype), torch.empty(4, device="meta")
    y = upfirdn2d.upfirdn2d(x, taps, (2, 1), (1, 2), (1, 2, 0, 3), False, 1.0)
    assert (list(y.shape), y.dtype) == ([4, 6, (8 + 3 - 4) // 2 + 1, 20 + 3 - 4 + 1], dtype)
    assert y.is_contiguous(memory_format=layout)
    assert upfirdn2d.supports(x, taps)[0]
    assert not upfirdn2d.supports(x, taps.requires_grad_())[0]
    with torch.no_grad():
        assert upfirdn2d.supports(x, taps)[0]
