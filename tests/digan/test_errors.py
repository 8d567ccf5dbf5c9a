"""One sentence for every error of the user or the machine; defects of the program stay what they are."""

import errno
import os

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from digan.errors import ConfigError, DataError, UnreadableVideo, sentence


def caught(function, *args):
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError("there was no error")


def test_an_error_of_the_user_is_its_message_on_one_line():
    assert sentence(ConfigError("--lr inf must be a finite number.")) == "--lr inf must be a finite number."
    assert sentence(DataError("a\nb")) == "a\\nb"


def test_a_defect_of_the_program_is_no_sentence():
    for error in (KeyError("x"), RuntimeError("shapes differ"), ValueError("x"), AssertionError(), TypeError("x")):
        assert sentence(error) is None


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EACCES, "permissions"), (errno.EFBIG, "ulimit -f"), (errno.EISDIR, "")],
)
def test_an_error_of_the_system_names_the_file_and_a_remedy(number, remedy):
    text = sentence(OSError(number, os.strerror(number), "runs/x"))
    assert text.startswith(f"runs/x: {os.strerror(number)}")
    assert remedy in text
    assert text.endswith(".")


def test_an_error_of_the_system_without_details():
    assert sentence(OSError("no such device")) == "no such device"


@pytest.mark.parametrize(
    "allocate",
    [lambda: np.empty(1 << 60, np.uint8), lambda: torch.empty(1 << 60), lambda: torch.empty(1 << 40, 1 << 40)],
    ids=["numpy", "torch", "overflow"],
)
def test_memory_that_is_not_there(allocate):
    assert sentence(caught(allocate)).startswith("out of memory (")


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "The following operation failed in the TorchScript interpreter.\nTraceback\nCUDA out of memory. Tried to ...",
    ],
)
def test_memory_of_a_device_that_is_not_there(text):
    said = sentence(RuntimeError(text))
    assert said.startswith("out of memory (")
    assert "\\n" not in said
    assert "Traceback" not in said


def test_a_device_that_cannot_be_used():
    error = RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nFor debugging consider ...")
    expected = "the device cannot be used (CUDA error: CUDA-capable device(s) is/are busy or unavailable): choose "
    assert sentence(error) == expected + "another one, or the CPU."
    assert sentence(RuntimeError("CUDA error: an illegal memory access was encountered")) is None


class Damaged(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, i):
        raise UnreadableVideo("a.mp4: No such file or directory")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_video_that_cannot_be_read_in_whatever_process(workers):
    error = caught(lambda: next(iter(DataLoader(Damaged(), num_workers=workers))))
    expected = "a video could not be decoded (a.mp4: No such file or directory): remove it from the data and run again."
    assert sentence(error) == expected
