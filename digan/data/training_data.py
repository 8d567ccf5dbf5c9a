"""The data of one training run: its index, its windows, and the stream of real pairs that each process gets."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator

from digan.config import TrainConfig
from digan.data import (
    Clips,
    ClipWindows,
    FramePairs,
    FrameStore,
    VideoIndex,
    load_index,
    make_demo_videos,
    on_device,
    pair_loader,
)

DEMO_FOLDER = "demo-videos"  # under --outdir, like the index: nothing is written into the user's data
CACHE_FOLDER = ".index"


def cut_clips(index: VideoIndex, frames: int, stride: int, overlap: int, resolution: int) -> Clips:
    """Clips of any length; windows too short for `overlap` share as much as they can."""
    windows = ClipWindows(index, frames=frames, stride=stride, overlap=min(overlap, frames * stride - 1))
    return Clips(windows, resolution)


def content_key(clips: Clips) -> str:
    """A name for the content of clips, under which their features may be kept.

    It changes with the choice of windows, the resolution, and whatever of a video's file shows that its content may
    have changed: its size and time, or its checksum in a zip.
    """
    windows = clips.windows
    files = [(v.name, v.signature) for v in windows.index.videos]
    facts = (windows.index.fingerprint, files, windows.frames, windows.stride, windows.overlap, clips.resolution)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class TrainingData:
    """Opens the data that a configuration names, making the demonstration's videos first where none was named.

    Attributes:
        num_classes: 0 unless the run is conditional.
        clips: the real clips, for pictures and metrics.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        outdir = Path(config.outdir)
        self.cache = outdir / CACHE_FOLDER
        # The main process makes and indexes; the others then find it done.
        with accelerator.main_process_first():
            path = Path(config.data) if config.data else make_demo_videos(outdir / DEMO_FOLDER)
            self.index = load_index(
                path, self.cache, split=config.split, labels=config.cond, split_list=config.split_list
            )
        self.num_classes = len(self.index.class_names) if config.cond else 0
        self.clips = self.clips_of(config.frames)
        self.store = FrameStore(self.index, config.resolution, self.cache)

    def clips_of(self, frames: int) -> Clips:
        """Real clips of another length than the training clips', for the metrics that need it."""
        c = self.config
        return cut_clips(self.index, frames, c.stride, c.overlap, c.resolution)

    def summary(self) -> list[str]:
        """Lines that describe the data."""
        return [*self.index.summary().splitlines(), self.clips.windows.summary(), self.store.summary(self.index)]

    def batches(self, micro_batches: int, start: int) -> Iterator[dict[str, torch.Tensor]]:
        """Micro-batches of this process from iteration `start` on, without end: see `Trainer` for who gets what.

        On a GPU they are there already, each copied while the one before is in use.
        """
        c = self.config
        pairs = FramePairs(self.clips.windows, c.resolution, c.seed, mirror=c.mirror, store=self.store)
        device = self.accelerator.device
        batches = pair_loader(
            pairs,
            batch=c.batch,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            micro_batches=micro_batches,
            start=start,
            workers=min(c.workers, os.cpu_count() or 1),  # the stream does not depend on their number
            pin_memory=device.type == "cuda",
        )
        return on_device(batches, device)
