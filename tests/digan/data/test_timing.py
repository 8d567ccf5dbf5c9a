"""The frame table: what a file announces and holds, and where decoding can start."""

from __future__ import annotations

import numpy as np
import pytest

from digan.data.timing import NO_TIME, Timing, UnreadableVideo, probe

CODECS = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4", "mov": "libx264"}


def probed(path):
    return probe(lambda: str(path))


@pytest.mark.parametrize("suffix", CODECS)
def test_a_sound_file_misses_nothing(tmp_path, video, suffix):
    result = probed(video(tmp_path / f"a.{suffix}", count=30, codec=CODECS[suffix]))
    assert len(result.timing.labels) == 30
    assert (result.missing, result.damaged) == (0, 0)


@pytest.mark.parametrize("durations", [[10, 40, 95, 33], [400, 40]], ids=["varied", "slow-and-fast"])
def test_a_variable_frame_rate_is_no_damage(tmp_path, video, durations):
    assert probed(video(tmp_path / "a.mkv", count=30, durations=durations)).missing == 0


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi"])
def test_a_truncated_file_tells_how_many_frames_are_missing(tmp_path, video, suffix):
    # An mp4 that can be played while it downloads has its table of frames at the start.
    path = video(tmp_path / f"a.{suffix}", count=100, codec=CODECS[suffix], container={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    result = probed(path)
    present = len(result.timing.labels)
    assert 20 < present < 90
    assert present + result.missing == pytest.approx(100, abs=1 if suffix in ("mkv", "webm") else 0)


def test_a_file_without_its_table_of_frames_is_unreadable(tmp_path, video):
    path = video(tmp_path / "a.mp4", count=30)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UnreadableVideo, match="cannot be opened"):
        probed(path)


def test_frames_are_reached_from_the_seek_point_before_them():
    timing = Timing("pts", np.arange(30) * 10, np.array([0, 12, 20]), np.full((3, 2), NO_TIME))
    assert [timing.seek_point(i) for i in (0, 11, 12, 19, 20, 29)] == [0, 0, 1, 1, 2, 2]
    assert [timing.reached_from(point) for point in range(3)] == [range(12), range(12, 20), range(20, 30)]
    assert timing.reached_with(15) == range(12, 20)
