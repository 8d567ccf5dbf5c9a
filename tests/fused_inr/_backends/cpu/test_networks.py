"""The CPU kernels of mlp: values and gradients against the naive path in float64, on every instruction set."""

import functools
import math
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch

import fused_inr as fi
from fused_inr.primitives.mlp import ACTIVATIONS, FREQUENCIES, codes_of

pytestmark = pytest.mark.usefixtures("compiled_library")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# N, points, sizes of the layers, shared tensors, and options of siren, or of mlp if they contain activations. Points
# are processed in tiles of 128.
CASES = {
    "N2-P129-2x16x16x3": (2, 129, (2, 16, 16, 3), "", {}),
    "N2-P1-1x48x48x3": (2, 1, (1, 48, 48, 3), "", {}),
    "N1-P40-2x512x512x3": (1, 40, (2, 512, 512, 3), "", {}),
    "N3-P3-3x100x100x4-shared-coords": (3, 3, (3, 100, 100, 4), "coords", {}),
    "N2-P127-5x48x17x48x2-own-first-omega": (2, 127, (5, 48, 17, 48, 2), "coords", dict(omega=10.0, first_omega=25.0)),
    "N2-P300-2x256x256x256x3-shared-weights": (2, 300, (2, 256, 256, 256, 3), "weights", {}),
    "N9-P130-2x7x3-shared-biases": (9, 130, (2, 7, 3), "biases", {}),
    "N1-P1000-3x48x48x48x48x1": (1, 1000, (3, 48, 48, 48, 48, 1), "", dict(omega=20.0)),
    "N2-P64-2x16x3-final-sine": (2, 64, (2, 16, 3), "", dict(final="sine", omega=5.0)),
    "N2-P129-3x4-one-layer": (2, 129, (3, 4), "", {}),
    "N1-P33-2x300x5-final-sine-first-omega": (1, 33, (2, 300, 5), "", dict(final="sine", omega=6.0, first_omega=12.0)),
    **{
        f"N2-P131-3x{width}x{width}x2-{name}": (
            *(2, 131, (3, width, width, 2), ""),
            dict(activations=[name, name, name], omegas=1.5),
        )
        for name, width in zip(ACTIVATIONS, (1, 3, 63, 100, 63, 3, 1, 100, 63), strict=True)
    },
    "N2-P65-1x63x100x3-mixed-omegas": (
        *(2, 65, (1, 63, 100, 3), "coords"),
        dict(activations=["sine", "gauss", "finer"], omegas=[5.0, 0.5, 1.5]),
    ),
    "N3-P129-7x30x65x33x5-skips": (
        *(3, 129, (7, 30, 65, 33, 5), "weights"),
        dict(activations=["gelu", "finer", "tanh", "silu"], skips=[1, 3]),
    ),
    "N2-P100-3x64x64x64x1-skip": (
        *(2, 100, (3, 64, 64, 64, 1), "biases"),
        dict(activations=["relu", "lrelu", "relu", "linear"], skips=[2]),
    ),
    "N1-P3-1x1x63x1-skips": (1, 3, (1, 1, 63, 1), "", dict(activations=["sine", "linear", "gauss"], skips=[1, 2])),
    "N2-P257-2x128x129x128-skip-wide": (
        *(2, 257, (2, 128, 129, 128), ""),
        dict(activations=["silu", "sine", "tanh"], omegas=2.0, skips=[1]),
    ),
}


EVERY_ACTIVATION = {
    "N2-P131-skips": (2, 131, (3, 63, 17, 5, 1, 64, 33, 3, 16, 7), "", dict(activations=ACTIVATIONS, skips=[1, 4, 8])),
    "N9-P7-skip": (9, 7, (7, 1, 3, 65, 2, 8, 9, 31, 33, 1), "", dict(activations=ACTIVATIONS[::-1], skips=[3])),
}


def network(
    n: int, points: int, sizes: tuple[int, ...], shared: str = "", omega: float = 30.0, skips: Sequence[int] = ()
) -> list[torch.Tensor]:
    """Return coordinates, weights and biases with the initialization of SIREN (NeurIPS 2020)."""
    generator = torch.Generator().manual_seed(0)

    def uniform(bound: float, *shape: int) -> torch.Tensor:
        return bound * (2 * torch.rand(shape, generator=generator) - 1)

    coords = uniform(1.0, points, sizes[0]) if shared == "coords" else uniform(1.0, n, points, sizes[0])
    weights, biases = [], []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        inputs += sizes[0] if index in skips else 0
        bound = 1 / max(inputs, 1) if index == 0 else (6 / max(inputs, 1)) ** 0.5 / omega
        weights.append(uniform(bound, *(() if shared == "weights" else (n,)), outputs, inputs))
        biases.append(uniform(max(inputs, 1) ** -0.5, *(() if shared == "biases" else (n,)), outputs))
    return [coords, *weights, *biases]


def values_of(tensors: list[torch.Tensor], **options) -> torch.Tensor:
    count = len(tensors) // 2
    function = fi.mlp if "activations" in options else fi.siren
    return function(tensors[0], tensors[1 : 1 + count], tensors[1 + count :], **options)


def evaluated(tensors: list[torch.Tensor], **options) -> list[torch.Tensor]:
    """Return values and the gradients of every tensor, for a seeded gradient of the values."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    values = values_of(leaves, **options)
    probe = torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [values.detach(), *torch.autograd.grad(values, leaves, probe.to(values.dtype))]


@functools.cache
def case_of(name: str) -> tuple[list[torch.Tensor], dict, list[torch.Tensor], list[torch.Tensor]]:
    """Return tensors, options, exact values and gradients, and those of the naive path in bfloat16."""
    *sizes, options = CASES[name]
    omega = 2.0 if "activations" in options else options.get("omega", 30.0)
    tensors = network(*sizes, omega, options.get("skips", ()))
    exact = evaluated([tensor.double() for tensor in tensors], backend="reference", **options)
    naive = evaluated(tensors, dtype=torch.bfloat16, backend="reference", **options)
    return tensors, options, exact, naive


@pytest.mark.parametrize("name", CASES)
def test_float32(instruction_set, name, errors):
    tensors, options, exact, _ = case_of(name)
    actual = evaluated(tensors, backend="cpu", **options)
    assert actual[0].dtype == torch.float32
    assert torch.equal(values_of(tensors, backend="cpu", **options), actual[0])
    # Measured on every instruction set of an AVX-512 CPU: 7.7e-7 at most.
    assert errors(actual[:1], exact[:1]) <= [2e-6]
    # Measured on the same CPU: 2.0e-6 at most.
    assert max(errors(actual, exact)) <= 5e-6


@pytest.mark.parametrize("name", CASES)
def test_bfloat16(instruction_set, name, errors, mean_error):
    tensors, options, exact, naive = case_of(name)
    actual = evaluated(tensors, dtype=torch.bfloat16, backend="cpu", **options)
    # Measured on every instruction set of an AVX-512 CPU: 1.3e-2 at most (the naive path: 1.6e-2).
    assert errors(actual[:1], exact[:1]) <= [2e-2]
    # Measured on the same CPU: 0.66 to 1.0 times the naive path's. With piecewise linear activations, 0.3 to 2.3 times:
    # most of their error comes from the few points at which rounding changes the slope.
    kinks = {"relu", "lrelu"} & set(options.get("activations", ()))
    assert mean_error(actual[1:], exact[1:]) <= (3 if kinks else 1.2) * mean_error(naive[1:], exact[1:])


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.mT.contiguous().mT


def every_other(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensor, tensor + 9], dim=-1)[..., 0]


def expanded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:1].expand_as(tensor)


@pytest.mark.parametrize("layout", [transposed, every_other, expanded], ids=lambda function: function.__name__)
def test_strides_change_nothing(layout):
    strided = [layout(tensor) for tensor in network(2, 70, (3, 20, 20, 2))]
    assert not all(tensor.is_contiguous() for tensor in strided)
    dense = [tensor.contiguous() for tensor in strided]
    actual, expected = evaluated(strided, backend="cpu"), evaluated(dense, backend="cpu")
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    leaves = [tensor.requires_grad_() for tensor in dense]
    ones = torch.autograd.grad(values_of(leaves, backend="cpu"), leaves, torch.ones(2, 70, 2))
    of_sum = torch.autograd.grad(values_of(leaves, backend="cpu").sum(), leaves)  # a gradient whose strides are 0
    assert all(torch.equal(a, b) for a, b in zip(ones, of_sum, strict=True))


@pytest.mark.parametrize("differentiable", [[0], [1, 4], [3, 6]], ids=["coords", "first-layer", "last-layer"])
def test_only_a_subset_of_tensors_requires_gradients(differentiable):
    tensors = network(2, 70, (3, 20, 20, 2))
    leaves = [tensor.requires_grad_(index in differentiable) for index, tensor in enumerate(tensors)]
    values_of(leaves, backend="cpu").backward(torch.ones(2, 70, 2))
    complete = [tensor.detach().requires_grad_() for tensor in tensors]
    expected = torch.autograd.grad(values_of(complete, backend="cpu").sum(), complete)
    for index, leaf in enumerate(leaves):
        assert (leaf.grad is not None) == (index in differentiable)
        assert leaf.grad is None or torch.equal(leaf.grad, expected[index])


@pytest.mark.parametrize(
    ("n", "points", "sizes"),
    [(0, 4, (2, 5, 3)), (2, 0, (2, 5, 3)), (2, 4, (0, 3)), (2, 4, (2, 0, 3)), (2, 4, (2, 5, 0))],
    ids=["N0", "P0", "no-coordinates", "no-channels", "no-outputs"],
)
def test_empty(n, points, sizes):
    leaves = [torch.ones(n, points, sizes[0]).requires_grad_()]
    leaves += [torch.ones(n, outputs, inputs).requires_grad_() for inputs, outputs in pairwise(sizes)]
    leaves += [torch.ones(n, outputs).requires_grad_() for outputs in sizes[1:]]
    results = [values_of(leaves, backend=backend) for backend in ("cpu", "reference")]
    assert torch.equal(results[0], results[1])
    gradients = [torch.autograd.grad(result.sum(), leaves) for result in results]
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("n", "points", "sizes"),
    [(0, 4, (2, 5, 4, 3)), (2, 0, (2, 5, 4, 3)), (2, 4, (0, 5, 4, 3)), (2, 4, (2, 0, 0, 3)), (2, 4, (2, 5, 4, 0))],
    ids=["N0", "P0", "no-coordinates", "no-channels", "no-outputs"],
)
def test_empty_with_skips(n, points, sizes):
    leaves = [tensor.requires_grad_() for tensor in network(n, points, sizes, skips=[1, 2])]
    options = dict(activations=["gauss", "finer", "tanh"], skips=[1, 2])
    results = [values_of(leaves, backend=backend, **options) for backend in ("cpu", "reference")]
    gradients = [torch.autograd.grad(result.sum(), leaves) for result in results]
    for a, b in zip([results[0], *gradients[0]], [results[1], *gradients[1]], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)  # exact but for rounding


def two_orders(tensors: list[torch.Tensor], **options) -> list[torch.Tensor]:
    """Return gradients of the sum of squared values, and gradients of the sum of their squares."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    values = values_of(leaves, **options)
    first = torch.autograd.grad(values.square().mean(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves)
    return [gradient.detach() for gradient in (*first, *second)]


@pytest.mark.parametrize("final", ["linear", "sine"])
@pytest.mark.parametrize("shared", ["", "coords", "weights", "biases"], ids=lambda name: f"shared-{name or 'nothing'}")
def test_second_order(final, shared, errors):
    tensors, options = network(2, 9, (2, 7, 7, 3), shared, omega=3.0), dict(omega=3.0, final=final)
    exact = two_orders([tensor.double() for tensor in tensors], backend="reference", **options)
    # Measured on an AVX-512 CPU: 5.8e-7.
    assert max(errors(two_orders(tensors, backend="cpu", **options), exact)) <= 1e-5


@pytest.mark.parametrize("create_graph", [False, True], ids=["once", "to-differentiate-again"])
@pytest.mark.parametrize("factor", [1.0, 2.0], ids=["same-tensor", "one-made-of-the-other"])
def test_tensors_that_depend_on_each_other(create_graph, factor, errors):
    coords, weight, *_ = network(1, 9, (3, 3))

    def gradient(coords: torch.Tensor, weight: torch.Tensor, backend: str) -> torch.Tensor:
        weight, bias = weight.requires_grad_(), torch.zeros(3)
        other = weight if factor == 1 else factor * weight
        values = fi.siren(coords, [weight, other], [bias, bias], omega=2.0, backend=backend)
        return torch.autograd.grad(values.square().sum(), weight, create_graph=create_graph)[0].detach()

    exact = gradient(coords.double(), weight.double(), "reference")
    # Measured on an AVX-512 CPU: 1e-7.
    assert errors([gradient(coords, weight, "cpu")], [exact]) <= [5e-6]


@pytest.fixture
def all_calls() -> list[tuple[str, tuple]]:
    """Return the op calls for the values and the gradients of networks with many points."""
    generator = torch.Generator().manual_seed(1)
    calls = []
    for name in ("N2-P129-2x16x16x3", "N9-P130-2x7x3-shared-biases", "N1-P1000-3x48x48x48x48x1", *EVERY_ACTIVATION):
        n, points, sizes, shared, options = CASES[name] if name in CASES else EVERY_ACTIVATION[name]
        count, skips = len(sizes) - 1, options.get("skips", ())
        activations = options.get("activations", [*["sine"] * (count - 1), "linear"])
        coords, *rest = network(n, points, sizes, shared, skips=skips)
        weights, biases = rest[:count], [bias.expand(n, -1) for bias in rest[count:]]
        gradient = torch.randn(n, points, sizes[-1], generator=generator)
        for dtype in (torch.float32, torch.bfloat16):
            omegas = [20.0 if name in FREQUENCIES else 1.0 for name in activations]
            arguments = (
                coords,
                weights,
                biases,
                codes_of(activations),
                omegas,
                [i in skips for i in range(count)],
                dtype,
            )
            calls.append(("cpu_mlp", arguments))
            calls += [("cpu_mlp_backward", (gradient, *arguments, with_coords, True)) for with_coords in (False, True)]
    return calls


def test_same_bits_every_time_and_for_any_number_of_threads(instruction_set, all_calls, check_threads):
    check_threads(all_calls)


def test_every_element_of_the_results_is_written(all_calls, check_written):
    check_written(all_calls)


def test_no_memory_is_read_before_it_is_written(all_calls, check_poisoned):
    check_poisoned(all_calls)


SPECIAL = [math.nan, math.inf, -math.inf, 1e30, -1e30, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_special_values(instruction_set, name, dtype):
    """A point that is not finite, or huge, affects itself only, and is as finite as the naive path makes it."""
    tensors = network(1, 24, (2, 5, 5, 3), skips=[1])
    tensors[0][0, : len(SPECIAL), 0] = torch.tensor(SPECIAL)
    clean = [tensor.clone() for tensor in tensors]
    clean[0][0, : len(SPECIAL)] = 0
    options = dict(activations=[name, "tanh", "linear"], omegas=[0.5 if name in FREQUENCIES else None, None, None])
    options |= dict(skips=[1], dtype=dtype)
    actual, expected = values_of(tensors, backend="cpu", **options), values_of(tensors, backend="reference", **options)
    assert torch.equal(actual.isnan(), expected.isnan())
    others = slice(len(SPECIAL), None)
    assert torch.equal(actual[:, others], values_of(clean, backend="cpu", **options)[:, others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_of_special_values(instruction_set, name, dtype):
    tensors = network(1, 24, (2, 5, 3))
    tensors[0][0, : len(SPECIAL), 0] = torch.tensor(SPECIAL)
    options = dict(activations=[name, "linear"], omegas=[0.5 if name in FREQUENCIES else None, None], dtype=dtype)
    actual, expected = (evaluated(tensors, backend=backend, **options)[1] for backend in ("cpu", "reference"))
    assert torch.equal(actual.isnan(), expected.isnan())  # of the coordinates, each of which has its own gradient


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_unsupported_types_are_refused(dtype):
    tensors = network(1, 3, (2, 4))
    if dtype == torch.float64:
        tensors = [tensor.double() for tensor in tensors]
    sentence = f"cannot run this mlp: it computes in float32 or bfloat16, not in {dtype}."
    with pytest.raises(RuntimeError, match=f"{re.escape(sentence)}$"):
        values_of(tensors, dtype=dtype, backend="cpu")
    values_of(tensors, dtype=dtype)  # another backend serves it
