"""The frame table: what a file announces and holds, and where decoding can start."""

from __future__ import annotations

import numpy as np
import pytest

from digan.data import timing
from digan.data.prediction import Mpeg4
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
    table = Timing("pts", np.arange(30) * 10, np.array([0, 12, 20]), np.full((3, 2), NO_TIME))
    assert [table.seek_point(i) for i in (0, 11, 12, 19, 20, 29)] == [0, 0, 1, 1, 2, 2]
    assert [table.reached_from(point) for point in range(3)] == [range(12), range(12, 20), range(20, 30)]
    assert table.reached_with(15) == range(12, 20)


UNTIMED = {  # AVI files: arguments of the video fixture
    "intra": {"codec": "mpeg4", "gop": 1},
    "simple": {"codec": "mpeg4", "b_frames": 0},
    "one": {"codec": "mpeg4", "b_frames": 1},
    "two": {"codec": "mpeg4", "b_frames": 2},
    "packed-one": {"codec": "mpeg4", "b_frames": 1, "packed": True},
    "packed-two": {"codec": "mpeg4", "b_frames": 2, "packed": True},
    "packed-three": {"codec": "mpeg4", "b_frames": 3, "gop": 5, "packed": True},
    "mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "huffyuv": {"codec": "huffyuv", "pix_fmt": "yuv422p"},
    "rawvideo": {"codec": "rawvideo"},
}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 13, 40])
@pytest.mark.parametrize("name", UNTIMED)
def test_a_predicted_table_is_the_decoded_one(tmp_path, video, monkeypatch, name, count):
    path = str(video(tmp_path / "a.avi", count=count, **UNTIMED[name]))
    calls = []
    monkeypatch.setattr(timing, "decode", lambda packet, decode=timing.decode: calls.append(packet) or decode(packet))
    predicted = probe(lambda: path)
    assert len(calls) <= 6  # the first frames, and the end of a short file
    monkeypatch.setattr(timing, "prediction", lambda formats, context: None)
    assert_same(predicted, probe(lambda: path))
    assert len(calls) >= count


def assert_same(one, other):
    for name in ("labels", "seek_frames", "seek_times"):
        np.testing.assert_array_equal(getattr(one.timing, name), getattr(other.timing, name))
    assert (one.timing.clock, one.timing.reorder) == (other.timing.clock, other.timing.reorder)
    names = ("width", "height", "rotation", "pixel_aspect", "fps", "codec", "missing", "damaged")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]


@pytest.mark.parametrize("first", ["pts", "dts", "key"])
def test_a_prediction_that_the_first_frames_contradict_is_not_used(tmp_path, video, monkeypatch, first):
    path = str(video(tmp_path / "a.avi", codec="mpeg4", b_frames=2))
    expected = probe(lambda: path)

    class Wrong(Mpeg4):
        def frames(self, packets, delay):
            frames = super().frames(packets, delay)
            if first == "key":
                frames.keys.insert(1, 2)
            else:
                getattr(frames, first)[2] += 1000
            return frames

    monkeypatch.setattr(timing, "prediction", lambda formats, context: Wrong(context.extradata or b""))
    assert_same(probe(lambda: path), expected)


def test_a_file_without_a_first_keyframe_is_decoded(tmp_path, video, monkeypatch, packets_of):
    path = video(tmp_path / "a.avi", codec="mpeg4", b_frames=2)
    read, write = packets_of
    write(path, read(path)[1:])
    predicted = probed(path)
    monkeypatch.setattr(timing, "prediction", lambda formats, context: None)
    assert_same(predicted, probed(path))
