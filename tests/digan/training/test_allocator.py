"""Freed memory stays in the process while it is kept, and returns to the system by default and when keeping ends."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")

# Resident bytes beyond those at the start, after a block of 256 MB was used and freed.
PROGRAM = """
import sys, psutil, torch
from digan.training.allocator import keep_freed_memory
state = sys.argv[1]
assert keep_freed_memory(state != "default")
before = psutil.Process().memory_info().rss
torch.ones(64 << 20)
if state == "ended":
    keep_freed_memory(False)
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.parametrize(("state", "kept"), [("kept", True), ("default", False), ("ended", False)])
def test_a_large_block(state, kept):
    run = subprocess.run([sys.executable, "-c", PROGRAM, state], capture_output=True, text=True, check=True)
    assert (int(run.stdout) > 200e6) == kept
