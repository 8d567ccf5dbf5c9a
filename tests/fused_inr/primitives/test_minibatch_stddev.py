"""Shapes and dtypes of `minibatch_stddev` and its gradient on "meta" tensors."""

import torch

from fused_inr.primitives import minibatch_stddev


def test_minibatch_stddev(dtype, make_image):
    x = make_image(torch.contiguous_format, dtype)
    y = minibatch_stddev.minibatch_stddev(x, 2, 3)
    assert (list(y.shape), y.dtype) == ([4, 9, 8, 10], dtype)
    dx = torch.ops.fused_inr.minibatch_stddev_backward(y, x, 2, 3)
    assert (dx.shape, dx.dtype) == (x.shape, dtype)
