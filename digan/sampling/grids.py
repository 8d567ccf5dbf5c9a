"""Images and videos composed of clips: grids, contact sheets and x-t slices.

A clip is anything with a length whose `clip[t]` is a uint8 frame [H, W, 3] in host memory: an array [T, H, W, 3], or
frames on disk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from digan.sampling.media import to_uint8

Clip = Sequence[np.ndarray] | np.ndarray
SEPARATOR = 2  # pixels between the cells of a still image
SHEET_COLUMNS = 8


def tile(images: Sequence[np.ndarray], columns: int, separator: int = 0) -> np.ndarray:
    """Return one image that shows images of one size, uint8 [H, W, 3], row by row; image i is in row i // columns.

    Cells after the last image are black; `separator` is the width in pixels of the white lines between cells.
    """
    height, width = images[0].shape[:2]
    rows = math.ceil(len(images) / columns)
    canvas = np.full((rows, height + separator, columns, width + separator, 3), 255, dtype=np.uint8)
    for cell in range(rows * columns):
        row, column = divmod(cell, columns)
        canvas[row, :height, column, :width] = images[cell] if cell < len(images) else 0
    picture = canvas.reshape(rows * (height + separator), columns * (width + separator), 3)
    return picture[: picture.shape[0] - separator, : picture.shape[1] - separator]


def full_grid(count: int, widest: int | None = None) -> tuple[int, int]:
    """Return a grid without empty cells for at most `count` clips: the number of clips and of columns.

    It is about square, or less than twice as wide, with at most `widest` columns. A few counts have no such grid, such
    as 13: the result is then that of the next lower count.
    """
    widest = widest or count
    for clips in range(count, 1, -1):
        side = math.ceil(math.sqrt(clips))
        for columns in range(min(side, widest), min(2 * side - 1, widest) + 1):
            if clips % columns == 0:
                return clips, columns
    return count, 1


class VideoGrid(Sequence[np.ndarray]):
    """Clips side by side as one clip, whose frames are composed on access.

    Args:
        clips: clips of equal length and frame size.
        columns: clips per row; clip i is in row i // columns. Cells after the last clip are black.
    """

    def __init__(self, clips: Sequence[Clip], columns: int) -> None:
        if columns < 1:
            raise ValueError(f"a grid needs at least one column, not columns={columns}")
        self.clips, self.columns = clips, columns

    def __len__(self) -> int:
        return len(self.clips[0])

    def __getitem__(self, t: int) -> np.ndarray:  # type: ignore[override] # slices are not supported
        """Return frame t, uint8 [rows*H, columns*W, 3]."""
        return tile([clip[t] for clip in self.clips], self.columns)


def sheet(clips: Sequence[Clip], columns: int = SHEET_COLUMNS, separator: int = SEPARATOR) -> np.ndarray:
    """Return a still image with one row per clip: evenly spaced frames from its first to its last.

    Args:
        clips: clips of equal length and frame size.
        columns: frames per clip; all frames if a clip has fewer.
        separator: width in pixels of the white lines between cells.

    Returns:
        uint8 [H', W', 3].

    Raises:
        ValueError: `columns` is less than 1, or `separator` is negative.
    """
    if columns < 1 or separator < 0:
        raise ValueError(f"a sheet needs columns >= 1 and separator >= 0, not {columns} and {separator}")
    times = len(clips[0])
    columns = min(columns, times)
    chosen = np.linspace(0, times - 1, columns).round().astype(int).tolist()
    return tile([clip[t] for clip in clips for t in chosen], columns, separator)


def time_slice(clip: Clip, row: int) -> np.ndarray:
    """Return the x-t slice of a clip, uint8 [T, W, 3]: one row of pixels over time, with the first frame on top."""
    return np.stack([clip[t][row] for t in range(len(clip))])


def video_grid(frames: torch.Tensor, columns: int | None = None) -> VideoGrid:
    """Return clips [N, T, 3, H, W], uint8 or float in [-1, 1], side by side; a `full_grid` unless `columns` is set."""
    clips = _clips(frames)
    shown, columns = full_grid(len(clips)) if columns is None else (len(clips), columns)
    return VideoGrid(clips[:shown], columns)


def contact_sheet(frames: torch.Tensor, columns: int = SHEET_COLUMNS, separator: int = SEPARATOR) -> np.ndarray:
    """Return the `sheet` of clips [N, T, 3, H, W], uint8 or float in [-1, 1]."""
    return sheet(_clips(frames), columns, separator)


def _clips(frames: torch.Tensor) -> list[np.ndarray]:
    """Return [N, T, 3, H, W], uint8 or float, as N arrays uint8 [T, H, W, 3] in host memory."""
    clips = torch.as_tensor(frames).detach()
    if clips.ndim != 5 or clips.shape[2] != 3 or 0 in clips.shape:
        raise ValueError(f"clips must be [N,T,3,H,W] with at least one frame, not {list(clips.shape)}")
    return list((clips if clips.dtype == torch.uint8 else to_uint8(clips)).permute(0, 1, 3, 4, 2).cpu().numpy())
