"""What messages share: counts with their nouns, cut lists, reasons."""

import errno
import os

from digan.wording import counted, first_few, reason


def test_counts_agree_with_their_nouns():
    assert [counted(count, "video") for count in (0, 1, 2, 12345)] == [
        "0 videos",
        "1 video",
        "2 videos",
        "12,345 videos",
    ]
    assert [counted(count, "video is", "videos are") for count in (1, 2)] == ["1 video is", "2 videos are"]


def test_long_lists_are_cut():
    assert first_few(["a", "b"], limit=2) == "a, b"
    assert first_few(["a", "b", "c"], limit=2) == "a, b, …"
    assert first_few(["a", "b", "c"], limit=1, separator="; ") == "a; …"
    assert first_few([]) == ""


def test_a_reason_is_never_empty():
    assert reason(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x")) == "No space left on device"
    assert reason(ValueError("too long")) == "too long"
    assert reason(KeyboardInterrupt()) == "KeyboardInterrupt"
