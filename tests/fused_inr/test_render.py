"""render_chunks: the frames of render, one by one, within a memory limit."""

import importlib
import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import fused_inr as fi
from fused_inr.ops import render_memory


def peak_bytes(work) -> int:
    """Return the peak bytes that `work` holds in PyTorch's CPU allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    live = peak = 0
    for event in events:
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def wide_inr(n: int, t: int, *, width: int, d: int, activation: str = "lrelu", parts: str = "sincos") -> fi.INR:
    """Return an INR with every kind of stage, large enough that small tensors do not distort the count."""
    features = 2 * d if parts == "sincos" else d

    def layer(outputs: int, inputs: int, read_out: bool = True) -> fi.Layer:
        to_rgb = (torch.randn(1, 3, outputs), torch.randn(3)) if read_out else None
        return fi.Layer(torch.randn(n, outputs, inputs) / inputs**0.5, torch.randn(outputs), activation, to_rgb=to_rgb)

    def fourier() -> fi.Fourier:
        return fi.Fourier(torch.randn(n, d, 2), torch.randn(n, t, d), parts)

    return fi.INR(
        [
            fi.Stage(1, [layer(width, features, False), layer(width, width)], fourier()),
            fi.Stage(2, [layer(width, width + features)], fourier()),
            fi.Stage(4, [layer(24, width)]),
        ]
    )


COUNTED = list(itertools.product(("lrelu", "sine"), ("sincos", "sin"), ((8, 2), (8, 40), (64, 4)), (None, "bfloat16")))


@pytest.mark.parametrize(("activation", "parts", "sizes", "dtype"), COUNTED, ids=str)
def test_memory_count(activation, parts, sizes, dtype):
    inr = wide_inr(2, 2, width=sizes[0], d=sizes[1], activation=activation, parts=parts)
    grid, dtype = fi.Grid(12, 16), dtype and getattr(torch, dtype)
    with torch.no_grad():
        options = {"dtype": dtype, "backend": "reference"}
        fi.render(inr, grid, **options)  # excludes one-time allocations of libraries
        measured = peak_bytes(lambda: fi.render(inr, grid, **options))
    counted = render_memory(inr, grid, **options)
    # The count excludes the workspace of matrix products: 0.3 % in bfloat16 on a CPU with bfloat16 instructions.
    assert measured <= 1.01 * counted <= 1.25 * measured


@pytest.mark.parametrize("memory", [1 << 30, 150_000, 40_000], ids=lambda memory: f"memory{memory}")
@pytest.mark.parametrize("bias", ["O", "NTO"])
def test_yields_the_frames_of_render(make_inr, assert_close, memory, bias):
    inr, grid = make_inr(3, 4, scales=(1, 2, 6), bias=bias), fi.Grid(7, 5, y=(-0.4, 1.3))
    frames = list(fi.render_chunks(inr, grid, memory=memory))
    assert len(frames) == 4
    # The coordinates of a part of the grid are rounded once more.
    assert_close("frames", fi.render(inr, grid), torch.stack(frames, dim=1), 1e-13)


def test_frames_that_are_taken_outside_of_the_blocks_of_the_call(make_inr):
    inr, grid = make_inr(dtype=torch.float32), fi.Grid(4, 4)
    with torch.autocast("cpu", torch.bfloat16), fi.backend("reference"):
        expected = fi.render(inr, grid)
        chunks = fi.render_chunks(inr, grid)
    assert torch.equal(torch.stack(list(chunks), dim=1), expected)


def test_float32_frames(make_inr, assert_close):
    inr, grid = make_inr(2, 2, dtype=torch.float32), fi.Grid(31, 9)
    frames = list(fi.render_chunks(inr, grid, memory=20_000, backend="reference"))
    # Measured on an AVX-512 CPU: 7e-8.
    assert_close("frames", fi.render(inr, grid), torch.stack(frames, dim=1), 1e-6)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.05], ids=lambda share: f"share{share}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_stays_within_the_memory_limit(share, dtype):
    inr, grid = wide_inr(4, 3, width=64, d=8), fi.Grid(24, 16)
    options = {"dtype": dtype, "backend": "reference"}  # allocates with PyTorch, which the profiler records
    memory = int(render_memory(inr.at_times(slice(0, 1)), grid, **options) * share)
    frame_bytes = 4 * 3 * (24 * 4) * (16 * 4) * 4
    rendered = 0

    def work() -> None:
        nonlocal rendered
        for frame in fi.render_chunks(inr, grid, memory=memory, **options):
            rendered += 1
            del frame

    work()  # excludes one-time allocations of libraries
    assert peak_bytes(work) <= memory + frame_bytes
    assert rendered == 6


@pytest.mark.parametrize(
    ("fits", "spare", "calls"),
    [
        ((4, 3, 8), 0, [(4, 3, 8)]),
        ((4, 3, 8), -1, [(2, 3, 8)] * 2),
        ((2, 3, 8), 0, [(2, 3, 8)] * 2),
        ((2, 3, 8), -1, [(1, 3, 8)] * 4),
        ((1, 3, 8), -1, [(1, 3, 4)] * 8),
        ((1, 3, 2), 0, [(1, 3, 2)] * 16),
        ((1, 2, 1), 0, ([(1, 1, 1)] * 8 + [(1, 2, 1)] * 8) * 4),
        ((1, 1, 1), 0, [(1, 1, 1)] * 96),
    ],
    ids=str,
)
def test_renders_as_much_at_a_time_as_fits(make_inr, monkeypatch, fits, spare, calls):
    inr, grid, options = make_inr(3, 4), fi.Grid(8, 5), {"dtype": None, "backend": "reference"}
    module, pieces = importlib.import_module("fused_inr.render"), []  # fi.render is the function

    def recorded(part, rows, **options):
        pieces.append((part.times, part.batch, rows.height))
        return fi.render(part, rows, **options)

    monkeypatch.setattr(module, "render", recorded)
    part = inr.at_times(slice(0, fits[0])).at_clips(slice(0, fits[1]))
    memory = render_memory(part, grid.rows(0, fits[2]), **options) + spare
    assert len(list(fi.render_chunks(inr, grid, memory=memory, **options))) == 4
    assert pieces == calls


def test_too_little_memory_reports_the_minimum(make_inr):
    inr, grid = make_inr(3, 2), fi.Grid(4, 4)
    least = render_memory(inr.at_times(slice(0, 1)).at_clips(slice(0, 1)), grid.rows(0, 1))
    with pytest.raises(ValueError, match=f"a row of one clip in memory={least - 1} bytes; .* memory={least}"):
        fi.render_chunks(inr, grid, memory=least - 1)
    with pytest.raises(ValueError, match=f"a row of one clip in memory=0 bytes; .* memory={least}"):
        fi.render_chunks(inr, grid, memory=0)
    assert len(list(fi.render_chunks(inr, grid, memory=least))) == 2


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_transform_of_chunks_is_refused(make_inr, tensors_of, with_tensors, backend):
    inr = make_inr(2, 2, dtype=torch.float32)
    tensors = tensors_of(inr)

    def first(*tensors):
        return next(fi.render_chunks(with_tensors(inr, tensors), fi.Grid(4, 4), backend=backend)).sum()

    tangents = tuple(map(torch.ones_like, tensors))
    for transformed in (
        lambda: torch.func.grad(first)(*tensors),
        lambda: torch.func.jvp(first, tuple(tensors), tangents),
        lambda: torch.vmap(first)(*(torch.stack([tensor, tensor]) for tensor in tensors)),
    ):
        with pytest.raises(
            RuntimeError, match=r"^render_chunks takes part in no function transform, .*: use render\.$"
        ):
            transformed()


@pytest.mark.parametrize(("n", "t"), [(0, 2), (2, 0)], ids=["B0-T2", "B2-T0"])
def test_nothing_to_render(make_inr, n, t):
    frames = list(fi.render_chunks(make_inr(n, t), fi.Grid(3, 2), memory=1))
    assert [frame.shape for frame in frames] == [(n, 3, 6, 4)] * t


def test_frames_carry_no_graph_and_leave_gradients_on(make_inr, tensors_of):
    inr = make_inr()
    for tensor in tensors_of(inr):
        tensor.requires_grad_()
    for frame in fi.render_chunks(inr, fi.Grid(3, 2)):
        assert not frame.requires_grad
        assert torch.is_grad_enabled()


def test_unavailable_backend_is_refused_at_the_call(make_inr):
    with pytest.raises(RuntimeError, match="Backend 'triton' was requested but cannot run"):
        fi.render_chunks(make_inr(), fi.Grid(2, 2), backend="triton")
