"""The image ops of the Triton backend without a GPU: arguments, results and kernels on "meta" tensors."""

import inspect

import pytest
import torch

from fused_inr._backends import triton as backend

IMAGE = torch.empty(4, 6, 8, 10, dtype=torch.bfloat16, device="meta")
BIAS, AMOUNT = torch.empty(6, device="meta"), torch.empty(4, device="meta")
PLACE = torch.empty(4, 2, dtype=torch.int64, device="meta")
CLIPS = IMAGE.unflatten(1, (2, 3))
ACT = ("lrelu", 0.2, 1.0, None, 1)
CALLS = {
    "bias_act": ((IMAGE, BIAS, IMAGE, *ACT), ["bias_act_kernel"]),
    "bias_act_slope": ((IMAGE, None, IMAGE, None, True, True, *ACT), ["bias_act_slope_kernel"]),
    "upfirdn2d": ((IMAGE, torch.empty(4, 4, device="meta"), [2, 1], [1, 2], [1, 2], [7, 17]), ["upfirdn2d_kernel"]),
    "minibatch_stddev": ((IMAGE, 4, 1), ["deviation_kernel", "plane_kernel"]),
    "minibatch_stddev_backward": (
        (torch.empty(4, 7, 8, 10, dtype=torch.bfloat16, device="meta"), IMAGE, 4, 1),
        ["deviation_backward_kernel"],
    ),
    "augment": (
        (CLIPS, AMOUNT, AMOUNT, AMOUNT, PLACE, PLACE, [3, 2], False, False),
        ["seen_sum_kernel", "augment_kernel"],
    ),
}


@pytest.fixture
def launched(monkeypatch) -> list[str]:
    """Collect the names of kernels instead of running them."""
    pytest.importorskip("triton")
    from fused_inr._backends.triton import image_ops

    names: list[str] = []
    monkeypatch.setattr(image_ops, "run", lambda launches, device: names.extend(x.kernel.__name__ for x in launches))
    return names


def test_every_registered_op_has_a_function():
    pytest.importorskip("triton")
    from fused_inr._backends.triton import image_ops

    assert set(CALLS) == set(backend.OPS)
    for op in backend.OPS:
        arguments = getattr(torch.ops.fused_inr, op).default._schema.arguments
        inspect.signature(getattr(image_ops, op)).bind(*arguments)


@pytest.mark.parametrize("op", CALLS)
def test_results_are_those_of_the_fake_implementation(op, launched):
    from fused_inr._backends.triton import image_ops

    arguments, kernels = CALLS[op]
    actual, expected = getattr(image_ops, op)(*arguments), getattr(torch.ops.fused_inr, op)(*arguments)
    assert launched == kernels
    pairs = zip(actual, expected, strict=True) if isinstance(expected, tuple) else [(actual, expected)]
    for a, b in pairs:
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


def test_sums_are_computed_only_if_needed(launched):
    from fused_inr._backends.triton import image_ops

    _, sums = image_ops.bias_act_slope(IMAGE, None, IMAGE, None, True, False, *ACT)
    assert (sums.shape, sums.dtype) == ((0,), torch.float32)
