"""The CUDA kernels through `siren` on a GPU; `test_networks.py` runs the same kernels on the CPU."""

import pytest
import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr._backends import cuda
from fused_inr._backends.cuda import native, networks
from fused_inr.ops.dispatch import select
from fused_inr.primitives.mlp import codes_of, siren_layers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(native.load()[0] is None, reason=native.load()[1]),
]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# N, points, sizes of the layers, what is shared, options of siren.
CASES = {
    "N2-P1-2x16x3": (2, 1, (2, 16, 3), "", {}),
    "N1-P100-1x5x7x1": (1, 100, (1, 5, 7, 1), "", {}),
    "N3-P1003-3x32x20x4-shared-coords": (3, 1003, (3, 32, 20, 4), "coords", {}),
    "N2-P4096-2x64x64x64x64x3": (2, 4096, (2, 64, 64, 64, 64, 3), "", {}),
    "N65-P300-2x64x64x3-final-sine": (65, 300, (2, 64, 64, 3), "", dict(final="sine", omega=10.0)),
    "N2-P777-9x100x128x16": (2, 777, (9, 100, 128, 16), "", dict(omega=20.0, first_omega=5.0)),
    "N4-P63-16x17x9-shared-parameters": (4, 63, (16, 17, 9), "parameters", {}),
    "N1-P70000-2x128x128x3": (1, 70_000, (2, 128, 128, 3), "", {}),
}


def call(options: dict, **choice):
    return lambda coords, weights, biases: fi.siren(coords, weights, biases, **options, **choice)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, dtype, network, evaluated, assert_no_worse):
    n, points, sizes, shared, options = CASES[name]
    tensors = network(n, points, sizes, shared, options.get("omega", 30.0), device="cuda")
    actual = evaluated(call(options, dtype=DTYPES[dtype], backend="cuda"), tensors)
    naive = evaluated(call(options, dtype=DTYPES[dtype], backend="reference"), tensors)
    exact = evaluated(call(options, backend="reference"), [tensor.double() for tensor in tensors])
    assert_no_worse(dtype, actual, naive, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_time(dtype, network, evaluated):
    tensors = network(3, 2000, (2, 64, 64, 64, 3), device="cuda")
    first, second = (evaluated(call({}, dtype=DTYPES[dtype], backend="cuda"), tensors) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_of_the_results_is_written(dtype, network, check_written):
    coords, *rest = network(2, 150, (3, 40, 40, 5), device="cuda")
    activations, *others = siren_layers(3, 30.0, 20.0, "sine")
    arguments = (coords, rest[:3], rest[3:], codes_of(activations), *others, DTYPES[dtype])
    gradient = torch.ones(2, 150, 5, device="cuda")
    check_written([("cuda_mlp", arguments), ("cuda_mlp_backward", (gradient, *arguments, True, True))])


def test_precedence_by_compute_type(network):
    tensors = network(1, 9, (2, 64, 64, 3), device="cuda")
    for dtype, widest in networks.PREFERRED.items():
        arguments = (tensors[0], tensors[1:4], tensors[4:], *siren_layers(3, 30.0, 30.0, "linear"), dtype)
        assert (select("mlp", "cuda", arguments) is cuda.KERNELS["mlp"]) == (widest >= 64)


def test_cuda_graph(network, check_graph):
    tensors = network(2, 500, (2, 64, 64, 3), device="cuda")
    others = [tensor + 0.01 for tensor in tensors]
    gradient = torch.randn(2, 500, 3, device="cuda")

    def both(coords: torch.Tensor, *rest: torch.Tensor) -> list[torch.Tensor]:
        activations, *others = siren_layers(3, 30.0, 30.0, "linear")
        arguments = (coords, list(rest[:3]), list(rest[3:]), codes_of(activations), *others, torch.bfloat16)
        ops = torch.ops.fused_inr
        return [ops.cuda_mlp(*arguments), *ops.cuda_mlp_backward(gradient, *arguments, True, True)]

    check_graph(both, tensors, others)


def test_compiled_without_graph_breaks(network, evaluated):
    tensors = network(2, 500, (2, 64, 64, 3), device="cuda")
    eager = call({}, dtype=torch.bfloat16)
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    for a, b in zip(evaluated(eager, tensors), evaluated(compiled, tensors), strict=True):
        assert torch.equal(a, b)


def test_indices_beyond_32_bits(network):
    properties = torch.cuda.get_device_properties(0)
    if properties.total_memory < 24 << 30:
        pytest.skip("needs 24 GiB")
    points = (1 << 31) // 16 + 100  # one sample has more than 2^31 values
    weights = [torch.ones(1, 16, 1, device="cuda"), torch.ones(1, 16, 16, device="cuda")]
    biases = [torch.zeros(1, 16, device="cuda")] * 2
    coords = torch.linspace(0, 1, points, device="cuda").view(1, points, 1)
    with torch.no_grad():
        values = networks.mlp(coords, weights, biases, *siren_layers(2, 1.0, 1.0, "linear"), torch.float16)
        last = coords[:, -77:].contiguous()
        expected = reference.siren(last, weights, biases, 1.0, 1.0, "linear", torch.float32)
    # The rounding of a sum of 16 sines in half precision.
    torch.testing.assert_close(values[:, -77:], expected, rtol=2e-3, atol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_a_device_other_than_the_current_one(network, evaluated, assert_no_worse):
    tensors = network(2, 100, (2, 32, 3), device="cuda:1")
    actual = evaluated(call({}, dtype=torch.bfloat16, backend="cuda"), tensors)
    assert all(tensor.device == tensors[0].device for tensor in actual)
    exact = evaluated(call({}, backend="reference"), [tensor.double() for tensor in tensors])
    naive = evaluated(call({}, dtype=torch.bfloat16, backend="reference"), tensors)
    assert_no_worse("bfloat16", actual, naive, exact)
