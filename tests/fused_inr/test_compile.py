"""torch.compile(fullgraph=True) of every public function: no graph break, the same values and gradients."""

import pytest
import torch

import fused_inr as fi

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check(assert_close, function, *tensors: torch.Tensor, dynamic: bool | None = None) -> None:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    # aot_eager traces forward and backward like the default backend, but without calling a C++ compiler. With dynamic
    # shapes it is slow, and only the capture can break, for which "eager" is enough.
    compiled = torch.compile(function, fullgraph=True, backend="eager" if dynamic else "aot_eager", dynamic=dynamic)
    expected, actual = function(*leaves), compiled(*leaves)
    assert_close("value", expected, actual, 1e-6)
    probe = torch.randn_like(expected)
    pairs = zip(torch.autograd.grad(expected, leaves, probe), torch.autograd.grad(actual, leaves, probe), strict=True)
    for index, (of_eager, of_compiled) in enumerate(pairs):
        assert_close(f"gradient {index}", of_eager, of_compiled, 1e-5)


FIR = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
CLIPS, CONTRAST, MOVES = (4, 2, 3, 8, 8), torch.tensor([0.5, 1.5, 1.0, 0.7]), torch.arange(-4, 4).view(4, 2)
FUNCTIONS = {
    "bias_act": (lambda x, b: fi.bias_act(x, b, "lrelu", clamp=1.0), [(4, 6, 8, 8), (6,)]),
    "upfirdn2d": (lambda x: fi.upfirdn2d(x, FIR, 2, 3, (1, -1, 2, 0)), [(4, 6, 8, 8)]),
    "downsample2d": (lambda x: fi.downsample2d(x, torch.outer(FIR, FIR)), [(4, 6, 8, 8)]),
    "upsample2d": (lambda x: fi.upsample2d(x, FIR), [(4, 6, 8, 8)]),
    "minibatch_stddev": (lambda x: fi.minibatch_stddev(x, 2), [(4, 6, 8, 8)]),
    "augment": (
        lambda x: fi.augment(x, contrast=CONTRAST, translation=MOVES, cutout=MOVES, cutout_size=(2, 3)),
        [CLIPS],
    ),
    "fmm_weight": (lambda *tensors: fi.fmm_weight(*tensors), [(4, 5), (2, 4, 3), (2, 3, 5)]),
    "siren": (lambda x, v, b, w: fi.siren(x, [v, w], [b, b]), [(9, 3), (2, 5, 3), (2, 5), (5, 5)]),
    "mlp_jet": (
        lambda x, v, b, w: fi.mlp_jet(x, [v, w], [b, b], activations=["sine", "silu"], skips=[1])[2],
        [(9, 3), (2, 5, 3), (2, 5), (5, 8)],
    ),
}


@pytest.mark.parametrize("dynamic", [None, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ops(assert_close, name, dynamic):
    function, shapes = FUNCTIONS[name]
    torch.manual_seed(0)
    check(assert_close, function, *(torch.randn(shape) for shape in shapes), dynamic=dynamic)


@pytest.mark.parametrize("dynamic", [None, True], ids=["static", "dynamic"])
def test_render_of_an_inr_made_inside(make_inr, tensors_of, with_tensors, assert_close, dynamic):
    inr = make_inr(dtype=torch.float32, bias="NTO")

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        return fi.render(with_tensors(inr, tensors), fi.Grid(4, 5))

    check(assert_close, function, *tensors_of(inr), dynamic=dynamic)


def test_render_of_an_inr_passed_in(make_inr, assert_close):
    inr, grid = make_inr(dtype=torch.float32), fi.Grid(4, 5)

    def function(inr: fi.INR, grid: fi.Grid) -> torch.Tensor:
        part = inr.at_times(slice(0, 2)).at_clips(slice(1, 2))
        return fi.render(part, grid.rows(1, 3), dtype=torch.bfloat16)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_close("frames", function(inr, grid), compiled(inr, grid), 1e-6)


def test_render_under_autocast_with_a_named_backend(make_inr, assert_close):
    inr = make_inr(dtype=torch.float32)
    compiled = torch.compile(fi.render, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = compiled(inr, fi.Grid(4, 5), backend="reference")
    assert_close("frames", fi.render(inr, fi.Grid(4, 5), dtype=torch.bfloat16, backend="reference"), actual, 1e-6)
