"""Files that appear whole or not at all."""

import errno
import resource
import signal

import pytest
import torch
from safetensors.torch import load_file

from digan.files import atomic_path, parse_json, save_object, save_tensors


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


@pytest.fixture
def little_space(monkeypatch):
    """Writes beyond 64 KiB of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


LARGE = {"a": torch.arange(100_000.0)}  # 400 kB


@pytest.mark.parametrize("save", [save_tensors, save_object])
def test_every_writer_reports_a_full_disk_alike_and_leaves_nothing(little_space, tmp_path, save):
    target = tmp_path / "x.bin"
    with pytest.raises(OSError, match="File too large") as failed, atomic_path(target) as draft:
        save(LARGE, draft)
    assert (failed.value.errno, failed.value.filename) == (errno.EFBIG, str(target))
    assert not list(tmp_path.iterdir())


def test_what_is_saved_is_read(tmp_path):
    save_tensors({"a": LARGE["a"][::2]}, tmp_path / "a")
    save_object(LARGE, tmp_path / "b")
    assert torch.equal(load_file(tmp_path / "a")["a"], LARGE["a"][::2])
    assert torch.equal(torch.load(tmp_path / "b", weights_only=True)["a"], LARGE["a"])


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as failed, atomic_path(tmp_path / "x"):
        open(tmp_path / "other")  # noqa: SIM115 - it does not exist
    assert failed.value.filename == str(tmp_path / "other")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", b"\xff", ""])
def test_json_that_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - of Python or of this project
        parse_json(text)
