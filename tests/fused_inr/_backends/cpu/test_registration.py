"""Registration of the CPU backend's ops: schemas, fake tensors, gradients, torch.compile without graph breaks."""

import pytest
import torch

import fused_inr as fi
from fused_inr import flattening
from fused_inr.primitives.mlp import codes_of, siren_layers

pytestmark = [
    pytest.mark.usefixtures("compiled_library"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def arguments_of(inr: fi.INR, grid: fi.Grid, name: str) -> tuple:
    """Return the arguments of fused_inr::cpu_render; the name contains the dtype."""
    dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
    return (*flattening.flatten(inr), flattening.frames_shape(inr, grid), [*grid.x, *grid.y], dtype)


INRS = {
    "N2-T3": {},
    "N2-T1-shared-no-rgb-bfloat16": dict(t=1, shared=True, rgb=False, bias="NO"),
    "N1-T2-stage-without-features-biasNTO": dict(n=1, t=2, bare=1, bias="NTO", parts="sin"),
    "N0-T2": dict(n=0, t=2),
    "N2-T0": dict(t=0),
}


@pytest.mark.parametrize("name", INRS)
def test_opcheck_of_render(name, make_layered_inr, tensors_of, with_tensors):
    inr = make_layered_inr(scales=(1, 2), **INRS[name])
    leaves = [tensor.requires_grad_() for tensor in tensors_of(inr)]
    arguments = arguments_of(with_tensors(inr, leaves), fi.Grid(3, 5), name)
    torch.library.opcheck(torch.ops.fused_inr.cpu_render.default, arguments)


@pytest.mark.parametrize("name", INRS)
@pytest.mark.parametrize("strided", [False, True], ids=["dense", "strided"])
def test_opcheck_of_the_gradients_of_render(name, strided, make_layered_inr, tensors_of, with_tensors):
    inr = make_layered_inr(scales=(1, 2), **INRS[name])
    if strided:
        tensors = [tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor for tensor in tensors_of(inr)]
        inr = with_tensors(inr, tensors)
    arguments = arguments_of(inr, fi.Grid(3, 5), name)
    gradient = torch.randn(arguments[3])
    torch.library.opcheck(torch.ops.fused_inr.cpu_render_backward.default, (gradient, *arguments, []))


def siren_arguments(n: int, points: int, needs_gradient: bool) -> tuple:
    """Return the arguments of fused_inr::cpu_mlp."""
    coords = torch.rand(n, points, 3, requires_grad=needs_gradient)
    weights = [torch.randn(n, *shape, requires_grad=needs_gradient) for shape in ((5, 3), (2, 5))]
    biases = [torch.randn(n, outputs, requires_grad=needs_gradient) for outputs in (5, 2)]
    activations, *others = siren_layers(2, 30.0, 20.0, "linear")
    return coords, weights, biases, codes_of(activations), *others, torch.bfloat16


SIRENS = pytest.mark.parametrize(
    ("n", "points"), [(2, 7), (1, 1), (0, 7), (2, 0)], ids=["N2-P7", "N1-P1", "N0-P7", "N2-P0"]
)


def mlp_arguments(n: int, points: int, needs_gradient: bool, codes: list[int]) -> tuple:
    """Return the arguments of fused_inr::cpu_mlp, of a network with a skip connection and a shared bias."""
    coords = torch.rand(n, points, 2, requires_grad=needs_gradient)
    shapes = [(3, 2), *[(3, 5)] * (len(codes) - 1)]
    weights = [torch.randn(n, *shape, requires_grad=needs_gradient) for shape in shapes]
    biases = [torch.randn(1, 3, requires_grad=needs_gradient).expand(n, -1) for _ in codes]
    skips = [index > 0 for index in range(len(codes))]
    return coords, weights, biases, codes, [1.5] * len(codes), skips, torch.float32


CHAINS = pytest.mark.parametrize("codes", [[0, 1, 2], [3, 4, 5], [6, 7, 8]], ids=str)


@CHAINS
@SIRENS
def test_opcheck_of_mlp(n, points, codes):
    torch.library.opcheck(torch.ops.fused_inr.cpu_mlp.default, mlp_arguments(n, points, True, codes))


@CHAINS
@pytest.mark.parametrize("with_coords", [False, True], ids=["without-coords", "with-coords"])
def test_opcheck_of_the_gradients_of_mlp(with_coords, codes):
    arguments = (torch.randn(2, 7, 3), *mlp_arguments(2, 7, False, codes), with_coords, True)
    torch.library.opcheck(torch.ops.fused_inr.cpu_mlp_backward.default, arguments)


@SIRENS
def test_opcheck_of_siren(n, points):
    torch.library.opcheck(torch.ops.fused_inr.cpu_mlp.default, siren_arguments(n, points, True))


@SIRENS
@pytest.mark.parametrize("with_coords", [False, True], ids=["without-coords", "with-coords"])
def test_opcheck_of_the_gradients_of_siren(n, points, with_coords):
    arguments = (torch.randn(n, points, 2), *siren_arguments(n, points, False), with_coords, True)
    torch.library.opcheck(torch.ops.fused_inr.cpu_mlp_backward.default, arguments)


JETS = pytest.mark.parametrize(
    ("order", "hessian"), [(1, False), (2, False), (2, True)], ids=["order-1", "laplacian", "hessian"]
)


@SIRENS
@JETS
def test_opcheck_of_mlp_jet(n, points, order, hessian):
    arguments = *siren_arguments(n, points, True), order, hessian
    torch.library.opcheck(torch.ops.fused_inr.cpu_mlp_jet.default, arguments)


@SIRENS
@JETS
@pytest.mark.parametrize("with_coords", [False, True], ids=["without-coords", "with-coords"])
def test_opcheck_of_the_gradients_of_mlp_jet(n, points, order, hessian, with_coords):
    arguments = *siren_arguments(n, points, False), order, hessian
    gradients = [torch.randn_like(result) for result in torch.ops.fused_inr.cpu_mlp_jet(*arguments)]
    torch.library.opcheck(torch.ops.fused_inr.cpu_mlp_jet_backward.default, (gradients, *arguments, with_coords, True))


@pytest.mark.parametrize("activation", ["lrelu", "sine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_compiled_render(dtype, activation, make_layered_inr, tensors_of, with_tensors, assert_close):
    inr = make_layered_inr(scales=(1, 2), bias="NTO", activation=activation, shared=True)
    leaves = [tensor.requires_grad_() for tensor in tensors_of(inr)]

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        return fi.render(with_tensors(inr, tensors), fi.Grid(4, 5), dtype=dtype, backend="cpu")

    # aot_eager traces forward and backward like the default backend, but without calling a C++ compiler.
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected, actual = function(*leaves), compiled(*leaves)
    # Eager and compiled code make the same kernel calls, with the same bits. Only the gradients of a sine layer, which
    # are PyTorch calls that the compiler may change, can differ by a rounding.
    assert_close("frames", expected, actual, 0 if activation == "lrelu" else 1e-6)
    probe = torch.randn_like(expected)
    pairs = zip(torch.autograd.grad(expected, leaves, probe), torch.autograd.grad(actual, leaves, probe), strict=True)
    for index, (of_eager, of_compiled) in enumerate(pairs):
        assert_close(f"gradient {index}", of_eager, of_compiled, 0 if activation == "lrelu" else 1e-5)


def test_compiled_mlp():
    coords, weights, biases, *_ = mlp_arguments(2, 9, True, [0, 1, 2])
    leaves = [coords, *weights, *(bias.detach().requires_grad_() for bias in biases)]
    names = ["finer", "gelu", "tanh"]

    def function(*leaves: torch.Tensor) -> torch.Tensor:
        return fi.mlp(leaves[0], leaves[1:4], leaves[4:], activations=names, skips=[1, 2], backend="cpu").square()

    expected, actual = function(*leaves), torch.compile(function, fullgraph=True, backend="aot_eager")(*leaves)
    assert torch.equal(expected, actual)
    of_eager, of_compiled = (torch.autograd.grad(result.sum(), leaves) for result in (expected, actual))
    assert all(torch.equal(a, b) for a, b in zip(of_eager, of_compiled, strict=True))


def test_compiled_siren():
    coords, weights, biases, *_ = siren_arguments(2, 9, True)
    leaves = [coords, *weights, *biases]

    def function(*leaves: torch.Tensor) -> torch.Tensor:
        return fi.siren(leaves[0], leaves[1:3], leaves[3:], backend="cpu").square()

    expected, actual = function(*leaves), torch.compile(function, fullgraph=True, backend="aot_eager")(*leaves)
    assert torch.equal(expected, actual)
    of_eager, of_compiled = (torch.autograd.grad(result.sum(), leaves) for result in (expected, actual))
    assert all(torch.equal(a, b) for a, b in zip(of_eager, of_compiled, strict=True))


@JETS
def test_compiled_mlp_jet(order, hessian):
    coords, weights, biases, *_ = siren_arguments(2, 9, True)
    leaves = [coords, *weights, *biases]

    def function(*leaves: torch.Tensor) -> torch.Tensor:
        options = {"activations": ["sine", "gelu"], "order": order, "hessian": hessian, "backend": "cpu"}
        jets = fi.mlp_jet(leaves[0], leaves[1:3], leaves[3:], **options)
        return torch.cat([jet.flatten() for jet in jets]).square()

    expected, actual = function(*leaves), torch.compile(function, fullgraph=True, backend="aot_eager")(*leaves)
    assert torch.equal(expected, actual)
    of_eager, of_compiled = (torch.autograd.grad(result.sum(), leaves) for result in (expected, actual))
    assert all(torch.equal(a, b) for a, b in zip(of_eager, of_compiled, strict=True))
