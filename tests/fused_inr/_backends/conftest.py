"""Fixtures for the tests of backends: instruction sets, threads, comparisons and INRs of any shape."""

import gc
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

import fused_inr as fi
from fused_inr._backends.cpu import native

_LIBRARY, _STATE = native.load()
_ISAS = native.ISAS[: native.best_isa() + 1] if _LIBRARY else [pytest.param("none", marks=pytest.mark.skip(_STATE))]


@pytest.fixture(params=_ISAS)
def instruction_set(request) -> Iterator[str]:
    """Run a test once for every instruction set that this processor supports."""
    native.use_isa(request.param)
    yield request.param
    native.use_isa(None)


@pytest.fixture
def compiled_library():
    """Return the native library, or skip the test with the reason why it cannot be used."""
    if _LIBRARY is None:
        pytest.skip(_STATE)
    return _LIBRARY


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Yield `torch.set_num_threads`, and restore the number of threads after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def relative_differences(actual: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> list[float]:
    """Return the relative difference (2-norm) of every pair of tensors."""
    assert [tensor.shape for tensor in actual] == [tensor.shape for tensor in exact]
    pairs = zip(actual, exact, strict=True)
    return [((a.double() - b).norm() / b.norm().clamp_min(1e-30)).item() for a, b in pairs]


@pytest.fixture(scope="session")
def errors() -> Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], list[float]]:
    return relative_differences


@pytest.fixture(scope="session")
def mean_error() -> Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor]], float]:
    """Return the root mean square of the relative differences, which varies less than that of a single tensor."""

    def mean(actual: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> float:
        return torch.tensor(relative_differences(actual, exact)).square().mean().sqrt().item()

    return mean


def run_script(name: str, *arguments: object) -> str:
    """Run a script of this folder and return its standard output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(__file__).with_name(name)), *map(str, arguments)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="session")
def script_output() -> Callable[..., str]:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("needs Linux's /proc and functions of glibc's malloc")
    return run_script


def results_of(calls: Sequence[tuple[str, tuple]]) -> list[list[torch.Tensor]]:
    """Return the results of calls, each given as the name and arguments of an op of fused_inr."""
    results = [getattr(torch.ops.fused_inr, name)(*arguments) for name, arguments in calls]
    return [[result] if isinstance(result, torch.Tensor) else list(result) for result in results]


def check_same_bits(actual: list[list[torch.Tensor]], expected: list[list[torch.Tensor]], where: str) -> None:
    for number, results in enumerate(zip(actual, expected, strict=True)):
        for index, (a, b) in enumerate(zip(*results, strict=True)):
            assert torch.equal(a, b), f"result {index} of call {number} {where}"


@pytest.fixture
def check_threads(set_threads) -> Callable[[Sequence[tuple[str, tuple]]], None]:
    """Assert that calls return finite and bitwise identical results every time, with any number of threads."""

    def check(calls: Sequence[tuple[str, tuple]]) -> None:
        set_threads(1)
        expected = results_of(calls)
        assert all(tensor.isfinite().all() for result in expected for tensor in result)
        for threads in (1, 2, 3):
            set_threads(threads)
            check_same_bits(results_of(calls), expected, f"with {threads} threads")

    return check


@pytest.fixture
def check_written() -> Iterator[Callable[[Sequence[tuple[str, tuple]]], None]]:
    """Assert that calls write every element of their results, by filling newly allocated tensors with NaN."""

    def check(calls: Sequence[tuple[str, tuple]]) -> None:
        expected = results_of(calls)
        torch.use_deterministic_algorithms(True)  # makes torch.empty fill its result with NaN
        assert torch.empty(5).isnan().all()
        check_same_bits(results_of(calls), expected, "with results filled with NaN")

    yield check
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def check_poisoned(script_output, tmp_path) -> Iterator[Callable[[Sequence[tuple[str, tuple]]], None]]:
    """Assert that calls do not depend on the contents of free memory, on every instruction set."""

    def check(calls: Sequence[tuple[str, tuple]]) -> None:
        torch.save(calls, tmp_path / "calls")
        script_output("poisoned_memory.py", tmp_path / "calls", tmp_path / "results")
        actual = torch.load(tmp_path / "results")
        assert len(actual) == len(calls) * len(_ISAS)
        for index, isa in enumerate(_ISAS):
            native.use_isa(isa)
            check_same_bits(actual[index * len(calls) :][: len(calls)], results_of(calls), f"in NaN memory on {isa}")

    yield check
    native.use_isa(None)


def derivatives(
    function: Callable[..., torch.Tensor], leaves: Sequence[torch.Tensor], orders: int, rounded_to: torch.dtype
) -> list[torch.Tensor]:
    """Return a function's value and its derivatives along seeded random directions, order by order.

    Each order differentiates all tensors of the previous order by the leaves and all directions so far.
    """
    generator = torch.Generator().manual_seed(1)
    inputs = list(leaves)
    outputs = (function(*leaves),)
    results = [*outputs]
    for _ in range(orders):
        directions = [
            torch.randn(y.shape, generator=generator).to(rounded_to).to(y.dtype).requires_grad_() for y in outputs
        ]
        differentiable = [number for number, y in enumerate(outputs) if y.requires_grad]
        sources = [tensor for tensor in inputs if tensor.requires_grad]
        outputs = torch.autograd.grad(
            [outputs[number] for number in differentiable],
            sources,
            [directions[number] for number in differentiable],
            create_graph=True,
            materialize_grads=True,
        )
        inputs += directions
        results += outputs
    return results


def check_against_reference(
    function: Callable[..., torch.Tensor], leaves: Sequence[torch.Tensor], orders: int, tolerance: float
) -> None:
    """Assert that a function and its derivatives on the CPU backend agree with the reference in float64."""
    with fi.backend("cpu"):
        actual = derivatives(function, leaves, orders, leaves[0].dtype)
    with fi.backend("reference"):
        wide = [leaf.detach().double().requires_grad_(leaf.requires_grad) for leaf in leaves]
        exact = derivatives(function, wide, orders, leaves[0].dtype)
    assert actual[0].dtype == leaves[0].dtype
    for number, error in enumerate(relative_differences(actual, exact)):
        assert error <= tolerance, f"tensor {number} of {len(exact)}: relative difference {error:.2e} > {tolerance:.0e}"


@pytest.fixture(scope="session")
def check_derivatives() -> Callable[[Callable[..., torch.Tensor], Sequence[torch.Tensor], int, float], None]:
    return check_against_reference


def layered_inr(
    n: int = 2,
    t: int = 3,
    *,
    scales: Sequence[int] = (1, 2, 4),
    widths: Sequence[int] = (20, 21, 19),
    features: int = 6,
    parts: str = "sincos",
    activation: str = "lrelu",
    bias: str = "O",
    shared: bool = False,
    rgb: bool = True,
    bare: int | None = None,
    gain: float = 2**0.5,
    seed: int = 0,
) -> fi.INR:
    """Return an INR of seeded normal float32 tensors.

    Every stage has one layer per width; all layers but the first of each stage have to_rgb.

    Args:
        features: D of every stage except the one with index `bare`, which has no Fourier features.
        shared: share the frequencies, and the weights and biases of every second layer, among all clips.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def layer(index: int, outputs: int, inputs: int) -> fi.Layer:
        clips = 1 if shared and index % 2 == 0 else n
        offset = 0.2 * normal(*{"O": (outputs,), "NO": (clips, outputs), "NTO": (clips, t, outputs)}[bias])
        to_rgb = (normal(clips, 3, outputs) / outputs**0.5, normal(3)) if rgb and index else None
        return fi.Layer(normal(clips, outputs, inputs) / inputs**0.5, offset, activation, gain, 1.5, to_rgb)

    stages, before = [], 0
    for index, scale in enumerate(scales):
        fourier = None
        if index != bare:
            fourier = fi.Fourier(3 * normal(1 if shared else n, features, 2), normal(n, t, features), parts)
        inputs = [before + (fourier.features if fourier else 0), *widths[:-1]]
        stages.append(
            fi.Stage(scale, [layer(i, *sizes) for i, sizes in enumerate(zip(widths, inputs, strict=True))], fourier)
        )
        before = widths[-1]
    return fi.INR(stages)


@pytest.fixture(scope="session")
def make_layered_inr() -> Callable[..., fi.INR]:
    return layered_inr


def require_memory(gigabytes: float) -> None:
    """Skip the test unless the GPU has this much memory free; that which PyTorch keeps for later counts as free."""
    gc.collect()
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < gigabytes * 1e9:
        pytest.skip(f"needs {gigabytes} GB of free memory on the GPU")


@pytest.fixture
def needs_memory() -> Callable[[float], None]:
    return require_memory


@contextmanager
def skip_where_refused(backend: str) -> Iterator[None]:
    """Skip the test if a backend does not serve a call; raise all other errors."""
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith(f"Backend {backend!r} was requested but cannot run"):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def where_served() -> Callable[[str], AbstractContextManager[None]]:
    return skip_where_refused


@pytest.fixture(params=["float32", "tf32", "bfloat16", "float16"])
def product_type(request) -> Iterator[tuple[str, torch.dtype]]:
    """Yield the name and dtype of a type in which GPUs multiply; tf32 is float32 with PyTorch's TF32 setting on."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32" if request.param == "tf32" else "ieee"
    yield request.param, getattr(torch, request.param.replace("tf32", "float32"))
    matmul.fp32_precision = before


def check_replays(
    call: Callable[..., Sequence[torch.Tensor]], tensors: Sequence[torch.Tensor], others: Sequence[torch.Tensor]
) -> None:
    """Assert that a CUDA graph of call(*tensors) gives the same bits as the call, also for other contents."""
    static = [tensor.clone() for tensor in tensors]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call(*static)  # compiles
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(*static)
    for contents in (tensors, others):
        for target, tensor in zip(static, contents, strict=True):
            target.copy_(tensor)
        graph.replay()
        for index, (a, b) in enumerate(zip(captured, call(*contents), strict=True)):
            assert torch.equal(a, b), f"result {index}"


@pytest.fixture(scope="session")
def check_graph() -> Callable[..., None]:
    return check_replays


# Relative errors of values (2-norm) and of gradients (root mean square over tensors) that are always accepted: a few
# roundings of the type, and in float32 the 5e-7 of the hardware's sine. On the CPU kernels they are at most 7.7e-7 and
# 2e-6 in float32, and 1.3e-2 for values in bfloat16. Most of the error of gradients comes from activations whose
# argument is rounded across the kink of lrelu or relu: in float32 these are few and random, in half precision the error
# of the CPU kernels is 0.6 to 1.28 times that of the naive path. tf32 may truncate where the naive path rounds.
ACCEPTED = {"float32": (5e-6, 2e-5), "tf32": (2e-3, 5e-3), "float16": (2e-3, 5e-3), "bfloat16": (1.5e-2, 3e-2)}
MAX_RATIO = {"float32": 4, "tf32": 3, "float16": 2, "bfloat16": 2}


def check_no_worse(
    kind: str,
    actual: Sequence[torch.Tensor],
    naive: Sequence[torch.Tensor],
    exact: Sequence[torch.Tensor],
    factor: float = 1,
) -> None:
    """Assert that values, and the gradients after them, are within ACCEPTED or not much worse than the naive path.

    Args:
        kind: name of the type, a key of ACCEPTED.
        naive: results of the naive path in the same type.
        factor: multiplies the errors in ACCEPTED.
    """
    for part, limit in ((slice(0, 1), ACCEPTED[kind][0]), (slice(1, None), ACCEPTED[kind][1])):
        if actual[part]:
            error, naive_error = (
                torch.tensor(relative_differences(results[part], exact[part])).square().mean().sqrt().item()
                for results in (actual, naive)
            )
            limit = max(factor * limit, MAX_RATIO[kind] * naive_error)
            assert error <= limit, f"{error:.1e} > {limit:.1e}; the naive path: {naive_error:.1e}"


@pytest.fixture(scope="session")
def assert_no_worse() -> Callable[..., None]:
    return check_no_worse
