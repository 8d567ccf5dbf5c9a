"""Evaluation of INRs on grids: a whole batch at once, or frame by frame within a memory limit."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fused_inr import checks
from fused_inr.inr import INR, Grid
from fused_inr.ops.dispatch import chosen
from fused_inr.ops.render import check_arguments, render, render_memory
from fused_inr.primitives.transforms import transforming

__all__ = ["render", "render_chunks"]


def _largest_fitting(limit: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number in 0..limit that fits: most often the limit, or else by bisection."""
    if fits(limit):
        return limit
    low, high = 0, limit - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _even_slices(total: int, max_length: int) -> list[slice]:
    """Split 0..total into the fewest slices of at most `max_length`, with lengths as equal as possible."""
    pieces = -(-total // max_length)
    edges = [total * piece // pieces for piece in range(pieces + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _plan(inr: INR, grid: Grid, memory: int, **options) -> tuple[list[slice], list[slice], list[slice]]:
    """Split times, clips and rows of the base grid so that rendering one piece takes at most `memory` bytes.

    If whole frames of all clips fit, several frames are rendered per call, because the frames of a call share some of
    its work. Otherwise one frame is rendered at a time, in bands of rows.
    """

    def required_bytes(frames: int, clips: int, rows: int) -> int:
        part = inr.at_times(slice(0, frames)).at_clips(slice(0, clips))
        return render_memory(part, grid.rows(0, rows), **options)

    clips = _largest_fitting(inr.batch, lambda count: required_bytes(1, count, 1) <= memory)
    if clips == 0:
        raise ValueError(
            f"render_chunks cannot render a row of one clip in memory={memory} bytes; it takes at least "
            f"memory={required_bytes(1, 1, 1)}."
        )
    rows = _largest_fitting(grid.height, lambda count: required_bytes(1, clips, count) <= memory)
    frames = 1
    if (clips, rows) == (inr.batch, grid.height):
        frames = _largest_fitting(inr.times, lambda count: required_bytes(count, clips, rows) <= memory)
    return _even_slices(inr.times, frames), _even_slices(inr.batch, clips), _even_slices(grid.height, rows)


@torch.no_grad()
def _frames(inr: INR, grid: Grid, clips: list[slice], rows: list[slice], **options) -> list[Tensor]:
    """Render the frames `[N, C, H, W]` of a few times and assemble them from their pieces."""
    if len(clips) == len(rows) == 1:
        return list(render(inr, grid, **options).unbind(1))
    scale = inr.stages[-1].scale
    size = (inr.batch, inr.channels, grid.height * scale, grid.width * scale)
    frame = torch.empty(size, dtype=inr.dtype, device=inr.device)
    for clip_range in clips:
        part = inr.at_clips(clip_range)
        for band in rows:
            pixels = slice(band.start * scale, band.stop * scale)
            frame[clip_range, :, pixels] = render(part, grid.rows(band.start, band.stop), **options)[:, 0]
    return [frame]


def _one_by_one(groups: Iterator[list[Tensor]]) -> Iterator[Tensor]:
    """Yield the frames of all groups, without keeping any of them alive while the next group is rendered."""
    for frames in groups:
        while frames:
            yield frames.pop(0)


def render_chunks(
    inr: INR, grid: Grid, *, memory: int = 256 << 20, dtype: torch.dtype | None = None, backend: str | None = None
) -> Iterator[Tensor]:
    """Evaluate an INR like `render`, but frame by frame, without gradients and in a bounded amount of memory.

    Several frames are rendered at a time if they fit into `memory`; otherwise one frame, in bands of rows of the base
    grid. The memory of a piece is the count of the backend that renders it; for the reference this is an exact count of
    its tensors. `memory` does not include the INR itself, the frame being assembled, or the frames the caller keeps.

    Args:
        inr, grid, dtype, backend: as for `render`.
        memory: maximum bytes for rendering one piece; the default is 256 MiB.

    Returns:
        Iterator over the frames `[N, C, H, W]` for t = 0 ... T-1, float32 (float64 for float64 tensors): each is
        `render(inr, grid)[:, t]`, up to rounding of the rows' coordinates.

    Raises:
        ValueError: not even one row of one clip fits into `memory`; the message says how much is needed. Like the
            errors of `render`, it is raised by the call, not at the first frame.
        RuntimeError: a transform of `torch.func` is active.
    """
    memory = checks.integer("render_chunks", "memory", memory, 0, 2**63 - 1)
    if transforming():
        raise RuntimeError("render_chunks takes part in no function transform, and has no gradients: use render.")
    # Frames are rendered later, perhaps outside of the blocks of autocast and `fi.backend` around this call.
    _, _, dtype = check_arguments("render_chunks", inr, grid, dtype)
    options = {"dtype": dtype, "backend": chosen() if backend is None else backend}
    if not (inr.batch and inr.times):
        return iter(_frames(inr, grid, [slice(0, inr.batch)], [slice(0, grid.height)], **options))
    times, clips, rows = _plan(inr, grid, memory, **options)
    return _one_by_one(_frames(inr.at_times(time_range), grid, clips, rows, **options) for time_range in times)
