"""The ways to evaluate: a whole batch of INRs, a batch of SIRENs, and frame by frame within a memory bound."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fused_inr.inr import INR, Grid
from fused_inr.ops.render import render, render_memory, siren

__all__ = ["render", "render_chunks", "siren"]


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number in 0..limit that fits, given that all smaller ones fit too."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _even_cuts(total: int, most: int) -> list[slice]:
    """Cuts 0..total into the fewest slices of at most `most`, their sizes as equal as possible."""
    pieces = -(-total // most)
    edges = [total * piece // pieces for piece in range(pieces + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _plan(inr: INR, grid: Grid, memory: int, **options) -> tuple[list[slice], list[slice]]:
    """Cuts of the clips and of the base grid's rows such that rendering one piece stays within `memory` bytes."""

    def needed(clips: int, rows: int) -> int:
        return render_memory(inr.at_clips(slice(0, clips)), grid.rows(0, rows), **options)

    clips = _most(inr.batch, lambda count: needed(count, 1) <= memory)
    if clips == 0:
        raise ValueError(
            f"render_chunks cannot render a row of one clip in memory={memory} bytes; it takes at least "
            f"memory={needed(1, 1)}."
        )
    rows = _most(grid.height, lambda count: needed(clips, count) <= memory)
    return _even_cuts(inr.batch, clips), _even_cuts(grid.height, rows)


@torch.no_grad()
def _frame(inr: INR, grid: Grid, cuts: tuple[list[slice], list[slice]], **options) -> Tensor:
    """The one frame [N, C, H, W] of an INR with T = 1, piece by piece."""
    scale = inr.stages[-1].scale
    size = (inr.batch, inr.channels, grid.height * scale, grid.width * scale)
    frame = torch.empty(size, dtype=inr.dtype, device=inr.device)
    for clips in cuts[0]:
        part = inr.at_clips(clips)
        for rows in cuts[1]:
            pixels = slice(rows.start * scale, rows.stop * scale)
            frame[clips, :, pixels] = render(part, grid.rows(rows.start, rows.stop), **options)[:, 0]
    return frame


def render_chunks(
    inr: INR, grid: Grid, *, memory: int = 256 << 20, dtype: torch.dtype | None = None, backend: str | None = None
) -> Iterator[Tensor]:
    """Evaluates an INR as `render` does, frame by frame and without gradients, in a bounded amount of memory.

    Frame t is rendered in bands of rows of the base grid, all clips at once where `memory` allows it. How much a band
    takes is the answer of the backend that renders it; the naive path's is an exact count of its tensors. Beyond
    `memory` there are the INR itself, the frame being put together, and the frames the caller keeps.

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
    if inr.batch and inr.times:
        cuts = _plan(inr.at_times(slice(0, 1)), grid, memory, **options)
    else:
        cuts = [slice(0, inr.batch)], [slice(0, grid.height)]  # nothing to render takes nothing
    # A generator expression, so that no variable of ours keeps a frame alive while the next one is rendered.
    return (_frame(inr.at_times(slice(t, t + 1)), grid, cuts, **options) for t in range(inr.times))
