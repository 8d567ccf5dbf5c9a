"""Tensor files: the same bytes from every process, readable by the library, and no silent damage."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from digan.tensor_files import DamagedFile, read_tensors, write_object, write_tensors

ROOT = Path(__file__).parents[2]
TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(3, dtype=torch.int64), "h": torch.ones(3).half()}
METADATA = {"z": "ü\n\x01", "a": '{"x": 1}', **{f"k{i}": str(i) for i in range(8)}}
WRITE = """
import sys
import torch
from digan.tensor_files import write_tensors
write_tensors(sys.argv[1], {"b": torch.ones(3), "a": torch.zeros(2)}, {str(i): "x" for i in range(20)})
"""


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def test_what_was_written_is_read_here_and_by_the_library(tmp_path):
    file = tmp_path / "x.safetensors"
    write_tensors(file, TENSORS, METADATA)
    tensors, metadata = read_tensors(file)
    assert equal(tensors, TENSORS)
    assert metadata == METADATA
    with safe_open(file, "pt") as reader:
        assert {
            name: text for name, text in reader.metadata().items() if name not in ("sha256", "checksum")
        } == METADATA
        assert equal({name: reader.get_tensor(name) for name in TENSORS}, TENSORS)


def test_processes_write_the_same_bytes(tmp_path):
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "kernels"))), "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", WRITE, str(there)], env=env, check=True)
    for _ in range(3):  # the library's order varies from call to call, too
        write_tensors(here, {"b": torch.ones(3), "a": torch.zeros(2)}, {str(i): "x" for i in range(20)})
        assert here.read_bytes() == there.read_bytes()


def test_no_flipped_bit_gives_other_content(tmp_path):
    file = tmp_path / "x.safetensors"
    write_tensors(file, TENSORS, {"a": "1"})
    content = file.read_bytes()
    silent = 0
    for position in range(len(content)):
        file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            tensors, _ = read_tensors(file)
        except DamagedFile:
            continue
        silent += 1
        assert equal(tensors, TENSORS)
    assert silent == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 30, b"\2\0\0\0\0\0\0\0[]", b"\0" * 8])
def test_other_content_is_refused(tmp_path, content):
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(DamagedFile):
        read_tensors(file)


def test_files_of_other_programs_are_read(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file(TENSORS, file)
    tensors, metadata = read_tensors(file)
    assert equal(tensors, TENSORS)
    assert metadata == {}


def test_values_of_any_type_are_written_for_torch_load(tmp_path):
    write_object(tmp_path / "x", {**TENSORS, "n": 1})
    value = torch.load(tmp_path / "x", weights_only=True)
    assert value.pop("n") == 1
    assert equal(value, TENSORS)


@pytest.mark.parametrize("write", [lambda path, value: write_tensors(path, value, {}), write_object])
def test_a_full_disk_is_an_error_about_the_file_and_leaves_nothing(little_space, tmp_path, write):
    target = tmp_path / "x.bin"
    with pytest.raises(OSError, match="File too large") as failed:
        write(target, {"a": torch.zeros(100_000)})
    assert (failed.value.errno, failed.value.filename) == (errno.EFBIG, str(target))
    assert not list(tmp_path.iterdir())
