"""The summary and the fingerprint of an index."""

from __future__ import annotations

from dataclasses import replace

import pytest

from digan.data.sources import FolderSource
from digan.data.video import Video, VideoIndex, damage_line


def index_of(*videos, class_names=(), problems=(), notes=()):
    return VideoIndex(FolderSource("data"), "train", list(videos), list(class_names), list(problems), list(notes))


ONE = Video("a.mp4", "video", "s", 30, 64, 48, codec="h264")


def test_a_single_video_is_singular():
    assert index_of(ONE).summary().startswith("1 video of ")
    assert "30 frames, 30 each, 64x48 pixels, h264" in index_of(ONE).summary()
    assert index_of(ONE, ONE).summary().startswith("2 videos of ")


def test_the_smallest_and_the_largest_size_are_named():
    small, middle = replace(ONE, width=32), replace(ONE, width=50)
    assert "30 each, 32x48 to 50x48 (2 sizes) pixels" in index_of(middle, small).summary()
    assert "30 each, 32x48 to 64x48 (3 sizes) pixels" in index_of(middle, ONE, small).summary()


def test_pictures_are_shown_at_25_frames_per_second():
    assert Video("clip", "frames", "s", 30, 64, 48).fps == 25


def test_a_damaged_video_tells_how_many_frames_of_how_many_can_be_read():
    assert ONE.damage == ""
    cut, broken = replace(ONE, num_frames=60, missing=40), replace(ONE, name="b.avi", damaged=3)
    assert (cut.damage, broken.damage) == ("60 of 100 frames can be read", "at most 27 of 30 frames can be read")
    problems = ["0.mp4: has no frame that can be decoded", *map(damage_line, (cut, broken))]
    lines = index_of(cut, broken, problems=problems).summary().splitlines()
    assert lines[-2:] == [
        "skipped 1: 0.mp4: has no frame that can be decoded",
        "damaged 2: a.mp4: 60 of 100 frames can be read; b.avi: at most 27 of 30 frames can be read",
    ]


def test_long_lists_are_cut():
    names, problems = [f"c{i}" for i in range(20)], [f"{i}.mp4: broken" for i in range(9)]
    text = index_of(ONE, class_names=names, problems=problems).summary()
    assert "20 classes: c0, c1, c2, …, c19" in text
    assert "skipped 9: 0.mp4: broken; 1.mp4: broken; 2.mp4: broken; 3.mp4: broken; 4.mp4: broken; …" in text


@pytest.mark.parametrize("change", [{"name": "b.mp4"}, {"num_frames": 31}, {"width": 65}, {"label": 1}])
def test_the_fingerprint_changes_with_the_videos(change):
    assert index_of(ONE).fingerprint == index_of(replace(ONE, signature="other")).fingerprint
    assert index_of(ONE).fingerprint != index_of(replace(ONE, **change)).fingerprint
