"""Pairs per second that two workers deliver at 128x128 from videos of 256x256, as they are compressed for the web.

Nothing else is in the way: the loop takes batches and drops them. All ways of reading take turns, each with workers of
its own, so that a noisy machine is noisy for all of them. Counted are whole epochs, from the first read of the first
video on; the start of the workers is not. The processor time of a pair tells what the same processors would deliver if
nothing else ran on them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import Dataset, get_worker_info

from benchmarks.harness import format_table
from digan.data import ClipWindows, FramePairs, FrameStore, Video, VideoIndex, load_index, pair_loader
from digan.data.decode import FrameReader
from digan.data.image import to_square

SIDE, RESOLUTION, FRAMES = 256, 128, 16
BATCH, WORKERS, ROUNDS = 16, 2, 3
EPOCHS = 30  # of the fastest way, which would end before it could be timed
BYTES = 2 * 3 * RESOLUTION**2  # of a pair


@dataclass(frozen=True)
class Videos:
    """What is compressed: `gop` is the distance of keyframes."""

    gop: int
    count: int
    frames: int


SETS = [Videos(gop=12, count=80, frames=64), Videos(gop=250, count=10, frames=256)]
QUICK = {12: Videos(12, 16, 48), 250: Videos(250, 3, 256)}


def texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Noise with the spectrum of natural pictures, float32 [side,side,3], mean 0, deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) + 1 / side  # [side,side/2+1]
    spectrum = np.fft.rfft2(rng.standard_normal((3, side, side))) / frequency**1.2
    field = np.fft.irfft2(spectrum, s=(side, side)).transpose(1, 2, 0)
    return ((field - field.mean()) / field.std()).astype(np.float32)


def write_videos(folder: Path, videos: Videos) -> Path:
    """Two layers of texture in different motion, so that the codec has vectors and residuals to code."""
    rng = np.random.default_rng(0)
    ground, figure = texture(rng, 1024), texture(rng, 1024)
    y, x = np.mgrid[:SIDE, :SIDE]
    folder.mkdir()
    for number in range(videos.count):
        start, speed = rng.uniform(0, 1024, (2, 2)), rng.uniform(-1.5, 1.5, (2, 2))
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "23"})
            stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
            stream.codec_context.gop_size, stream.codec_context.thread_count = videos.gop, 1
            for t in range(videos.frames):
                corners = (start + speed * t).astype(int)
                # The textures are periodic.
                layers = [
                    f[(i + y) % 1024, (j + x) % 1024] for f, (i, j) in zip((ground, figure), corners, strict=True)
                ]
                inside = np.hypot(y - 128 - 60 * np.sin(t / 9), x - 128 - 60 * np.cos(t / 13)) < 56
                picture = np.where(inside[..., None], layers[1], layers[0]) * 48 + 128
                frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return folder


class OpenedEachTime:
    """What a data set class does that was written in an afternoon: open, seek, decode, convert, close."""

    def __init__(self, index: VideoIndex) -> None:
        self.index = index

    def read(self, video: Video, indices: Sequence[int], *_: object, **__: object) -> np.ndarray:
        labels = video.timing.labels
        found: dict[int, np.ndarray] = {}
        with av.open(str(self.index.source.path / video.name)) as container:
            stream = container.streams.video[0]
            container.seek(int(labels[min(indices)]), stream=stream)
            for frame in container.decode(stream):
                i = int(np.searchsorted(labels, frame.pts))
                if i in indices:
                    found[i] = to_square(frame.to_ndarray(format="rgb24"), RESOLUTION)
                if i >= max(indices):
                    break
        return np.stack([found[i] for i in indices]).transpose(0, 3, 1, 2)  # [n,3,R,R]


class Rate(NamedTuple):
    """How fast pairs came."""

    pairs: float  # a second
    processor: float  # seconds of processor time for a pair, over all processes


class Gated(Dataset):
    """Pairs that workers give only once the gate is open, and only the first `limit`; of others, copies of old ones.

    Files are the gate, as workers share nothing else.
    """

    def __init__(self, pairs: FramePairs, folder: Path, limit: int) -> None:
        self.pairs, self.folder, self.limit = pairs, folder, limit
        self.last: list[dict] = []

    def __getitems__(self, ks: list[int]) -> list[dict]:
        (self.folder / f"ready-{get_worker_info().id}").touch()
        while not (self.folder / "open").exists():
            time.sleep(0.001)
        if ks[-1] < self.limit or not self.last:
            self.last = self.pairs.__getitems__(ks)
        return self.last

    def open(self) -> None:
        """Lets workers begin, once all are there."""
        while len(list(self.folder.glob("ready-*"))) < WORKERS:
            time.sleep(0.001)
        (self.folder / "open").touch()


@dataclass
class Way:
    """A way of reading. `fresh` begins with an empty store every time."""

    pairs: FramePairs
    folder: Path | None = None
    fresh: bool = False
    starts: int = 0

    def take(self, epochs: int, gate: Path) -> tuple[torch.Tensor, Rate]:
        """The first batch's frames, and the rate over whole epochs (the batches that fit)."""
        if self.folder is not None:
            folder = self.folder / str(self.starts) if self.fresh else self.folder
            self.pairs.reader.store = FrameStore(self.pairs.windows.index, RESOLUTION, folder)
        self.starts += 1
        gate.mkdir()
        batches = epochs * len(self.pairs.windows) // BATCH
        gated = Gated(self.pairs, gate, batches * BATCH)
        loader = pair_loader(gated, BATCH, workers=WORKERS)
        gated.open()
        used, started = processor_seconds(), time.perf_counter()
        first = next(loader)["frames"]
        for _ in range(batches - 1):
            next(loader)
        pairs = batches * BATCH
        rate = Rate(pairs / (time.perf_counter() - started), (processor_seconds() - used) / pairs)
        del loader  # ends its workers
        return first, rate


def processor_seconds() -> float:
    """Time that this process and its workers have had on a processor: it does not count what others take of it."""
    me = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (me, *me.children(recursive=True)))


@pytest.mark.parametrize("videos", SETS, ids=lambda v: f"gop{v.gop}")
def test_data(benchmark, quick, capsys, tmp_path, videos):
    videos = QUICK[videos.gop] if quick else videos
    index = load_index(write_videos(tmp_path / "videos", videos), None)
    windows = ClipWindows(index, FRAMES)
    naive, unkept, ours, kept = (FramePairs(windows, RESOLUTION, seed=0) for _ in range(4))
    naive.reader, unkept.reader = OpenedEachTime(index), FrameReader(index, RESOLUTION)
    ways = {
        "naive": Way(naive),
        "ours, nothing kept": Way(unkept),
        "ours, first epoch": Way(ours, tmp_path / "fresh", fresh=True),
        "ours": Way(kept, tmp_path / "kept"),
    }
    fill(FramePairs(windows, RESOLUTION, seed=0, store=FrameStore(index, RESOLUTION, tmp_path / "kept")))
    rates: dict[str, list[Rate]] = {name: [] for name in ways}
    for _ in range(1 if quick else ROUNDS):
        expected = None
        for name, way in ways.items():
            epochs = 1 if quick or name != "ours" else EPOCHS
            first, rate = way.take(epochs, tmp_path / f"gate-{name}-{len(rates[name])}")
            expected = first if expected is None else expected
            assert torch.equal(first, expected), f"{name}: wrong frames"
            rates[name].append(rate)
    medians = {name: Rate(*map(statistics.median, zip(*r, strict=True))) for name, r in rates.items()}
    benchmark.extra_info.update({name: rate.pairs for name, rate in medians.items()})
    benchmark.pedantic(lambda: ways["ours"].take(1, tmp_path / "gate"), rounds=1)
    size = sum(f.stat().st_size for f in (tmp_path / "videos").iterdir()) / (videos.count * videos.frames)
    title = f"{videos.count} videos of {videos.frames} frames, keyframe every {videos.gop}, {size:,.0f} bytes a frame"
    lines = [
        {
            "case": f"data gop{videos.gop}",
            "path": name,
            "pairs/s": f"{rate.pairs:,.0f}",
            "MB/s": f"{rate.pairs * BYTES / 1e6:.1f}",
            "speed-up": f"{rate.pairs / medians['naive'].pairs:.2f}x",
            "processor time": f"{rate.processor * 1e3:.2f} ms/pair",
            "less by": f"{medians['naive'].processor / rate.processor:.2f}x",
        }
        for name, rate in medians.items()
    ]
    with capsys.disabled():
        print(f"\n\n{title}; {WORKERS} workers\n{format_table(lines)}")


def fill(pairs: FramePairs) -> None:
    """Reads every frame once."""
    for video in pairs.windows.index.videos:
        pairs.reader.read(video, range(video.num_frames))
