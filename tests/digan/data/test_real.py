"""Real videos beside the checkout, cut into the windows of their presets."""

from __future__ import annotations

import av
import numpy as np
import pytest

from digan.data import ClipWindows, FramePairs, load_index
from digan.data.decode import FrameReader
from digan.data.image import to_square
from digan.errors import DataError

SETS = {  # windows, options of the index, videos, clips
    "sky": ({}, {}, 40, 80),
    "taichi": ({"stride": 4}, {}, 1, 28),
    "ucf101": ({"overlap": 15}, {"labels": True}, 1, 149),
    "kinetics-food": ({}, {}, 1, 19),
}


@pytest.mark.parametrize("name", SETS)
def test_real_videos_give_pairs(real_data, tmp_path, name):
    window, options, videos, clips = SETS[name]
    index = load_index(real_data / name, tmp_path / "cache", **options)
    assert not index.problems
    assert len(index.videos) == videos
    windows = ClipWindows(index, 16, **window)
    assert len(windows) == clips
    pairs = FramePairs(windows, 64, seed=0)
    for k in range(6):
        frames = pairs[k]["frames"].numpy().astype(float)
        assert frames.std() > 10
        # Two frames of one clip are far more alike than a frame and its mean.
        assert abs(frames[0] - frames[1]).mean() < 0.8 * abs(frames[0] - frames[0].mean()).mean()


@pytest.mark.parametrize(
    "name", ["case1.mp4", "case2.mp4", "case3.mp4", "case4.avi", "case5.avi", "case6.mov"]
)  # damaged at random until their frames depended on what was read before
def test_frames_of_damaged_videos_do_not_depend_on_the_order_of_reads(real_data, name):
    index = load_index(real_data.with_name("cases") / "order-dependent" / name, None)
    (video,) = index.videos
    orders = [list(range(video.num_frames)), list(reversed(range(video.num_frames)))]
    orders += [np.random.default_rng(seed).permutation(video.num_frames).tolist() for seed in range(3)]
    results = []
    for order in orders:
        reader = FrameReader(index, 32)
        reader.report = lambda line: None
        frames = {i: reader.read(video, [i])[0] for i in order}
        results.append(np.stack([frames[i] for i in range(video.num_frames)]))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_a_truncated_video_is_named(real_data):
    with pytest.raises(DataError, match=r"truncated\.mp4 cannot be read: .*cannot be opened"):
        load_index(real_data.with_name("cases") / "damaged" / "truncated.mp4", None)


@pytest.mark.parametrize("name", SETS)
def test_real_frames_are_exact(real_data, name):
    index = load_index(real_data / name, None)
    entry = index.videos[0]
    with av.open(index.source.open(entry.name)) as container:
        expected = [
            to_square(f.to_ndarray(format="rgb24"), 32, entry.rotation, entry.pixel_aspect)
            for f in container.decode(video=0)
        ]
    assert len(expected) == entry.num_frames
    reader = FrameReader(index, 32)
    for i in np.random.default_rng(0).integers(0, len(expected), 12).tolist():
        np.testing.assert_array_equal(reader.read(entry, [i])[0], expected[i].transpose(2, 0, 1))
