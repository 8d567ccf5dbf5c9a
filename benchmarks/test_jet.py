"""Values, Jacobians and Laplacians of a batch of SIRENs at points, as in networks that solve differential equations.

There is no compiled rival: torch.compile does not support gradients of gradients, and its code for forward mode twice
crashed the process with torch 2.13 on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.func import jvp, vmap

import fused_inr as fi
from benchmarks.device import device, pick
from benchmarks.harness import Case
from benchmarks.networks import SIREN_OMEGA, Size, parameters, siren_layer
from benchmarks.sizes import scaled
from fused_inr.tools import counts

# Relative to float64; with omega 30, each layer amplifies the rounding errors of the one before.
TOLERANCE = 1e-3

Jets = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, ...]]


# In one piece, nested gradients of 16,384 points take more memory than common machines have. Gradients add up over
# points, so that the naive paths take a chunk at a time; larger chunks are not faster.
SIZES = pick(
    cpu=scaled(tiny=[Size(2, 3, 16, 8)], default=[Size(8, 5, 256, 32)], full=[Size(8, 5, 256, 128)]),
    cuda=scaled(tiny=[Size(2, 3, 16, 8)], default=[Size(8, 5, 256, 256)]),
)
CHUNK = pick(cpu=1024, cuda=8192)


def sirens(size: Size) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return random coordinates, and weights and biases initialised as published."""
    weights, biases = parameters(size, siren_layer)
    return 2 * torch.rand(size.side**2, 2, device=device()) - 1, weights, biases


def values(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Evaluate the networks at x [N, P, 2], layer by layer."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = torch.sin(SIREN_OMEGA * torch.baddbmm(bias[:, None], x, weight.mT))
    return torch.baddbmm(biases[-1][:, None], x, weights[-1].mT)


def nested(coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Differentiate backward, output by output, and the gradients once more, coordinate by coordinate."""
    again = weights[0].requires_grad  # the Laplacian is differentiated too
    x = coords.expand(len(weights[0]), -1, -1).clone().requires_grad_()
    with torch.enable_grad():
        y = values(x, weights, biases)
        rows, laplacians = [], []
        for channel in range(y.shape[2]):
            (row,) = torch.autograd.grad(y[..., channel].sum(), x, create_graph=True)
            seconds = [
                torch.autograd.grad(row[..., k].sum(), x, create_graph=again, retain_graph=True)[0][..., k]
                for k in range(x.shape[2])
            ]
            rows.append(row)
            laplacians.append(sum(seconds))
    return y, torch.stack(rows, 2), torch.stack(laplacians, 2)


def forward_mode(coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Differentiate forward twice along each axis, both axes at once."""
    x = coords.expand(len(weights[0]), -1, -1).clone()

    def once(x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        return jvp(lambda x: values(x, weights, biases), (x,), (direction,))

    def twice(axis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        direction = axis.expand_as(x).clone()
        (y, first), (_, second) = jvp(lambda x: once(x, direction), (x,), (direction,))
        return y, first, second

    y, first, second = vmap(twice)(torch.eye(x.shape[2], device=x.device))
    return y[0], first.movedim(0, 3), second.sum(0)


def ours(coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, ...]:
    activations = [*["sine"] * (len(weights) - 1), "linear"]
    return fi.mlp_jet(coords, weights, biases, activations=activations, omegas=SIREN_OMEGA)


def in_chunks(jets: Jets, size: int) -> Jets:
    """Evaluate a chunk of points at a time."""

    def chunked(coords: Tensor, *network: Sequence[Tensor]) -> tuple[Tensor, ...]:
        parts = [tuple(result.detach() for result in jets(chunk, *network)) for chunk in coords.split(size)]
        return tuple(torch.cat(results, 1) for results in zip(*parts, strict=True))

    return chunked


def gradients(jets: Jets, coords: Tensor, tensors: Sequence[Tensor], size: int) -> tuple[Tensor, ...]:
    """Return the gradients of a loss of values, Jacobians and Laplacians, summed over chunks of points."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    middle, points = len(leaves) // 2, len(coords)
    for chunk in coords.split(size):
        value, jacobian, laplacian = jets(chunk, leaves[:middle], leaves[middle:])
        slopes = jacobian.square().sum(3).sqrt() - 1
        ((value.square() + slopes.square() + laplacian.square()).sum() / points).backward()
    return tuple(leaf.grad for leaf in leaves)


def exact(size: Size, coords: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return what `nested` needs for the first network in float64."""
    return coords.double(), [tensor[:1].double() for tensor in tensors]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_jet(compare, size):
    coords, weights, biases = sirens(size)
    wide, network = exact(size, coords, (*weights, *biases))
    work = counts.mlp_jet(coords, weights, biases)
    rival = in_chunks(forward_mode, CHUNK)
    compare(
        Case(
            name=f"jet {size}",
            dtype=torch.float32,
            paths={
                "naive": lambda: in_chunks(nested, CHUNK)(coords, weights, biases),
                "naive jvp": lambda: rival(coords, weights, biases),
                "ours": lambda: ours(coords, weights, biases),
            },
            flops=work.flops,
            work=work,
            truth=lambda: in_chunks(nested, CHUNK)(wide, network[: size.layers], network[size.layers :]),
            part=lambda results: tuple(result[:1] for result in results),
            tolerance=TOLERANCE,
        )
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_jet_forward_and_backward(compare, size):
    coords, weights, biases = sirens(size)
    tensors = (*weights, *biases)
    work = counts.mlp_jet(coords, weights, biases) + counts.mlp_jet(coords, weights, biases, backward=True)
    compare(
        Case(
            name=f"jet forward + backward {size}",
            dtype=torch.float32,
            paths={
                "naive": lambda: gradients(nested, coords, tensors, CHUNK),
                "naive jvp": lambda: gradients(forward_mode, coords, tensors, CHUNK),
                "ours": lambda: gradients(ours, coords, tensors, size.side**2),
            },
            flops=work.flops,
            work=work,
            truth=lambda: gradients(nested, *exact(size, coords, tensors), CHUNK),
            part=lambda results: tuple(result[:1] for result in results),
            tolerance=TOLERANCE,
        )
    )
