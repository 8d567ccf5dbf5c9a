"""The shape and dtype of `augment` on "meta" tensors, and unsupported calls."""

import torch

from fused_inr.primitives import augment


def test_augment(dtype):
    x, amount = torch.empty(2, 3, 3, 8, 8, dtype=dtype, device="meta"), torch.empty(2, device="meta")
    place = torch.empty(2, 2, dtype=torch.int64, device="meta")
    y = augment.augment(x, amount, None, amount, place, place, (4, 4), False)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    assert augment.supports(x, amount, None, None)[0]
    assert not augment.supports(x, amount.requires_grad_(), None, None)[0]
