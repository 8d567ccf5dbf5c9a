"""The index: splits, labels, problems, and a cache that stays correct after any change."""

from __future__ import annotations

import os

import numpy as np
import pytest

from digan.data import index as index_module
from digan.data import load_index
from digan.errors import DataError


@pytest.fixture
def data(tmp_path, video, frame_folder):
    root = tmp_path / "data"
    video(root / "train" / "x" / "a.mp4", count=20)
    video(root / "train" / "y" / "b.avi", count=12, codec="mpeg4", b_frames=2)
    frame_folder(root / "val" / "z" / "clip", count=5)
    return root


@pytest.fixture
def probed(monkeypatch):
    """Names of the videos that were opened rather than read from the cache."""
    names = []
    probe = index_module._probe
    monkeypatch.setattr(index_module, "_probe", lambda source, entry: names.append(entry.name) or probe(source, entry))
    return names


def same(one, other):
    assert [(v.name, v.num_frames, v.fps, v.label) for v in one] == [
        (v.name, v.num_frames, v.fps, v.label) for v in other
    ]
    for a, b in zip(one, other, strict=True):
        assert (a.timing is None) == (b.timing is None)
        if a.timing is not None:
            assert a.timing.clock == b.timing.clock
            for name in ("labels", "seek_frames", "seek_times"):
                np.testing.assert_array_equal(getattr(a.timing, name), getattr(b.timing, name))


def test_splits(data):
    assert [v.name for v in load_index(data, None).videos] == ["train/x/a.mp4", "train/y/b.avi"]
    assert [v.name for v in load_index(data, None, split="val").videos] == ["val/z/clip"]
    for split in ("train+val", None):
        assert len(load_index(data, None, split=split).videos) == 3
    with pytest.raises(DataError, match="has no test split: it has train, val"):
        load_index(data, None, split="test")
    with pytest.raises(DataError, match="split 'dev' is not one of train, val, test"):
        load_index(data, None, split="dev")


def test_without_split_folders_everything_is_in_every_split(data):
    index = load_index(data / "train", None, split="test")
    assert len(index.videos) == 2
    assert "every video is in the test split" in index.summary()


def test_videos_outside_the_split_folders_are_ignored(data, video):
    video(data / "stray.mp4", count=4)
    index = load_index(data, None)
    assert len(index.videos) == 2
    assert "1 video outside the split folders ignored" in index.summary()


def test_labels_number_the_classes_of_all_splits(data):
    train, val = (load_index(data, None, split=s, labels=True) for s in ("train", "val"))
    assert train.class_names == val.class_names == ["x", "y", "z"]
    assert [v.label for v in train.videos] == [0, 1]
    assert [v.label for v in val.videos] == [2]
    assert load_index(data, None).class_names == []


def test_labels_need_class_folders(data, video):
    video(data / "train" / "stray.mp4", count=4)
    with pytest.raises(DataError, match=r"--cond needs every video in a class folder, but train/stray\.mp4"):
        load_index(data, None, labels=True)
    with pytest.raises(DataError, match="--cond needs every video in a class folder"):
        load_index(data / "train" / "stray.mp4", None, labels=True)


def test_single_file(data):
    index = load_index(data / "train" / "x" / "a.mp4", None, split="val")
    assert [(v.name, v.num_frames) for v in index.videos] == [("a.mp4", 20)]


def test_summary_lists_videos_frames_and_classes(data):
    text = load_index(data, None, labels=True).summary()
    assert "2 videos" in text
    assert "32 frames, 12 to 20 each, 64x48 pixels, h264, mpeg4" in text
    assert "3 classes: x, y, z" in text


def test_second_load_opens_nothing(data, tmp_path, probed):
    first = load_index(data, tmp_path / "cache", labels=True)
    assert probed == ["train/x/a.mp4", "train/y/b.avi"]
    second = load_index(data, tmp_path / "cache", labels=True)
    assert len(probed) == 2
    same(first.videos, second.videos)
    assert first.fingerprint == second.fingerprint


def test_only_new_or_changed_videos_are_indexed(data, tmp_path, probed, video, frame_folder):
    cache = tmp_path / "cache"
    before = load_index(data, cache, split=None)
    probed.clear()
    video(data / "train" / "x" / "a.mp4", count=9)
    os.utime(data / "train" / "x" / "a.mp4", ns=(1, 1))
    video(data / "train" / "x" / "new.mp4", count=6)
    (data / "val" / "z" / "clip" / "frame_0.png").unlink()
    after = load_index(data, cache, split=None)
    assert sorted(probed) == ["train/x/a.mp4", "train/x/new.mp4", "val/z/clip"]
    assert [v.num_frames for v in after.videos] == [9, 6, 12, 4]
    same(after.videos, load_index(data, None, split=None).videos)
    assert before.fingerprint != after.fingerprint
    (data / "train" / "y" / "b.avi").unlink()
    assert len(load_index(data, cache).videos) == 2


def test_splits_share_one_cache(data, tmp_path, probed):
    cache = tmp_path / "cache"
    for split in ("train", "val", "train", None):
        load_index(data, cache, split=split)
    assert sorted(probed) == ["train/x/a.mp4", "train/y/b.avi", "val/z/clip"]
    assert len(list(cache.iterdir())) == 1


def test_nothing_is_written_into_the_data(data, tmp_path):
    before = sorted((p, p.stat().st_mtime_ns) for p in data.rglob("*"))
    load_index(data, tmp_path / "cache", labels=True)
    assert sorted((p, p.stat().st_mtime_ns) for p in data.rglob("*")) == before
    with pytest.raises(DataError, match="lies inside --data"):
        load_index(data, data / "cache")


@pytest.mark.parametrize("content", [b"", b"PK\3\4 garbage", b"not a cache at all"], ids=["empty", "half", "text"])
def test_a_damaged_cache_is_rebuilt(data, tmp_path, probed, content):
    load_index(data, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(content)
    load_index(data, tmp_path / "cache")
    assert len(probed) == 4
    load_index(data, tmp_path / "cache")
    assert len(probed) == 4


def test_fingerprint_does_not_depend_on_the_path(data, tmp_path):
    first = load_index(data, None).fingerprint
    data.rename(tmp_path / "moved")
    assert load_index(tmp_path / "moved", None).fingerprint == first
    (tmp_path / "moved" / "train" / "x" / "a.mp4").rename(tmp_path / "moved" / "train" / "x" / "c.mp4")
    assert load_index(tmp_path / "moved", None).fingerprint != first


def test_unusable_files_are_skipped_with_their_reasons(data):
    train = data / "train"
    (train / "empty.mp4").write_bytes(b"")
    (train / "text.avi").write_text("not a video")
    (train / "cut.mp4").write_bytes((train / "x" / "a.mp4").read_bytes()[:200])
    (train / "broken").mkdir()
    (train / "broken" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    index = load_index(data, None)
    assert [v.name for v in index.videos] == ["train/x/a.mp4", "train/y/b.avi"]
    assert [p.partition(":")[0] for p in index.problems] == [
        "train/broken",
        "train/cut.mp4",
        "train/empty.mp4",
        "train/text.avi",
    ]
    assert all(len(p.partition(": ")[2]) > 5 for p in index.problems)
    assert "skipped 4: train/broken: " in index.summary()


def test_a_link_to_itself_does_not_refuse_the_folder(data):
    (data / "train" / "x" / "loop").symlink_to("loop")
    index = load_index(data, None)
    assert len(index.videos) == 2
    assert [p.partition(":")[0] for p in index.problems] == ["train/x/loop"]


def test_damaged_videos_are_problems_with_their_numbers_of_frames(data, tmp_path, video):
    path = video(data / "train" / "x" / "cut.mp4", count=100, container={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    for _ in range(2):  # the second index comes from the cache
        index = load_index(data, tmp_path / "cache")
        cut = index.videos[1]
        assert 20 < cut.num_frames < 90
        assert index.problems == [f"train/x/cut.mp4: {cut.num_frames} of 100 frames can be read"]
        assert f"damaged 1: {index.problems[0]}" in index.summary()
        assert "skipped" not in index.summary()


def test_unused_class_folders_deserve_a_hint(data):
    hint = "class folders are not used as labels: x, y; to train on them, add --cond"
    assert hint in load_index(data, None).notes
    assert hint not in load_index(data, None, labels=True).notes
    assert not any("--cond" in note for note in load_index(data, None, split="val").notes)  # a single class


def test_no_usable_video_is_one_sentence(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"--data .*: none of the 5 videos can be read: 0\.mp4: ") as error:
        load_index(tmp_path, None)
    assert "\n" not in str(error.value)


def test_a_file_with_sound_only_is_unusable(tmp_path):
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match=r"sound\.mp4: has no video stream"):
        load_index(tmp_path, None)


def test_every_flipped_bit_of_the_cache_is_noticed(data, tmp_path):
    expected = load_index(data, tmp_path / "cache").videos
    (cache,) = (tmp_path / "cache").iterdir()
    content = cache.read_bytes()
    assert len(index_module._load(cache)) == len(expected)
    for position in range(0, len(content), 3):
        cache.write_bytes(content[:position] + bytes([content[position] ^ 1 << position % 8]) + content[position + 1 :])
        assert index_module._load(cache) == {}
    same(load_index(data, tmp_path / "cache").videos, expected)
    assert cache.read_bytes() == content


def test_the_cache_of_other_data_is_rebuilt(data, tmp_path, probed):
    load_index(data, tmp_path / "cache")
    (cache,) = (tmp_path / "cache").iterdir()
    copy = data.rename(tmp_path / "copy")
    load_index(copy, tmp_path / "cache")
    (other,) = set((tmp_path / "cache").iterdir()) - {cache}
    cache.replace(other)
    probed.clear()
    load_index(copy, tmp_path / "cache")
    assert len(probed) == 2


def test_a_cache_that_cannot_be_written_is_named(data, tmp_path):
    expected = load_index(data, tmp_path / "cache")
    (cache,) = (tmp_path / "cache").iterdir()
    cache.unlink()
    cache.mkdir()
    with pytest.warns(UserWarning, match=f"the index is not kept in {cache}: Is a directory"):
        same(load_index(data, tmp_path / "cache").videos, expected.videos)


def test_a_cache_folder_that_cannot_be_created_is_refused(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"the cache folder .*/file/cache cannot be created \(Not a directory\)"):
        load_index(data, tmp_path / "file" / "cache")
