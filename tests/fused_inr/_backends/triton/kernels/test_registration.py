"""The registration of the ops on the Triton kernels with PyTorch: schemas, fake tensors, tracing."""

import pytest
import torch

OPTIONS = ("lrelu", 0.2, 1.4, 256.0, 1)
ops = torch.ops.fused_inr


def image(device: str) -> torch.Tensor:
    x = torch.randn(4, 3, 6, 5, device=device).to(memory_format=torch.channels_last)
    return x.requires_grad_()


def bias(device: str) -> torch.Tensor:
    return torch.randn(3, device=device, requires_grad=True)


def clips(device: str) -> torch.Tensor:
    return torch.randn(4, 2, 3, 6, 5, device=device, requires_grad=True)


def amounts(device: str) -> torch.Tensor:
    return torch.rand(4, device=device)


def places(device: str) -> torch.Tensor:
    return torch.randint(-3, 3, (4, 2), device=device)


CALLS = {
    "bias_act": lambda d: (ops.bias_act, (image(d), bias(d), image(d), *OPTIONS)),
    "bias_act-plain": lambda d: (ops.bias_act, (image(d), None, None, *OPTIONS)),
    "slope": lambda d: (ops.bias_act_slope, (image(d), None, image(d), None, True, True, *OPTIONS)),
    "slope-again": lambda d: (ops.bias_act_slope, (image(d), bias(d), image(d), None, True, False, *OPTIONS)),
    "upfirdn2d": lambda d: (ops.upfirdn2d, (image(d), torch.ones(4, 4, device=d), [2, 1], [1, 2], [1, 2], [8, 6])),
    "minibatch_stddev": lambda d: (ops.minibatch_stddev, (image(d).contiguous(), 2, 1)),
    "augment": lambda d: (ops.augment, (clips(d), *[amounts(d)] * 3, places(d), places(d), [3, 2], False, False)),
    "augment-adjoint": lambda d: (ops.augment, (clips(d), None, None, None, places(d), None, [0, 0], True, True)),
}


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("call", CALLS)
def test_opcheck(call, device):
    op, arguments = CALLS[call](device)
    torch.library.opcheck(op.default, arguments)
