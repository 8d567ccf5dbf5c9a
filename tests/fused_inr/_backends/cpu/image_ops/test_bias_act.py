"""bias_act on the CPU kernels: against the reference in float64, with derivatives; roundings; special values."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

import fused_inr as fi

pytestmark = pytest.mark.usefixtures("compiled_library")

ACTS = ["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]
# Measured on every instruction set: at most 1.2e-6 (the gradient of a bias, a sum of 12,600 terms), 2.9e-3 and 3.6e-4.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
LAST = torch.channels_last


def without_edges(x: torch.Tensor, bias: torch.Tensor | None, dim: int, act: str, **options: float) -> torch.Tensor:
    """Return x with the numbers changed whose results are within 2 % of the clamp, where rounding decides the slope."""
    clamp = options.pop("clamp", None)
    if clamp is None:
        return x
    for _ in range(100):
        size = fi.bias_act(x.double(), None if bias is None else bias.double(), act, dim=dim, **options).abs()
        near = (size - clamp).abs() < 0.02 * clamp
        if not near.any():
            return x
        x = torch.where(near, x * 1.1, x)
    raise AssertionError("numbers remain near the clamp")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case(
    x: torch.Tensor, act: str, *, dim: int = 1, bias: bool = True, residual: bool = False, **options
) -> tuple[Callable[..., torch.Tensor], list[torch.Tensor]]:
    """Return bias_act as a function of tensors that require gradients, and these: x, a float32 bias, a residual."""
    offset = normal(x.shape[dim], seed=1) if bias else None
    moved = without_edges(x, offset, dim, act, **options)
    x = x if moved is x else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(moved)
    leaves = [x, *([offset] if bias else []), *([normal(*x.shape, seed=2).to(x.dtype)] if residual else [])]

    def function(x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        left = iter(others)
        first = next(left) if bias else None
        return fi.bias_act(x, first, act, dim=dim, residual=next(left) if residual else None, **options)

    return function, [leaf.detach().requires_grad_() for leaf in leaves]


FORMS = {
    "N2-C5-H3-W7": lambda dtype: (normal(2, 5, 3, 7).to(dtype), dict(bias=False)),
    "N2-C5-H3-W7-clamp": lambda dtype: (normal(2, 5, 3, 7).to(dtype), dict(clamp=0.7)),
    "N3-C19-H2-W1-last-gain-clamp-residual": lambda dtype: (
        normal(3, 19, 2, 1).to(dtype).to(memory_format=LAST),
        dict(clamp=0.9, gain=-1.3, residual=True),
    ),
}


@DTYPES
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("form", FORMS)
def test_activations(instruction_set, form, act, dtype, check_derivatives):
    x, options = FORMS[form](dtype)
    check_derivatives(*case(x, act, **options), 2, TOLERANCE[dtype])


VIEWS = {
    "scalar": lambda: (normal(), dict(bias=False)),
    "1d": lambda: (normal(63), dict(dim=0)),
    "N3-C100-dim0": lambda: (normal(3, 100), dict(dim=0)),
    "N3-C100-dim-1": lambda: (normal(3, 100), dict(dim=-1)),
    "N2-C3-L63-dim0": lambda: (normal(2, 3, 63), dict(dim=0)),
    "N2-C3-L63-dim1": lambda: (normal(2, 3, 63), dict(dim=1)),
    "N2-C3-L63-dim2": lambda: (normal(2, 3, 63), dict(dim=2)),
    "N130-C17": lambda: (normal(130, 17), {}),  # more rows than partial sums
    "N2-C3-D2-H3-W5": lambda: (normal(2, 3, 2, 3, 5), dict(residual=True)),
    "N3-C5-H1-W1": lambda: (normal(3, 5, 1, 1), {}),
    "N1-C1-H63-W1": lambda: (normal(1, 1, 63, 1), {}),
    "N2-C3-H100-W63": lambda: (normal(2, 3, 100, 63), dict(residual=True)),
    "N2-C100-H3-W3-last": lambda: (normal(2, 100, 3, 3).to(memory_format=LAST), {}),
    "N2-C3-H5-W4-last-dim3": lambda: (normal(2, 3, 5, 4).to(memory_format=LAST), dict(dim=3)),
    "N2-C3-H5-W4-last-dim0-residual": lambda: (normal(2, 3, 5, 4).to(memory_format=LAST), dict(dim=0, residual=True)),
    "sliced": lambda: (normal(2, 6, 5, 9)[:, 1::2, :, 2:], dict(residual=True)),
    "permuted": lambda: (normal(5, 2, 7, 3).permute(1, 3, 2, 0), dict(residual=True)),
    "transposed-dim0": lambda: (normal(5, 4).T, dict(dim=0)),
    "expanded": lambda: (normal(2, 1, 3, 1).expand(2, 5, 3, 4), dict(residual=True)),
}


@pytest.mark.parametrize("act", ["lrelu", "swish"])
@pytest.mark.parametrize("name", VIEWS)
def test_shapes_axes_and_layouts(instruction_set, name, act, check_derivatives):
    x, options = VIEWS[name]()
    check_derivatives(*case(x, act, **options), 2, TOLERANCE[x.dtype])


NUMBERS = {
    "gain0": dict(gain=0.0),
    "gain-2": dict(gain=-2.0),
    "gain-1e-30": dict(gain=-1e-30),
    "clamp0": dict(clamp=0.0),
    "clamp1e-3": dict(clamp=1e-3),
    "clamp-inf": dict(clamp=math.inf),
    "gain3-clamp1": dict(gain=3.0, clamp=1.0),
}
SLOPES = {f"alpha{alpha}": dict(alpha=alpha, gain=-0.7, clamp=1.1) for alpha in (0.0, 0.5, 1.0, 3.0)}


@pytest.mark.parametrize(
    ("act", "options"),
    [
        *(pytest.param(act, NUMBERS[name], id=f"{act}-{name}") for act in ACTS[:3] for name in NUMBERS),
        *(pytest.param("lrelu", options, id=f"lrelu-{name}") for name, options in SLOPES.items()),
    ],
)
@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
def test_gains_slopes_and_clamps_to_third_order(residual, act, options, check_derivatives):
    x = normal(2, 3, 5, 4).to(memory_format=LAST)
    check_derivatives(*case(x, act, residual=residual, **options), 3, TOLERANCE[x.dtype])


@pytest.mark.parametrize("act", ["lrelu", "tanh"])
@pytest.mark.parametrize("inputs", ["x", "bias", "residual", "x-bias", "bias-residual"])
def test_gradients_of_a_subset_of_inputs(inputs, act, check_derivatives):
    function, leaves = case(normal(2, 3, 5, 4), act, residual=True, clamp=0.9)
    names = ("x", "bias", "residual")
    check_derivatives(
        function,
        [leaf.requires_grad_(name in inputs.split("-")) for name, leaf in zip(names, leaves, strict=True)],
        2,
        TOLERANCE[torch.float32],
    )


@pytest.mark.parametrize("act", ["lrelu", "tanh"])
def test_inputs_computed_from_one_another(act, check_derivatives):
    def function(x: torch.Tensor) -> torch.Tensor:
        first = fi.bias_act(x, x.mean([0, 2, 3]), act, residual=2 * x)
        return fi.bias_act(first, None, act, residual=first)

    leaf = normal(2, 3, 5, 4).requires_grad_()
    check_derivatives(function, [leaf], 3, TOLERANCE[torch.float32])


@pytest.mark.parametrize("act", ACTS)
def test_penalties_on_gradients(act, check_derivatives):
    def penalty(x: torch.Tensor, bias: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        y = fi.bias_act(x, bias, act, clamp=1.5)
        of_x, of_bias = torch.autograd.grad(y, [x, bias], direction, create_graph=True)
        return of_x.square().sum() + of_bias.sum()  # the gradient of a sum is an expanded scalar

    _, (x, bias) = case(normal(2, 20, 5, 4).to(memory_format=LAST), act, clamp=1.5)
    direction = normal(2, 20, 5, 4, seed=3).requires_grad_()
    check_derivatives(penalty, [x, bias, direction], 1, TOLERANCE[torch.float32])


@DTYPES
@pytest.mark.parametrize("clamp", [0.3, 0.7, 0.9, 1 / 3])
def test_clamped_numbers_have_zero_slope_for_any_rounding_of_the_clamp(clamp, dtype):
    x = torch.tensor([5.0, -5.0, 0.1], dtype=dtype, requires_grad=True)
    with fi.backend("cpu"):
        y = fi.bias_act(x, clamp=clamp)
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("bias_type", [torch.float32, torch.float64, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
def test_the_gradient_of_a_bias_has_its_type(bias_type):
    x, bias = normal(2, 3, 5).half(), normal(3).to(bias_type).requires_grad_()
    with fi.backend("cpu"):
        y = fi.bias_act(x, bias, "lrelu")
    (actual,) = torch.autograd.grad(y.sum(), bias)
    assert (y.dtype, actual.dtype) == (torch.float16, bias_type)


FLOATS = {
    "ordinary": lambda: normal(5000),
    "large": lambda: normal(5000) * 40000,  # half of them beyond float16's 65504
    "subnormal-in-float16": lambda: normal(5000) * 2.0**-15,
    "ties": lambda: (torch.arange(2**15, dtype=torch.int32) * 4096 + 2**29).view(torch.float32),
    "next-to-ties": lambda: torch.cat(
        [(torch.arange(-4096, 4096, dtype=torch.int32) * 4096 + 0x3C800000 + i).view(torch.float32) for i in (-1, 1)]
    ),
    "ends": lambda: torch.tensor([65504.0, 65519.99, 65520.0, 65536.0, 3.4e38, math.inf, 2.0**-24, 2.0**-25, 2.0**-26]),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", FLOATS)
def test_results_in_half_precision_are_rounded_to_nearest_even(instruction_set, name, dtype):
    bias = torch.cat([FLOATS[name](), -FLOATS[name]()])
    with fi.backend("cpu"):
        actual = fi.bias_act(torch.zeros(1, len(bias), dtype=dtype), bias)
    assert torch.equal(actual[0], bias.to(dtype))
    # The numbers at the end of a row are converted one by one.
    shortest = bias[: len(bias) // 3 * 3].view(-1, 3)
    with fi.backend("cpu"):
        rows = [fi.bias_act(torch.zeros(1, 3, dtype=dtype), row) for row in shortest[:: len(shortest) // 100 + 1]]
    assert torch.equal(torch.cat(rows), shortest[:: len(shortest) // 100 + 1].to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_every_half_precision_number_is_read_exactly(instruction_set, dtype):
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    if dtype == torch.bfloat16:
        x = x[(x.abs() >= torch.finfo(dtype).tiny) | x.isnan() | (x == 0)]  # AVX-512 converts subnormal numbers to 0
    for row in (x[None], x[: len(x) // 3 * 3].view(-1, 3)):
        with fi.backend("cpu"):
            actual = fi.bias_act(row)
        assert torch.equal(actual.isnan(), row.isnan())
        assert torch.equal(actual.nan_to_num(0), row.nan_to_num(0))


@pytest.mark.parametrize("clamp", [None, 1.0], ids=["free", "clamp"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("act", ACTS)
def test_infinities_and_nan_as_in_pytorch(instruction_set, act, dtype, clamp, assert_close):
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0, 20.0, -20.0] * 4, dtype=dtype)
    results = {}
    for backend in ("cpu", "reference"):
        with fi.backend(backend):
            results[backend] = fi.bias_act(x, None, act, clamp=clamp)
    # Measured: 2.4e-7 in float32; in half precision the reference rounds after every call.
    torch.testing.assert_close(results["cpu"], results["reference"], equal_nan=True)


@pytest.mark.parametrize("act", ACTS)
def test_slopes_at_infinities_as_in_pytorch(instruction_set, act):
    actual = {}
    for backend in ("cpu", "reference"):
        x = torch.tensor([math.inf, -math.inf], requires_grad=True)
        with fi.backend(backend):
            actual[backend] = torch.autograd.grad(fi.bias_act(x, None, act).sum(), x)[0]
    torch.testing.assert_close(actual["cpu"], actual["reference"], equal_nan=True)


@pytest.mark.parametrize("act", ["sigmoid", "softplus", "swish"])
def test_small_results_lose_no_precision(instruction_set, act):
    x = torch.linspace(-80, -1, 500)
    with fi.backend("cpu"):
        actual = fi.bias_act(x, None, act, gain=1)
    # Measured: 5e-7, most of it from the rounding of the exponential's argument.
    torch.testing.assert_close(actual.double(), fi.bias_act(x.double(), None, act, gain=1), rtol=2e-6, atol=0)


@DTYPES
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (0,)], ids=str)
@pytest.mark.parametrize("act", ["lrelu", "tanh"])
def test_empty_tensors(act, shape, dtype, check_derivatives):
    x = torch.zeros(shape, dtype=dtype)
    check_derivatives(*case(x, act, dim=min(1, x.ndim - 1)), 2, 0)


def gradients(x: torch.Tensor, direction: torch.Tensor, act: str) -> Sequence[torch.Tensor]:
    """Return y and the gradient of x along a direction."""
    with fi.backend("cpu"):
        y = fi.bias_act(x, None, act)
    return y, *torch.autograd.grad(y, x, direction)


@pytest.mark.parametrize("act", ["lrelu", "tanh"])
@pytest.mark.parametrize("gradient", ["contiguous", "channels_last", "expanded"])
def test_results_and_gradients_have_the_layout_of_the_input(gradient, act):
    images = normal(2, 3, 4, 5)
    direction = normal(2, 3, 1, 1).expand_as(images) if gradient == "expanded" else normal(2, 3, 4, 5, seed=1)
    if gradient == "channels_last":
        direction = direction.to(memory_format=LAST)
    expected = gradients(images.clone().requires_grad_(), direction, act)
    actual = gradients(images.to(memory_format=LAST).requires_grad_(), direction, act)
    assert all(tensor.is_contiguous() for tensor in expected)
    assert all(tensor.is_contiguous(memory_format=LAST) for tensor in actual)
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


def test_a_negative_slope_is_left_to_the_reference():
    x = normal(2, 3)
    assert torch.equal(fi.bias_act(x, act="lrelu", alpha=-0.5, gain=1), torch.where(x > 0, x, -0.5 * x))
    why = "cannot run this bias_act: with a negative slope the output does not determine the sign of the input"
    with fi.backend("cpu"), pytest.raises(RuntimeError, match=why):
        fi.bias_act(x, act="lrelu", alpha=-0.5)
