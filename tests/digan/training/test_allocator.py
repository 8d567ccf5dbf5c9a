"""Freed memory stays with the process when it was asked for, and goes back to the system when not."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

# Resident bytes after a block of 256 MB was used and dropped, beyond those before.
PROGRAM = """
import sys, psutil, torch
from digan.training.allocator import keep_freed_memory
assert keep_freed_memory(sys.argv[1] != "default")
if sys.argv[1] == "ended":
    torch.ones(64 << 20)
    keep_freed_memory(False)
before = psutil.Process().memory_info().rss
torch.ones(64 << 20)
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.parametrize(("state", "kept"), [("kept", True), ("default", False), ("ended", False)])
def test_a_large_block(state, kept):
    run = subprocess.run([sys.executable, "-c", PROGRAM, state], capture_output=True, text=True, check=True)
    assert (int(run.stdout) > 200e6) == kept
