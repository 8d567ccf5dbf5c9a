"""The derivatives of the registered ops in float32 against PyTorch's of the formula in float64."""

import pytest
import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr.primitives.bias_act import Options

pytestmark = pytest.mark.skipif(fi.backends()["cpu"] != "ready", reason="the op has no kernel without a backend")

X = (3, 4, 5)  # the bias lies along axis 1


def leaves(dtype, with_bias, with_shift):
    """The arguments gradient, shift, x and bias of the slope op, and directions for its two results."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

    gradient, shift, x, bias = normal(*X), normal(4), normal(*X), normal(4)
    arguments = [gradient, shift if with_shift else None, x, bias if with_bias else None]
    for tensor in arguments:
        if tensor is not None:
            tensor.requires_grad_()
    return arguments, (normal(*X), normal(4))


def slope(gradient, shift, x, bias, with_sums, options):
    """The slope op by its definition: the gradients of x and of a bias for the upstream gradient + shift."""
    zero = torch.zeros(4, dtype=x.dtype, requires_grad=True) if bias is None else bias
    y = reference.bias_act(x, zero, *options)
    upstream = gradient if shift is None else gradient + shift[:, None]
    dx, sums = torch.autograd.grad(y, [x, zero], upstream, create_graph=True)
    return dx, sums if with_sums else None


@pytest.mark.parametrize("act", reference.BIAS_ACTIVATIONS)
@pytest.mark.parametrize("with_sums", [True, False])
@pytest.mark.parametrize("with_shift", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_slope_and_its_gradients(act, with_bias, with_shift, with_sums, assert_close):
    options, results = Options(act, 0.3, 1.2, None, 1), []
    for dtype in (torch.float64, torch.float32):
        arguments, (along_x, along_sums) = leaves(dtype, with_bias, with_shift)
        gradient, shift, x, bias = arguments
        if dtype == torch.float64:
            dx, sums = slope(gradient, shift, x, bias, with_sums, options)
        else:
            dx, sums = torch.ops.fused_inr.bias_act_slope(gradient, shift, x, bias, False, with_sums, *options)
        total = (dx * along_x).sum() + ((sums * along_sums).sum() if with_sums else 0)
        inputs = [tensor for tensor in arguments if tensor is not None]
        found = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
        results.append([dx, *([sums] if with_sums else []), *found])
    for number, (exact, ours) in enumerate(zip(*results, strict=True)):
        assert_close(f"result {number}", exact.detach().float(), ours.detach(), 1e-5)
