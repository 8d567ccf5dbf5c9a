"""Stored activations: the same bits as recomputed ones, and second derivatives."""

import pytest
import torch

import fused_inr as fi

pytestmark = pytest.mark.usefixtures("compiled_library")


def gradients(inr, tensors, with_tensors, grid, dtype, probe, create_graph=False):
    frames = fi.render(with_tensors(inr, tensors), grid, dtype=dtype, backend="cpu")
    return frames, torch.autograd.grad((frames * probe).sum(), tensors, create_graph=create_graph)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("n", "t", "grid"), [(1, 1, (1, 1)), (2, 3, (20, 31)), (5, 2, (3, 7))], ids=str)
def test_same_bits_as_recomputing(make_inr, tensors_of, with_tensors, n, t, grid, dtype):
    inr, grid = make_inr(n, t, scales=(1, 2, 6), dtype=torch.float32), fi.Grid(*grid)
    tensors = [tensor.clone().requires_grad_() for tensor in tensors_of(inr)]
    probe = torch.randn(n, t, 3, grid.height * 6, grid.width * 6)
    frames, again = gradients(inr, tensors, with_tensors, grid, dtype, probe)
    with fi.store_activations():
        frames_stored, stored = gradients(inr, tensors, with_tensors, grid, dtype, probe)
    assert torch.equal(frames, frames_stored)
    assert all(torch.equal(a, b) for a, b in zip(again, stored, strict=True))


def test_second_order(make_inr, tensors_of, with_tensors, assert_close):
    inr, grid = make_inr(2, 2, dtype=torch.float32), fi.Grid(3, 2)
    tensors = [tensor.clone().requires_grad_() for tensor in tensors_of(inr)]
    probe = torch.randn(fi.render(inr, grid).shape)

    def second():
        _, first = gradients(inr, tensors, with_tensors, grid, torch.float32, probe, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), tensors, allow_unused=True)

    expected = second()
    with fi.store_activations():
        actual = second()
    for a, b in zip(expected, actual, strict=True):
        if a is not None:
            assert_close("second order", a, b, 1e-5)
