"""render on GPUs: frames and gradients of every backend against the naive path in float64."""

import functools

import pytest
import torch

import fused_inr as fi
from fused_inr.ops.dispatch import DEVICES, select

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
BACKENDS = pytest.mark.parametrize("backend", [name for name, device in DEVICES.items() if device == DEVICE])

# Grid, and options of `make_layered_inr`. Sanitizers run the case "small".
CASES = {
    "small": ((3, 5), dict(n=2, t=2, scales=(1, 2), widths=(20, 17))),
    "small-wide-sine": ((2, 3), dict(n=1, t=2, scales=(1, 2), widths=(136,), activation="sine", gain=1.0, features=9)),
    "N1-T1-H1-W1": ((1, 1), dict(n=1, t=1, scales=(1,))),
    "N2-T3-H3-W7-biasNO-relu": ((3, 7), dict(bias="NO", activation="relu")),
    "N1-T3-H63-W5-sines-biasNTO": ((63, 5), dict(n=1, scales=(1,), parts="sin", features=7, bias="NTO")),
    "N5-T1-H20-W31-linear": ((20, 31), dict(n=5, t=1, scales=(1, 1), activation="linear", bias="NTO", features=3)),
    "N2-T3-H3-W7-scales2,6-shared": ((3, 7), dict(scales=(2, 6), shared=True, bias="NTO")),
    "N5-T1-H5-W3-shared-no-rgb": ((5, 3), dict(n=5, t=1, scales=(1, 2), shared=True, bias="NO", rgb=False)),
    "N2-T1-H20-W31-no-rgb-widths1,3": ((20, 31), dict(t=1, scales=(1,), widths=(1, 3), features=1, rgb=False)),
    "N2-T3-H3-W7-stage-without-features": ((3, 7), dict(bare=1)),
    "N2-T1-H3-W7-negative-gain": ((3, 7), dict(t=1, gain=-1.3)),
    "N2-T1-H9-W11-widths270,65": ((9, 11), dict(t=1, scales=(1, 2), widths=(270, 65), features=131, gain=1.0)),
    "N3-T2-H16-W16-widths128": ((16, 16), dict(n=3, scales=(1, 2, 4), widths=(128, 128, 128), features=64)),
    "N2-T2-H16-W16-widths512": ((16, 16), dict(t=2, scales=(1, 2), widths=(512, 512), features=128)),
}


def probe(shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(DEVICE)


def rendered(make, tensors, grid, **options) -> list[torch.Tensor]:
    """Return frames and the gradients of every tensor, for a seeded gradient of the frames; `make` builds the INR."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    frames = fi.render(make(leaves), grid, **options)
    return [frames.detach(), *torch.autograd.grad(frames, leaves, probe(frames.shape).to(frames.dtype))]


@pytest.fixture(scope="module")
def case_of(make_layered_inr, tensors_of, with_tensors):
    """Return name -> (function from tensors to the INR, tensors, grid, exact frames and gradients)."""

    @functools.cache
    def case(name):
        size, options = CASES[name]
        inr, grid = make_layered_inr(**options), fi.Grid(*size, x=(-1.0, 0.7))
        make, tensors = functools.partial(with_tensors, inr), [tensor.to(DEVICE) for tensor in tensors_of(inr)]
        exact = rendered(make, [tensor.double() for tensor in tensors], grid, backend="reference")
        return make, tensors, grid, exact

    return case


@pytest.fixture(scope="module")
def generator(make_layered_inr, tensors_of):
    """Return an INR with the sizes of DIGAN's generator: 512 and 256 channels, 128 frequencies, 128x128 pixels."""

    def stages(scales: tuple[int, ...], widths: tuple[int, ...], before: int) -> list[fi.Stage]:
        stages = make_layered_inr(2, 2, scales=scales, widths=widths, features=128).stages
        first = stages[0].layers[0]
        if before:
            weight = torch.randn(2, first.outputs, before + first.inputs) / (before + first.inputs) ** 0.5
            first = fi.Layer(weight, first.bias, first.activation, first.gain)
        return [fi.Stage(stages[0].scale, [first, *stages[0].layers[1:]], stages[0].fourier), *stages[1:]]

    torch.manual_seed(0)
    return fi.INR([*stages((1,), (512,) * 7, 0), *stages((2,), (512,) * 2, 512), *stages((4,), (256,) * 3, 512)])


@BACKENDS
@pytest.mark.parametrize("name", CASES)
def test_frames_and_gradients(backend, product_type, name, case_of, where_served, assert_no_worse):
    make, tensors, grid, exact = case_of(name)
    kind, dtype = product_type
    with where_served(backend), torch.no_grad():
        frames = fi.render(make(tensors), grid, dtype=dtype, backend=backend)
    naive = rendered(make, tensors, grid, dtype=dtype, backend="reference")
    assert frames.dtype == torch.float32
    assert_no_worse(kind, [frames], naive[:1], exact[:1])
    assert_no_worse(kind, rendered(make, tensors, grid, dtype=dtype, backend=backend), naive, exact)


@BACKENDS
def test_generator_of_128x128(
    backend, product_type, generator, tensors_of, with_tensors, where_served, assert_no_worse
):
    make, grid = functools.partial(with_tensors, generator), fi.Grid(32, 32)
    tensors, (kind, dtype) = [tensor.to(DEVICE) for tensor in tensors_of(generator)], product_type
    with where_served(backend):
        actual = rendered(make, tensors, grid, dtype=dtype, backend=backend)
    exact = rendered(make, [tensor.double() for tensor in tensors], grid, backend="reference")
    assert_no_worse(kind, actual, rendered(make, tensors, grid, dtype=dtype, backend="reference"), exact)


@pytest.mark.parametrize("name", ["N3-T2-H16-W16-widths128", "N2-T2-H16-W16-widths512", "small"])
def test_a_backend_for_gpus_serves(name, product_type, case_of):
    make, tensors, grid, _ = case_of(name)
    arguments = (make(tensors), grid, product_type[1])
    assert select("render", DEVICE, arguments) != select("render", DEVICE, arguments, "reference")


@BACKENDS
@pytest.mark.parametrize("name", ["small", "N3-T2-H16-W16-widths128", "N2-T2-H16-W16-widths512"])
def test_same_bits_every_time(backend, product_type, name, case_of, where_served):
    make, tensors, grid, _ = case_of(name)
    with where_served(backend):
        first = rendered(make, tensors, grid, dtype=product_type[1], backend=backend)
    for _ in range(3):
        again = rendered(make, tensors, grid, dtype=product_type[1], backend=backend)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@BACKENDS
@pytest.mark.parametrize("stored", [False, True], ids=["recomputed", "stored"])
def test_results_are_written_and_free_memory_is_not_read(backend, stored, product_type, case_of, where_served):
    make, tensors, grid, _ = case_of("N3-T2-H16-W16-widths128")

    def results() -> list[torch.Tensor]:
        if not stored:
            return rendered(make, tensors, grid, dtype=product_type[1], backend=backend)
        with fi.store_activations():
            return rendered(make, tensors, grid, dtype=product_type[1], backend=backend)

    with where_served(backend):
        expected = results()
    torch.use_deterministic_algorithms(True, warn_only=True)  # makes torch.empty fill its result with NaN
    try:
        actual = results()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor


def every_other(tensor: torch.Tensor) -> torch.Tensor:
    return torch.stack([tensor, tensor + 9], dim=-1)[..., 0]


def expanded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:1].expand_as(tensor)


@BACKENDS
@pytest.mark.parametrize("layout", [transposed, every_other, expanded], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["N2-T3-H3-W7-biasNO-relu", "N1-T3-H63-W5-sines-biasNTO"])
def test_strides_change_nothing(backend, layout, name, case_of, where_served):
    make, tensors, grid, _ = case_of(name)
    strided = [layout(tensor) for tensor in tensors]
    with where_served(backend):
        actual = rendered(make, strided, grid, dtype=torch.bfloat16, backend=backend)
    dense = rendered(make, [tensor.contiguous() for tensor in strided], grid, dtype=torch.bfloat16, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(actual, dense, strict=True))


@BACKENDS
@pytest.mark.parametrize(("n", "t"), [(0, 2), (2, 0)], ids=["N0-T2", "N2-T0"])
def test_empty_batches(backend, n, t, make_layered_inr, tensors_of, with_tensors, where_served):
    inr = make_layered_inr(n, t)
    leaves = [tensor.to(DEVICE).requires_grad_() for tensor in tensors_of(inr)]
    with where_served(backend):
        frames = fi.render(with_tensors(inr, leaves), fi.Grid(3, 2), backend=backend)
    assert frames.shape == (n, t, 3, 12, 8)
    for leaf, gradient in zip(leaves, torch.autograd.grad(frames.sum(), leaves), strict=True):
        assert gradient.shape == leaf.shape
        assert not gradient.any()


@BACKENDS
def test_second_order(backend, make_layered_inr, tensors_of, with_tensors, where_served, errors):
    inr = make_layered_inr(2, 2, scales=(1, 2))

    def two_orders(dtype: torch.dtype, name: str) -> list[torch.Tensor]:
        leaves = [tensor.to(DEVICE, dtype).requires_grad_() for tensor in tensors_of(inr)]
        frames = fi.render(with_tensors(inr, leaves), fi.Grid(2, 3), backend=name)
        first = torch.autograd.grad(frames.square().mean(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves, materialize_grads=True)
        return [gradient.detach() for gradient in (*first, *second)]

    with where_served(backend):
        actual = two_orders(torch.float32, backend)
    # On the CPU kernels: 8e-7.
    assert max(errors(actual, two_orders(torch.float64, "reference"))) <= 2e-5


@BACKENDS
@pytest.mark.parametrize("name", ["small", "N3-T2-H16-W16-widths128", "N2-T2-H16-W16-widths512"])
def test_cuda_graph(backend, product_type, name, case_of, where_served, check_graph):
    make, tensors, grid, exact = case_of(name)
    frames_gradient = torch.ones_like(exact[0], dtype=torch.float32)

    def frames(*tensors: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            return [fi.render(make(tensors), grid, dtype=product_type[1], backend=backend)]

    def gradients(*tensors: torch.Tensor) -> list[torch.Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        values = fi.render(make(leaves), grid, dtype=product_type[1], backend=backend)
        return list(torch.autograd.grad(values, leaves, frames_gradient))

    others = [tensor.flip(0) * 0.9 for tensor in tensors]
    with where_served(backend):
        frames(*tensors)
    check_graph(frames, tensors, others)
    check_graph(gradients, tensors, others)


@BACKENDS
def test_compiled_without_graph_breaks(backend, case_of, where_served):
    make, tensors, grid, _ = case_of("small")

    def frames(*tensors: torch.Tensor) -> torch.Tensor:
        return fi.render(make(tensors), grid, dtype=torch.bfloat16, backend=backend)

    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with where_served(backend):
        eager = frames(*leaves)
    compiled = torch.compile(frames, fullgraph=True, backend="aot_eager")(*leaves)
    assert torch.equal(eager, compiled)
    pairs = zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (eager, compiled)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@BACKENDS
def test_float64_is_refused(backend, case_of):
    make, tensors, grid, exact = case_of("small")
    inr = make([tensor.double() for tensor in tensors])
    with pytest.raises(RuntimeError, match=f"Backend '{backend}' was requested but cannot run"):
        fi.render(inr, grid, backend=backend)
    assert torch.equal(fi.render(inr, grid), exact[0])


@BACKENDS
@pytest.mark.parametrize("width", [64, 512], ids=["narrow", "wide"])
def test_more_values_than_32_bits_can_count(backend, width, make_layered_inr, where_served, errors, needs_memory):
    frames = 2**31 // (128 * 128 * width) + 3
    needs_memory(48)
    inr = make_layered_inr(1, frames, scales=(1, 2), widths=(width, width), features=8, bias="NTO")
    inr, grid = inr.mapped(lambda tensor: tensor.to(DEVICE)), fi.Grid(64, 64)

    def gradients(inr: fi.INR, frames_gradient: torch.Tensor, **options) -> list[torch.Tensor]:
        """Return frames, and gradients of the tensors that have an axis of frames."""
        leaves: list[torch.Tensor] = []

        def leaf(tensor: torch.Tensor) -> torch.Tensor:
            own = tensor.ndim == 3 and tensor.shape[1] == inr.times
            leaves.append(tensor.detach().requires_grad_(own))
            return leaves[-1]

        values = fi.render(inr.mapped(leaf), grid, **options)
        return [values, *torch.autograd.grad(values, [t for t in leaves if t.requires_grad], frames_gradient)]

    ends = torch.tensor([0, frames - 1], device=DEVICE)
    frames_gradient = torch.zeros(1, frames, 3, 128, 128, device=DEVICE)
    frames_gradient[:, ends] = probe(frames_gradient[:, ends].shape).float()
    with where_served(backend):
        actual = gradients(inr, frames_gradient, dtype=torch.bfloat16, backend=backend)
    actual = [tensor[:, ends] for tensor in actual]
    few = inr.mapped(lambda tensor: tensor[:, ends] if tensor.ndim == 3 and tensor.shape[1] == frames else tensor)
    exact = gradients(few.mapped(torch.Tensor.double), frames_gradient[:, ends].double(), backend="reference")
    naive = gradients(few, frames_gradient[:, ends], dtype=torch.bfloat16, backend="reference")
    for error, naive_error in zip(errors(actual, exact), errors(naive, exact), strict=True):
        assert error <= 2 * naive_error
