"""The frame store: a read returns the stored frame or nothing, and places and files stay within their budgets."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from digan.data import VideoIndex
from digan.data import store as frame_store
from digan.data.index import Video
from digan.data.sources import FolderSource
from digan.data.store import FramesClaimed, FrameStore
from digan.data.timing import Timing

SIDE = 8
RECORD = 3 * SIDE**2 + 4  # bytes per frame


def video(name, frames, gop=None, side=16):
    """A video of an index with a keyframe every `gop` frames; without `gop`, a frame folder."""
    if gop is None:
        return Video(name, "frames", "s", frames, side, side)
    points = np.arange(0, frames, gop)
    timing = Timing("pts", np.arange(frames), points, np.stack([points, points], 1))
    return Video(name, "video", "s", frames, side, side, codec="h264", timing=timing)


def index_of(*videos):
    return VideoIndex(FolderSource("data"), "train", list(videos), [], [], [])


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize("shared", [False, True], ids=["private", "shared"])
def test_stored_frames_are_returned(tmp_path, shared):
    one, other = video("a", 5), video("b", 7)
    store = FrameStore(index_of(one, other), SIDE, tmp_path / "cache" if shared else None)
    assert not store.get(one, range(5))
    assert store.absent(one).tolist() == [0, 1, 2, 3, 4]
    expected = {}
    for i, (entry, frame) in enumerate([(other, 6), (one, 0), (one, 4), (other, 0)]):
        store.put(entry, frame, picture(i))
        expected[entry.name, frame] = picture(i)
    for entry in (one, other):
        stored = store.get(entry, [*range(entry.num_frames), 0])
        assert {(entry.name, i) for i in stored} == {k for k in expected if k[0] == entry.name}
        assert all(np.array_equal(stored[i], expected[entry.name, i]) for i in stored)
        assert store.absent(entry).tolist() == sorted(set(range(entry.num_frames)) - stored.keys())
    copy = pickle.loads(pickle.dumps(store))
    assert len(copy.get(one, range(5))) == (2 if shared else 0)  # a private store belongs to one process
    assert len(FrameStore(index_of(one, other), SIDE, store.path and store.path.parent).get(one, [4])) == int(shared)


def test_black_frames_are_stored_too(tmp_path):
    entry = video("a", 3)
    store = FrameStore(index_of(entry), SIDE)
    store.put(entry, 1, np.zeros((SIDE, SIDE, 3), np.uint8))
    assert list(store.get(entry, range(3))) == [1]


def test_half_written_frames_are_not_returned(tmp_path):
    entry = video("a", 4)
    store = FrameStore(index_of(entry), SIDE, tmp_path)
    for i in range(4):
        store.put(entry, i, picture(i))
    data = bytearray(store.path.read_bytes())
    assert len(data) == 4 * RECORD == store.bytes
    data[4 * 4 + 100] ^= 1  # a byte of frame 0
    data[1 * 4] ^= 1  # the checksum of frame 1
    store.path.write_bytes(data[:-1])  # frame 3 lacks its end
    stored = FrameStore(index_of(entry), SIDE, tmp_path).get(entry, range(4))
    assert list(stored) == [2]
    assert np.array_equal(stored[2], picture(2))


def test_damaged_frames_are_stored_again(tmp_path):
    entry = video("a", 4)
    store = FrameStore(index_of(entry), SIDE, tmp_path)
    store.path.write_bytes(b"\x55" * store.bytes)  # something else
    assert not store.get(entry, range(4))
    assert store.absent(entry).tolist() == [0, 1, 2, 3]
    store.put(entry, 2, picture(2))
    assert list(store.get(entry, range(4))) == [2]


def test_frames_of_another_store_are_not_returned(tmp_path):
    entry = video("a", 4)
    store, other = (FrameStore(index_of(replace(entry, signature=text)), SIDE, tmp_path) for text in "st")
    for frame in range(4):
        store.put(entry, frame, picture(frame))
    other.path.write_bytes(store.path.read_bytes())
    assert not other.get(entry, range(4))
    assert len(store.get(entry, range(4))) == 4


def test_the_cost_of_a_frame_is_the_mean_of_decoding_from_its_keyframe():
    pictures = Video("a", "frames", "s", 6, 4, 3)
    assert frame_store._cost(pictures) == 12
    timed = replace(pictures, timing=SimpleNamespace(seek_frames=np.array([0, 2, 5])))
    assert frame_store._cost(timed) == 12 * ((1 + 2) + (1 + 2 + 3) + 1) / 6


def test_the_costliest_videos_get_the_places():
    videos = [video("pictures", 10), video("short-gop", 10, 2), video("long-gop", 10, 10), video("large", 10, 2, 64)]
    store = FrameStore(index_of(*videos), SIDE, budget=25 * RECORD)
    assert store.bytes == 20 * RECORD
    for entry in videos:
        store.put(entry, 0, picture(0))
    assert [len(store.get(v, [0])) for v in videos] == [0, 0, 1, 1]
    assert [len(store.absent(v)) for v in videos] == [0, 0, 9, 9]
    assert (
        FrameStore(index_of(*videos), SIDE, "x", 25 * RECORD)
        .summary(index_of(*videos))
        .startswith("frames of 2 of 4 videos are decoded once and kept in x/frames-")
    )


def test_a_different_video_set_or_resolution_has_its_own_file(tmp_path):
    entry = video("a", 4)
    changed = replace(entry, signature="t")
    paths = {
        FrameStore(index_of(*videos), side, tmp_path).path
        for videos, side in [([entry], 8), ([changed], 8), ([entry], 16), ([entry, video("b", 4)], 8)]
    }
    assert len(paths) == 4
    assert FrameStore(index_of(entry), 8, tmp_path).path in paths


def test_files_of_a_folder_share_its_budget(tmp_path):
    budget = 64 * 1024
    entries = [video(name, 100) for name in "abc"]  # 20 kB each
    stores = [FrameStore(index_of(entry), SIDE, tmp_path, budget) for entry in entries]
    for age, (store, entry) in enumerate(zip(stores, entries, strict=True)):
        for i in range(100):
            store.put(entry, i, picture(i))
        os.utime(store.path, (age, age))
    (tmp_path / "index-0.npz").write_bytes(bytes(budget))  # not a store
    last = video("d", 100)
    late = FrameStore(index_of(last), SIDE, tmp_path, budget)
    late.put(last, 0, picture(0))
    # Removing a, the least recently opened, makes enough room for d's 20 kB.
    assert [s.path.exists() for s in [*stores, late]] == [False, True, True, True]
    assert (tmp_path / "index-0.npz").exists()
    assert len(stores[0].get(entries[0], range(100))) == 100  # a process that has it open continues to use it
    stores[0].put(entries[0], 0, picture(1))
    assert not FrameStore(index_of(entries[0]), SIDE, tmp_path, budget).get(entries[0], range(100))


def test_an_unwritable_folder_is_not_used(tmp_path):
    (tmp_path / "file").write_text("")
    entry = video("a", 3)
    store = FrameStore(index_of(entry), SIDE, tmp_path / "file")
    with pytest.warns(UserWarning, match=r"decoded frames are not kept in .*file.frames-"):
        store.put(entry, 0, picture(0))
    store.put(entry, 1, picture(0))  # warned once
    assert not store.get(entry, [0, 1])
    assert not len(store.absent(entry))  # no frame can be stored


def test_nothing_is_written_to_a_nearly_full_disk(tmp_path, monkeypatch):
    entry = video("a", 3)
    store = FrameStore(index_of(entry), SIDE, tmp_path)
    real = os.fstatvfs
    nearly_full = type("Disk", (), {"f_bavail": 1, "f_blocks": 100})
    monkeypatch.setattr(os, "fstatvfs", lambda file: nearly_full if real(file) else None)
    with pytest.warns(UserWarning, match="less than 5% of the disk is free"):
        store.put(entry, 0, picture(0))
    assert store.path.stat().st_size == 0


HOLDER = """
import pickle, sys
store, entry = pickle.load(sys.stdin.buffer)
with store.claimed(entry, range(4, 8), wait=True):
    print("claimed", flush=True)
    sys.stdin.buffer.read()
"""


@pytest.fixture
def claimed_elsewhere(tmp_path):
    """A store of a video of 12 frames, and another process that claims frames 4 to 7 until it is killed."""
    entry = video("a", 12, 4)
    store = FrameStore(index_of(entry), SIDE, tmp_path)
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(pickle.dumps((store, entry)))
    process.stdin.flush()
    assert process.stdout.readline() == b"claimed\n"
    yield store, entry, process
    process.kill()
    process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX record locks")
def test_a_claim_excludes_other_processes_and_ends_with_its_own(claimed_elsewhere):
    store, entry, process = claimed_elsewhere
    with pytest.raises(FramesClaimed), store.claimed(entry, range(4, 8), wait=False):
        pass
    for others in (range(4), range(8, 12)):
        with store.claimed(entry, others, wait=False):
            pass
    killing = threading.Event()
    timer = threading.Timer(0.2, lambda: (killing.set(), process.kill()))
    timer.start()
    with store.claimed(entry, range(4, 8), wait=True):
        assert killing.is_set()
    with store.claimed(entry, range(4, 8), wait=False):
        pass


def test_without_locks_nothing_is_claimed(tmp_path, monkeypatch):
    entry = video("a", 12, 4)
    store = FrameStore(index_of(entry), SIDE, tmp_path)
    monkeypatch.setattr("digan.data.store.fcntl", None)
    with store.claimed(entry, range(4), wait=False):
        store.put(entry, 0, picture(0))
    assert list(store.get(entry, range(12))) == [0]
