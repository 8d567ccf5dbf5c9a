"""The CPU kernels of render: frames and gradients against the naive path in float64, on every instruction set."""

import functools
import re

import pytest
import torch

import fused_inr as fi

pytestmark = pytest.mark.usefixtures("compiled_library")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Grid, and options of `make_layered_inr`. The kernels split bands at about 128 pixels of the base grid, tiles at 128
# pixels, channels at 64 or less, and sums of products at 128 (float32) or 256 (bfloat16) terms. The sizes are on both
# sides of each limit.
CASES = {
    "N1-T1-H1-W1": ((1, 1), dict(n=1, t=1, scales=(1,))),
    "N2-T3-H3-W7-scales1,2,4": ((3, 7), {}),
    "N2-T3-H3-W7-biasNO-relu": ((3, 7), dict(bias="NO", activation="relu")),
    "N1-T3-H63-W5-sines-biasNTO": ((63, 5), dict(n=1, scales=(1,), parts="sin", features=7, bias="NTO")),
    "N5-T1-H20-W31-linear": ((20, 31), dict(n=5, t=1, scales=(1, 1), activation="linear", bias="NTO", features=3)),
    "N2-T3-H3-W7-scales2,6-shared": ((3, 7), dict(scales=(2, 6), shared=True, bias="NTO")),
    "N5-T1-H5-W3-shared-no-rgb": ((5, 3), dict(n=5, t=1, scales=(1, 2), shared=True, bias="NO", rgb=False)),
    "N2-T1-H20-W31-no-rgb-widths1,3": ((20, 31), dict(t=1, scales=(1,), widths=(1, 3), features=1, rgb=False)),
    "N2-T3-H3-W7-stage-without-features": ((3, 7), dict(bare=1)),
    "N2-T1-H3-W7-negative-gain": ((3, 7), dict(t=1, gain=-1.3)),
    "N2-T1-H9-W11-wide": ((9, 11), dict(t=1, scales=(1, 2), widths=(270, 65), features=131, gain=1.0)),
    "N2-T3-H3-W7-sine": ((3, 7), dict(scales=(1, 2), activation="sine", gain=1.0)),
    "N2-T1-H3-W7-sine-shared-sines": (
        (3, 7),
        dict(t=1, scales=(1,), activation="sine", parts="sin", shared=True, bias="NTO"),
    ),
}


def rendered(inr, tensors, with_tensors, grid, **options) -> list[torch.Tensor]:
    """Return frames and the gradients of every tensor, for a seeded gradient of the frames."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    frames = fi.render(with_tensors(inr, leaves), grid, **options)
    probe = torch.randn(frames.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [frames.detach(), *torch.autograd.grad(frames, leaves, probe.to(frames.dtype))]


@pytest.fixture(scope="module")
def case_of(make_layered_inr, tensors_of, with_tensors):
    """Return name -> (INR, its tensors, grid, exact frames and gradients, those of the naive path in bfloat16)."""

    @functools.cache
    def case(name):
        size, options = CASES[name]
        inr, grid = make_layered_inr(**options), fi.Grid(*size, x=(-1.0, 0.7))
        tensors = tensors_of(inr)
        exact = rendered(inr, [tensor.double() for tensor in tensors], with_tensors, grid, backend="reference")
        naive = rendered(inr, tensors, with_tensors, grid, dtype=torch.bfloat16, backend="reference")
        return inr, tensors, grid, exact, naive

    return case


@pytest.mark.parametrize("name", CASES)
def test_float32(instruction_set, name, case_of, with_tensors, errors):
    inr, tensors, grid, exact, _ = case_of(name)
    frames = fi.render(inr, grid, backend="cpu")  # sine layers use other code if gradients are required
    assert frames.dtype == torch.float32
    # Measured on every instruction set of an AVX-512 CPU: 2.6e-7 at most.
    assert errors([frames], exact[:1]) <= [2e-6]
    # Measured on the same CPU: 1.0e-6 at most.
    assert max(errors(rendered(inr, tensors, with_tensors, grid, backend="cpu"), exact)) <= 5e-6


@pytest.mark.parametrize("name", CASES)
def test_bfloat16(instruction_set, name, case_of, with_tensors, errors, mean_error):
    inr, tensors, grid, exact, naive = case_of(name)
    frames = fi.render(inr, grid, dtype=torch.bfloat16, backend="cpu")
    # Measured on every instruction set of an AVX-512 CPU: 5.7e-3 at most (naive: 6.7e-3).
    assert errors([frames], exact[:1]) <= [1e-2]
    actual = rendered(inr, tensors, with_tensors, grid, dtype=torch.bfloat16, backend="cpu")
    # On either path, gradients jump where a value is rounded across the kink of an activation. Measured on the same
    # instruction sets: 0.6 to 1.28 times the error of the naive path.
    assert mean_error(actual[1:], exact[1:]) <= 1.5 * mean_error(naive[1:], exact[1:])


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor


def every_other(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensor, tensor + 9], dim=-1)[..., 0]


def inside_a_larger_one(tensor: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (3, 2), value=9.0)[..., 3:-2]


def expanded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:1].expand_as(tensor)


@pytest.mark.parametrize("layout", [transposed, every_other, inside_a_larger_one, expanded], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", ["NO", "NTO"])
def test_strides_of_the_tensors_change_nothing(
    layout, dtype, bias, make_layered_inr, tensors_of, with_tensors, compiled_library
):
    inr, grid = make_layered_inr(bias=bias), fi.Grid(3, 5)
    strided = [layout(tensor) for tensor in tensors_of(inr)]
    assert not all(tensor.is_contiguous() for tensor in strided)
    dense = [tensor.contiguous() for tensor in strided]
    options = dict(dtype=DTYPES[dtype], backend="cpu")
    actual = rendered(inr, strided, with_tensors, grid, **options)
    for a, b in zip(actual, rendered(inr, dense, with_tensors, grid, **options), strict=True):
        assert torch.equal(a, b)


def test_strides_of_the_frames_gradient_change_nothing(make_layered_inr, tensors_of, with_tensors):
    leaves = [tensor.requires_grad_() for tensor in tensors_of(make_layered_inr(t=2))]
    frames = fi.render(with_tensors(make_layered_inr(t=2), leaves), fi.Grid(3, 5), backend="cpu")
    probe = torch.randn(frames.shape)
    dense = torch.autograd.grad(frames, leaves, probe, retain_graph=True)
    strided = torch.autograd.grad(frames, leaves, probe.transpose(0, 4).contiguous().transpose(0, 4), retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(dense, strided, strict=True))
    ones = torch.autograd.grad(frames, leaves, torch.ones_like(frames), retain_graph=True)
    of_sum = torch.autograd.grad(frames.sum(), leaves)  # a gradient whose strides are all 0
    assert all(torch.equal(a, b) for a, b in zip(ones, of_sum, strict=True))


def test_tensors_in_half_precision(make_layered_inr, tensors_of, with_tensors):
    half, grid = [tensor.bfloat16() for tensor in tensors_of(make_layered_inr())], fi.Grid(3, 5)
    wide = [tensor.float() for tensor in half]
    actual = rendered(make_layered_inr(), half, with_tensors, grid, backend="cpu")
    expected = rendered(make_layered_inr(), wide, with_tensors, grid, backend="cpu", dtype=torch.bfloat16)
    assert torch.equal(actual[0], expected[0])
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(actual[1:], expected[1:], strict=True))


def test_only_a_subset_of_tensors_requires_gradients(make_layered_inr, tensors_of, with_tensors):
    inr, grid = make_layered_inr(), fi.Grid(3, 5)
    every = [tensor.requires_grad_() for tensor in tensors_of(inr)]
    complete = torch.autograd.grad(fi.render(with_tensors(inr, every), grid, backend="cpu").square().sum(), every)
    leaves = [tensor.detach().requires_grad_(index % 3 == 1) for index, tensor in enumerate(every)]
    fi.render(with_tensors(inr, leaves), grid, backend="cpu").square().sum().backward()
    for index, (leaf, expected) in enumerate(zip(leaves, complete, strict=True)):
        assert (leaf.grad is None) == (index % 3 != 1)
        assert leaf.grad is None or torch.equal(leaf.grad, expected)


@pytest.mark.parametrize(("n", "t"), [(0, 2), (2, 0), (0, 0)], ids=["N0-T2", "N2-T0", "N0-T0"])
@pytest.mark.parametrize("activation", ["lrelu", "sine"])
def test_empty_batches(n, t, activation, make_layered_inr, tensors_of, with_tensors):
    inr = make_layered_inr(n, t, activation=activation)
    leaves = [transposed(tensor).requires_grad_() for tensor in tensors_of(inr)]
    frames = fi.render(with_tensors(inr, leaves), fi.Grid(3, 2), backend="cpu")
    assert frames.shape == (n, t, 3, 12, 8)
    for leaf, gradient in zip(leaves, torch.autograd.grad(frames.sum(), leaves), strict=True):
        assert gradient.shape == leaf.shape
        assert not gradient.any()


def test_stage_without_features(make_layered_inr, tensors_of, with_tensors, errors):
    base, grid = make_layered_inr(1, 1, scales=(1,)), fi.Grid(3, 2)
    none = fi.Fourier(torch.empty(1, 0, 2), torch.empty(1, 1, 0))
    read_out = torch.randn(1, 3, 5), torch.randn(3)
    inr = fi.INR([*base.stages, fi.Stage(2, [fi.Layer(torch.randn(1, 5, 19), torch.randn(5), to_rgb=read_out)], none)])
    exact = rendered(inr, [tensor.double() for tensor in tensors_of(inr)], with_tensors, grid, backend="reference")
    # Measured on an AVX-512 CPU: 3e-7.
    assert max(errors(rendered(inr, tensors_of(inr), with_tensors, grid, backend="cpu"), exact)) <= 5e-6


SECOND_ORDER = {
    "N2-T2-lrelu": dict(t=2),
    "N1-T2-relu-biasNTO": dict(n=1, t=2, activation="relu", bias="NTO"),
    "N2-T1-linear-shared": dict(t=1, activation="linear", shared=True, bias="NO"),
    "N2-T1-sine-no-rgb": dict(t=1, activation="sine", scales=(1,), rgb=False),
    "N1-T1-stage-without-features": dict(n=1, t=1, bare=1),
    "N1-T1-negative-gain": dict(n=1, t=1, gain=-1.3),
}


def two_orders(inr, tensors, with_tensors, **options) -> list[torch.Tensor]:
    """Return gradients of the sum of squared frames, and gradients of the sum of their squares."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    frames = fi.render(with_tensors(inr, leaves), fi.Grid(2, 3), **options)
    first = torch.autograd.grad(frames.square().mean(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(one.square().sum() for one in first), leaves, materialize_grads=True)
    return [one.detach() for one in (*first, *second)]


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order(name, make_layered_inr, tensors_of, with_tensors, errors):
    inr = make_layered_inr(**{"scales": (1, 2), **SECOND_ORDER[name]})
    exact = two_orders(inr, [tensor.double() for tensor in tensors_of(inr)], with_tensors, backend="reference")
    actual = two_orders(inr, tensors_of(inr), with_tensors, backend="cpu")
    # Measured on an AVX-512 CPU: 2.4e-6 for sine, 8e-7 for the others.
    assert max(errors(actual, exact)) <= 1e-5


@pytest.mark.parametrize("create_graph", [False, True], ids=["once", "to-differentiate-again"])
@pytest.mark.parametrize("factor", [1.0, 2.0], ids=["same-tensor", "one-made-of-the-other"])
def test_tensors_that_depend_on_each_other(create_graph, factor, make_layered_inr, errors):
    fourier, grid = make_layered_inr(1, 2, features=5).stages[0].fourier, fi.Grid(3, 5)

    def gradient(weight: torch.Tensor, backend: str) -> torch.Tensor:
        weight, bias = weight.requires_grad_(), torch.zeros(10)
        other = weight if factor == 1 else factor * weight
        inr = fi.INR([fi.Stage(1, [fi.Layer(weight, bias), fi.Layer(other, bias)], fourier)])
        frames = fi.render(inr, grid, backend=backend)
        return torch.autograd.grad(frames.square().sum(), weight, create_graph=create_graph)[0].detach()

    weight = torch.randn(1, 10, 10, generator=torch.Generator().manual_seed(0))
    # Measured on an AVX-512 CPU: 4e-7.
    assert errors([gradient(weight, "cpu")], [gradient(weight.double(), "reference")]) <= [5e-6]


@pytest.mark.parametrize(("stages", "layers"), [(1, 70), (20, 1)], ids=["70-layers", "20-stages"])
def test_deep_networks(stages, layers, make_layered_inr, tensors_of, with_tensors, errors):
    inr = make_layered_inr(1, 2, scales=(1,) * stages, widths=(8,) * layers, rgb=stages > 1, features=4, gain=1.4)
    exact = rendered(inr, [t.double() for t in tensors_of(inr)], with_tensors, fi.Grid(3, 2), backend="reference")
    actual = rendered(inr, tensors_of(inr), with_tensors, fi.Grid(3, 2), backend="cpu")
    # Measured on an AVX-512 CPU: 1.5e-5 through 70 layers, as on the naive path in float32; 5e-7 through 20 stages.
    assert max(errors(actual, exact)) <= 5e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_unsupported_types_are_refused(dtype, make_layered_inr, compiled_library):
    inr, grid = make_layered_inr(1, 1), fi.Grid(2, 2)
    if dtype == torch.float64:
        inr = inr.mapped(torch.Tensor.double)
    sentence = f"cannot run this render: it computes in float32 or bfloat16, not in {dtype}."
    with pytest.raises(RuntimeError, match=f"{re.escape(sentence)}$"):
        fi.render(inr, grid, dtype=dtype, backend="cpu")
    fi.render(inr, grid, dtype=dtype)  # another backend serves it
