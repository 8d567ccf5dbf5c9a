"""Files that appear whole or not at all."""

import errno
import os

import pytest

from digan.files import atomic_folder, atomic_path, parse_json, remove_drafts, seal, unseal, write_atomic


def test_a_file_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == target.parent
        assert temporary.suffix == target.suffix
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"), atomic_path(target) as temporary:
        fail(temporary)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_an_error_about_the_target_which_leaves_nothing(little_space, tmp_path):
    target = tmp_path / "x.bin"
    with pytest.raises(OSError, match="File too large") as failed:
        write_atomic(target, bytes(400_000))
    assert (failed.value.errno, failed.value.filename) == (errno.EFBIG, str(target))
    with pytest.raises(OSError, match="File too large") as failed, atomic_folder(target) as draft:
        write_atomic(draft / "in it", bytes(400_000))
    assert (failed.value.errno, failed.value.filename) == (errno.EFBIG, str(target / "in it"))
    assert not list(tmp_path.iterdir())


def test_text_with_the_bytes_of_a_name_is_written(tmp_path):
    write_atomic(tmp_path / "a.html", "a\udcff ä")
    assert (tmp_path / "a.html").read_text("utf-8") == "a\\udcff ä"


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as failed, atomic_path(tmp_path / "x"):
        open(tmp_path / "other")  # noqa: SIM115 - it does not exist
    assert failed.value.filename == str(tmp_path / "other")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", b"\xff", ""])
def test_json_that_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - of Python or of this project
        parse_json(text)


@pytest.mark.parametrize("before", ["nothing", "folder", "file", "link"])
def test_a_folder_replaces_what_stood_there(tmp_path, before):
    target = tmp_path / "folder"
    if before == "folder":
        target.mkdir()
        (target / "old").touch()
    elif before == "file":
        target.touch()
    elif before == "link":
        target.symlink_to("nowhere")
    with atomic_folder(target) as draft:
        (draft / "new").touch()
        assert (before == "folder") == (target / "old").exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_the_old_folder_and_no_other(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()

    def fail(draft):
        (draft / "new").touch()
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"), atomic_folder(target) as draft:
        fail(draft)
    assert list(tmp_path.rglob("*")) == [target]


def test_the_content_and_then_the_name_reach_the_disk(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    with atomic_folder(tmp_path / "folder") as draft:
        (draft / "file").touch()
    assert calls == [str(draft / "file"), str(draft), "replace", str(tmp_path)]
    calls.clear()
    with atomic_path(tmp_path / "file") as draft:
        draft.touch()
    assert calls == [str(draft), "replace", str(tmp_path)]


def test_drafts_are_known_by_their_names_and_fresh_ones_may_be_left(tmp_path):
    with atomic_path(tmp_path / "a.b.txt") as file, atomic_folder(tmp_path / "folder-1") as folder:
        file.touch()
        assert remove_drafts(tmp_path, age=60) == []
        assert remove_drafts(tmp_path) == sorted([file, folder])
        file.touch()
        folder.mkdir()
    assert remove_drafts(tmp_path) == []
    assert remove_drafts(tmp_path / "nowhere") == []


def test_a_seal_shows_every_change():
    sealed = seal(b"content")
    assert unseal(sealed) == b"content"
    for damaged in (b"", sealed[:-1], sealed + b"x", b"x" + sealed[1:], sealed[:-1] + bytes([sealed[-1] ^ 1])):
        with pytest.raises(ValueError, match="checksum"):
            unseal(damaged)
