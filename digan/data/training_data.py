"""Open the data of a training run: its index, its clips, and the stream of real pairs of each process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator

from digan.config import TrainConfig
from digan.data.clips import Clips, FramePairs, cut_clips
from digan.data.decode import log_warning
from digan.data.demo import make_demo_videos
from digan.data.index import CACHE_FOLDER, load_index
from digan.data.loader import on_device, pair_loader
from digan.data.store import FrameStore
from digan.digests import tensor_digest
from digan.files import remove
from digan.sharding import BatchSharding

_COMPARED_PAIRS = 4  # pairs of frames whose pixels stand for those of all
DEMO_FOLDER = "demo-videos"  # under --outdir, like the index: nothing is written into the user's data folder


class TrainingData:
    """The data named by a configuration, or the demonstration videos, which are made if none is named.

    The main process should open it first: it makes and indexes the videos, and the others load the cached index.

    Attributes:
        num_classes: 0 unless the run is conditional.
        clips: the real clips, for pictures and metrics.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        outdir = Path(config.outdir)
        self.cache = outdir / CACHE_FOLDER
        if not self.cache.is_dir():
            remove(self.cache)  # whatever took the place of this project's own folder
        path = Path(config.data) if config.data else make_demo_videos(outdir / DEMO_FOLDER)
        self.index = load_index(path, self.cache, split=config.split, labels=config.cond, split_list=config.split_list)
        self.num_classes = len(self.index.class_names) if config.cond else 0
        self.clips = self.clips_of(config.frames)
        self.store = FrameStore(self.index, config.resolution, self.cache, resize=config.resize)

    def clips_of(self, frames: int) -> Clips:
        """Return the real clips cut to `frames` frames, for metrics whose clip length differs from that of training."""
        c = self.config
        return cut_clips(self.index, frames, c.stride, c.overlap, c.resolution, c.resize)

    def summary(self) -> list[str]:
        """Return lines that describe the data, for the start of a log."""
        return [*self.index.summary().splitlines(), self.clips.windows.summary(), self.store.summary(self.index)]

    def batches(
        self, sharding: BatchSharding, start: int, report: Callable[[str], None] = log_warning
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Return the endless micro-batches of this process on the training device, starting at iteration `start`.

        `report` receives a sentence about each damaged video that is met.
        """
        c = self.config
        device = self.accelerator.device
        batches = pair_loader(
            self._pairs(),
            sharding,
            start=start,
            workers=min(c.workers, os.cpu_count() or 1),  # the stream does not depend on their number
            pin_memory=device.type == "cuda",
            report=report,
        )
        return on_device(batches, device)

    @cached_property
    def identity(self) -> str:
        """A text that is the same for the same data, wherever it lies: the videos, their sizes, the first pairs."""
        pairs = self._pairs()
        first = [tensor for k in range(_COMPARED_PAIRS) for tensor in pairs[k].values()]
        return f"{self.index.contents}, first pairs {tensor_digest(first)}"

    def _pairs(self) -> FramePairs:
        c = self.config
        return FramePairs(self.clips.windows, c.resolution, c.seed, mirror=c.mirror, store=self.store, resize=c.resize)
