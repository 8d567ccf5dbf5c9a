"""Clips on disk are read back unchanged, and no file is left behind."""

import os

import numpy as np
import pytest
import torch

from digan.sampling.frame_spill import FrameSpill


def random_clip(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, 4, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_clips_are_read_back_unchanged(tmp_path):
    with FrameSpill(tmp_path, frames=3, height=4, width=5) as spill:
        second = spill.write(1, random_clip(1))
        first = spill.write(0, iter(random_clip(0)))
        assert len(first) == 3
        assert np.array_equal(np.stack(list(first)), random_clip(0).numpy())
        assert np.array_equal(second[2], random_clip(1)[2].numpy())
        spill.write(1, random_clip(2))
        assert np.array_equal(np.stack(list(second)), random_clip(2).numpy())
        assert np.array_equal(first[1], random_clip(0)[1].numpy())
        with pytest.raises(IndexError):
            first[3]


def test_no_file_is_left(tmp_path):
    def interrupted():
        yield from random_clip(0)[:2]
        raise KeyboardInterrupt

    with FrameSpill(tmp_path, frames=3, height=4, width=5) as spill, pytest.raises(KeyboardInterrupt):
        spill.write(0, interrupted())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (random_clip(0)[:2], "must have 3 frames, not 2"),
        (random_clip(0)[:, :3], r"\[4,5,3\], not \[3, 5, 3\]"),
        (random_clip(0).float(), "uint8"),
    ],
    ids=["short", "size", "float"],
)
def test_other_clips_are_refused(tmp_path, clip, message):
    with FrameSpill(tmp_path, frames=3, height=4, width=5) as spill, pytest.raises(ValueError, match=message):
        spill.write(0, clip)
