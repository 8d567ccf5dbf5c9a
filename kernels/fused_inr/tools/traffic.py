"""Models of kernels: the work they do, the tensors they read and write, and the effect of fusing them."""

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
        counts: work of this kernel alone.
    """

    name: str
    counts: Counts


def total(steps: Iterable[Step]) -> Counts:
    """Return the sum over all steps."""
    return sum((step.counts for step in steps), Counts())


@dataclass
class Kernel:
    """The work of a kernel, and the tensors that it reads and writes: name -> bytes."""

    name: str
    reads: dict[str, int]
    writes: dict[str, int]
    flops: int = 0
    sines: int = 0


def _fused(name: str, kernels: Sequence[Kernel]) -> Kernel:
    """Fuse kernels into one, which does not read from memory what an earlier one of them writes."""
    fused = Kernel(name, {}, {})
    for kernel in kernels:
        fused.reads |= {tensor: size for tensor, size in kernel.reads.items() if tensor not in fused.writes}
        fused.writes |= kernel.writes
        fused.flops, fused.sines = fused.flops + kernel.flops, fused.sines + kernel.sines
    return fused


def _counted(kernels: Sequence[Kernel], results: Collection[str]) -> list[Step]:
    """Return every kernel with its work; an output is written only if another kernel reads it or it is a result."""
    steps = []
    for kernel in kernels:
        needed = {*results, *(tensor for other in kernels if other is not kernel for tensor in other.reads)}
        moved = sum(kernel.reads.values()) + sum(size for name, size in kernel.writes.items() if name in needed)
        steps.append(Step(kernel.name, Counts(kernel.flops, moved, kernel.sines)))
    return steps


@dataclass
class LayerKernels:
    """A matrix product with everything fused into its kernel, and its gradients; tensors are name -> bytes."""

    name: str
    flops: int
    outputs: dict[str, int]
    multiplied: dict[str, int] = field(default_factory=dict)  # activations that the weight multiplies
    added: dict[str, int] = field(default_factory=dict)  # activations whose values no gradient needs
    tables: dict[str, int] = field(default_factory=dict)
    fourier: dict[str, int] = field(default_factory=dict)  # inputs of the tables, which get gradients
    weights: dict[str, int] = field(default_factory=dict)
    biases: dict[str, int] = field(default_factory=dict)
    image: dict[str, int] = field(default_factory=dict)  # running image before this read-out
    new_image: dict[str, int] = field(default_factory=dict)  # running image after it
    sines: int = 0
    sloped: bool = True  # the gradients depend on the outputs
    handed_on: bool = True  # the outputs have a gradient
    input_gradient: bool = True

    def forward(self) -> Kernel:
        """Return the kernel that computes the outputs."""
        reads = self.weights | self.biases | self.multiplied | self.added | self.tables | self.image
        return Kernel(self.name, reads, self.outputs | self.new_image, self.flops, self.sines)

    def backward(self) -> Kernel:
        """Return the kernel that computes the gradients."""
        reads = self.weights | self.multiplied | self.tables | _gradients(self.new_image)
        reads |= (self.outputs if self.sloped else {}) | (_gradients(self.outputs) if self.handed_on else {})
        writes = _gradients(self.weights | self.biases | self.fourier | self.added)
        writes |= _gradients(self.multiplied) if self.input_gradient else {}
        if self.image.keys() != self.new_image.keys():
            writes |= _gradients(self.image)  # it has fewer pixels
        flops = self.flops * (2 if self.input_gradient else 1)
        return Kernel(f"{self.name} backward", reads, writes, flops, self.sines)


def _gradients(tensors: dict[str, int]) -> dict[str, int]:
    return {f"gradient of {name}": size for name, size in tensors.items()}


@dataclass
class StageKernels:
    """Layers that can be fused into one kernel, and the kernels of the tables that run before them."""

    name: str
    tables: list[Kernel]
    layers: list[LayerKernels]

    def kernels(self, backward: bool, stored: bool, fused: bool) -> list[Kernel]:
        """Return the kernels of a pass in order; a backward pass recomputes the layers unless `stored`."""
        own, name = [layer.forward() for layer in self.layers], self.name
        if backward:
            own, name = ([] if stored else own) + self.gradients(), f"{name} backward"
        return self.tables + ([_fused(name, own)] if fused else own)

    def gradients(self) -> list[Kernel]:
        """Return the backward kernels of the layers, last layer first."""
        return [layer.backward() for layer in reversed(self.layers)]


@dataclass
class Program:
    """The stages of an op, and the name of its result."""

    stages: list[StageKernels]
    result: str

    def steps(self, backward: bool, stored: bool, fused: Collection[int]) -> list[Step]:
        """Return the kernels of a pass with their work; `fused` are the indices of stages that are one kernel."""
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
        """Return the names of the tensors that the backward pass reads, and of those that it writes."""
        kernels = [k for stage in self.stages for k in stage.gradients()]
        return {name for k in kernels for name in k.reads}, {name for k in kernels for name in k.writes}
