"""`mlp` on the Triton kernels, in one kernel and layer by layer, against the naive path in float64."""

import functools
from itertools import pairwise

import pytest
import torch

from fused_inr import reference
from fused_inr._backends.triton.kernels import network_backward, network_forward
from fused_inr._backends.triton.networks import mlp
from fused_inr.primitives.mlp import ACTIVATIONS, codes_of, siren_layers, uniform_layers

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OTHERS = [name for name in ACTIVATIONS if name != "sine"]

# N, points, sizes of the layers, what samples share, and arguments of `layers_of`.
ONE_KERNEL = {
    "N2-P100-2x16x16x3": (2, 100, (2, 16, 16, 3), "", {}),
    "N1-P63-3x40x17x1-final-sine": (1, 63, (3, 40, 17, 1), "", dict(final="sine", omega=10.0, first_omega=25.0)),
    "N3-P3-5x8x3-shared-coords": (3, 3, (5, 8, 3), "coords", {}),
    "N2-P1-1x20x20x20x20x1": (2, 1, (1, 20, 20, 20, 20, 1), "", {}),
    "N2-P100-2x64x64x3-shared-weights": (2, 100, (2, 64, 64, 3), "weights", {}),
    "N3-P200-2x33x33x3-shared-coords-and-biases": (3, 200, (2, 33, 33, 3), "coords biases", dict(omega=20.0)),
    **{f"N2-P33-2x9x17x3-{name}": (2, 33, (2, 9, 17, 3), "", dict(activation=name, omega=2.0)) for name in OTHERS},
    "N2-P33-2x9x3-final-gauss": (2, 33, (2, 9, 3), "", dict(activation="gauss", final="gauss", omega=2.0)),
    "N2-P33-2x9x3-own-first-omega": (2, 33, (2, 9, 9, 3), "", dict(activation="finer", omega=1.0, first_omega=3.0)),
}
LAYERS = {
    "N2-P63-2x3-one-layer": (2, 63, (2, 3), "", {}),
    "N2-P3-1x5-one-layer-final-sine": (2, 3, (1, 5), "", dict(final="sine")),
    "N2-P63-2x130x70x3": (2, 63, (2, 130, 70, 3), "", {}),
    "N1-P70-20x30x19-final-sine": (1, 70, (20, 30, 19), "", dict(final="sine", omega=6.0, first_omega=12.0)),
    "N3-P1-3x130x1-shared-weights": (3, 1, (3, 130, 1), "weights coords", {}),
    "N2-P9-3x20x33x7x2-mixed": (2, 9, (3, 20, 33, 7, 2), "", dict(names=["gelu", "linear", "finer", "lrelu"])),
    "N2-P9-2x9x12x3-skip": (2, 9, (2, 9, 12, 3), "", dict(activation="relu", skips=[1])),
    "N3-P9-2x9x12x3-skips-shared-coords": (3, 9, (2, 9, 12, 3), "coords", dict(activation="silu", skips=[1, 2])),
    "N2-P9-18x20x3-skip-many-inputs": (2, 9, (18, 20, 3), "weights", dict(activation="tanh", skips=[1])),
}
CASES = ONE_KERNEL | LAYERS
HALF = (
    "N2-P100-2x16x16x3",
    "N1-P63-3x40x17x1-final-sine",
    "N2-P63-2x130x70x3",
    "N2-P33-2x9x17x3-relu",
    "N2-P33-2x9x17x3-gauss",
    "N2-P33-2x9x17x3-gelu",
    "N2-P33-2x9x17x3-finer",
    "N2-P9-2x9x12x3-skip",
    "N2-P9-18x20x3-skip-many-inputs",
)


def layers_of(
    count: int,
    activation: str = "sine",
    omega: float = 30.0,
    first_omega: float | None = None,
    final: str = "linear",
    names: list[str] | None = None,
    skips: list[int] | None = None,
) -> tuple[list[str], list[float], list[bool]]:
    """Return activations, frequencies and skip connections."""
    names = names or [*[activation] * (count - 1), final]
    omegas = [omega if first_omega is None else first_omega, *[omega] * (count - 1)]
    return names, omegas, [index in (skips or []) for index in range(count)]


def network(
    n: int, points: int, sizes: tuple[int, ...], shared: str = "", omega: float = 30.0, skips: list[int] | None = None
) -> list[torch.Tensor]:
    """Return coordinates, weights and biases, initialized as in SIREN (NeurIPS 2020)."""
    generator = torch.Generator().manual_seed(0)

    def uniform(bound: float, name: str, *shape: int) -> torch.Tensor:
        return bound * (2 * torch.rand(*(() if name in shared else (n,)), *shape, generator=generator) - 1)

    coords = uniform(1.0, "coords", points, sizes[0])
    weights, biases = [], []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        bound = 1 / inputs if index == 0 else (6 / inputs) ** 0.5 / omega
        columns = inputs + (sizes[0] if index in (skips or []) else 0)
        weights.append(uniform(bound, "weights", outputs, columns))
        biases.append(uniform(inputs**-0.5, "biases", outputs))
    return [coords, *weights, *biases]


def called(function, tensors: list[torch.Tensor], dtype: torch.dtype, **options) -> torch.Tensor:
    """Call `reference.mlp` or a function like it on tensors that samples may share."""
    count = len(tensors) // 2
    ranks = [3] * (1 + count) + [2] * count
    tensors = [tensor if tensor.ndim == rank else tensor[None] for tensor, rank in zip(tensors, ranks, strict=True)]
    sizes = {tensor.shape[0] for tensor in tensors}
    n = min(sizes - {1}, default=1)
    coords, *rest = [tensor.expand(n, *tensor.shape[1:]) for tensor in tensors]
    return function(coords, rest[:count], rest[count:], *layers_of(count, **options), dtype)


def evaluated(function, tensors: list[torch.Tensor], dtype: torch.dtype, **options) -> list[torch.Tensor]:
    """Return the values and the gradients of every tensor on the CPU, for a seeded gradient of the values."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    values = called(function, leaves, dtype, **options)
    probe = torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(values, leaves, probe.to(values))
    return [tensor.detach().cpu() for tensor in (values, *gradients)]


@functools.cache
def exact_of(name: str) -> tuple[list[torch.Tensor], dict, list[torch.Tensor]]:
    *sizes, options = CASES[name]
    sines = options.get("activation", "sine") == "sine" and "names" not in options
    bounds = options.get("omega", 30.0) if sines else 1.0
    tensors = network(*sizes, bounds, options.get("skips"))
    options = options if sines else {"omega": 2.0, **options}
    wide = [tensor.double() for tensor in tensors]
    return tensors, options, evaluated(reference.mlp, wide, torch.float64, **options)


def differences(actual: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    """Return relative differences in the 2-norm."""
    assert [tensor.shape for tensor in actual] == [tensor.shape for tensor in exact]
    assert all(tensor.dtype == torch.float32 for tensor in actual)
    return [((a.double() - b).norm() / b.norm().clamp_min(1e-30)).item() for a, b in zip(actual, exact, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_float32(name, device):
    tensors, options, exact = exact_of(name)
    tensors = [tensor.to(device) for tensor in tensors]
    weights = [tensor if tensor.ndim == 3 else tensor[None] for tensor in tensors[1 : 1 + len(tensors) // 2]]
    coords = tensors[0] if tensors[0].ndim == 3 else tensors[0][None]
    uniform = uniform_layers(*layers_of(len(weights), **options)) is not None
    for module in (network_forward, network_backward):
        assert (uniform and module.fits(coords, weights, torch.float32)) == (name in ONE_KERNEL)
    actual = differences(evaluated(mlp, tensors, torch.float32, **options), exact)
    # Measured in the interpreter: 5.1e-7 for values, 5.3e-6 for gradients (six layers), as large as the naive path's.
    assert actual[0] <= 2e-6
    assert max(actual) <= 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", HALF)
def test_half_precision(name, dtype, device, interpreted):
    tensors, options, exact = exact_of(name)
    naive = differences(evaluated(reference.mlp, tensors, TYPES[dtype], **options), exact)
    tensors = [tensor.to(device) for tensor in tensors]
    actual = differences(evaluated(mlp, tensors, TYPES[dtype], **options), exact)
    # Measured in the interpreter: 0.1 to 0.8 times the error of the naive path, whose products are rounded once more,
    # for sines, and up to 1.02 times for others in float16. In bfloat16 up to 4.1 times: the interpreter truncates, and
    # without the signs of a sine such errors add up.
    ratio = 1.2 if "activation" not in options else 5 if interpreted and dtype == "bfloat16" else 2
    for index, (error, naive_error) in enumerate(zip(actual, naive, strict=True)):
        assert error <= ratio * naive_error + 2e-6, f"tensor {index}: {error:.1e}, naive {naive_error:.1e}"


def test_some_tensors_without_gradient(device):
    tensors = [tensor.to(device) for tensor in network(2, 70, (3, 20, 20, 2))]
    complete = evaluated(mlp, tensors, torch.float32)[1:]
    for indices in ([0], [1, 4], [3, 6]):
        leaves = [tensor.detach().requires_grad_(index in indices) for index, tensor in enumerate(tensors)]
        values = called(mlp, leaves, torch.float32)
        probe = torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        values.backward(probe.to(values))
        for index, leaf in enumerate(leaves):
            assert (leaf.grad is not None) == (index in indices)
            assert leaf.grad is None or torch.equal(leaf.grad.cpu(), complete[index])


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.mT.contiguous().mT


def every_other(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensor, tensor + 9], dim=-1)[..., 0]


@pytest.mark.parametrize("sizes", [(3, 20, 20, 2), (3, 130, 2)], ids=["one-kernel", "layers"])
@pytest.mark.parametrize("layout", [transposed, every_other], ids=lambda function: function.__name__)
def test_strides_change_nothing(layout, sizes, device):
    strided = [layout(tensor.to(device)) for tensor in network(2, 9, sizes)]
    assert not all(tensor.is_contiguous() for tensor in strided)
    actual = evaluated(mlp, strided, torch.float32)
    expected = evaluated(mlp, [tensor.contiguous() for tensor in strided], torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("final", ["linear", "sine"])
@pytest.mark.parametrize(
    ("n", "points", "sizes"),
    [(0, 4, (2, 5, 3)), (2, 0, (2, 5, 3)), (2, 4, (0, 3)), (2, 4, (0, 5, 3)), (2, 4, (2, 0, 3)), (2, 4, (2, 5, 0))],
    ids=["N0", "P0", "no-coordinates-one-layer", "no-coordinates", "no-channels", "no-outputs"],
)
def test_empty(n, points, sizes, final, device):
    tensors = [torch.ones(n, points, sizes[0])]
    tensors += [torch.ones(n, outputs, inputs) for inputs, outputs in pairwise(sizes)]
    tensors += [torch.ones(n, outputs) for outputs in sizes[1:]]
    expected = evaluated(reference.mlp, tensors, torch.float32, final=final)
    actual = evaluated(mlp, [tensor.to(device) for tensor in tensors], torch.float32, final=final)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", ["", "coords", "weights"], ids=lambda name: f"shared-{name or 'nothing'}")
def test_second_order(shared, device):
    def two_orders(function, tensors: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        values = called(function, leaves, dtype, omega=3.0)
        first = torch.autograd.grad(values.square().mean(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(one.square().sum() for one in first), leaves)
        return [one.detach().cpu() for one in (*first, *second)]

    tensors = network(2, 9, (2, 7, 7, 3), shared, omega=3.0)
    exact = two_orders(reference.mlp, [tensor.double() for tensor in tensors], torch.float64)
    actual = two_orders(mlp, [tensor.to(device) for tensor in tensors], torch.float32)
    assert max(differences(actual, exact)) <= 1e-5  # measured in the interpreter: 7e-7


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_opcheck(device):
    coords, *rest = [tensor.to(device).requires_grad_() for tensor in network(2, 9, (2, 7, 3))]
    count = len(rest) // 2
    activations, *others = siren_layers(count, 30.0, 20.0, "sine")
    arguments = (coords, rest[:count], rest[count:], codes_of(activations), *others, torch.float32)
    torch.library.opcheck(torch.ops.fused_inr.triton_mlp.default, arguments)
    gradient = torch.randn(2, 9, 3, device=device)
    detached = (gradient, coords.detach(), *([t.detach() for t in group] for group in arguments[1:3]))
    for with_coords in (True, False):
        backward = torch.ops.fused_inr.triton_mlp_backward.default
        torch.library.opcheck(backward, (*detached, *arguments[3:], with_coords, True), test_utils="test_schema")
        torch.library.opcheck(backward, (*detached, *arguments[3:], with_coords, True), test_utils="test_faketensor")
