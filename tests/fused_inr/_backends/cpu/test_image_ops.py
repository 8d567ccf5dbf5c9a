"""The discriminator's ops on the CPU kernels: memory, threads, and their registration with PyTorch."""

from collections.abc import Callable

import pytest
import torch

import fused_inr as fi

pytestmark = [
    pytest.mark.usefixtures("compiled_library"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
]

Call = tuple[str, tuple]
FIR = torch.tensor([1.0, 3.0, 3.0, 1.0])
FIR = torch.outer(FIR, FIR) / FIR.sum() ** 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def images_like(dtype: torch.dtype, layout: torch.memory_format) -> Callable[..., torch.Tensor]:
    """Return a function that creates seeded normal images of a shape, different at every call."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator).to(dtype).to(memory_format=layout)


def pointwise_calls(make: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> list[Call]:
    """Return calls of bias_act and its slope, from output and input, with all optional arguments and without."""
    bias, shift = torch.linspace(-1, 1, shape[1]), torch.linspace(1, 2, shape[1])
    bent, curved, plain = ("lrelu", 0.2, 1.4, 0.7, 1), ("swish", 0.2, 1.4, 0.7, 1), ("relu", 0.2, -1.0, None, 1)
    return [
        ("bias_act", (make(*shape), bias, make(*shape), *bent)),
        ("bias_act", (make(*shape), None, None, *plain)),
        ("bias_act", (make(*shape), bias, None, *curved)),
        ("bias_act_slope", (make(*shape), shift, make(*shape), None, True, True, *bent)),
        ("bias_act_slope", (make(*shape), None, make(*shape), None, True, False, *plain)),
        ("bias_act_slope", (make(*shape), None, make(*shape), bias, False, True, *bent)),
        ("bias_act_slope", (make(*shape), shift, make(*shape), bias, False, True, *curved)),
    ]


def resampling_calls(make: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> list[Call]:
    height, width = shape[2:]
    wide = torch.linspace(-1, 1, 15).view(3, 5).square()  # not separable
    return [
        ("upfirdn2d", (make(*shape), FIR, [1, 1], [2, 2], [1, 1], [height // 2, width // 2])),
        ("upfirdn2d", (make(*shape), wide, [2, 3], [1, 2], [4, -3], [height * 3, width])),
        ("upfirdn2d", (make(*shape), wide, [1, 1], [1, 1], [2, 1], [height, width])),
    ]


def stddev_calls(make: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> list[Call]:
    x, gradient = make(*shape).contiguous(), make(shape[0], shape[1] + 2, *shape[2:]).contiguous()
    return [("minibatch_stddev", (x, 2, 2)), ("minibatch_stddev_backward", (gradient, x, 2, 2))]


def augmentation_calls(make: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> list[Call]:
    """Return calls of the op and its adjoint, with all amounts and with few."""
    clips = make(*shape).contiguous().view(shape[0], 2, shape[1] // 2, *shape[2:])
    amounts = [torch.linspace(0.2, 1.5, shape[0]) for _ in range(3)]
    places = [torch.arange(-2, 2 * shape[0] - 2).view(-1, 2), torch.arange(2 * shape[0]).view(-1, 2)]
    return [
        ("augment", (clips, *amounts, *places, [4, 2], False, False)),
        ("augment", (clips, None, *amounts[1:], *places, [4, 2], False, True)),
        ("augment", (clips, *amounts, *places, [4, 2], True, False)),
        ("augment", (clips, None, None, None, places[0], None, [0, 0], True, True)),
    ]


def calls_of(dtype: str, layout: str) -> list[Call]:
    """Return calls of all ops with images of odd sizes."""
    calls = []
    for shape in ((4, 6, 9, 31), (2, 20, 7, 5)):
        make = images_like(DTYPES[dtype], LAYOUTS[layout])
        calls += pointwise_calls(make, shape) + resampling_calls(make, shape) + stddev_calls(make, shape)
        calls += augmentation_calls(make, shape)
    return calls


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_time_and_for_any_number_of_threads(instruction_set, dtype, layout, check_threads):
    check_threads(calls_of(dtype, layout))


@pytest.fixture
def all_calls() -> list[Call]:
    return [call for dtype in DTYPES for layout in LAYOUTS for call in calls_of(dtype, layout)]


def test_every_element_of_the_results_is_written(all_calls, check_written):
    check_written(all_calls)


def test_no_memory_is_read_before_it_is_written(all_calls, check_poisoned):
    check_poisoned(all_calls)


def wanting_gradients(arguments: tuple, numbers: tuple[int, ...]) -> tuple:
    """Return the arguments, with those at the given indices as leaves that require gradients."""
    return tuple(
        argument.clone().requires_grad_() if number in numbers and argument is not None else argument
        for number, argument in enumerate(arguments)
    )


DIFFERENTIABLE = {
    "bias_act": (0, 1, 2),
    "bias_act_slope": (0, 1, 2, 3),
    "upfirdn2d": (0,),
    "minibatch_stddev": (0,),
    "minibatch_stddev_backward": (0, 1),
    "augment": (0,),
}


def opcheck_cases() -> list:
    shape, empty = (4, 6, 5, 3), (0, 6, 5, 3)
    make = images_like(torch.float32, torch.contiguous_format)
    groups = {
        "contiguous": pointwise_calls(make, shape) + resampling_calls(make, shape)[:2] + stddev_calls(make, shape)
    }
    groups["contiguous"] += augmentation_calls(make, shape)
    make = images_like(torch.float32, torch.channels_last)
    groups["channels_last"] = pointwise_calls(make, shape)[::3] + resampling_calls(make, shape)[:1]
    make = images_like(torch.bfloat16, torch.channels_last)
    groups["bfloat16-N0"] = [pointwise_calls(make, empty)[0], resampling_calls(make, empty)[0]]
    groups["bfloat16-N0"] += stddev_calls(make, empty) + augmentation_calls(make, empty)[:1]
    return [
        pytest.param(*call, id=f"{group}-{number}-{call[0]}")
        for group, calls in groups.items()
        for number, call in enumerate(calls)
    ]


@pytest.mark.parametrize(("name", "arguments"), opcheck_cases())
def test_opcheck(name, arguments):
    numbers = DIFFERENTIABLE[name]
    if name == "bias_act_slope" and arguments[6] in ("relu", "lrelu"):
        numbers = (0, 1)  # a piecewise constant slope has no gradient for the tensor that determines it
    op = getattr(torch.ops.fused_inr, name).default
    torch.library.opcheck(op, wanting_gradients(arguments, numbers))


def augmented(x: torch.Tensor) -> torch.Tensor:
    """Augment images `[2 N, C, H, W]` as N clips, by amounts computed from them."""
    clips = x.unflatten(0, (-1, 2))
    amounts = clips.detach().float().mean((1, 2, 3, 4)).sigmoid()  # [N]
    places = (clips.detach()[:, 0, :2, 0, 0] * 3).long()  # [N, 2]
    return fi.augment(
        clips,
        brightness=amounts,
        saturation=amounts,
        contrast=amounts,
        translation=places,
        cutout=places,
        cutout_size=(clips.shape[3] // 2, clips.shape[4] // 2),
    ).flatten(0, 1)


def discriminator(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Apply all of the ops, one after another."""
    y = fi.bias_act(x, bias, "lrelu", clamp=2.0)
    y = fi.bias_act(fi.upsample2d(fi.downsample2d(y, FIR), FIR), None, "swish", residual=x)
    return augmented(fi.minibatch_stddev(fi.bias_act(y, bias, "linear", gain=0.5), 2))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled(dtype, layout):
    make = images_like(DTYPES[dtype], LAYOUTS[layout])
    leaves = make(4, 6, 8, 10).requires_grad_(), torch.linspace(-1, 1, 6).requires_grad_()
    with fi.backend("cpu"):
        expected = discriminator(*leaves)
        # aot_eager traces forward and backward like the default backend, but without calling a C++ compiler.
        actual = torch.compile(discriminator, fullgraph=True, backend="aot_eager")(*leaves)
    assert torch.equal(expected, actual)
    direction = make(*expected.shape)
    of_eager, of_compiled = (torch.autograd.grad(y, leaves, direction) for y in (expected, actual))
    assert all(torch.equal(a, b) for a, b in zip(of_eager, of_compiled, strict=True))
    assert of_compiled[0].is_contiguous(memory_format=LAYOUTS[layout])


def test_compiled_for_any_batch():
    compiled = torch.compile(discriminator, fullgraph=True, backend="aot_eager")
    make = images_like(torch.float32, torch.channels_last)
    bias = torch.linspace(-1, 1, 6)
    for batch in (4, 2, 8):
        x = make(batch, 6, 4, 6).requires_grad_()
        torch._dynamo.maybe_mark_dynamic(x, 0)
        with fi.backend("cpu"), torch._dynamo.config.patch(error_on_recompile=batch == 8):
            expected, actual = discriminator(x, bias), compiled(x, bias)
        of_eager, of_compiled = (torch.autograd.grad(y.sum(), x)[0] for y in (expected, actual))
        assert torch.equal(expected, actual)
        assert torch.equal(of_eager, of_compiled)


OPS = {
    "bias_act": lambda x: fi.bias_act(x, None, "tanh"),
    "upfirdn2d": lambda x: fi.upfirdn2d(x, FIR, padding=2),
    "minibatch_stddev": lambda x: fi.minibatch_stddev(x),
    "augment": lambda x: fi.augment(x[None], contrast=torch.tensor([0.5]), translation=torch.tensor([[1, -1]])),
}


@pytest.mark.parametrize("name", OPS)
def test_double_precision_is_left_to_the_reference(name):
    x = torch.linspace(-1, 1, 72, dtype=torch.float64).view(2, 4, 3, 3)
    with fi.backend("reference"):
        expected = OPS[name](x)
    assert torch.equal(OPS[name](x), expected)
    why = f"cannot run this {name}: it computes in float32, bfloat16 and float16, not in torch.float64.$"
    with fi.backend("cpu"), pytest.raises(RuntimeError, match=f"^Backend 'cpu' was requested but {why}"):
        OPS[name](x)


@pytest.mark.parametrize("name", OPS)
def test_autocast_changes_nothing(name):
    x = torch.linspace(-1, 1, 72).view(2, 4, 3, 3).requires_grad_()
    expected = OPS[name](x)
    (of_expected,) = torch.autograd.grad(expected.sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = OPS[name](x)
        (of_found,) = torch.autograd.grad(actual.sum(), x)
    assert torch.equal(expected, actual)
    assert torch.equal(of_expected, of_found)
