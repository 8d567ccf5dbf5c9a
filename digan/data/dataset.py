"""Clips of videos, and the infinite stream of training pairs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from digan.data.decode import FrameReader
from digan.data.index import Video, VideoIndex
from digan.data.store import FrameStore
from digan.data.timing import UnreadableVideo
from digan.errors import DataError

_TRIES = 8  # other clips tried for one pair before damaged videos stop the run


class ClipWindows(Sequence[tuple[int, np.ndarray]]):
    """The clips of an index, by number, without a list of them.

    A window is frames*stride consecutive frames of a video; neighbouring windows share `overlap` frames. It is taken
    apart into `stride` clips of `frames` frames: clip p takes frames p, p + stride, p + 2 stride, ... (DIGAN, ICLR
    2022: TaiChi has frames 16, stride 4; UCF-101 takes every window, overlap = frames*stride - 1; Sky windows are
    consecutive).

    `windows[i]` is (number of the video in `index.videos`, int64 [frames] frame indices).
    """

    def __init__(self, index: VideoIndex, frames: int = 16, stride: int = 1, overlap: int = 0) -> None:
        if frames < 1 or stride < 1:
            raise DataError(f"--frames {frames} and --stride {stride} must be at least 1.")
        span = frames * stride
        if not 0 <= overlap < span:
            raise DataError(f"overlap {overlap} must be at least 0 and below --frames x --stride = {span}.")
        self.index = index
        self.frames, self.stride, self.overlap = frames, stride, overlap
        self._step = span - overlap
        lengths = np.array([v.num_frames for v in index.videos], np.int64)
        counts = np.where(lengths >= span, (lengths - span) // self._step + 1, 0) * stride
        self._ends = counts.cumsum()  # [videos]: clips up to and including each video
        self.too_short = int((counts == 0).sum())
        if not len(self):
            raise DataError(
                f"no clip of --frames {frames} at --stride {stride} fits: it takes {span} frames, and the longest of "
                f"the {len(lengths)} videos of --data {index.source.path} has {lengths.max()}: lower --frames or "
                "--stride."
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, clip: int) -> tuple[int, np.ndarray]:
        if not -len(self) <= clip < len(self):
            raise IndexError(f"clip {clip} of {len(self)}")
        clip %= len(self)
        video = int(np.searchsorted(self._ends, clip, side="right"))
        window, phase = divmod(clip - self.clips_of(video).start, self.stride)
        return video, window * self._step + phase + self.stride * np.arange(self.frames)

    def clips_of(self, video: int) -> range:
        """The numbers of the clips of a video."""
        return range(int(self._ends[video - 1]) if video else 0, int(self._ends[video]))

    def summary(self) -> str:
        """One line for the start of a log."""
        text = f"{len(self):,} clips of {self.frames} frames"
        text += f", stride {self.stride}" if self.stride > 1 else ""
        text += f", windows overlap by {self.overlap}" if self.overlap else ""
        return text + (f"; {self.too_short} videos are too short" if self.too_short else "")


class FramePairs(Dataset):
    """The infinite stream of training examples: two frames of a clip and the time between them.

    Item k is a function of (seed, k) alone, whatever was read before and in whichever process. Every len(windows) items
    go through all clips once, in a new order. Frame indices are int(F Beta(2,1)) and int(F Beta(1,2)), sorted, as
    published (DIGAN, ICLR 2022); both are the same frame in 4 % of draws at F = 16, which is part of the model.
    Frames are decoded once and kept in `store`; by default in one of this process.

    Item: `frames` uint8 [2,3,R,R] RGB, earlier frame first; `delta_t` float32, difference of the indices over F-1, in
    [0, 1] (0 if F is 1); `label` int64.
    """

    def __init__(
        self, windows: ClipWindows, resolution: int, seed: int, mirror: bool = True, store: FrameStore | None = None
    ) -> None:
        if seed < 0:
            raise DataError(f"--seed {seed} must not be negative.")
        self.windows, self.resolution, self.seed, self.mirror = windows, resolution, seed, mirror
        self.reader = FrameReader(windows.index, resolution, store=store or FrameStore(windows.index, resolution))
        self._orders: dict[int, np.ndarray] = {}  # epoch -> order of the clips

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_orders": {}}  # cheaper to draw again than to send to a worker

    def clip(self, k: int) -> int:
        """The clip that item k is of."""
        epoch, place = divmod(k, len(self.windows))
        if epoch not in self._orders:
            # Batches taken in turns by workers touch at most two epochs at a time.
            while len(self._orders) > 1:
                del self._orders[min(self._orders)]
            self._orders[epoch] = np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.windows))
        return int(self._orders[epoch][place])

    def __getitem__(self, k: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, 1, k))
        count = self.windows.frames
        pair = np.sort([int(count * rng.beta(2, 1)), int(count * rng.beta(1, 2))]).clip(0, count - 1)
        flip = rng.random() < 0.5
        video, frames = self._read(self.clip(k), pair, rng)
        if flip and self.mirror:
            frames = frames[..., ::-1]
        delta_t = (pair[1] - pair[0]) / (count - 1) if count > 1 else 0.0
        return {
            "frames": torch.from_numpy(np.ascontiguousarray(frames)),
            "delta_t": torch.tensor(delta_t, dtype=torch.float32),
            "label": torch.tensor(video.label, dtype=torch.int64),
        }

    def _read(self, clip: int, pair: np.ndarray, rng: np.random.Generator) -> tuple[Video, np.ndarray]:
        """Frames of the clip; of another one, drawn by the item's own generator, where the video turns out damaged."""
        for attempt in range(_TRIES):
            number, frames = self.windows[clip]
            video = self.windows.index.videos[number]
            try:
                return video, self.reader.read(video, frames[pair].tolist())
            except UnreadableVideo as error:
                if attempt == _TRIES - 1:
                    raise
                warnings.warn(f"another clip is used in place of {error}", stacklevel=2)
                clip = int(rng.integers(len(self.windows)))
        raise AssertionError("unreachable")


class Clips(Dataset):
    """Whole clips: `clips[i]` is (uint8 [F,3,R,R] RGB, label), for evaluation and for pictures of the reals."""

    def __init__(self, windows: ClipWindows, resolution: int) -> None:
        self.windows, self.resolution = windows, resolution
        store = FrameStore(windows.index, resolution)
        self.reader = FrameReader(windows.index, resolution, onward=True, store=store)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, clip: int) -> tuple[torch.Tensor, int]:
        number, frames = self.windows[clip]
        video = self.windows.index.videos[number]
        pictures = self.reader.read(video, frames.tolist())
        return torch.from_numpy(np.ascontiguousarray(pictures)), video.label

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Clips as uint8 [n,F,3,R,R]."""
        return torch.stack([self[i][0] for i in indices])

    def labels(self) -> torch.Tensor:
        """The labels of all clips, int64 [len]."""
        videos = self.windows.index.videos
        counts = torch.tensor([len(self.windows.clips_of(v)) for v in range(len(videos))])
        return torch.repeat_interleave(torch.tensor([v.label for v in videos]), counts)


def choose(clips: Clips, n: int, seed: int) -> list[int]:
    """`n` different clips, fixed by the seed (all clips, if there are fewer), from as many videos as possible.

    Every video gives one clip, drawn from its clips, before any gives a second one.
    """
    rng = np.random.default_rng((seed, 2))
    windows = clips.windows
    videos = [v for v in range(len(windows.index.videos)) if windows.clips_of(v)]
    videos = [videos[i] for i in rng.permutation(len(videos))][:n]
    orders = {v: iter(rng.permutation(windows.clips_of(v)).tolist()) for v in videos}
    chosen: list[int] = []
    while len(chosen) < n and orders:
        for video in list(orders):
            clip = next(orders[video], None)
            if clip is None:
                del orders[video]
            elif len(chosen) < n:
                chosen.append(clip)
    return chosen
