"""Kernels as what they compute, read and write, and what becomes of that when several are one kernel."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Counts:
    """Work of an op or of a kernel.

    Attributes:
        flops: operations of matrix products, two for each multiply-accumulate.
        bytes: read from and written to memory together.
        sines: evaluations of a sine or a cosine.
    """

    flops: int = 0
    bytes: int = 0
    sines: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.flops + other.flops, self.bytes + other.bytes, self.sines + other.sines)

    def roofline_seconds(self, peak_flops: float, bandwidth: float, peak_sines: float = math.inf) -> float:
        """Return the roofline time, the longest of the times of operations, bytes and sines, in seconds.

        Args:
            peak_flops: operations of matrix products per second.
            bandwidth: bytes per second, read and written together.
            peak_sines: sines per second, where they have a unit of their own.
        """
        return max(self.flops / peak_flops, self.bytes / bandwidth, self.sines / peak_sines)


@dataclass(frozen=True)
class Step:
    """A kernel of an op.

    Attributes:
        name: such as "stage 1 layer 0 backward"; "stage 1 parent" multiplies the output of stage 0 at its resolution.
        counts: of this kernel alone.
    """

    name: str
    counts: Counts


def total(steps: Iterable[Step]) -> Counts:
    """Return the sum over all steps."""
    return sum((step.counts for step in steps), Counts())


@dataclass
class Kernel:
    """What a kernel computes, and the tensors that it reads and writes: name -> bytes."""

    name: str
    reads: dict[str, int]
    writes: dict[str, int]
    flops: int = 0
    sines: int = 0


def _fused(name: str, kernels: Sequence[Kernel]) -> Kernel:
    """Fuse kernels into one: what one writes and another reads is not read from memory."""
    one = Kernel(name, {}, {})
    for kernel in kernels:
        one.reads |= {tensor: size for tensor, size in kernel.reads.items() if tensor not in one.writes}
        one.writes |= kernel.writes
        one.flops, one.sines = one.flops + kernel.flops, one.sines + kernel.sines
    return one


def _counted(kernels: Sequence[Kernel], results: Collection[str]) -> list[Step]:
    """Return every kernel with its work; outputs that nothing reads, and that are no result, are not written."""
    steps = []
    for kernel in kernels:
        needed = {*results, *(tensor for other in kernels if other is not kernel for tensor in other.reads)}
        moved = sum(kernel.reads.values()) + sum(size for name, size in kernel.writes.items() if name in needed)
        steps.append(Step(kernel.name, Counts(kernel.flops, moved, kernel.sines)))
    return steps


@dataclass
class LayerKernels:
    """A product with all that follows it in its kernel, and its gradients; tensors are name -> bytes."""

    name: str
    flops: int
    outputs: dict[str, int]
    multiplied: dict[str, int] = field(default_factory=dict)  # activations
    added: dict[str, int] = field(default_factory=dict)  # activations too, whose values no gradient needs
    tables: dict[str, int] = field(default_factory=dict)
    fourier: dict[str, int] = field(default_factory=dict)  # what the tables were made of: gets gradients
    weights: dict[str, int] = field(default_factory=dict)
    biases: dict[str, int] = field(default_factory=dict)
    image: dict[str, int] = field(default_factory=dict)  # before this layer is read out
    new_image: dict[str, int] = field(default_factory=dict)
    sines: int = 0
    sloped: bool = True  # the gradients depend on the outputs
    handed_on: bool = True  # a gradient of the outputs is given
    input_gradient: bool = True

    def forward(self) -> Kernel:
        reads = self.weights | self.biases | self.multiplied | self.added | self.tables | self.image
        return Kernel(self.name, reads, self.outputs | self.new_image, self.flops, self.sines)

    def backward(self) -> Kernel:
        reads = self.weights | self.multiplied | self.tables | _gradients(self.new_image)
        reads |= (self.outputs if self.sloped else {}) | (_gradients(self.outputs) if self.handed_on else {})
        writes = _gradients(self.weights | self.biases | self.fourier | self.added)
        writes |= _gradients(self.multiplied) if self.input_gradient else {}
        if self.image.keys() != self.new_image.keys():
            writes |= _gradients(self.image)  # of fewer pixels
        flops = self.flops * (2 if self.input_gradient else 1)
        return Kernel(f"{self.name} backward", reads, writes, flops, self.sines)


def _gradients(tensors: dict[str, int]) -> dict[str, int]:
    return {f"gradient of {name}": size for name, size in tensors.items()}


@dataclass
class StageKernels:
    """Layers that can be one kernel, and what runs before them."""

    name: str
    tables: list[Kernel]
    layers: list[LayerKernels]

    def kernels(self, backward: bool, stored: bool, fused: bool) -> list[Kernel]:
        own, name = [layer.forward() for layer in self.layers], self.name
        if backward:
            own, name = ([] if stored else own) + self.gradients(), f"{name} backward"
        return self.tables + ([_fused(name, own)] if fused else own)

    def gradients(self) -> list[Kernel]:
        return [layer.backward() for layer in reversed(self.layers)]


@dataclass
class Program:
    """The stages of an op, and the name of its result."""

    stages: list[StageKernels]
    result: str

    def steps(self, backward: bool, stored: bool, fused: Collection[int]) -> list[Step]:
        order = [*enumerate(self.stages)][:: -1 if backward else 1]
        kernels = [k for index, stage in order for k in stage.kernels(backward, stored, index in fused)]
        return _counted(kernels, self._results(backward) | (self._gradient_names()[0] if stored else set()))

    def least(self, backward: bool) -> Counts:
        """Count operations as if the forward pass stored everything, and bytes as if the op were one kernel."""
        work = total(self.steps(backward, True, ()))
        kernels = [k for stage in self.stages for k in stage.kernels(False, False, False)]
        if backward:
            kernels += [k for stage in reversed(self.stages) for k in stage.gradients()]
        (whole,) = _counted([_fused("", kernels)], self._results(backward))
        return Counts(work.flops, whole.counts.bytes, work.sines)

    def _results(self, backward: bool) -> set[str]:
        if not backward:
            return {self.result}
        read, written = self._gradient_names()
        return written - read

    def _gradient_names(self) -> tuple[set[str], set[str]]:
        """Return what the backward pass reads, and what it writes."""
        kernels = [k for stage in self.stages for k in stage.gradients()]
        return {name for k in kernels for name in k.reads}, {name for k in kernels for name in k.writes}
