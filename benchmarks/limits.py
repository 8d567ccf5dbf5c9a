"""The limits of this machine: matrix products, copies and convolutions, measured next to the work they bound."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.device import device, on_cuda, pick, timed


@dataclass(frozen=True)
class Limit:
    """A lower bound of the time of a task.

    Attributes:
        name: name of the bounding work, such as "copy".
        seconds: measures the time of that work once.
    """

    name: str
    seconds: Callable[[], float]


def gemm_ceiling(dtype: torch.dtype) -> float:
    """Return the FLOP/s of PyTorch's matrix product: the best of many.

    On a CPU, at the sizes of the default generator; on a GPU, at sizes that fill it, with TF32 as currently allowed.
    """
    return _gemm_ceiling(dtype, on_cuda() and torch.backends.cuda.matmul.fp32_precision == "tf32")


@functools.cache
def _gemm_ceiling(dtype: torch.dtype, tf32: bool) -> float:
    rows, inputs, outputs = pick(cpu=(16384, 512, 512), cuda=(8192, 8192, 8192))
    a, b = (torch.randn(size, device=device()).to(dtype) for size in ((rows, inputs), (inputs, outputs)))
    return 2 * rows * inputs * outputs / _shortest(lambda: torch.mm(a, b), 30)


@functools.cache
def copy_ceiling() -> float:
    """Return the bytes per second, read and written, of `copy_` in memory larger than all caches: the best of many."""
    source = torch.ones(pick(cpu=2**25, cuda=2**28), device=device())
    target = torch.zeros_like(source)
    return 2 * source.nbytes / _shortest(lambda: target.copy_(source), 10)


def _shortest(call: Callable[[], object], rounds: int) -> float:
    """Return the shortest seconds of a call; on a GPU, of several in a row, so that it does not wait for each."""
    calls = range(pick(cpu=1, cuda=10))
    return min(timed(lambda: [call() for _ in calls]) for _ in range(rounds)) / len(calls)


def matrix_products(flops: float, dtype: torch.dtype) -> Limit:
    """Return the limit set by matrix products with `flops` operations."""
    return Limit("matrix product", lambda: flops / gemm_ceiling(dtype))


def copying(moved: int) -> Limit:
    """Return the limit set by `copy_`, which reads and writes `moved` bytes in total, in memory already in use."""
    source, target = torch.ones(moved // 8, device=device()), torch.zeros(moved // 8, device=device())
    return Limit("copy", lambda: _shortest(lambda: target.copy_(source), 3))


def cloning(moved: int) -> Limit:
    """Return the limit set by copying to new memory, as results of ops use: the system allocates it page by page."""
    source = torch.ones(moved // 8, device=device())
    return Limit("clone", lambda: _shortest(source.clone, 3))


@dataclass(frozen=True)
class Convolution:
    """The convolution of a layer: shapes and type."""

    input: torch.Size
    weight: torch.Size
    stride: list[int]
    padding: list[int]
    output: torch.Size
    dtype: torch.dtype

    @property
    def flops(self) -> int:
        return 2 * self.output.numel() * self.weight[1:].numel()


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.convolutions: list[Convolution] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None) -> Tensor:
        result = op(*args, **(kwargs or {}))
        if op is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding, *_, groups = args
            if groups == 1:  # FIR filters are convolutions with one group per channel
                self.convolutions.append(Convolution(x.shape, weight.shape, stride, padding, result.shape, x.dtype))
        return result


def convolutions_of(call: Callable[[], object]) -> list[Convolution]:
    """Return the convolutions between channels that a call runs, in order; meta tensors cost no time."""
    with _Recorder() as recorder:
        call()
    return recorder.convolutions


_OUTPUTS = {"input": [True, False, False], "weight": [False, True, False], "both": [True, True, False]}

# The passes through a layer that the weight gradients of a loss need.
LOSS_PASSES = ("forward", "both")
# The passes of R1: the gradient of the input; its derivative in the direction of the gradient of the penalty, which
# gives half of the weight gradients; a backward pass for the rest, because minibatch statistics are not piecewise
# linear.
R1_PASSES = ("forward", "input", "forward", "weight", "both")


class ConvolutionTime:
    """The time of the convolutions of some networks alone, each layer in its fastest memory format.

    Args:
        networks: layers of each network, from `convolutions_of`. The last pass omits the gradient of the input of a
            network, which a step does not need.
        passes: the passes through each layer: "forward", or the gradients of "input", "weight" or "both".
    """

    def __init__(self, networks: Sequence[Sequence[Convolution]], passes: Sequence[str]) -> None:
        assert passes[-1] == "both"
        first = (*passes[:-1], "weight")
        self._work = [(c, first if index == 0 else passes) for layers in networks for index, c in enumerate(layers)]
        self._formats: dict[int, torch.memory_format] = {}

    @property
    def flops(self) -> int:
        return sum(c.flops * (2 if p == "both" else 1) for c, passes in self._work for p in passes)

    @property
    def limit(self) -> Limit:
        return Limit("convolutions", self._seconds)

    def _seconds(self) -> float:
        return sum(self._layer(index, c, passes) for index, (c, passes) in enumerate(self._work))

    def _layer(self, index: int, c: Convolution, passes: Sequence[str]) -> float:
        if index in self._formats:
            return _passes(c, passes, self._formats[index])
        formats = (torch.contiguous_format, torch.channels_last)
        for memory_format in formats:
            _passes(c, passes, memory_format)  # the first call of a shape compiles its kernel
        times = {memory_format: _passes(c, passes, memory_format) for memory_format in formats}
        self._formats[index] = min(times, key=times.__getitem__)
        return times[self._formats[index]]


def _passes(c: Convolution, passes: Sequence[str], memory_format: torch.memory_format) -> float:
    x, weight, gradient = (
        torch.randn(shape, dtype=c.dtype, device=device()).contiguous(memory_format=memory_format)
        for shape in (c.input, c.weight, c.output)
    )

    def backward(name: str) -> object:
        return torch.ops.aten.convolution_backward(
            gradient, x, weight, None, c.stride, c.padding, [1, 1], False, [0, 0], 1, _OUTPUTS[name]
        )

    def run(name: str) -> object:
        return F.conv2d(x, weight, None, c.stride, c.padding) if name == "forward" else backward(name)

    return sum(timed(functools.partial(run, name)) for name in passes)
