"""The videos of a folder or zip, and the split and class of each."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from digan.data import ClipWindows, FramePairs, FrameStore, load_index
from digan.data.decode import FrameReader
from digan.data.sources import FolderSource, ZipSource, natural_key, open_source, read_split_list, scan
from digan.errors import DataError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def places(root):
    listing = scan(FolderSource(root))
    return {e.name: (e.kind, p.split, p.class_name) for e, p in zip(listing.entries, listing.places, strict=True)}


def test_mixed_files_are_listed_without_hidden_and_other_ones(tmp_path):
    touch(tmp_path, "a.MP4", "deep/er/b.webm", "clip/1.png", "clip/2.png", "deep/frames/1.JPG", "notes.txt", ".x/c.mp4")
    touch(tmp_path, "deep/._d.mp4")
    assert places(tmp_path) == {
        "a.MP4": ("video", None, None),
        "clip": ("frames", None, None),
        "deep/er/b.webm": ("video", None, "deep"),
        "deep/frames": ("frames", None, "deep"),
    }
    listing = scan(FolderSource(tmp_path))
    assert listing.other_files == 1
    assert [e.num_pictures for e in listing.entries] == [0, 2, 0, 1]


def test_splits_are_whole_names_at_the_top_only(tmp_path):
    touch(tmp_path, "Train/x/a.mp4", "VAL/b.mp4", "test/y/clip/1.png", "training/c.mp4", "x/train/d.mp4", "train.mp4")
    assert places(tmp_path) == {
        "Train/x/a.mp4": ("video", "train", "x"),
        "VAL/b.mp4": ("video", "val", None),
        "test/y/clip": ("frames", "test", "y"),
        "training/c.mp4": ("video", None, "training"),
        "x/train/d.mp4": ("video", None, "x"),
        "train.mp4": ("video", None, None),
    }


def test_pictures_directly_in_a_split_or_at_the_root_are_one_video(tmp_path):
    touch(tmp_path, "train/1.png", "train/2.png", "val/v/1.png")
    assert places(tmp_path) == {"train": ("frames", "train", None), "val/v": ("frames", "val", None)}
    touch(tmp_path / "plain", "1.png")
    assert places(tmp_path / "plain") == {"": ("frames", None, None)}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["data/train/a.mp4", "data/val/b.mp4"], [("train", None), ("val", None)]),
        (["data/x/a.mp4", "data/y/b.mp4"], [(None, "x"), (None, "y")]),
        (["x/a.mp4", "x/b.mp4"], [(None, "x"), (None, "x")]),  # a lone class
        (["train/x/a.mp4", "train/y/b.mp4"], [("train", "x"), ("train", "y")]),  # a lone split
    ],
    ids=["splits", "classes", "one-class", "one-split"],
)
def test_a_single_folder_around_everything_is_skipped(tmp_path, names, expected):
    listing = scan(FolderSource(touch(tmp_path, *names)))
    assert [(p.split, p.class_name) for p in listing.places] == expected
    assert bool(listing.notes) == names[0].startswith("data/")


def test_symbolic_links_are_followed_except_in_cycles(tmp_path):
    touch(tmp_path, "store/a.mp4")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "back").symlink_to(tmp_path / "data")
    assert set(places(tmp_path / "data")) == {"link/a.mp4"}


def test_a_link_to_itself_and_other_oddities_are_one_problem_each(tmp_path):
    touch(tmp_path, "a.mp4", "x/b.mp4")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "x" / "gone.mp4").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.mp4")
    listing = scan(FolderSource(tmp_path))
    assert [e.name for e in listing.entries] == ["a.mp4", "x/b.mp4"]
    assert sorted(p.partition(": ")[0] for p in listing.problems) == ["loop", "pipe.mp4", "x/gone.mp4"]
    assert all("\n" not in p and len(p.partition(": ")[2]) > 5 for p in listing.problems)


def test_what_macos_adds_to_an_archive_is_ignored(tmp_path):
    names = ["a.mp4", "__MACOSX/a.mp4", "x/__MACOSX/._b.mp4", "x/.DS_Store"]
    touch(tmp_path / "data", *names)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        for name in names:
            out.writestr(name, b"")
    for source in (FolderSource(tmp_path / "data"), ZipSource(tmp_path / "a.zip")):
        assert [e.name for e in scan(source).entries] == ["a.mp4"]


def test_the_last_of_several_zip_members_of_one_name_is_used(tmp_path, video):
    short, long = (video(tmp_path / f"{n}.mp4", count=n).read_bytes() for n in (5, 9))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("a.mp4", short)
        with pytest.warns(UserWarning, match="Duplicate name"):
            out.writestr("a.mp4", long)
    index = load_index(tmp_path / "a.zip", None)
    assert [(v.name, v.num_frames) for v in index.videos] == [("a.mp4", 9)]
    assert "1 name occurs more than once in the zip, such as a.mp4: the last member is used" in index.notes


def test_class_folders_without_a_video_are_named(tmp_path):
    touch(tmp_path, "train/x/a.mp4", "train/y/b.mp4", "train/z/readme.txt", "val/x/c.mp4")
    (tmp_path / "val" / "y" / "deeper").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    assert scan(FolderSource(tmp_path)).notes == ["2 class folders hold no video: train/z, val/y"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        for name in ("x/a.mp4", "y/b.mp4", "z/"):
            out.writestr(name, b"")
    assert scan(ZipSource(tmp_path / "a.zip")).notes == ["1 class folder holds no video: z"]
    touch(tmp_path / "flat", "a.mp4")
    (tmp_path / "flat" / "empty").mkdir()
    assert scan(FolderSource(tmp_path / "flat")).notes == []


@pytest.mark.parametrize("suffix", ["webp", "png", "apng"])
@pytest.mark.parametrize("form", ["folder", "zip", "file"])
def test_animated_pictures_are_videos(tmp_path, suffix, form):
    images = [Image.new("RGB", (32, 32), (30 * i,) * 3) for i in range(6)]
    path = tmp_path / "data" / "clips" / f"a.{suffix}"
    path.parent.mkdir(parents=True)
    more = {"format": "png"} if suffix == "apng" else {"lossless": True}
    images[0].save(path, save_all=True, append_images=images[1:], duration=50, **more)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.write(path, f"clips/a.{suffix}")
    index = load_index({"folder": tmp_path / "data", "zip": tmp_path / "a.zip", "file": path}[form], None)
    (video,) = index.videos
    assert (video.num_frames, video.width, video.fps) == (6, 32, 20)
    reader = FrameReader(index, 32, store=FrameStore(index, 32))
    for indices in ([4, 1, 4], [5, 0], [1]):
        assert reader.read(video, indices)[:, 0, 9, 9].tolist() == [30 * i for i in indices]


def test_an_animation_among_stills_is_named(tmp_path):
    stills = [Image.new("RGB", (32, 32), (30 * i,) * 3) for i in range(4)]
    folder = tmp_path / "clip"
    folder.mkdir()
    stills[0].save(folder / "a.png")
    for name in ("b", "c"):
        stills[0].save(folder / f"{name}.webp", save_all=True, append_images=stills[1:], lossless=True)
    stills[1].save(folder / "d.webp")
    for _ in range(2):  # the second time from the cache
        index = load_index(tmp_path, tmp_path.with_name("cache"))
        assert [v.num_frames for v in index.videos] == [4]
        assert "clip: 2 pictures of 4 are animated, and count as their first frame" in index.summary()


def test_encrypted_pictures_of_a_zip_are_named_and_the_rest_is_read(tmp_path, video):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for i in range(3):
            with out.open(f"clip/{i}.webp", "w") as member:
                Image.new("RGB", (32, 32), (30 * i,) * 3).save(member, "webp")
        out.write(video(tmp_path / "b.mp4", count=4), "b.mp4")
    content = bytearray(path.read_bytes())
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # of the members' own headers, and of the list
        at = -1
        for _ in range(3):
            at = content.index(start, at + 1)
            content[at + flags] |= 1
    path.write_bytes(content)
    index = load_index(path, None)
    assert [entry.name for entry in index.videos] == ["b.mp4"]
    (problem,) = index.problems
    assert problem.startswith("clip: ")
    assert "encrypted" in problem


def test_natural_order():
    assert sorted(["f10.png", "f2.png", "f01.png", "f1.png"], key=natural_key) == [
        "f01.png",
        "f1.png",
        "f2.png",
        "f10.png",
    ]
    assert sorted(["1²2.png", "1²1.png", "2.png"], key=natural_key) == ["1²1.png", "1²2.png", "2.png"]
    assert sorted(["f٣.png", "f2.png", "f4.png"], key=natural_key) == ["f2.png", "f٣.png", "f4.png"]  # Arabic 3
    long = ["9" * 5000, "1" + "0" * 5000, "0" * 5000 + "7"]  # beyond what `int` reads
    assert sorted(long, key=natural_key) == [long[2], long[0], long[1]]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_a_zip_gives_the_same_pairs_as_its_folder(tmp_path, video, frame_folder, compression):
    root = tmp_path / "data"
    video(root / "train" / "x" / "a.mp4", count=20)
    video(root / "train" / "y" / "b.avi", count=20, codec="mpeg4", b_frames=2)
    frame_folder(root / "train" / "y" / "clip", count=17)
    video(root / "val" / "x" / "c.mkv", count=20)
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w", compression) as out:
        for file in sorted(root.rglob("*")):
            out.write(file, file.relative_to(root))
    pairs = []
    for path in (root, archive):
        index = load_index(path, None, labels=True)
        assert [v.name for v in index.videos] == ["train/x/a.mp4", "train/y/b.avi", "train/y/clip"]
        assert [v.label for v in index.videos] == [0, 1, 1]
        pairs.append(FramePairs(ClipWindows(index, 8), 32, seed=0))
    for k in range(12):
        np.testing.assert_array_equal(pairs[0][k]["frames"], pairs[1][k]["frames"])


def test_stored_member_seeks_like_a_file(tmp_path):
    content = bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("first", b"x" * 100)
        out.writestr("a.mp4", content)
    member, plain = ZipSource(tmp_path / "a.zip").open("a.mp4"), io.BytesIO(content)
    rng = np.random.default_rng(1)
    for _ in range(50):
        offset, size = rng.integers(0, 5200, 2).tolist()
        whence = int(rng.integers(0, 3))
        offset = {0: offset, 1: offset % 50, 2: -(offset % 5000)}[whence]
        assert member.seek(offset, whence) == plain.seek(offset, whence)
        assert member.read(size) == plain.read(size)
        assert member.tell() == plain.tell()


def test_a_damaged_zip_member_is_reported_as_a_problem(tmp_path, video):
    content = video(tmp_path / "a.mp4", count=4).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("bad.mp4", content)
        out.writestr("good.mp4", content)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[100:140] = bytes(40)
    (tmp_path / "a.zip").write_bytes(data)
    index = load_index(tmp_path / "a.zip", None)
    assert [v.name for v in index.videos] == ["good.mp4"]
    assert index.problems[0].startswith("bad.mp4: cannot be read from the zip")


@pytest.mark.parametrize("version", [64, 205], ids=str)
def test_a_zip_of_a_version_yet_to_come_is_refused_in_a_sentence(tmp_path, video, version):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.write(video(tmp_path / "a.mp4", count=4), "a.mp4")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    place = data.rindex(b"PK\1\2") + 6  # of the version that is needed to read the member
    data[place : place + 2] = version.to_bytes(2, "little")
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.zip cannot be read \(zip file version {version / 10}\)"):
        load_index(tmp_path / "a.zip", None)


def test_a_zip_whose_names_are_no_text_is_refused_in_a_sentence(tmp_path, video):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.write(video(tmp_path / "a.mp4", count=4), "\N{LATIN SMALL LETTER E WITH ACUTE}.mp4")  # flagged as UTF-8
    data = (tmp_path / "a.zip").read_bytes().replace("\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), b"\xff\xff")
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip cannot be read"):
        load_index(tmp_path / "a.zip", None)


def test_split_lists_select_the_videos(tmp_path, video):
    for name in ("Archery/v_1.mp4", "Archery/v_2.mp4", "Biking/v_3.mp4", "YoYo/v_4.mp4"):
        video(tmp_path / "data" / "UCF" / name, count=4)
    train, test = tmp_path / "trainlist01.txt", tmp_path / "testlist01.txt"
    train.write_text("Archery/v_1.avi 1\nYoYo/v_4.mp4 3\r\nYoYo/v_99.avi 3\n\n")
    test.write_text("Biking/v_3.mp4\n")
    index = load_index(tmp_path / "data", None, labels=True, split_list=train)
    assert [(v.name, v.label) for v in index.videos] == [("UCF/Archery/v_1.mp4", 0), ("UCF/YoYo/v_4.mp4", 2)]
    assert index.class_names == ["Archery", "Biking", "YoYo"]  # of the whole set: both lists number them alike
    assert "1 of 3 listed videos are missing, such as YoYo/v_99" in index.summary()
    index = load_index(tmp_path / "data", None, labels=True, split_list=test)
    assert [(v.name, v.label) for v in index.videos] == [("UCF/Biking/v_3.mp4", 1)]
    index = load_index(tmp_path / "data", None, split_list=[train, test])
    assert len(index.videos) == 3


def test_split_list_problems_name_the_flag(tmp_path):
    touch(tmp_path / "data", "x/a.mp4")
    with pytest.raises(FileNotFoundError, match=r"--split-list .*absent\.txt does not exist"):
        read_split_list(tmp_path / "absent.txt")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(DataError, match=r"--split-list .* holds no line"):
        read_split_list(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("y/b.avi 1\n")
    with pytest.raises(DataError, match="--split-list names 1 video, none of which is in --data"):
        load_index(tmp_path / "data", None, split_list=tmp_path / "list.txt")


def test_unusable_data_paths_name_the_flag(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--data .*absent does not exist"):
        open_source(tmp_path / "absent")
    (tmp_path / "a.tar").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"--data .*a\.tar is neither a folder, nor a zip"):
        open_source(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"--data .* holds no video: found 1 other file, but no mp4"):
        load_index(tmp_path, None)
