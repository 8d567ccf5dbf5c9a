"""The CUDA kernels, executed on the CPU thread by thread: values and gradients against the naive path in float64."""

import functools
import subprocess
from pathlib import Path

import pytest
import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr._backends import cuda
from fused_inr._backends.cuda import layout, networks
from fused_inr.ops.dispatch import DEVICES
from fused_inr.primitives.mlp import codes_of, siren_layers

pytestmark = pytest.mark.usefixtures("host_library")

# N, points, sizes of the layers, then options. A warp takes 32 points forward and 16 backward, a block up to 8 warps;
# hidden layers are padded to 16, 32, 64 or 128.
CASES = {
    "N2-P129-2x16x16x3": (2, 129, (2, 16, 16, 3), {}),
    "N1-P1-1x5x1": (1, 1, (1, 5, 1), {}),
    "N3-P63-3x32x20x4-shared-coords": (3, 63, (3, 32, 20, 4), dict(shared="coords")),
    "N2-P100-2x64x64x64x3-final-sine": (2, 100, (2, 64, 64, 64, 3), dict(final="sine", omega=10.0)),
    "N2-P31-5x48x17x48x2-own-first-omega": (2, 31, (5, 48, 17, 48, 2), dict(omega=10.0, first_omega=25.0)),
    "N1-P40-9x100x128x16": (1, 40, (9, 100, 128, 16), {}),
    "N2-P17-16x16x16x16x16x16x16x9-shared-parameters": (2, 17, (16,) * 7 + (9,), dict(shared="parameters")),
    "N2-P3-8x33x8-shared-everything": (2, 3, (8, 33, 8), dict(shared="coords parameters", final="sine", omega=3.0)),
    "N1-P700-2x16x2-many-tiles": (1, 700, (2, 16, 2), {}),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def options_of(name: str) -> tuple[float, float, str]:
    options = CASES[name][3]
    omega = options.get("omega", 30.0)
    return omega, options.get("first_omega", omega), options.get("final", "linear")


@pytest.fixture(scope="module")
def case_of(network, evaluated):
    """Return the tensors of a case, and the results of the naive path in float64."""

    @functools.cache
    def make(name: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        n, points, sizes, options = CASES[name]
        omega, first_omega, final = options_of(name)
        tensors = network(n, points, sizes, options.get("shared", ""), omega)
        wide = [tensor.double() for tensor in tensors]
        return tensors, evaluated(lambda *net: reference.siren(*net, omega, first_omega, final, torch.float64), wide)

    return make


def siren(omega: float, first_omega: float, final: str, dtype: torch.dtype):
    """Return a function that evaluates SIRENs on the kernels."""
    return lambda coords, weights, biases: networks.mlp(
        coords, weights, biases, *siren_layers(len(weights), omega, first_omega, final), dtype
    )


def on_kernels(name: str, dtype: torch.dtype):
    omega, first_omega, final = options_of(name)
    return siren(omega, first_omega, final, dtype)


@pytest.mark.parametrize("name", CASES)
def test_float32(name, case_of, evaluated, errors):
    tensors, exact = case_of(name)
    actual = evaluated(on_kernels(name, torch.float32), tensors)
    assert actual[0].dtype == torch.float32
    # Measured: at most 1.2e-6 for values and 2.4e-6 for gradients, with the sums of mma rounded towards zero.
    assert errors(actual[:1], exact[:1]) <= [3e-6]
    assert max(errors(actual[1:], exact[1:])) <= 6e-6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CASES)
def test_half_precision(name, dtype, case_of, evaluated, mean_error):
    tensors, exact = case_of(name)
    omega, first_omega, final = options_of(name)
    actual = evaluated(on_kernels(name, DTYPES[dtype]), tensors)
    naive = evaluated(lambda *net: reference.siren(*net, omega, first_omega, final, DTYPES[dtype]), tensors)
    # The naive path rounds the products as well. Measured: 0.11 to 0.82 of its errors, except for single numbers.
    one_number = {"bfloat16": 1e-3, "float16": 1.5e-4}[dtype]
    for part in (slice(0, 1), slice(1, None)):
        assert mean_error(actual[part], exact[part]) <= max(one_number, mean_error(naive[part], exact[part]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_linear_layer_has_no_frequency(dtype, network, evaluated):
    tensors = network(2, 40, (2, 20, 20, 20, 3))
    activations = ["sine", "sine", "sine", "linear"]

    def of(last: float):
        omegas = [20.0, 30.0, 30.0, last]
        return evaluated(lambda *net: networks.mlp(*net, activations, omegas, [False] * 4, DTYPES[dtype]), tensors)

    for a, b in zip(of(1.0), of(30.0), strict=True):
        assert torch.equal(a, b)


def test_strides_change_nothing(network, evaluated):
    tensors = network(2, 40, (3, 20, 20, 2))
    strided = [torch.stack([tensor, tensor + 9], dim=-1)[..., 0].mT.contiguous().mT for tensor in tensors[:4]]
    strided += [torch.stack([tensor, tensor + 9], dim=-1)[..., 0] for tensor in tensors[4:]]
    assert not any(tensor.is_contiguous() for tensor in strided)
    call = on_kernels("N1-P700-2x16x2-many-tiles", torch.bfloat16)
    for a, b in zip(evaluated(call, tensors), evaluated(call, strided), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_and_warps_change_only_the_rounding_of_sums(dtype, network, evaluated, errors, monkeypatch):
    tensors = network(2, 150, (2, 32, 32, 3))
    call = on_kernels("N1-P700-2x16x2-many-tiles", DTYPES[dtype])
    results = []
    for processors, shared in ((1, 227 * 1024), (7, 227 * 1024), (2, 25 * 1024)):
        monkeypatch.setattr(networks, "limits", lambda device, s=shared, p=processors: networks.Limits((9, 0), s, p))
        shape = layout.Shape(32, 3, 2, DTYPES[dtype].itemsize)
        assert shape.backward_warps(227 * 1024) == 8
        assert shape.backward_warps(25 * 1024) < 8
        results.append(evaluated(call, tensors))
    for actual in results[1:]:
        assert torch.equal(actual[0], results[0][0])
        assert torch.equal(actual[1], results[0][1])
        # Measured: 2.3e-7.
        assert max(errors([t.double() for t in actual], [t.double() for t in results[0]])) <= 2e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_threads_changes_nothing(dtype, host_library, case_of, evaluated):
    for name in ("N2-P129-2x16x16x3", "N2-P31-5x48x17x48x2-own-first-omega"):
        tensors, _ = case_of(name)
        host_library.fused_inr_host_run_threads_backwards(0)
        forwards = evaluated(on_kernels(name, DTYPES[dtype]), tensors)
        host_library.fused_inr_host_run_threads_backwards(1)
        backwards = evaluated(on_kernels(name, DTYPES[dtype]), tensors)
        assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_every_element_of_the_results_is_written(case_of, check_written):
    calls = []
    for name in ("N2-P129-2x16x16x3", "N3-P63-3x32x20x4-shared-coords", "N1-P1-1x5x1"):
        coords, *rest = case_of(name)[0]
        weights, biases = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        gradient = torch.ones(coords.shape[0], coords.shape[1], weights[-1].shape[1])
        for dtype in DTYPES.values():
            activations, *others = siren_layers(len(weights), 30.0, 20.0, "linear")
            arguments = (coords, weights, biases, codes_of(activations), *others, dtype)
            calls.append(("cuda_mlp", arguments))
            calls += [("cuda_mlp_backward", (gradient, *arguments, with_coords, True)) for with_coords in (False, True)]
    check_written(calls)  # workspaces also come from torch.empty and start as NaN


@pytest.mark.parametrize(
    ("n", "points", "sizes"),
    [(0, 4, (2, 5, 3)), (2, 0, (2, 5, 3)), (2, 4, (0, 5, 3)), (2, 4, (2, 0, 3)), (2, 4, (2, 5, 0))],
    ids=["N0", "P0", "no-coordinates", "no-channels", "no-outputs"],
)
def test_empty(n, points, sizes, network, evaluated, errors):
    tensors = network(n, points, sizes)
    actual = evaluated(on_kernels("N1-P1-1x5x1", torch.float32), tensors)
    exact = evaluated(
        lambda *net: reference.siren(*net, 30.0, 30.0, "linear", torch.float64), [tensor.double() for tensor in tensors]
    )
    assert max(errors(actual, exact)) <= 5e-6


def test_second_order(network, errors):
    tensors = network(2, 9, (2, 7, 7, 3), omega=3.0)

    def two_orders(function, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        values = function(leaves[0], leaves[1:4], leaves[4:])
        first = torch.autograd.grad(values.square().mean(), leaves, create_graph=True)
        return [*first, *torch.autograd.grad(sum(one.square().sum() for one in first), leaves)]

    actual = two_orders(siren(3.0, 3.0, "linear", torch.float32), tensors)
    exact = two_orders(
        lambda *net: reference.siren(*net, 3.0, 3.0, "linear", torch.float64), [tensor.double() for tensor in tensors]
    )
    # Measured: 6e-7.
    assert max(errors([t.detach() for t in actual], [t.detach() for t in exact])) <= 1e-5


def test_registration(network):
    coords, *rest = (tensor.requires_grad_() for tensor in network(2, 5, (2, 6, 3)))
    activations, *others = siren_layers(2, 30.0, 20.0, "linear")
    arguments = (coords, rest[:2], rest[2:], codes_of(activations), *others, torch.float32)
    torch.library.opcheck(torch.ops.fused_inr.cuda_mlp.default, arguments)


def test_compiled_without_graph_breaks(network, evaluated):
    tensors = network(2, 40, (2, 12, 12, 3))
    call = on_kernels("N1-P1-1x5x1", torch.bfloat16)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for a, b in zip(evaluated(call, tensors), evaluated(compiled, tensors), strict=True):
        assert torch.equal(a, b)


def test_through_the_public_function(network, evaluated, monkeypatch):
    monkeypatch.setitem(DEVICES, "cuda", "cpu")
    monkeypatch.setattr(cuda, "status", lambda: "ready")
    tensors = network(3, 40, (2, 12, 20, 3), "coords")

    def half(coords, weights, biases):
        return fi.siren(coords[0], weights, biases, omega=20.0, dtype=torch.bfloat16)

    expected = evaluated(siren(20.0, 20.0, "linear", torch.bfloat16), tensors)
    for function in (half, torch.compile(half, fullgraph=True, backend="aot_eager")):
        actual = evaluated(function, tensors)
        assert torch.equal(actual[0], expected[0])
        assert all(torch.equal(a, b) for a, b in zip(actual[2:], expected[2:], strict=True))
        torch.testing.assert_close(actual[1].sum(0), expected[1].sum(0))
    with pytest.raises(RuntimeError, match=r"cannot run this mlp: it takes at most 16 coordinates, not 17\.$"):
        fi.siren(torch.zeros(1, 17), [torch.zeros(4, 17), torch.zeros(4, 4)], [torch.zeros(4)] * 2, backend="cuda")


def test_no_access_beyond_the_buffers(compile_for_host, tmp_path):
    source = Path(__file__).with_name("memory.cpp")
    # AddressSanitizer does not know the stacks of the fibers.
    sanitizer = ("-fsanitize=address", "--param", "asan-stack=0", "-g")
    try:
        program = compile_for_host(source, tmp_path / "memory", *sanitizer)
    except AssertionError as error:
        if "asan" not in str(error):
            raise
        pytest.skip("the compiler has no AddressSanitizer")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    sums = done.stdout.splitlines()
    assert len(sums) == 12
    assert sums[:6] == sums[6:], "the order of threads changes results"
