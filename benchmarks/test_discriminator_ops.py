"""The ops of the discriminators one by one, on the activations of a 128x128 layer and of the epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.harness import DTYPES, Case, Kept, on_reference
from benchmarks.limits import Limit, cloning, copying
from benchmarks.naive import FIR

# Against float64. The naive path rounds to bfloat16 after every call.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
FORMATS = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)

Op = Callable[..., Tensor]
IN_CACHE = 2**24  # bytes
ALL, FIRST = slice(None), slice(0, 1)


def forward(name: str, op: Op, inputs: Sequence[Tensor], moved: int, samples: slice = ALL) -> Case:
    """The op without gradients.

    Args:
        moved: bytes that it reads and writes at least.
        samples: which of inputs[0] are checked; they must not depend on the others.
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
    """The gradients of all inputs, after one forward pass that is not timed."""
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
        part=lambda found: (found[0][samples], *found[1:]),
        tolerance=TOLERANCE[inputs[0].dtype],
        moved=moved,
        limits=bandwidth(inputs[0], moved),
    )


def bandwidth(x: Tensor, moved: int) -> list[Limit]:
    """Copies of as many bytes; none where x fits into a cache, which copies do not measure."""
    return [copying(moved), cloning(moved)] if x.nbytes > IN_CACHE else []


def activations(shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)


def layer(quick: bool, dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """What a convolution at 128x128 gives for a batch of 8."""
    return activations((2, 16, 32, 32) if quick else (8, 256, 128, 128), dtype, memory_format)


def title(op: str, x: Tensor) -> str:
    n, c, h, w = x.shape
    return f"{op} N{n}-C{c}-{h}x{w} {'contiguous' if x.is_contiguous() else 'channels_last'}"


def bias_act(x: Tensor, bias: Tensor) -> Tensor:
    """As after a convolution of a residual block's second half."""
    return fi.bias_act(x, bias, act="lrelu", gain=1.0, clamp=256 * 0.5**0.5)


def downsample(x: Tensor) -> Tensor:
    return fi.downsample2d(x, FIR.to(x.dtype))


@DTYPES
@FORMATS
def test_bias_act_forward(compare, quick, dtype, memory_format):
    x = layer(quick, dtype, memory_format)
    bias = torch.randn(x.shape[1]).to(dtype)
    compare(forward(title("bias_act", x), bias_act, [x, bias], 2 * x.nbytes))


@DTYPES
@FORMATS
def test_bias_act_backward(compare, quick, dtype, memory_format):
    x = layer(quick, dtype, memory_format)
    bias = torch.randn(x.shape[1]).to(dtype)
    # Reads the gradient and what tells the slope, writes the gradient of x.
    compare(backward(title("bias_act backward", x), bias_act, [x, bias], 3 * x.nbytes))


@DTYPES
@FORMATS
def test_downsample2d_forward(compare, quick, dtype, memory_format):
    x = layer(quick, dtype, memory_format)
    compare(forward(title("downsample2d", x), downsample, [x], x.nbytes + x.nbytes // 4, FIRST))


@DTYPES
@FORMATS
def test_downsample2d_backward(compare, quick, dtype, memory_format):
    x = layer(quick, dtype, memory_format)
    compare(backward(title("downsample2d backward", x), downsample, [x], x.nbytes + x.nbytes // 4, FIRST))


@DTYPES
@FORMATS
def test_upfirdn2d_filter_before_a_strided_convolution(compare, quick, dtype, memory_format):
    x = layer(quick, dtype, memory_format)
    compare(
        forward(
            title("upfirdn2d padding 2", x),
            lambda x: fi.upfirdn2d(x, FIR.to(x.dtype), padding=2),
            [x],
            2 * x.nbytes,
            FIRST,
        )
    )


@DTYPES
@pytest.mark.parametrize("batch", [8, 64], ids=["N8", "N64"])
def test_minibatch_stddev_forward(compare, dtype, batch):
    x = activations((batch, 512, 4, 4), dtype, torch.contiguous_format)
    compare(forward(title("minibatch_stddev", x), fi.minibatch_stddev, [x], 2 * x.nbytes))


@DTYPES
@pytest.mark.parametrize("batch", [8, 64], ids=["N8", "N64"])
def test_minibatch_stddev_backward(compare, dtype, batch):
    x = activations((batch, 512, 4, 4), dtype, torch.contiguous_format)
    compare(backward(title("minibatch_stddev backward", x), fi.minibatch_stddev, [x], 3 * x.nbytes))


def augmentation(clips: int, size: int) -> Op:
    """DiffAugment with color and translation, as an op on frames alone."""
    torch.manual_seed(1)
    colors = {"brightness": torch.rand(clips) - 0.5, "saturation": 2 * torch.rand(clips)}
    places = torch.randint(-(size // 8), size // 8 + 1, (clips, 2))
    return partial(fi.augment, **colors, contrast=torch.rand(clips) + 0.5, translation=places)


# 8 clips are in the cache all along, as in a training step on this machine.
CLIPS = pytest.mark.parametrize("clips", [8, 128], ids=["N8", "N128"])


def frames(quick: bool, clips: int, dtype: torch.dtype) -> tuple[str, Tensor]:
    """The title and the frames of a batch."""
    size = 32 if quick else 128
    x = torch.rand(2 if quick else clips, 2, 3, size, size).to(dtype)
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
