"""siren and mlp on GPUs: values and gradients of every backend against the naive path in float64."""

import functools
from itertools import pairwise

import pytest
import torch

import fused_inr as fi
from fused_inr.ops.dispatch import DEVICES

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
GPU_BACKENDS = [name for name, device in DEVICES.items() if device == DEVICE]
BACKENDS = pytest.mark.parametrize("backend", GPU_BACKENDS)


def mlp_of(activations: str, omegas: float | None = None, skips: tuple[int, ...] = ()) -> dict:
    """Return options of mlp, for names separated by spaces."""
    return dict(activations=activations.split(), omegas=omegas, skips=skips)


# N, points, sizes of the layers, shared tensors and options of siren or mlp. Sanitizers run the cases "small...".
CASES = {
    "small": (2, 131, (2, 16, 16, 3), "", {}),
    "small-W64-shared-coords": (2, 63, (3, 64, 64, 64, 4), "coords", {}),
    "N2-P1-1x48x48x3": (2, 1, (1, 48, 48, 3), "", {}),
    "N3-P3-3x100x100x4-shared-coords": (3, 3, (3, 100, 100, 4), "coords", {}),
    "N2-P127-5x48x17x48x2-own-first-omega": (2, 127, (5, 48, 17, 48, 2), "coords", dict(omega=10.0, first_omega=25.0)),
    "N2-P300-2x256x256x256x3-shared-weights": (2, 300, (2, 256, 256, 256, 3), "weights", {}),
    "N9-P130-2x7x3-shared-biases": (9, 130, (2, 7, 3), "biases", {}),
    "N1-P1000-3x48x48x48x48x1": (1, 1000, (3, 48, 48, 48, 48, 1), "", dict(omega=20.0)),
    "N2-P64-2x16x3-final-sine": (2, 64, (2, 16, 3), "", dict(final="sine", omega=5.0)),
    "N2-P129-3x4-one-layer": (2, 129, (3, 4), "", {}),
    **{f"N4-P1000-width{w}": (4, 1000, (2, w, w, w, w, 3), "coords", {}) for w in (16, 32, 64, 128)},
    "small-relu": (2, 131, (3, 16, 16, 3), "", mlp_of("relu relu linear")),
    "small-gelu-skip": (2, 63, (2, 64, 64, 3), "coords", mlp_of("gelu gelu linear", skips=(1,))),
    **{
        f"N3-P300-3x40x40x2-{name}": (3, 300, (3, 40, 40, 2), "", mlp_of(f"{name} {name} linear", 2.0))
        for name in ("sine", "lrelu", "gelu", "silu", "tanh", "gauss", "finer")
    },
    "N2-P300-2x64x64x64x3-final-gauss": (2, 300, (2, 64, 64, 64, 3), "", mlp_of("gauss gauss gauss gauss", 2.0)),
    "N2-P100-3x200x70x33x2-mixed": (2, 100, (3, 200, 70, 33, 2), "", mlp_of("relu sine linear tanh", 3.0)),
    "N2-P130-3x256x256x4-skips": (2, 130, (3, 256, 256, 4), "weights", mlp_of("relu silu linear", skips=(1, 2))),
    "N2-P70-39x64x64x1-skip-many-inputs": (2, 70, (39, 64, 64, 1), "", mlp_of("silu silu linear", skips=(1,))),
}
SERVED = [
    "small",
    *(f"N4-P1000-width{w}" for w in (16, 32, 64, 128)),
    *(name for name, (*_, options) in CASES.items() if "activations" in options),
]
# The error of a sine propagates from layer to layer, and each layer multiplies it by omega |W|.
ERROR_FACTOR = 4


def network(
    n: int,
    points: int,
    sizes: tuple[int, ...],
    shared: str = "",
    omega: float = 30.0,
    skips: tuple[int, ...] = (),
) -> list[torch.Tensor]:
    """Return coordinates, weights and biases with the initialization of SIREN (NeurIPS 2020)."""
    generator = torch.Generator().manual_seed(0)

    def uniform(bound: float, *shape: int) -> torch.Tensor:
        return (bound * (2 * torch.rand(shape, generator=generator) - 1)).to(DEVICE)

    coords = uniform(1.0, points, sizes[0]) if shared == "coords" else uniform(1.0, n, points, sizes[0])
    weights, biases = [], []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        bound = 1 / inputs if index == 0 else (6 / inputs) ** 0.5 / omega
        columns = inputs + (sizes[0] if index in skips else 0)
        weights.append(uniform(bound, *(() if shared == "weights" else (n,)), outputs, columns))
        biases.append(uniform(inputs**-0.5, *(() if shared == "biases" else (n,)), outputs))
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
    return [values.detach(), *torch.autograd.grad(values, leaves, probe.to(values))]


@functools.cache
def case_of(name: str) -> tuple[list[torch.Tensor], dict, list[torch.Tensor]]:
    """Return tensors, options, exact values and gradients."""
    *sizes, options = CASES[name]
    omega = 1.0 if "activations" in options else options.get("omega", 30.0)
    tensors = network(*sizes, omega, options.get("skips", ()))
    return tensors, options, evaluated([tensor.double() for tensor in tensors], backend="reference", **options)


@BACKENDS
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(backend, product_type, name, where_served, assert_no_worse):
    tensors, options, exact = case_of(name)
    kind, dtype = product_type
    with where_served(backend), torch.no_grad():
        values = values_of(tensors, dtype=dtype, backend=backend, **options)
    naive = evaluated(tensors, dtype=dtype, backend="reference", **options)
    assert values.dtype == torch.float32
    assert_no_worse(kind, [values], naive[:1], exact[:1], ERROR_FACTOR)
    with where_served(backend):  # gradients take more of a chip's memory
        actual = evaluated(tensors, dtype=dtype, backend=backend, **options)
    assert_no_worse(kind, actual, naive, exact, ERROR_FACTOR)


@pytest.mark.parametrize("name", SERVED)
def test_a_backend_for_gpus_serves(name, product_type):
    tensors, options, _ = case_of(name)
    reasons = []
    for backend in GPU_BACKENDS:
        try:
            values_of(tensors, dtype=product_type[1], backend=backend, **options)
        except RuntimeError as error:
            reasons.append(str(error))
        else:
            return
    pytest.fail("; ".join(reasons))


@BACKENDS
@pytest.mark.parametrize("name", SERVED)
def test_same_bits_every_time(backend, product_type, name, where_served):
    tensors, options, _ = case_of(name)
    options = {**options, "dtype": product_type[1], "backend": backend}
    with where_served(backend):
        first = evaluated(tensors, **options)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, evaluated(tensors, **options), strict=True))


@BACKENDS
@pytest.mark.parametrize("name", ["small", "N4-P1000-width64"])
def test_results_are_written_and_free_memory_is_not_read(backend, product_type, name, where_served):
    tensors, options, _ = case_of(name)
    options = {**options, "dtype": product_type[1], "backend": backend}
    with where_served(backend):
        expected = evaluated(tensors, **options)
    torch.use_deterministic_algorithms(True, warn_only=True)  # makes torch.empty fill its result with NaN
    try:
        actual = evaluated(tensors, **options)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.mT.contiguous().mT


def every_other(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensor, tensor + 9], dim=-1)[..., 0]


def expanded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:1].expand_as(tensor)


@BACKENDS
@pytest.mark.parametrize("layout", [transposed, every_other, expanded], ids=lambda f: f.__name__)
def test_strides_change_nothing(backend, layout, where_served):
    strided = [layout(tensor) for tensor in network(2, 70, (3, 20, 20, 2))]
    with where_served(backend):
        actual = evaluated(strided, backend=backend)
    dense = evaluated([tensor.contiguous() for tensor in strided], backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(actual, dense, strict=True))


@BACKENDS
@pytest.mark.parametrize(("n", "points"), [(0, 5), (2, 0)], ids=["N0-P5", "N2-P0"])
def test_empty_batches(backend, n, points, where_served):
    leaves = [tensor.requires_grad_() for tensor in network(n, points, (2, 16, 16, 3))]
    with where_served(backend):
        values = values_of(leaves, backend=backend)
    assert values.shape == (n, points, 3)
    for leaf, gradient in zip(leaves, torch.autograd.grad(values.sum(), leaves), strict=True):
        assert gradient.shape == leaf.shape
        assert not gradient.any()


@BACKENDS
@pytest.mark.parametrize("name", ["small", "N4-P1000-width64", "N4-P1000-width128"])
def test_cuda_graph(backend, product_type, name, where_served, check_graph):
    tensors, options, exact = case_of(name)
    options = {**options, "dtype": product_type[1], "backend": backend}
    values_gradient = torch.ones_like(exact[0], dtype=torch.float32)

    def values(*tensors: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            return [values_of(list(tensors), **options)]

    def gradients(*tensors: torch.Tensor) -> list[torch.Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        return list(torch.autograd.grad(values_of(leaves, **options), leaves, values_gradient))

    others = [tensor.flip(0) * 0.9 for tensor in tensors]
    with where_served(backend):
        values(*tensors)
    check_graph(values, tensors, others)
    with where_served(backend):  # gradients take more of a chip's memory
        gradients(*tensors)
    check_graph(gradients, tensors, others)


@BACKENDS
def test_compiled_without_graph_breaks(backend, where_served):
    tensors, _, _ = case_of("small")
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]

    def values(*tensors: torch.Tensor) -> torch.Tensor:
        return values_of(list(tensors), dtype=torch.bfloat16, backend=backend)

    with where_served(backend):
        eager = values(*leaves)
    compiled = torch.compile(values, fullgraph=True, backend="aot_eager")(*leaves)
    assert torch.equal(eager, compiled)
    pairs = zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (eager, compiled)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@BACKENDS
def test_float64_is_refused(backend):
    tensors, options, exact = case_of("small")
    wide = [tensor.double() for tensor in tensors]
    with pytest.raises(RuntimeError, match=f"Backend '{backend}' was requested but cannot run"):
        values_of(wide, backend=backend, **options)
    assert torch.equal(values_of(wide, **options), exact[0])


@BACKENDS
def test_more_values_than_32_bits_can_count(backend, where_served, errors, needs_memory):
    needs_memory(48)
    points, sizes = 2**20, (2, 64, 64, 64)
    batch = 2**31 // (points * sizes[-1]) + 2
    coords, *others = network(batch, points, sizes, "coords")
    leaves = [coords, *(tensor.requires_grad_() for tensor in others)]
    with where_served(backend):
        values = values_of(leaves, dtype=torch.bfloat16, backend=backend)
    assert values.numel() > 2**31
    values_gradient = torch.zeros_like(values)
    values_gradient[-1, -100:] = 1
    actual = [values[-1:, -100:].detach(), *(t[-1:] for t in torch.autograd.grad(values, leaves[1:], values_gradient))]
    del values, values_gradient

    def last(dtype: torch.dtype, product: torch.dtype | None) -> list[torch.Tensor]:
        few = [coords[-100:].to(dtype), *(t.detach()[-1:].to(dtype).requires_grad_() for t in others)]
        values = values_of(few, dtype=product, backend="reference")
        return [values.detach(), *torch.autograd.grad(values.sum(), few[1:])]

    exact, naive = last(torch.float64, None), last(torch.float32, torch.bfloat16)
    for one, truth, other in zip(actual, exact, naive, strict=True):
        assert errors([one], [truth])[0] <= 2 * errors([other], [truth])[0]
