"""What the benchmarks of networks at points share: sizes, initial weights, and the two comparisons of a call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.device import device, on_cuda
from benchmarks.harness import Case, Precision
from fused_inr.tools.counts import Counts

Network = tuple[Tensor, list[Tensor], list[Tensor]]  # coordinates [P, K], weights [N, O, I], biases [N, O]
SIREN_OMEGA = 30.0


@dataclass(frozen=True)
class Size:
    """Number of networks, their layers and width, pixels per side, and coordinates of a pixel."""

    batch: int
    layers: int
    width: int
    side: int
    axes: int = 2

    def __str__(self) -> str:
        space = "" if self.axes == 2 else f"-{self.axes}D"
        return f"N{self.batch}-L{self.layers}-W{self.width}-P{self.side**self.axes}{space}"


def pixels(size: Size) -> Tensor:
    """Return the coordinates `[P, K]` of the pixels of an image or of a volume."""
    axis = torch.linspace(-1, 1, size.side, device=device())
    return torch.cartesian_prod(*[axis] * size.axes)


def parameters(
    size: Size, layer: Callable[[int, tuple[int, int, int]], tuple[Tensor, Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return seeded weights and biases of networks with three outputs.

    Args:
        size: of the networks.
        layer: returns the weight and the bias of a layer, for its index and the shape of its weight.
    """
    torch.manual_seed(0)
    widths = [size.axes] + [size.width] * (size.layers - 1) + [3]
    made = [layer(index, (size.batch, *pair[::-1])) for index, pair in enumerate(itertools.pairwise(widths))]
    return [weight.to(device()) for weight, _ in made], [bias.to(device()) for _, bias in made]


def siren_layer(index: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Return a layer initialised as published (SIREN, NeurIPS 2020)."""
    bound = 1 / shape[2] if index == 0 else (6 / shape[2]) ** 0.5 / SIREN_OMEGA
    return torch.empty(shape).uniform_(-bound, bound), torch.empty(shape[:2]).uniform_(-bound, bound)


def relu_layer(index: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Return a layer initialised for ReLUs (He et al., ICCV 2015)."""
    return torch.randn(shape) * (2 / shape[2]) ** 0.5, torch.empty(shape[:2]).uniform_(-0.1, 0.1)


def compiles(precision: Precision) -> bool:
    """Return whether to include a compiled path; on a GPU, only half precision is a practical alternative."""
    return not on_cuda() or precision.name in ("bfloat16", "float16")


def values_case(
    name: str, network: Network, evaluate: Callable[..., Tensor], work: Counts, precision: Precision, tolerance: float
) -> Case:
    """Return the comparison of the values of networks.

    Args:
        name: of the case.
        network: the coordinates, weights and biases.
        evaluate: takes them, and `dtype` and `backend`.
        work: the work of a call.
        precision: the types of the products.
        tolerance: relative to float64.
    """
    coords, weights, biases = network
    first = coords if coords.ndim == 2 else coords[:1]
    wide = [[tensor[:1].double() for tensor in tensors] for tensors in (weights, biases)]

    def naive() -> Tensor:
        return evaluate(*network, dtype=precision.dtype, backend="reference")

    return Case(
        name=name,
        dtype=precision.dtype,
        tf32=precision.tf32,
        paths={
            "naive": naive,
            **({"compiled": torch.compile(naive)} if compiles(precision) else {}),
            "ours": lambda: evaluate(*network, dtype=precision.dtype),
        },
        flops=work.flops,
        work=work,
        truth=lambda: evaluate(first.double(), *wide, backend="reference"),
        part=lambda values: values[:1],
        tolerance=tolerance,
    )


def gradients_case(
    name: str, network: Network, evaluate: Callable[..., Tensor], work: Counts, precision: Precision, tolerance: float
) -> Case:
    """Return the comparison of the values of networks and the gradients of their weights; arguments as above."""
    coords, weights, biases = network
    dtype = precision.dtype

    def gradients(clips: slice, wide: torch.dtype, function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        tensors = [tensor[clips].to(wide).requires_grad_() for tensor in (*weights, *biases)]
        points = function(coords.to(wide), tensors[: len(weights)], tensors[len(weights) :])
        return torch.autograd.grad(points.square().sum(), tensors)

    def naive(coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        product = dtype if coords.dtype == torch.float32 else None
        return evaluate(coords, weights, biases, dtype=product, backend="reference")

    def ours(coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        return evaluate(coords, weights, biases, dtype=dtype)

    compiled = torch.compile(naive)
    every = slice(None)
    return Case(
        name=name,
        dtype=dtype,
        tf32=precision.tf32,
        paths={
            "naive": lambda: gradients(every, torch.float32, naive),
            **({"compiled": lambda: gradients(every, torch.float32, compiled)} if compiles(precision) else {}),
            "ours": lambda: gradients(every, torch.float32, ours),
        },
        flops=work.flops,
        work=work,
        truth=lambda: gradients(slice(0, 1), torch.float64, naive),
        part=lambda gradients: tuple(tensor[:1] for tensor in gradients),
        tolerance=tolerance,
    )
