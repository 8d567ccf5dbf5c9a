"""The ops of the discriminators one by one, on the activations of a 128x128 layer and of the epilogue.

On a GPU, the batch size is that of training, and minibatch_stddev also gets a tensor larger than the caches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.device import device, pick
from benchmarks.harness import Case, on_reference
from benchmarks.limits import R1_PASSES, ConvolutionTime, Limit, cloning, convolutions_of, copying
from benchmarks.memory import Kept
from benchmarks.naive import FIR
from benchmarks.sizes import full, scaled
from fused_inr.tools import counts

# Against float64. The naive path rounds to bfloat16 after every call.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Those of a training step in bfloat16, or all.
LAYOUTS = pytest.mark.parametrize(
    ("dtype", "memory_format"),
    [
        pytest.param(DTYPES[dtype], FORMATS[layout], id=f"{dtype}-{layout}")
        for dtype in DTYPES
        for layout in FORMATS
        if full() or (dtype, layout) == ("bfloat16", "channels_last")
    ],
)
TYPES = pytest.mark.parametrize("dtype", DTYPES.values() if full() else [torch.bfloat16], ids=str)

Op = Callable[..., Tensor]
IN_CACHE = pick(cpu=2**24, cuda=2**27)  # bytes
FRAMES = pick(cpu=8, cuda=64)
# Samples, and pixels per side.
EPILOGUES = pick(cpu=scaled(default=[(64, 4)], full=[(8, 4), (64, 4)]), cuda=[(64, 4), (64, 64)])
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

    def compiled() -> tuple[Tensor, ...]:
        return torch.autograd.grad(compiled_result(), leaves, gradient, retain_graph=True)

    @functools.cache
    def compiled_result() -> Tensor:
        return torch.compile(op)(*leaves)

    def truth() -> tuple[Tensor, ...]:
        wide = [tensor.detach().double() for tensor in leaves]
        wide[0] = wide[0][samples]
        return gradients(op, [tensor.requires_grad_() for tensor in wide], gradient[samples].double())()

    return Case(
        name=name,
        dtype=inputs[0].dtype,
        paths={
            "naive": on_reference(lambda: gradients(op, leaves, gradient))(),
            "compiled": on_reference(compiled),
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


def layer(dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """Return activations shaped like the output of a convolution at 128x128."""
    return activations(scaled(tiny=(2, 16, 32, 32), default=(FRAMES, 256, 128, 128)), dtype, memory_format)


def title(op: str, x: Tensor) -> str:
    n, c, h, _ = x.shape
    return f"{op} N{n}-C{c}-R{h} {'NCHW' if x.is_contiguous() else 'NHWC'}"


def bias_act(x: Tensor, bias: Tensor) -> Tensor:
    """Apply bias_act as it follows the second convolution of a residual block."""
    return fi.bias_act(x, bias, act="lrelu", gain=1.0, clamp=256 * 0.5**0.5)


def downsample(x: Tensor) -> Tensor:
    return fi.downsample2d(x, FIR.to(x.dtype))


@LAYOUTS
def test_bias_act_forward(compare, dtype, memory_format):
    x = layer(dtype, memory_format)
    bias = torch.randn(x.shape[1], device=device()).to(dtype)
    compare(forward(title("bias_act", x), bias_act, [x, bias], counts.bias_act(x, bias).bytes))


@LAYOUTS
def test_bias_act_backward(compare, dtype, memory_format):
    x = layer(dtype, memory_format)
    bias = torch.randn(x.shape[1], device=device()).to(dtype)
    moved = counts.bias_act(x, bias, backward=True).bytes
    compare(backward(title("bias_act backward", x), bias_act, [x, bias], moved))


@LAYOUTS
def test_downsample2d_forward(compare, dtype, memory_format):
    x = layer(dtype, memory_format)
    compare(
        forward(title("downsample2d", x), downsample, [x], counts.upfirdn2d(x, FIR, down=2, padding=1).bytes, FIRST)
    )


@LAYOUTS
def test_downsample2d_backward(compare, dtype, memory_format):
    x = layer(dtype, memory_format)
    compare(
        backward(
            title("downsample2d backward", x), downsample, [x], counts.upfirdn2d(x, FIR, down=2, padding=1).bytes, FIRST
        )
    )


@LAYOUTS
def test_upfirdn2d_before_a_strided_convolution(compare, dtype, memory_format):
    x = layer(dtype, memory_format)
    compare(
        forward(
            title("upfirdn2d padding 2", x),
            lambda x: fi.upfirdn2d(x, FIR.to(x.dtype), padding=2),
            [x],
            counts.upfirdn2d(x, FIR, padding=2).bytes,
            FIRST,
        )
    )


@TYPES
@pytest.mark.parametrize(("batch", "size"), EPILOGUES)
def test_minibatch_stddev_forward(compare, dtype, batch, size):
    x = activations((batch, 512, size, size), dtype, torch.contiguous_format)
    compare(forward(title("minibatch_stddev", x), fi.minibatch_stddev, [x], counts.minibatch_stddev(x).bytes))


@TYPES
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


# 8 clips stay in the cache, as in a training step on a CPU.
CLIPS = pytest.mark.parametrize("clips", [8, 128] if full() else [128], ids=lambda clips: f"N{clips}")


def frames(clips: int, dtype: torch.dtype) -> tuple[str, Tensor]:
    """Return the title and the frames of a batch."""
    size = scaled(tiny=32, default=128)
    x = torch.rand(scaled(tiny=2, default=clips), 2, 3, size, size).to(device(), dtype)
    return f"augment N{len(x)}-T2-C3-R{size}", x


@TYPES
@CLIPS
def test_augment_forward(compare, dtype, clips):
    name, x = frames(clips, dtype)
    compare(forward(name, augmentation(len(x), x.shape[-1]), [x], 2 * x.nbytes))


@TYPES
@CLIPS
def test_augment_backward(compare, dtype, clips):
    name, x = frames(clips, dtype)
    compare(backward(f"{name} backward", augmentation(len(x), x.shape[-1]), [x], 2 * x.nbytes))


@LAYOUTS
def test_conv2d_second_derivatives(compare, dtype, memory_format):
    """The gradients of a penalty on the gradient of the input, as R1 takes them through every layer."""
    torch.manual_seed(0)
    samples, channels, size = scaled(tiny=(2, 8, 8), default=pick(cpu=(4, 256, 32), cuda=(64, 256, 64)))
    x = activations((samples, channels, size, size), dtype, memory_format)
    weight = activations((channels, channels, 3, 3), dtype, memory_format) / (9 * channels) ** 0.5

    def penalty(convolve: Op, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        x, weight = (tensor.detach().requires_grad_() for tensor in (x, weight))
        y = convolve(x, weight, padding=1)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.float().square().sum(), [x, weight])

    layer = convolutions_of(lambda: torch.nn.functional.conv2d(x.to("meta"), weight.to("meta"), padding=1))
    convolutions = ConvolutionTime([layer], R1_PASSES)
    compare(
        Case(
            name=title("conv2d 2nd order", x),
            dtype=dtype,
            paths={
                "naive": partial(penalty, torch.nn.functional.conv2d, x, weight),
                "ours": Kept(partial(penalty, fi.conv2d, x, weight)),
            },
            flops=convolutions.flops,
            truth=lambda: penalty(torch.nn.functional.conv2d, x.double(), weight.double()),
            tolerance=TOLERANCE[dtype] * 5,
            limits=[convolutions.limit],
        )
    )
