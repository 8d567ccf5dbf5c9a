"""INRs evaluated on grids: a whole batch at once, or frame by frame within a memory limit."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fused_inr.inr import INR, Grid
from fused_inr.ops.render import render, render_memory

__all__ = ["render", "render_chunks"]


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number in 0..limit that fits, by bisection."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _even_cuts(total: int, most: int) -> list[slice]:
    """Cut 0..total into the fewest slices of at most `most`, their sizes as equal as possible."""
    pieces = -(-total // most)
    edges = [total * piece // pieces for piece in range(pieces + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _plan(inr: INR, grid: Grid, memory: int, **options) -> tuple[list[slice], list[slice], list[slice]]:
    """Cut times, clips and rows of the base grid so that rendering one piece takes at most `memory` bytes.

    Whole frames of all clips are rendered several at a time where they fit, because a call has work that all its frames
    share; otherwise one frame at a time, in bands.
    """

    def needed(frames: int, clips: int, rows: int) -> int:
        part = inr.at_times(slice(0, frames)).at_clips(slice(0, clips))
        return render_memory(part, grid.rows(0, rows), **options)

    clips = _most(inr.batch, lambda count: needed(1, count, 1) <= memory)
    if clips == 0:
        raise ValueError(
            f"render_chunks cannot render a row of one clip in memory={memory} bytes; it takes at least "
            f"memory={needed(1, 1, 1)}."
        )
    rows = _most(grid.height, lambda count: needed(1, clips, count) <= memory)
    frames = 1
    if (clips, rows) == (inr.batch, grid.height):
        frames = _most(inr.times, lambda count: needed(count, clips, rows) <= memory)
    return _even_cuts(inr.times, frames), _even_cuts(inr.batch, clips), _even_cuts(grid.height, rows)


@torch.no_grad()
def _frames(inr: INR, grid: Grid, clips: list[slice], rows: list[slice], **options) -> list[Tensor]:
    """Render the frames [N, C, H, W] of a few times and assemble them from their pieces."""
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
    """Yield the frames of all groups, and keep none of them alive while the next group is rendered."""
    for frames in groups:
        while frames:
            yield frames.pop(0)


def render_chunks(
    inr: INR, grid: Grid, *, memory: int = 256 << 20, dtype: torch.dtype | None = None, backend: str | None = None
) -> Iterator[Tensor]:
    """Evaluate an INR as `render` does, frame by frame and without gradients, in a bounded amount of memory.

    Several frames are rendered at a time where `memory` holds them; otherwise one, in bands of rows of the base grid.
    The backend that renders a piece says how much memory it takes; for the reference this is an exact count of its
    tensors. Beyond `memory` there are the INR itself, the frame being put together, and the frames the caller keeps.

    Args:
        inr, grid, dtype, backend: as of `render`.
        memory: bytes that one piece of work may take.

    Yields:
        [N, C, H, W] for t = 0 ... T-1: `render(inr, grid)[:, t]`, up to rounding of the rows' coordinates.

    Raises:
        ValueError: not even a row of one clip fits into `memory`; the message says how much it takes. Raised, like the
            errors of `render`, by the call and not at the first frame.
    """
    options = {"dtype": dtype, "backend": backend}
    if not (inr.batch and inr.times):
        return iter(_frames(inr, grid, [slice(0, inr.batch)], [slice(0, grid.height)], **options))
    times, clips, rows = _plan(inr, grid, memory, **options)
    return _one_by_one(_frames(inr.at_times(time_range), grid, clips, rows, **options) for time_range in times)
