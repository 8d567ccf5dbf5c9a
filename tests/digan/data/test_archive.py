"""Members of a zip as seekable files, in place or decompressed."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import psutil
import pytest

from digan.data import archive as archive_module
from digan.data.archive import InflatedMember, StoredMember, View


@pytest.fixture
def archive(tmp_path):
    """A zip of `stored` and `deflated` with the same content, and that content."""
    content = np.random.default_rng(0).integers(0, 4, 300_000, dtype=np.uint8).tobytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("first", b"x" * 100)
        out.writestr("stored", content)
        out.writestr("deflated", content, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        yield opened, content


def member(opened, kind):
    info = opened.getinfo(kind)
    return StoredMember(opened.filename, info) if kind == "stored" else InflatedMember(opened, info)


@pytest.mark.parametrize("limit", [1 << 24, 1 << 10], ids=["in-memory", "spilled"])
@pytest.mark.parametrize("kind", ["stored", "deflated"])
def test_a_member_reads_and_seeks_like_a_file(archive, monkeypatch, kind, limit):
    monkeypatch.setattr(archive_module, "IN_MEMORY", limit)
    opened, content = archive
    plain, rng = io.BytesIO(content), np.random.default_rng(1)
    with member(opened, kind) as file:
        for _ in range(50):
            offset, size = rng.integers(0, len(content), 2).tolist()
            whence = int(rng.integers(0, 3))
            offset = {0: offset, 1: offset % 50, 2: -offset}[whence]
            assert file.seek(offset, whence) == plain.seek(offset, whence)
            assert file.read(size) == plain.read(size)
            assert file.tell() == plain.tell()


@pytest.mark.parametrize("kind", ["stored", "deflated"])
def test_views_of_a_member_do_not_disturb_each_other(archive, kind):
    opened, content = archive
    with member(opened, kind) as file:
        first, second = View(file, 0, len(content)), View(file, 1000, 500)
        assert first.read(200) == content[:200]
        assert second.read() == content[1000:1500]
        second.close()
        assert first.read(200) == content[200:400]


def test_a_large_member_is_decompressed_to_disk(archive, monkeypatch):
    opened, content = archive
    with member(opened, "deflated") as file:
        assert not file._rolled
        assert file.spilled == len(content)
    monkeypatch.setattr(archive_module, "IN_MEMORY", 1 << 16)
    with member(opened, "deflated") as file:
        assert file._rolled
        assert file.read() == content


def test_decompressing_a_large_member_takes_little_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as out, out.open("large", "w") as member:
        for _ in range(256):
            member.write(bytes(1 << 20))
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        before = psutil.Process().memory_info().rss
        with InflatedMember(opened, opened.getinfo("large")) as file:
            file.seek(200 << 20)
            assert file.read(1) == b"\0"
            # Measured: 16 MB, `IN_MEMORY`.
            assert psutil.Process().memory_info().rss - before < 64 << 20


def test_a_member_too_large_for_the_disk_is_refused_before_it_is_decompressed(archive, monkeypatch):
    opened, _ = archive
    info = opened.getinfo("deflated")
    info.file_size = 1 << 60
    with pytest.raises(OSError, match=r"do not fit into .*: unpack the zip"):
        InflatedMember(opened, info)


def test_a_member_without_a_local_header_is_refused(archive, tmp_path):
    opened, _ = archive
    info = opened.getinfo("stored")
    info.header_offset = 1
    with pytest.raises(zipfile.BadZipFile, match="stored has no local header"):
        StoredMember(tmp_path / "a.zip", info)
