"""The features of clips that the metrics compare: rfvd's random network, which needs no download."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.device import device, pick
from benchmarks.harness import Case
from benchmarks.sizes import scaled
from digan.metrics.features import RandomFeatures
from digan.training.flops import count_macs

CLIPS, FRAMES, SIDE = scaled(tiny=(2, 4, 32), default=(pick(cpu=8, cuda=64), 16, 128), full=(64, 16, 128))


def test_features_of_clips(compare):
    """The naive path takes one clip at a time."""
    torch.manual_seed(0)
    clips = torch.randint(0, 256, (CLIPS, FRAMES, 3, SIDE, SIDE), dtype=torch.uint8)
    extractor = RandomFeatures(device())
    compiled = torch.compile(extractor)

    def one_by_one() -> Tensor:
        return torch.cat([extractor(clip) for clip in clips.split(1)])

    compare(
        Case(
            name=f"features of clips N{CLIPS}-T{FRAMES}-R{SIDE}",
            dtype=torch.float32,
            paths={
                "naive, one by one": one_by_one,
                "compiled": lambda: compiled(clips),
                "ours": lambda: extractor(clips),
            },
            flops=2 * count_macs(lambda: extractor(clips)),
            truth=None,
            tolerance=1e-4,
            amount=(CLIPS, "clips"),
        )
    )
