"""Tensors of more than 2^31 elements: the results of the last program of each kernel.

On a GPU all programs run. In the interpreter only the last one does, on gigabytes of memory that nothing else touches:
the operating system allocates pages when they are first touched.
"""

from collections.abc import Callable

import pytest
import torch

from fused_inr._backends.triton.kernels import augment as augment_kernels
from fused_inr._backends.triton.kernels import bias_act as bias_act_kernels
from fused_inr._backends.triton.kernels import minibatch_stddev as stddev_kernels
from fused_inr._backends.triton.kernels import upfirdn2d as upfirdn_kernels
from fused_inr.primitives import augment, bias_act, upfirdn2d

TAIL = 8


pytestmark = pytest.mark.usefixtures("untouched_memory")


@pytest.fixture
def huge(device, interpreted) -> Callable[[tuple[int, ...], bool], torch.Tensor]:
    """Return an image of zeros whose last elements are 1, 2, ..., TAIL."""

    def make(shape: tuple[int, ...], channels_last: bool) -> torch.Tensor:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        x = torch.empty(shape, dtype=torch.bfloat16, memory_format=layout, device=device)
        assert x.numel() > 1 << 31
        if not interpreted:  # memory that comes fresh from the operating system is zero
            x.zero_()
        end(x).copy_(torch.arange(1, TAIL + 1))
        return x

    return make


def end(x: torch.Tensor) -> torch.Tensor:
    """Return the last elements of x in memory."""
    return x.as_strided((TAIL,), (1,), x.numel() - TAIL)


# In each, the last row, plane or image also starts beyond 2^31 elements.
LINEAR = bias_act.Options("linear", alpha=0.0, gain=2.0, clamp=None, dim=1)
SHAPES = {
    "many-rows": ((3, 4, 1 << 14, (1 << 14) + 8), False),
    "one-row": ((1, 1, 1, (1 << 31) + 8), False),
    "channels_last": ((1, 8, 1 << 14, (1 << 14) + 8), True),
    "channels_last-images": ((3, 8, 1 << 13, (1 << 14) + 8), True),
}


@pytest.mark.parametrize("case", SHAPES)
def test_bias_act(case, huge, run_last):
    x = huge(*SHAPES[case])
    out, (launch,) = bias_act_kernels.forward(x, None, None, LINEAR)
    run_last(launch)
    assert torch.equal(end(out), 2 * end(x))


@pytest.mark.parametrize("case", SHAPES)
def test_slope(case, huge, run_last, monkeypatch):
    monkeypatch.setattr(
        bias_act_kernels, "_SUMMING_PROGRAMS", 1 << 30
    )  # many programs of one tile, not few programs of many tiles
    x = huge(*SHAPES[case])
    out, partial, (launch,) = bias_act_kernels.backward(x, None, x, None, True, True, LINEAR)
    run_last(launch)
    assert torch.equal(end(out), 2 * end(x))
    assert partial.flatten()[-1] >= 2 * TAIL


@pytest.mark.parametrize("case", SHAPES)
def test_upfirdn2d(case, huge, run_last):
    x = huge(*SHAPES[case])
    options = upfirdn2d.Options([1, 1], [1, 1], [0, 0], list(x.shape[2:]))
    out, (launch,) = upfirdn_kernels.forward(x, torch.full((1, 1), 2.0, device=x.device), options)
    run_last(launch)
    assert torch.equal(end(out), 2 * end(x))


def test_minibatch_stddev(huge, run_last):
    x = huge(*SHAPES["many-rows"])
    out, (launch, _) = stddev_kernels.forward(x, 1, 1)
    run_last(launch)
    copied = out.as_strided((TAIL,), (1,), out.numel() - out[0, 0].numel() - TAIL)
    assert torch.equal(copied, end(x))
    dx, (launch,) = stddev_kernels.backward(out, x, 1, 1)
    run_last(launch)
    assert torch.equal(end(dx), copied)


CLIPS = {
    "many-frames": (3, 1 << 11, 3, 1 << 9, (1 << 8) + 8),
    "many-rows": (2, 2, 1, 1 << 15, (1 << 14) + 8),
    "one-row": (1, 1, 1, 1, (1 << 31) + 8),
}


@pytest.mark.parametrize("case", CLIPS)
def test_augment(case, huge, run_last):
    shape = CLIPS[case]
    x = huge((shape[0] * shape[1], *shape[2:]), False).view(shape)
    contrast = torch.full((shape[0],), 2.0, device=x.device)
    zero = torch.zeros(shape[0], 2, dtype=torch.int64, device=x.device)
    out, launches = augment_kernels.forward(x, augment.Options(None, None, contrast, zero, zero, [0, 0], True, False))
    partial = launches[0].arguments["partial"]
    run_last(launches[0])
    assert partial[-1] >= TAIL
    partial.zero_()
    run_last(launches[1])
    assert torch.equal(end(out), 2 * end(x))
