"""Digests of tensors tell every difference apart, and only differences."""

import torch

from digan.digests import tensor_digest

X = torch.arange(6.0)


def test_equal_tensors_have_equal_digests():
    strided = torch.stack([X, X + 1], dim=1)[:, 0]
    assert not strided.is_contiguous()
    digests = {tensor_digest([x, torch.ones(1)]) for x in (X, X.clone(), strided, X.clone().requires_grad_())}
    assert len(digests) == 1
    assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in digests)


def test_every_difference_changes_the_digest():
    different = [
        [X],
        [X, X],
        [X.view(2, 3)],
        [X.view(torch.int32)],
        [X, torch.zeros(0)],
        [X, torch.ones(1)],
        [torch.ones(1), X],
        [torch.tensor(0.0)],
        [torch.tensor(-0.0)],
        [torch.tensor(torch.finfo().tiny)],
        [],
    ]
    assert len({tensor_digest(tensors) for tensors in different}) == len(different)
