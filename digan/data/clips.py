"""Cut videos into clips and stream pairs of their frames for training."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from digan.data.decode import FrameReader
from digan.data.image import DEFAULT_RESIZE
from digan.data.store import FramesClaimed, FrameStore
from digan.data.timing import UnreadableVideo
from digan.data.video import Video, VideoIndex
from digan.errors import DataError
from digan.wording import counted

_TRIES = 8  # clips tried for one pair before damaged videos stop the run


class ClipWindows:
    """The clips of an index as a sequence that is computed, not stored.

    A window is `frames * stride` consecutive frames of a video; neighbouring windows share `overlap` frames. A window
    is divided into `stride` clips of `frames` frames: clip p has frames p, p + stride, p + 2 stride, ... (DIGAN, ICLR
    2022: TaiChi uses 16 frames at stride 4; UCF-101 uses every window, overlap = frames * stride - 1; windows of Sky
    are consecutive).

    `windows[i]` is the number of a video in `index.videos` and the clip's frame indices, int64 `[frames]`.

    Attributes:
        too_short: the number of videos too short for a window.
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
        self._ends = counts.cumsum()  # [videos]: number of clips up to and including each video
        self.too_short = int((counts == 0).sum())
        if not len(self):
            raise DataError(
                f"no clip of --frames {frames} at --stride {stride} fits: it takes {counted(span, 'frame')}, and the "
                f"longest of the {counted(len(lengths), 'video')} of --data {index.source.path} has {lengths.max():,}: "
                "lower --frames or --stride."
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
        """Return the numbers of the clips of a video."""
        return range(int(self._ends[video - 1]) if video else 0, int(self._ends[video]))

    def clips_within(self, video: int, frames: range) -> np.ndarray:
        """Return the numbers of the clips of a video whose windows contain any of `frames`, int64, ascending."""
        clips, span = self.clips_of(video), self.frames * self.stride
        first = max(0, -((span - 1 - frames.start) // self._step))  # the first window that does not end before `frames`
        last = (frames.stop - 1) // self._step
        return np.arange(clips.start + first * self.stride, min(clips.stop, clips.start + (last + 1) * self.stride))

    def summary(self) -> str:
        """Return a line that describes the clips, for the start of a log."""
        text = f"{counted(len(self), 'clip')} of {counted(self.frames, 'frame')}"
        text += f", stride {self.stride}" if self.stride > 1 else ""
        text += f", windows overlap by {self.overlap}" if self.overlap else ""
        return text + (f"; {counted(self.too_short, 'video is', 'videos are')} too short" if self.too_short else "")


class FramePairs(Dataset):
    """The infinite stream of training samples: two frames of a clip and the time between them.

    Item k is a function of (seed, k) alone, independent of earlier reads and of the process. An epoch of `len(windows)`
    items visits every clip once, in a new order. Frame indices are int(F Beta(2,1)) and int(F Beta(1,2)), sorted, as
    published (DIGAN, ICLR 2022); at F = 16 both are the same frame in 4 % of draws, which is part of the model.

    Decoded frames are kept in the store. The stream determines which frames of a video the rest of the epoch needs:
    a process that decodes a stretch of the video from a keyframe stores those too, and no other process decodes the
    same stretch meanwhile.

    An item holds `frames`, uint8 RGB `[2, 3, R, R]`, the earlier frame first; `delta_t`, float32, the difference of the
    indices divided by F-1, in [0, 1] (0 if F is 1); and `label`, int64.

    Args:
        windows: the clips, of F frames each.
        resolution: the side R of a frame.
        seed: the seed of the stream, not negative.
        mirror: flip half of the pairs horizontally.
        store: keeps decoded frames; by default a store of this process alone.
        resize: how frames are resized, a value of `digan.config.RESIZES`.
    """

    def __init__(
        self,
        windows: ClipWindows,
        resolution: int,
        seed: int,
        mirror: bool = True,
        store: FrameStore | None = None,
        resize: str = DEFAULT_RESIZE,
    ) -> None:
        if seed < 0:
            raise DataError(f"--seed {seed} must not be negative.")
        self.windows, self.resolution, self.seed, self.mirror = windows, resolution, seed, mirror
        store = store or FrameStore(windows.index, resolution, resize=resize)
        self.reader = FrameReader(windows.index, resolution, store=store, resize=resize)
        self._orders: dict[int, np.ndarray] = {}  # epoch -> order of the clips
        self._places: dict[int, np.ndarray] = {}  # epoch -> place of each clip in that order

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_orders": {}, "_places": {}}  # cheaper to draw again than to send to a worker

    def clip(self, k: int) -> int:
        """Return the number of the clip that item k comes from, unless its video is damaged."""
        epoch, place = divmod(k, len(self.windows))
        return int(self._order(epoch)[place])

    def __getitem__(self, k: int) -> dict[str, Any]:
        return self._item(k, wait=True)

    def __getitems__(self, ks: Sequence[int]) -> list[dict[str, Any]]:
        """Return several items; those that another process is decoding are read last, so that no process waits long."""
        items: dict[int, dict[str, Any]] = {}
        for wait in (False, True):
            for k in ks:
                if k not in items:
                    with contextlib.suppress(FramesClaimed):
                        items[k] = self._item(k, wait)
        return [items[k] for k in ks]

    def _item(self, k: int, wait: bool) -> dict[str, Any]:
        count = self.windows.frames
        pair, rng = self._pair(k)
        flip = rng.random() < 0.5
        video, frames = self._read(k, pair, rng, wait)
        if flip and self.mirror:
            frames = frames[..., ::-1]
        delta_t = (pair[1] - pair[0]) / (count - 1) if count > 1 else 0.0
        return {
            "frames": torch.from_numpy(np.ascontiguousarray(frames)),
            "delta_t": torch.tensor(delta_t, dtype=torch.float32),
            "label": torch.tensor(video.label, dtype=torch.int64),
        }

    def _pair(self, k: int) -> tuple[list[int], np.random.Generator]:
        """Return the two frames of its clip that item k uses, and the generator for its further draws."""
        rng, count = np.random.default_rng((self.seed, 1, k)), self.windows.frames
        drawn = int(count * rng.beta(2, 1)), int(count * rng.beta(1, 2))
        return sorted(min(i, count - 1) for i in drawn), rng

    def _read(self, k: int, pair: list[int], rng: np.random.Generator, wait: bool) -> tuple[Video, np.ndarray]:
        """Read frames of item k's clip; if its video is damaged, of a clip drawn with the item's own generator."""
        clip = self.clip(k)
        for attempt in range(_TRIES):
            number, frames = self.windows[clip]
            video = self.windows.index.videos[number]
            try:
                return video, self.reader.read(video, frames[pair].tolist(), partial(self._soon, k, number), wait=wait)
            except UnreadableVideo as error:
                if attempt == _TRIES - 1:
                    raise
                warnings.warn(f"another clip is used in place of {error}", stacklevel=2)
                clip = int(rng.integers(len(self.windows)))
        raise AssertionError("unreachable")

    def _soon(self, k: int, video: int, frames: range) -> np.ndarray:
        """Return the frames of a video that items after k use in the same epoch: all those in `frames`, and others."""
        epoch, place = divmod(k, len(self.windows))
        clips = self.windows.clips_within(video, frames)
        places = self._clip_places(epoch)[clips]
        start = epoch * len(self.windows)
        pairs = [
            self.windows[clip][1][self._pair(start + later)[0]]
            for clip, later in zip(clips.tolist(), places.tolist(), strict=True)
            if later > place
        ]
        return np.concatenate(pairs) if pairs else np.zeros(0, np.int64)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            _make_room(self._orders)
            self._orders[epoch] = np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.windows))
        return self._orders[epoch]

    def _clip_places(self, epoch: int) -> np.ndarray:
        if epoch not in self._places:
            _make_room(self._places)
            self._places[epoch] = np.argsort(self._order(epoch))
        return self._places[epoch]


def _make_room(epochs: dict[int, np.ndarray]) -> None:
    """Remove all epochs but the latest: batches that workers take in turn touch at most two epochs at a time."""
    while len(epochs) > 1:
        del epochs[min(epochs)]


class Clips(Dataset):
    """Whole clips for metrics and sample grids: `clips[i]` is (uint8 RGB `[F, 3, R, R]`, label)."""

    def __init__(self, windows: ClipWindows, resolution: int, resize: str = DEFAULT_RESIZE) -> None:
        self.windows, self.resolution, self.resize = windows, resolution, resize
        store = FrameStore(windows.index, resolution, resize=resize)
        self.reader = FrameReader(windows.index, resolution, onward=True, store=store, resize=resize)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, clip: int) -> tuple[torch.Tensor, int]:
        number, frames = self.windows[clip]
        video = self.windows.index.videos[number]
        pictures = self.reader.read(video, frames.tolist())
        return torch.from_numpy(np.ascontiguousarray(pictures)), video.label

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return clips as uint8 RGB `[n, F, 3, R, R]`."""
        return torch.stack([self[i][0] for i in indices])

    def labels(self) -> torch.Tensor:
        """Return the labels of all clips, int64 `[len(self)]`."""
        videos = self.windows.index.videos
        counts = torch.tensor([len(self.windows.clips_of(v)) for v in range(len(videos))])
        return torch.repeat_interleave(torch.tensor([v.label for v in videos]), counts)


def choose(clips: Clips, n: int, seed: int) -> list[int]:
    """Choose `n` different clips by seed (all, if there are fewer) from as many videos as possible.

    Every video contributes one randomly drawn clip before any contributes a second one.
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


def cut_clips(
    index: VideoIndex, frames: int, stride: int, overlap: int, resolution: int, resize: str = DEFAULT_RESIZE
) -> Clips:
    """Cut videos into clips; an `overlap` too large for the windows is reduced to all but one of their frames."""
    windows = ClipWindows(index, frames=frames, stride=stride, overlap=min(overlap, frames * stride - 1))
    return Clips(windows, resolution, resize)


def content_key(clips: Clips) -> str:
    """Return a digest of the content of clips, under which their features may be cached.

    It changes with the windows, the resolution, the way of resizing, and any sign that a video file has changed: its
    size and modification time, or its checksum in a zip.
    """
    windows = clips.windows
    files = [(v.name, v.signature) for v in windows.index.videos]
    facts = (
        windows.index.fingerprint,
        files,
        windows.frames,
        windows.stride,
        windows.overlap,
        clips.resolution,
        clips.resize,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()
