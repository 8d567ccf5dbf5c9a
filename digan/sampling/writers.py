"""Writing rendered clips to files: one clip alone, or several as a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from digan.sampling.grids import SEPARATOR, Clip, VideoGrid, sheet, tile, time_slice
from digan.sampling.media import write_gif, write_png, write_video

FORMATS = {
    "mp4": "video (H.264)",
    "gif": "repeating video of 256 colours",
    "png": "sheet of frames, a row per clip; of single frames, the frames themselves",
    "slice": "x-t slice: a row of pixels over time, the first frame's at the top (png)",
}


@dataclass(frozen=True)
class Outputs:
    """Where and in which formats clips are written.

    Args:
        folder: folder of the files.
        formats: keys of `FORMATS`.
        fps: frames per second of mp4 and gif.
        slice_row: the row of pixels that an x-t slice shows: 0 is the top, 1 the bottom.
    """

    folder: Path
    formats: Sequence[str]
    fps: float = 8
    slice_row: float = 0.5

    def write(self, name: str, clips: Sequence[Clip], columns: int = 1) -> list[Path]:
        """Write clips of one shape in all formats, side by side in `columns` columns, and return the files."""
        moving = clips[0] if len(clips) == 1 else VideoGrid(clips, columns)
        files = []
        for kind in self.formats:
            file = self.folder / (f"{name}-slice.png" if kind == "slice" else f"{name}.{kind}")
            if kind == "mp4":
                write_video(file, moving, self.fps)
            elif kind == "gif":
                write_gif(file, moving, self.fps)
            elif kind == "slice":
                row = min(int(self.slice_row * clips[0][0].shape[0]), clips[0][0].shape[0] - 1)
                write_png(file, tile([time_slice(clip, row) for clip in clips], columns, SEPARATOR))
            elif len(clips[0]) == 1:
                write_png(file, tile([clip[0] for clip in clips], columns, SEPARATOR))
            else:
                write_png(file, sheet(clips))
            files.append(file)
        return files
