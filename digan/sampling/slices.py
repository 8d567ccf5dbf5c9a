"""x-t slices along any line: the video on a line of its plane, over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

import fused_inr as fi
from digan.sampling.media import to_uint8

Line = tuple[float, float, float, float]  # x0, y0, x1, y1
_PIXELS = 128 * 128  # pixels rendered in one call


def along(inr: fi.INR, line: Line) -> fi.INR:
    """Return the INR in coordinates of a line: X runs along it from 0 at its start to 1 at its end, Y across it.

    frequency . (P + X d + Y n) + phase is again a Fourier feature, now of (X, Y), so the slice is rendered from the
    function itself, not from pixels.
    """
    x0, y0, x1, y1 = line
    tensor = inr.stages[0].fourier.frequency
    axes = torch.tensor([[x1 - x0, y0 - y1], [y1 - y0, x1 - x0]], dtype=torch.float64)  # columns d and n
    start = torch.tensor([x0, y0], dtype=torch.float64)

    def turned(fourier: fi.Fourier) -> fi.Fourier:
        frequency = fourier.frequency.cpu().double()  # [N, D, 2]; not every device has float64
        phase = fourier.phase.cpu() + (frequency @ start).unsqueeze(1)  # [N, T, D]
        return replace(fourier, frequency=(frequency @ axes).to(tensor), phase=phase.to(tensor))

    stages = inr.stages
    return fi.INR([s if s.fourier is None else replace(s, fourier=turned(s.fourier)) for s in stages])


@torch.no_grad()
def line_slice(inr: fi.INR, line: Line, width: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Render the pixels of a line over time.

    Args:
        inr: one clip (N = 1) at T times.
        line: its start and its end; pixel j is at start + (end - start) * j / width.
        width: pixels along the line, a multiple of the scale of the INR's last stage.
        dtype: compute type of the matrix products; None for float32.

    Returns:
        Frames [T, 3, W] in about [-1, 1], of which row t is the line at time t. A horizontal line gives the row of the
        frames whose window it crosses, for the rows that are the lowest of their pixel of the base grid.

    Raises:
        ValueError: the width is not such a multiple.
    """
    scale = inr.stages[-1].scale
    if width < scale or width % scale:
        raise ValueError(f"a slice must have a multiple of {scale} pixels, not {width}.")
    # One row of the base grid: the lowest of its `scale` rows lies on the line.
    grid = fi.Grid(1, width // scale, x=(0.0, 1.0), y=(0.0, scale / width))
    return fi.render(along(inr, line), grid, dtype=dtype)[0, :, :, -1]  # [T, 3, W]


def slice_rows(inr: fi.INR, line: Line, width: int, *, dtype: torch.dtype | None = None) -> Iterator[torch.Tensor]:
    """Yield a line at each time, as a frame of one row: uint8 [1, W, 3] on the CPU. See `line_slice`."""
    at_once = max(1, _PIXELS // (width * inr.stages[-1].scale))
    for start in range(0, inr.times, at_once):
        rows = line_slice(inr.at_times(slice(start, start + at_once)), line, width, dtype=dtype)  # [T, 3, W]
        yield from to_uint8(rows).transpose(1, 2).unsqueeze(1).contiguous().cpu()
