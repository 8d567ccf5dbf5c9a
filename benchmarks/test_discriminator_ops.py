"""The ops of the discriminators one by one, on the activations of a 128x128 layer and of the epilogue.

On a GPU, the batch size is that of training, and minibatch_stddev also gets a tensor larger than the caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.device import device, pick
from benchmarks.harness import DTYPES, Case, Kept, on_reference
from benchmarks.limits import Limit, cloning, copying
from benchmarks.naive import FIR
from fused_inr.tools import counts

# Against float64. The naive path rounds to bfloat16 after every call.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
FORMATS = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)

Op = Callable[..., Tensor]
IN_CACHE = pick(cpu=2**24, cuda=2**27)  # bytes
FRAMES = pick(cpu=8, cuda=64)
EPILOGUES = pick(cpu=[(8, 4), (64, 4)], cuda=[(64, 4), (64, 64)])  # samples, pixels per side
ALL, FIRST = slice(None), slice(0, 1)


def forward(name: str, op: Op, inputs: Sequence[Tensor], moved: int, samples: slice = ALL) -> Case:
    """Return the case of an op without gradients.

    Args:
        moved: the least number of bytes that it reads and writes.
        samples: which samples of inputs[0] are checked; their results must not depend on the others.
    """

    def run(op: Op, *inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return op(*inputs)

    wide = [inputs[0][samples].double(), *(tensor.double() for tensor in inputs[1:])]
    return Case(
        name=name,
        dtype=inputs[0].dtype,
        paths={
            "naive": on_reference(partial(run, op, *inputs)),
            "compiled": on_reference(partial(run, torch.compile(op), *inputs)),
            "ours": Kept(partial(run, op, *inputs)),
        },
        flops=0,
        truth=on_reference(partial(run, op, *wide)),
        part=lambda y: y[samples],
        tolerance=TOLERANCE[inputs[0].dtype],
        moved=moved,
        limits=bandwidth(inputs[0], moved),
    )


def backward(name: str, op: Op, inputs: Sequence[Tensor], moved: int, samples: slice = ALL) -> Case:
    """Return the case of the gradients of all inputs, after one forward pass that is not timed."""
    leaves = [tensor.clone(memory_format=torch.preserve_format).requires_grad_() for tensor in inputs]
    gradient = torch.randn_like(op(*inputs))

    def gradients(op: Op, leaves: list[Tensor], gradient: Tensor) -> Callable[[], tuple[Tensor, ...]]:
        y = op(*leaves)
        return lambda: torch.autograd.grad(y, leaves, gradient, retain_graph=True)

    def truth() -> tuple[Tensor, ...]:
        wide = [tensor.detach().double() for tensor in leaves]
        wide[0] = wide[0][samples]
        return gradients(op, [tensor.requires_grad_() for tensor in wide], gradient[samples].double())()

    return Case(
        name=name,
        dtype=inputs[0].dtype,
        paths={
            "naive": on_reference(lambda: gradients(op, leaves, gradient))(),
            "ours": Kept(gradients(op, leaves, gradient)),
        },
        flops=0,
        truth=on_reference(truth),
        part=lambda result: (result[0][samples], *result[1:]),
        tolerance=TOLERANCE[inputs[0].dtype],
        moved=moved,
        limits=bandwidth(inputs[0], moved),
    )


def bandwidth(x: Tensor, moved: int) -> list[Limit]:
    """Return copies of as many bytes as limits; none if x fits into a cache, which copies do not measure."""
    if x.nbytes <= IN_CACHE:
        return []
    return [limit(moved) for limit in pick(cpu=[copying, cloning], cuda=[copying])]


def activations(shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(shape, device=device()).to(dtype).contiguous(memory_format=memory_format)


def layer(quick: bool, dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """Return activations shaped like the output of a convolution at 128x128."""
    return activations((2, 16, 32, 32) if quick else (FRAMES, 256, 128, 128), dtype, memory_format)


def title(op: str, x: Tensor) -> str:
    n, c, h, w = x.shape
    return f"{op} N{n}-C{c}-{h}x{w} {'contiguous' if x.is_contiguous() else 'channels_last'}"


def bias_act(x: Tensor, bias: Tensor) -> Tensor:
    """Apply bias_act as it follows the second convolution of a residual block."""
    return fi.bias_act(x, bias, act="lrelu", gain=1.0, clamp=256 * 0.5**0.5)


def downsample(x: Tensor) -> Tensor:
    return fi.downsample2d(x, FIR.to(x.dtype))


@DTYPES
@FORMATS
def test_bias_act_forward(compare, quick, dtype, memory_format):
    x = layer(quick, dtype, memory_format)
    bias = torch.randn(x.shape[1], device=device()).to(dtype)
    compare(forward(title("bias_act", x), bias_act, [x, bias], counts.bias_act(x, bias).bytes))


@DTYPES
@FORMATS
def test_bias_act_backward(compare, quick, dtype, memory_format):
    x = layer(quick, dtype, memory_format)
    bias = torch.randn(x.shape[1], device=device()).to(dtype)
    moved = counts.bias_act(x, bias, backward=True).bytes
    compare(backward(title("bias_act backward", x), bias_act, [x, bias], moved))


@DTYPES
@FORMATS
def test_downsample2d_forward(compare, quick, dtype, memory_format):
    x = layer(quick, dtype, memory_format)
    compare(
        forward(title("downsample2d", x), downsample, [x], counts.upfirdn2d(x, FIR, down=2, padding=1).bytes, FIRST)
    )


@DTYPES
@FORMATS
def test_downsample2d_backward(compare, quick, dtype, memory_format):
    x = layer(quick, dtype, memory_format)
    compare(
        backward(
            title("downsample2d backward", x), downsample, [x], counts.upfirdn2d(x, FIR, down=2, padding=1).bytes, FIRST
        )
    )


@DTYPES
@FORMATS
def test_upfirdn2d_filter_before_a_strided_convolution(compare, quick, dtype, memory_format):
    x = layer(quick, dtype, memory_format)
    compare(
        forward(
            title("upfirdn2d padding 2", x),
            lambda x: fi.upfirdn2d(x, FIR.to(x.dtype), padding=2),
            [x],
            counts.upfirdn2d(x, FIR, padding=2).bytes,
            FIRST,
        )
    )


@DTYPES
@pytest.mark.parametrize(("batch", "size"), EPILOGUES)
def test_minibatch_stddev_forward(compare, dtype, batch, size):
    x = activations((batch, 512, size, size), dtype, torch.contiguous_format)
    compare(forward(title("minibatch_stddev", x), fi.minibatch_stddev, [x], counts.minibatch_stddev(x).bytes))


@DTYPES
@pytest.mark.parametrize(("batch", "size"), EPILOGUES)
def test_minibatch_stddev_backward(compare, dtype, batch, size):
    x = activations((batch, 512, size, size), dtype, torch.contiguous_format)
    moved = counts.minibatch_stddev(x, backward=True).bytes
    compare(backward(title("minibatch_stddev backward", x), fi.minibatch_stddev, [x], moved))


def augmentation(clips: int, size: int) -> Op:
    """Return DiffAugment with color and translation as an op on frames alone."""
    torch.manual_seed(1)
    colors = {"brightness": torch.rand(clips) - 0.5, "saturation": 2 * torch.rand(clips)}
    colors["contrast"] = torch.rand(clips) + 0.5
    places = torch.randint(-(size // 8), size // 8 + 1, (clips, 2)).to(device())
    return partial(fi.augment, **{name: v.to(device()) for name, v in colors.items()}, translation=places)


# 8 clips stay in the cache, as in a training step on this machine.
CLIPS = pytest.mark.parametrize("clips", [8, 128], ids=["N8", "N128"])


def frames(quick: bool, clips: int, dtype: torch.dtype) -> tuple[str, Tensor]:
    """Return the title and the frames of a batch."""
    size = 32 if quick else 128
    x = torch.rand(2 if quick else clips, 2, 3, size, size).to(device(), dtype)
    return f"augment N{len(x)}-T2-C3-{size}x{size}", x


@DTYPES
@CLIPS
def test_augment_forward(compare, quick, dtype, clips):
    name, x = frames(quick, clips, dtype)
    compare(forward(name, augmentation(len(x), x.shape[-1]), [x], 2 * x.nbytes))


@DTYPES
@CLIPS
def test_augment_backward(compare, quick, dtype, clips):
    name, x = frames(quick, clips, dtype)
    compare(backward(f"{name} backward", augmentation(len(x), x.shape[-1]), [x], 2 * x.nbytes))
