"""Print the bytes that `render_memory` counts and the bytes by which the process grows while it renders.

    python memory_of_render.py CALLS

CALLS is a file with a list of (tensors, structure, numbers, height, width, dtype): an INR in the form of `flatten`, and
the arguments to render it. The script prints one line per entry.
"""

import ctypes
import sys
from pathlib import Path

import torch

import fused_inr as fi
from fused_inr import flattening
from fused_inr.ops.render import render_memory


def status(name: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    torch.set_num_threads(2)
    for tensors, structure, numbers, height, width, dtype in torch.load(sys.argv[1]):
        inr, grid = flattening.unflatten(tensors, structure, numbers), fi.Grid(height, width)
        # Load the library and start the threads.
        fi.render(inr.at_times(slice(0, 1)), fi.Grid(1, 2), dtype=dtype, backend="cpu")
        counted = render_memory(inr, grid, dtype=dtype, backend="cpu")
        ctypes.CDLL(None).malloc_trim(0)  # memory retained from earlier calls would hide the growth
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak size, VmHWM
        before = status("VmRSS:")
        fi.render(inr, grid, dtype=dtype, backend="cpu")
        print(counted, status("VmHWM:") - before)


if __name__ == "__main__":
    main()
