"""The CPU kernels of mlp_jet: against the reference and against nested jacfwd in float64, on every instruction set."""

import functools
import math
import re
from itertools import pairwise

import pytest
import torch
from torch.func import jacfwd, vmap

import fused_inr as fi
from fused_inr.primitives.mlp import ACTIVATIONS, codes_of

pytestmark = pytest.mark.usefixtures("compiled_library")

MODES = {"order-1": {"order": 1}, "laplacian": {}, "hessian": {"hessian": True}}
with_mode = pytest.mark.parametrize("mode", MODES)
SINES = ("sine",) * 3

# N, points, sizes of the layers, activations, positions of skip connections, shared tensors. A tile has 128 rows. Each
# point takes 1 + K of them, 2 + K with a Laplacian, or 1 + K + K (K + 1) / 2 with Hessians.
CASES = {
    "N2-P129-2x16x16x3": (2, 129, (2, 16, 16, 3), (*SINES[:2], "linear"), (), ""),
    "N1-P1-1x48x3": (1, 1, (1, 48, 3), ("sine", "sine"), (), ""),
    "N3-P3-3x100x100x4-shared-coords": (3, 3, (3, 100, 100, 4), SINES, (), "coords"),
    "N2-P65-4x17x33x5x2-skips": (2, 65, (4, 17, 33, 5, 2), (*SINES, "linear"), (1, 3), ""),
    "N2-P40-2x256x256x3-shared-weights": (2, 40, (2, 256, 256, 3), SINES, (), "weights"),
    "N9-P50-3x7x3-shared-biases": (9, 50, (3, 7, 3), ("sine", "linear"), (), "biases"),
    "N1-P300-2x20x20x20x1": (1, 300, (2, 20, 20, 20, 1), (*SINES, "linear"), (2,), ""),
    "N2-P70-3x4-one-layer": (2, 70, (3, 4), ("sine",), (), ""),
    "N1-P3-20x9x2-many-axes": (1, 3, (20, 9, 2), ("sine", "sine"), (1,), ""),
    **{f"N2-P30-2x19x19x3-{name}": (2, 30, (2, 19, 19, 3), (name, name, "linear"), (1,), "") for name in ACTIVATIONS},
    **{f"N1-P7-3x5-last-{name}": (1, 7, (3, 5), (name,), (), "") for name in ACTIVATIONS},
}


def network(n: int, points: int, sizes: tuple[int, ...], skips: tuple[int, ...] = (), shared: str = "") -> list:
    """Return coordinates, weights and biases."""
    generator = torch.Generator().manual_seed(0)

    def uniform(bound: float, *shape: int) -> torch.Tensor:
        return bound * (2 * torch.rand(shape, generator=generator) - 1)

    coords = uniform(1.0, points, sizes[0]) if shared == "coords" else uniform(1.0, n, points, sizes[0])
    weights, biases = [], []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        inputs += sizes[0] if index in skips else 0
        bound = (3 / max(1, inputs)) ** 0.5
        weights.append(uniform(bound, *(() if shared == "weights" else (n,)), outputs, inputs))
        biases.append(uniform(0.5, *(() if shared == "biases" else (n,)), outputs))
    return [coords, *weights, *biases]


def jets_of(tensors: list[torch.Tensor], **options) -> tuple[torch.Tensor, ...]:
    count = len(tensors) // 2
    return fi.mlp_jet(tensors[0], tensors[1 : 1 + count], tensors[1 + count :], omegas=1.5, **options)


def evaluated(tensors: list[torch.Tensor], **options) -> list[torch.Tensor]:
    """Return all results, and the gradients of every tensor for seeded gradients of the results."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    results = jets_of(leaves, **options)
    generator = torch.Generator().manual_seed(1)
    probes = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in results]
    return [*(result.detach() for result in results), *torch.autograd.grad(results, leaves, probes)]


@functools.cache
def case_of(name: str, mode: str) -> tuple[list[torch.Tensor], dict, list[torch.Tensor], list[torch.Tensor]]:
    """Return tensors, options, exact results and gradients, and those of the naive path in bfloat16."""
    n, points, sizes, activations, skips, shared = CASES[name]
    tensors = network(n, points, sizes, skips, shared)
    options = {"activations": activations, "skips": skips, **MODES[mode]}
    exact = evaluated([tensor.double() for tensor in tensors], backend="reference", **options)
    naive = evaluated(tensors, dtype=torch.bfloat16, backend="reference", **options)
    return tensors, options, exact, naive


@with_mode
@pytest.mark.parametrize("name", CASES)
def test_float32(instruction_set, name, mode, errors):
    tensors, options, exact, _ = case_of(name, mode)
    actual = evaluated(tensors, backend="cpu", **options)
    assert actual[0].dtype == torch.float32
    results = jets_of(tensors, backend="cpu", **options)
    assert all(torch.equal(a, b) for a, b in zip(results, actual, strict=False))
    # Measured on every instruction set of an AVX-512 CPU: 2.9e-6 at most, with finer; 1.2e-6 without.
    assert max(errors(actual, exact)) <= 8e-6


@with_mode
@pytest.mark.parametrize("name", CASES)
def test_bfloat16(instruction_set, name, mode, mean_error):
    tensors, options, exact, naive = case_of(name, mode)
    actual = evaluated(tensors, dtype=torch.bfloat16, backend="cpu", **options)
    # Measured on the same CPU: 0.68 to 1.47 times the naive path's, the most with few values in all.
    assert mean_error(actual, exact) <= 1.8 * mean_error(naive, exact)


@with_mode
@pytest.mark.parametrize("name", [name for name in CASES if "-P30-" in name or "skips" in name])
def test_derivatives_are_those_of_mlp(name, mode):
    tensors, options, *_ = case_of(name, mode)
    n, points, *_ = CASES[name]
    count = len(tensors) // 2
    coords, *parameters = [tensor.double() for tensor in tensors]

    def value(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        layers = {key: options[key] for key in ("activations", "skips")}
        return fi.mlp(x[None], parameters[:count], parameters[count:], omegas=1.5, backend="reference", **layers)[0, 0]

    def at_points(function) -> torch.Tensor:
        axes = (0, *[None] * len(parameters))
        return vmap(vmap(function, axes))(coords.expand(n, points, -1), *parameters)

    hessians = at_points(jacfwd(jacfwd(value)))
    exact = [at_points(value), at_points(jacfwd(value)), hessians.diagonal(dim1=3, dim2=4).sum(3), hessians]
    actual = jets_of(tensors, backend="cpu", **options)
    for result, expected in zip(actual, exact, strict=False):
        assert result.shape == expected.shape
        # Measured on an AVX-512 CPU: 1.1e-6 at most. Second derivatives of piecewise linear networks are zero.
        assert (result - expected).norm() <= 5e-6 * expected.norm()


def test_the_hessian_is_symmetric_and_its_trace_the_laplacian():
    tensors, options, *_ = case_of("N2-P65-4x17x33x5x2-skips", "hessian")
    *_, laplacian, matrix = jets_of(tensors, backend="cpu", **options)
    assert torch.equal(matrix, matrix.mT)
    torch.testing.assert_close(matrix.diagonal(dim1=3, dim2=4).sum(3), laplacian)


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.mT.contiguous().mT


def every_other(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensor, tensor + 9], dim=-1)[..., 0]


def expanded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:1].expand_as(tensor)


THREE = {"activations": ("sine", "sine", "linear")}


@pytest.mark.parametrize("layout", [transposed, every_other, expanded], ids=lambda function: function.__name__)
def test_strides_change_nothing(layout):
    strided = [layout(tensor) for tensor in network(2, 70, (3, 20, 20, 2))]
    assert not all(tensor.is_contiguous() for tensor in strided)
    dense = [tensor.contiguous() for tensor in strided]
    actual, expected = (evaluated(tensors, backend="cpu", **THREE) for tensors in (strided, dense))
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    leaves = [tensor.requires_grad_() for tensor in dense]
    jets = jets_of(leaves, backend="cpu", hessian=True, **THREE)
    ones = torch.autograd.grad(jets, leaves, [torch.ones_like(jet) for jet in jets], retain_graph=True)
    of_sum = torch.autograd.grad(sum(jet.sum() for jet in jets), leaves)  # gradients whose strides are 0
    assert all(torch.equal(a, b) for a, b in zip(ones, of_sum, strict=True))


@pytest.mark.parametrize("differentiable", [[0], [1, 4], [3, 6]], ids=["coords", "first-layer", "last-layer"])
def test_only_a_subset_of_tensors_requires_gradients(differentiable):
    tensors = network(2, 70, (3, 20, 20, 2))
    leaves = [tensor.requires_grad_(index in differentiable) for index, tensor in enumerate(tensors)]
    sum(jet.sum() for jet in jets_of(leaves, backend="cpu", **THREE)).backward()
    complete = [tensor.detach().requires_grad_() for tensor in tensors]
    expected = torch.autograd.grad(sum(jet.sum() for jet in jets_of(complete, backend="cpu", **THREE)), complete)
    for index, leaf in enumerate(leaves):
        assert (leaf.grad is not None) == (index in differentiable)
        assert leaf.grad is None or torch.equal(leaf.grad, expected[index])


@with_mode
@pytest.mark.parametrize(
    ("n", "points", "sizes"),
    [(0, 4, (2, 5, 3)), (2, 0, (2, 5, 3)), (2, 4, (0, 3, 2)), (2, 4, (2, 0, 3)), (2, 4, (2, 5, 0))],
    ids=["N0", "P0", "no-coordinates", "no-channels", "no-outputs"],
)
def test_empty(n, points, sizes, mode):
    results = []
    for backend in ("cpu", "reference"):
        options = {"activations": ("sine", "linear"), "backend": backend, **MODES[mode]}
        results.append(evaluated(network(n, points, sizes), **options))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def two_orders(tensors: list[torch.Tensor], **options) -> list[torch.Tensor]:
    """Return gradients of the mean squares of the results, and gradients of the sum of their squares."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    loss = sum(jet.square().mean() for jet in jets_of(leaves, **options))
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves)
    return [gradient.detach() for gradient in (*first, *second)]


@with_mode
@pytest.mark.parametrize("shared", ["", "coords", "weights", "biases"], ids=lambda name: f"shared-{name or 'nothing'}")
def test_second_order(mode, shared, errors):
    tensors = network(2, 9, (2, 7, 7, 3), (1,), shared)
    options = {"activations": ("sine", "silu", "linear"), "skips": (1,), **MODES[mode]}
    exact = two_orders([tensor.double() for tensor in tensors], backend="reference", **options)
    assert max(errors(two_orders(tensors, backend="cpu", **options), exact)) <= 1e-5


@pytest.fixture
def all_calls() -> list[tuple[str, tuple]]:
    """Return the op calls for the results and the gradients of some cases."""
    calls = []
    for name in ("N2-P129-2x16x16x3", "N9-P50-3x7x3-shared-biases", "N2-P65-4x17x33x5x2-skips"):
        n, points, sizes, activations, skips, shared = CASES[name]
        coords, *rest = network(n, points, sizes, skips, shared)
        weights, biases = rest[: len(rest) // 2], [bias.expand(n, -1) for bias in rest[len(rest) // 2 :]]
        layers = codes_of(activations), [1.5] * len(weights), [index in skips for index in range(len(weights))]
        for dtype, (order, hessian) in ((t, m) for t in (torch.float32, torch.bfloat16) for m in ORDERS):
            arguments = coords, weights, biases, *layers, dtype, order, hessian
            calls.append(("cpu_mlp_jet", arguments))
            results = torch.ops.fused_inr.cpu_mlp_jet(*arguments)
            gradients = [torch.randn(r.shape, generator=torch.Generator().manual_seed(1)) for r in results]
            for with_coords in (False, True):
                calls.append(("cpu_mlp_jet_backward", (gradients, *arguments, with_coords, True)))
    return calls


ORDERS = ((1, False), (2, False), (2, True))


def test_same_bits_every_time_and_for_any_number_of_threads(instruction_set, all_calls, check_threads):
    check_threads(all_calls)


def test_every_element_of_the_results_is_written(all_calls, check_written):
    check_written(all_calls)


def test_no_memory_is_read_before_it_is_written(all_calls, check_poisoned):
    check_poisoned(all_calls)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("place", ["coords", "weight", "bias"])
def test_special_values_stay_in_their_points_and_networks(instruction_set, activation, dtype, place):
    special = [math.nan, math.inf, -math.inf]
    tensors = network(3, 20, (3, 5, 2))
    target = tensors[{"coords": 0, "weight": 1, "bias": 3}[place]]
    for index, number in enumerate(special):
        target[index].view(-1)[index] = number
    options = {"activations": (activation, activation), "dtype": dtype}
    actual, expected = (jets_of(tensors, backend=backend, hessian=True, **options) for backend in ("cpu", "reference"))
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a.isfinite(), e.isfinite())


@pytest.mark.parametrize("angle", [1e4, 1e5, 2.5e7, 1e12, 1e30])
def test_sines_of_huge_angles(instruction_set, angle):
    coords = (angle * torch.linspace(0.2, 1, 37))[None, :, None].requires_grad_()
    value, jacobian, laplacian = fi.mlp_jet(
        coords, [torch.ones(1, 1)], [torch.zeros(1)], activations=["sine"], backend="cpu"
    )
    (gradient,) = torch.autograd.grad(laplacian.sum(), coords)
    exact = coords.detach().double()
    for actual, expected in (
        (value, exact.sin()),
        (jacobian[..., 0], exact.cos()),
        (laplacian, -exact.sin()),
        (gradient, -exact.cos()),
    ):
        # Measured on every instruction set of an AVX-512 CPU: 1.2e-7 at most.
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_unsupported_types_are_refused(dtype):
    tensors = network(1, 3, (2, 4))
    if dtype == torch.float64:
        tensors = [tensor.double() for tensor in tensors]
    sentence = f"cannot run this mlp_jet: it computes in float32 or bfloat16, not in {dtype}."
    with pytest.raises(RuntimeError, match=f"{re.escape(sentence)}$"):
        jets_of(tensors, activations=["sine"], dtype=dtype, backend="cpu")
    jets_of(tensors, activations=["sine"], dtype=dtype)  # another backend serves it
