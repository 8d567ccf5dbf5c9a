"""Each format has the size of its clips and their grid, and the memory does not grow with the number of frames.

test_sample checks the contents.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from digan.sampling.grids import SEPARATOR
from digan.sampling.writers import Outputs

# Frames are generated on demand; the peak memory of the process is read after short, long and many clips.
SCRIPT = """
import sys
from pathlib import Path
import torch
from digan.sampling.writers import Outputs
from digan.sampling.frame_spill import FrameSpill

SIDE = 192

def frames(count, offset):
    x = torch.arange(SIDE).expand(SIDE, SIDE)
    for t in range(count):
        yield torch.stack([x, x.T, torch.full_like(x, (t + offset) % 256)], dim=2).to(torch.uint8)

def work(count, clips):
    with FrameSpill(sys.argv[1], count, SIDE, SIDE) as spill:
        outputs = Outputs(Path(sys.argv[1]), ["mp4", "gif", "png"])
        spilled = [spill.write(i, frames(count, 9 * i)) for i in range(clips)]
        for i, clip in enumerate(spilled):
            outputs.write(f"clip{i}", [clip])
        outputs.write("grid", spilled[:2], 2)

def peak():
    # getrusage would begin at the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

work(40, 2)
before = peak()
work(300, 2)
print(peak() - before)
work(40, 14)
print(peak() - before)
"""


def test_memory_does_not_grow(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    longer, more = map(int, output.split())
    # Measured: no growth in either case; the longer clips have 57 MB of frames more, the more clips 53 MB.
    assert longer < 15e6
    assert more < 15e6


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def side(count, pixels):
    """Return the length of `count` pictures side by side."""
    return count * pixels + (count - 1) * SEPARATOR


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (3, 2, 2)], ids=["one", "grid"])
def test_sizes_of_a_clip_and_of_a_grid(tmp_path, count, rows, columns):
    clips = torch.randint(0, 256, (count, 5, 16, 24, 3), dtype=torch.uint8).numpy()
    files = Outputs(tmp_path, ["gif", "slice", "png"]).write("clip", list(clips), columns)
    assert [file.name for file in files] == ["clip.gif", "clip-slice.png", "clip.png"]
    assert read(files[0]).shape == (rows * 16, columns * 24, 3)  # a grid of videos has no lines
    assert read(files[1]).shape == (side(rows, 5), side(columns, 24), 3)
    assert read(files[2]).shape == (side(count, 16), side(5, 24), 3)
    (still,) = Outputs(tmp_path, ["png"]).write("still", [clip[:1] for clip in clips], columns)
    assert read(still).shape == (side(rows, 16), side(columns, 24), 3)


@pytest.mark.parametrize(("position", "row"), [(0, 0), (0.5, 8), (1, 15)])
def test_the_row_of_a_slice(tmp_path, position, row):
    clip = torch.randint(0, 256, (5, 16, 24, 3), dtype=torch.uint8)
    (file,) = Outputs(tmp_path, ["slice"], slice_row=position).write("clip", [clip.numpy()])
    assert np.array_equal(read(file), clip[:, row])
