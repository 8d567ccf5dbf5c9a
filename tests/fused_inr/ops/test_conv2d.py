"""conv2d: derivatives to third order against PyTorch's, no_weight_gradients, memory formats, torch.compile."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from fused_inr import backend, conv2d, no_weight_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
by_layout = pytest.mark.parametrize("layout", LAYOUTS)
# Image size, kernel size, stride, padding.
GEOMETRIES = {
    "H5-W6-k3-pad1": ((5, 6), 3, 1, 1),
    "H5-W6-k3": ((5, 6), 3, 1, 0),
    "H6-W5-k3-stride2": ((6, 5), 3, 2, 0),
    "H6-W7-k3-stride2-pad1": ((6, 7), 3, 2, 1),
    "H4-W5-k1": ((4, 5), 1, 1, 0),
    "H4-W5-k1-stride2": ((4, 5), 1, 2, 0),
    "H3-W3-k1-pad1": ((3, 3), 1, 1, 1),
    "H3-W3-k3": ((3, 3), 3, 1, 0),
    "H1-W1-k3-pad1": ((1, 1), 3, 1, 1),
}


def check_close(name: str, expected: torch.Tensor, actual: torch.Tensor, tolerance: float) -> None:
    """Assert a relative difference (2-norm) within the tolerance."""
    assert expected.shape == actual.shape
    difference = ((expected - actual).norm() / expected.norm().clamp_min(1e-30)).item()
    assert difference <= tolerance, f"{name}: relative difference {difference:.2e} > {tolerance:.0e}"


def leaves_of(
    geometry: str, dtype: torch.dtype = torch.float64, layout: str = "contiguous", batch: int = 2, channels: int = 3
) -> list[torch.Tensor]:
    """Return x `[batch, channels, H, W]` and a weight `[4, channels, k, k]` that require gradients."""
    generator = torch.Generator().manual_seed(0)
    size, kernel, *_ = GEOMETRIES[geometry]
    shapes = (batch, channels, *size), (4, channels, kernel, kernel)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [tensor.to(memory_format=LAYOUTS[layout]).requires_grad_() for tensor in tensors]


def derivatives(
    convolve: Callable[..., torch.Tensor], leaves: Sequence[torch.Tensor], geometry: str, orders: int
) -> list[torch.Tensor]:
    """Return the convolution and its derivatives along seeded directions, each order for all tensors so far."""
    generator = torch.Generator().manual_seed(1)
    inputs, outputs = list(leaves), (convolve(*leaves, *GEOMETRIES[geometry][2:]),)
    results = [*outputs]
    for _ in range(orders):
        # Numbers that every type represents exactly.
        draws = [torch.randn(y.shape, generator=generator).bfloat16() for y in outputs]
        directions = [draw.to(y.dtype).requires_grad_() for draw, y in zip(draws, outputs, strict=True)]
        outputs = torch.autograd.grad(outputs, inputs, directions, create_graph=True, materialize_grads=True)
        inputs += directions
        results += outputs
    return results


def stock(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    return F.conv2d(x, weight, stride=stride, padding=padding)


@by_layout
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_three_orders_equal_pytorchs(geometry, layout):
    exact = derivatives(stock, leaves_of(geometry), geometry, 3)
    actual = derivatives(conv2d, leaves_of(geometry, layout=layout), geometry, 3)
    for number, (a, b) in enumerate(zip(exact, actual, strict=True)):
        check_close(f"tensor {number}", a, b, 1e-12)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients(geometry):
    size, kernel, stride, padding = GEOMETRIES[geometry]
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 2, *size), (2, 2, kernel, kernel)
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert gradcheck(lambda x, weight: conv2d(x, weight, stride, padding), leaves, fast_mode=True)
    assert gradgradcheck(lambda x, weight: conv2d(x, weight, stride, padding), leaves, fast_mode=True)


# Measured: 2.8e-7, 2.7e-3 and 4.7e-4 at most.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 8e-4}


@by_layout
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("geometry", ["H5-W6-k3-pad1", "H6-W5-k3-stride2", "H4-W5-k1"])
def test_other_types(geometry, dtype, layout):
    leaves = leaves_of(geometry, dtype, layout, channels=19)
    actual = derivatives(conv2d, leaves, geometry, 2)
    exact = derivatives(stock, [leaf.detach().double().requires_grad_() for leaf in leaves], geometry, 2)
    for number, (a, b) in enumerate(zip(exact, actual, strict=True)):
        assert b.dtype == dtype
        check_close(f"tensor {number}", a, b.double(), TOLERANCE[dtype])


@by_layout
def test_results_and_gradients_have_the_layout_of_the_images(layout):
    x, weight = leaves_of("H6-W5-k3-stride2", torch.float32, layout)
    y = conv2d(x, weight, stride=2)
    direction = torch.ones(y.shape).to(memory_format=LAYOUTS[layout])
    (of_x,) = torch.autograd.grad(y, x, direction.requires_grad_(), create_graph=True)
    (again,) = torch.autograd.grad(of_x, direction, torch.ones(x.shape).to(memory_format=LAYOUTS[layout]))
    assert all(tensor.is_contiguous(memory_format=LAYOUTS[layout]) for tensor in (y, of_x, again))


@pytest.mark.parametrize("input_name", ["x", "weight"])
def test_gradients_of_one_tensor(input_name):
    geometry = "H5-W6-k3-pad1"
    results = []
    for function in (stock, conv2d):
        x, weight = leaves_of(geometry)
        x.requires_grad_(input_name == "x"), weight.requires_grad_(input_name == "weight")
        y = function(x, weight, 1, 1)
        results.append(torch.autograd.grad(y.square().sum(), x if input_name == "x" else weight)[0])
    check_close(input_name, *results, 1e-12)


@pytest.mark.parametrize("input_name", ["x", "weight"])
def test_second_derivatives_with_respect_to_one_tensor(input_name):
    geometry = "H6-W7-k3-stride2-pad1"
    results = []
    for function in (stock, conv2d):
        x, weight = leaves_of(geometry)
        leaf = x if input_name == "x" else weight
        x.requires_grad_(leaf is x), weight.requires_grad_(leaf is weight)
        (first,) = torch.autograd.grad(function(x, weight, 2, 1).pow(3).sum(), leaf, create_graph=True)
        results.append(torch.autograd.grad(first.pow(3).sum(), leaf)[0])
    check_close(input_name, *results, 1e-12)


@pytest.mark.parametrize(
    ("shapes", "options", "word"),
    [
        (((2, 3, 5, 5), (4, 2, 3, 3)), (1, 0), r"\[2, 3, 5, 5\]"),
        (((2, 3, 5), (4, 3, 3, 3)), (1, 0), r"\[2, 3, 5\]"),
        (((2, 3, 5, 5), (4, 3, 3, 3)), (0, 0), "stride"),
        (((2, 3, 5, 5), (4, 3, 3, 3)), (1, -1), "padding"),
        (((2, 3, 2, 5), (4, 3, 3, 3)), (1, 0), r"kernel \[3, 3\] is larger than the image \[2, 5\] with padding 0"),
    ],
    ids=["channels", "axes", "stride", "padding", "size"],
)
def test_mismatched_arguments_are_refused(shapes, options, word):
    with pytest.raises(ValueError, match=word):
        conv2d(*(torch.zeros(shape) for shape in shapes), *options)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_result_beyond_all_memory_is_refused(stride):
    x, weight = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    assert conv2d(x, weight, stride, padding=40).shape == (1, 1, *[81 // stride + stride - 1] * 2)
    side = 2**31 // stride + 1
    with pytest.raises(ValueError, match=rf"\[1, 1, {side}, {side}\] exceeds all memory; use smaller x or padding"):
        conv2d(x, weight, stride, padding=2**30)


def test_two_types_are_refused():
    with pytest.raises(ValueError, match="one floating type"):
        conv2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16))


def test_the_reference_is_pytorchs_convolution():
    x, weight = leaves_of("H5-W6-k3-pad1")
    with backend("reference"):
        y = conv2d(x, weight, padding=1)
    assert y.grad_fn.name().startswith("ConvolutionBackward")


def test_empty_batch():
    x, weight = leaves_of("H6-W5-k3-stride2", torch.float32, batch=0)
    y = conv2d(x, weight, stride=2)
    of_x, of_weight = torch.autograd.grad(y.sum(), [x, weight])
    assert (y.shape, of_x.shape) == ((0, 4, 2, 2), (0, 3, 6, 5))
    assert torch.equal(of_weight, torch.zeros(4, 3, 3, 3))


class GradientsComputed(torch.utils._python_dispatch.TorchDispatchMode):
    """Records every computed gradient of a convolution as a pair of flags: for x, for the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[bool, bool]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            self.calls.append(tuple(args[-1][:2]))
        if function is torch.ops.fused_inr.conv2d_weight.default:
            self.calls.append((False, True))
        return function(*args, **(kwargs or {}))


def test_no_weight_gradients_skips_their_computation():
    x, weight = leaves_of("H5-W6-k3-pad1")
    y = conv2d(x, weight, padding=1)
    (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    with no_weight_gradients(), GradientsComputed() as computed:
        of_x, of_weight = torch.autograd.grad(y.sum(), [x, weight], allow_unused=True, retain_graph=True)
    assert of_weight is None
    assert torch.equal(of_x, expected)
    assert computed.calls == [(True, False)]
    with GradientsComputed() as computed:
        assert torch.autograd.grad(y.sum(), weight)[0] is not None
    assert set(computed.calls) == {(True, False), (False, True)}  # PyTorch does not say that only one was requested


def test_penalty_without_inner_weight_gradients_has_all_gradients():
    def penalty_of(function: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        x, first = leaves_of("H5-W6-k3-pad1")
        second = torch.linspace(-1, 1, 4 * 4 * 9, dtype=torch.float64).view(4, 4, 3, 3).requires_grad_()
        y = function(function(x, first, 1, 1).tanh(), second, 2, 1)
        with no_weight_gradients():
            (of_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(of_x.square().sum(), [x, first, second])

    for number, (a, b) in enumerate(zip(penalty_of(stock), penalty_of(conv2d), strict=True)):
        check_close(f"gradient {number}", a, b, 1e-12)


def test_blocks_of_threads_that_overlap_end_with_the_last():
    first, second = no_weight_gradients(), no_weight_gradients()
    x, weight = torch.rand(1, 1, 3, 3), torch.rand(1, 1, 3, 3, requires_grad=True)
    for block in (first, second):
        block.__enter__()
    for block in (first, second):
        assert conv2d(x, weight).sum().requires_grad
        block.__exit__(None, None, None)
    conv2d(x, weight).sum().backward()
    assert weight.grad is not None


def test_no_weight_gradients_ends_with_its_block():
    def has_gradient() -> bool:
        x, weight = leaves_of("H3-W3-k3")
        return torch.autograd.grad(conv2d(x, weight).sum(), [x, weight], allow_unused=True)[1] is not None

    with no_weight_gradients():
        with no_weight_gradients():
            assert not has_gradient()
        assert not has_gradient()
    assert has_gradient()
    with pytest.raises(KeyError), no_weight_gradients():
        raise KeyError
    assert has_gradient()


@by_layout
def test_compiled(layout):
    torch._dynamo.reset()
    leaves = leaves_of("H6-W7-k3-stride2-pad1", torch.float32, layout)

    def function(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return conv2d(conv2d(x, weight, 2, 1).tanh(), weight.transpose(0, 1).contiguous(), padding=1)

    # aot_eager traces forward and backward as the default backend does, without calling a C++ compiler.
    expected, actual = function(*leaves), torch.compile(function, fullgraph=True, backend="aot_eager")(*leaves)
    assert torch.equal(expected, actual)
    of_eager, of_compiled = (torch.autograd.grad(y.square().sum(), leaves) for y in (expected, actual))
    for name, a, b in zip(("x", "weight"), of_eager, of_compiled, strict=True):
        check_close(name, a, b, 1e-6)  # measured: 1.3e-7; another intermediate layout may change the order of summation
    torch._dynamo.reset()
