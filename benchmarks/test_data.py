"""Pairs per second that two workers deliver at 128x128 from 256x256 videos, compressed as on the web.

The loop takes batches and drops them. All ways of reading run in turn, each with its own workers, so that noise on the
machine affects all of them alike. Whole epochs are timed, from the first read of the first video, without the start of
the workers. The limit is what the same processors would deliver if they did nothing else.
"""

from __future__ import annotations

import itertools
import os
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

from benchmarks import sizes
from benchmarks.harness import SLOW, Case, Measured, Report
from digan.data import ClipWindows, FramePairs, FrameStore, Video, VideoIndex, load_index, pair_loader
from digan.data.decode import FrameReader
from digan.data.image import to_square
from digan.sharding import BatchSharding

SIDE, RESOLUTION, FRAMES = 256, 128, 16
BATCH, WORKERS = 16, 2
START_TIMEOUT = 120  # seconds
ROUNDS = sizes.scaled(tiny=1, default=2, full=3)
EPOCHS = sizes.scaled(tiny=1, default=10, full=30)  # for the fastest way, since one epoch is too short to time


@dataclass(frozen=True)
class Videos:
    """A set of videos; `gop` is the distance between keyframes."""

    gop: int
    count: int
    frames: int


SETS = sizes.scaled(
    tiny=[Videos(12, 16, 32)],
    default=[Videos(gop=12, count=16, frames=48), Videos(gop=250, count=3, frames=256)],
    full=[Videos(gop=12, count=80, frames=64), Videos(gop=250, count=10, frames=256)],
)


def texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Return noise with the spectrum of natural images: float32 [side, side, 3], mean 0, standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) + 1 / side  # [side, side/2+1]
    spectrum = np.fft.rfft2(rng.standard_normal((3, side, side))) / frequency**1.2
    field = np.fft.irfft2(spectrum, s=(side, side)).transpose(1, 2, 0)
    return ((field - field.mean()) / field.std()).astype(np.float32)


def write_videos(folder: Path, videos: Videos) -> Path:
    """Write videos of two textures in different motion, so that the codec has vectors and residuals to code."""
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
    """The naive reader: open, seek, decode, convert, close."""

    def __init__(self, index: VideoIndex) -> None:
        self.index = index

    def read(self, video: Video, indices: Sequence[int], *_: object, **__: object) -> np.ndarray:
        labels = video.timing.labels
        pictures: dict[int, np.ndarray] = {}
        with av.open(str(self.index.source.path / video.name)) as container:
            stream = container.streams.video[0]
            container.seek(int(labels[min(indices)]), stream=stream)
            for frame in container.decode(stream):
                i = int(np.searchsorted(labels, frame.pts))
                if i in indices:
                    pictures[i] = to_square(frame.to_ndarray(format="rgb24"), RESOLUTION)
                if i >= max(indices):
                    break
        return np.stack([pictures[i] for i in indices]).transpose(0, 3, 1, 2)  # [n, 3, R, R]


class Rate(NamedTuple):
    """The speed of a way of reading."""

    pairs: float  # per second
    processor: float  # seconds of processor time per pair, over all processes


class Gated(Dataset):
    """The first `limit` pairs, withheld until the gate is open; beyond them, repeats of the last batch.

    The gate is made of files, because workers share nothing else.
    """

    def __init__(self, pairs: FramePairs, folder: Path, limit: int) -> None:
        self.pairs, self.folder, self.limit = pairs, folder, limit
        self.reader = pairs.reader
        self.last: list[dict] = []

    def __getitems__(self, ks: list[int]) -> list[dict]:
        (self.folder / f"ready-{get_worker_info().id}").touch()
        while not (self.folder / "open").exists():
            time.sleep(0.001)
        if ks[-1] < self.limit or not self.last:
            self.last = self.pairs.__getitems__(ks)
        return self.last

    def open(self) -> None:
        """Open the gate once all workers are ready.

        Raises:
            TimeoutError: they do not start.
        """
        end = time.monotonic() + START_TIMEOUT
        while len(list(self.folder.glob("ready-*"))) < WORKERS:
            if time.monotonic() > end:
                raise TimeoutError(f"the workers of the data loader have not started within {START_TIMEOUT} s")
            time.sleep(0.001)
        (self.folder / "open").touch()


@dataclass
class Way:
    """A way of reading; with `fresh`, every run starts with an empty store."""

    pairs: FramePairs
    folder: Path | None = None
    fresh: bool = False
    starts: int = 0

    def take(self, epochs: int, gate: Path) -> tuple[torch.Tensor, Rate]:
        """Return the frames of the first batch, and the rate over the batches that fit into whole epochs."""
        if self.folder is not None:
            folder = self.folder / str(self.starts) if self.fresh else self.folder
            self.pairs.reader.store = FrameStore(self.pairs.windows.index, RESOLUTION, folder)
        self.starts += 1
        gate.mkdir()
        batches = epochs * len(self.pairs.windows) // BATCH
        gated = Gated(self.pairs, gate, batches * BATCH)
        loader = pair_loader(gated, BatchSharding(BATCH), workers=WORKERS)
        gated.open()
        used, started = processor_seconds(), time.perf_counter()
        first = next(loader)["frames"]
        for _ in range(batches - 1):
            next(loader)
        pairs = batches * BATCH
        rate = Rate(pairs / (time.perf_counter() - started), (processor_seconds() - used) / pairs)
        del loader  # stops its workers
        return first, rate


def processor_seconds() -> float:
    """Return the processor time of this process and its workers; time that other processes take does not count."""
    process = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (process, *process.children(recursive=True)))


@pytest.mark.parametrize("videos", SETS, ids=lambda v: f"gop{v.gop}")
def test_data(publish, tmp_path, videos):
    index = load_index(write_videos(tmp_path / "videos", videos), None)
    windows = ClipWindows(index, FRAMES)
    naive, unkept, ours, kept = (FramePairs(windows, RESOLUTION, seed=0) for _ in range(4))
    naive.reader, unkept.reader = OpenedEachTime(index), FrameReader(index, RESOLUTION)
    ways = {
        "naive": Way(naive),
        "ours, no cache": Way(unkept),
        "ours, first epoch": Way(ours, tmp_path / "fresh", fresh=True),
        "ours": Way(kept, tmp_path / "kept"),
    }
    fill(FramePairs(windows, RESOLUTION, seed=0, store=FrameStore(index, RESOLUTION, tmp_path / "kept")))
    rows = {name: Measured(name, error=0.0) for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        expected = None
        for name, way in ways.items():
            if number and name == "naive" and rows[name].times[0] * len(windows) > SLOW:
                continue
            epochs = EPOCHS if name == "ours" else 1
            first, rate = way.take(epochs, tmp_path / f"gate-{name}-{number}")
            expected = first if expected is None else expected
            assert torch.equal(first, expected), f"{name}: wrong frames"
            rows[name].times.append(1 / rate.pairs)
            processor[name].append(rate.processor)
    for name, row in rows.items():
        row.shares = {"cores": statistics.median(processor[name]) / os.cpu_count() / row.seconds}
    case = Case(
        name=f"data, {videos.count} videos, gop {videos.gop}",
        dtype=None,
        paths=dict.fromkeys(ways),
        flops=0,
        truth=None,
        tolerance=0,
        amount=(1, "pairs"),
    )
    gates = (tmp_path / f"gate-{number}" for number in itertools.count())
    publish([Report(case, list(rows.values()))], lambda: ways["ours"].take(1, next(gates)))


def fill(pairs: FramePairs) -> None:
    """Read every frame once."""
    for video in pairs.windows.index.videos:
        pairs.reader.read(video, range(video.num_frames))
