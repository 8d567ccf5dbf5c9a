"""The memory for writing clips does not grow with the number of frames; test_sample checks the files' contents."""

import subprocess
import sys

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
