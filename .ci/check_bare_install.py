"""Check what an installation without extras can do. Run by a Python that has only the package and its dependencies."""

import importlib.util
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

import fused_inr as fi
from digan import Generator, GeneratorConfig

# huggingface_hub brings tqdm and pyyaml, so these two cannot be missing.
ABSENT = {"accelerate": "accelerate", "av": "av", "PIL": "pillow", "psutil": "psutil", "tensorboard": "tensorboard"}

present = [module for module in ABSENT if importlib.util.find_spec(module)]
assert not present, f"the bare package brings {present}"
for package in ("fused_inr", "digan"):
    origin = Path(importlib.util.find_spec(package).origin)
    assert origin.is_relative_to(sys.prefix), f"{package} comes from {origin}, not from this environment"
assert version("digan") == fi.__version__, f"digan {version('digan')} holds fused_inr {fi.__version__}"
assert fi.backends()["cpu"] == "ready", fi.backends()["cpu"]

clips, times, features = 2, 3, 8
fourier = fi.Fourier(torch.randn(clips, features, 2), torch.randn(clips, times, features))
hidden = fi.Layer(torch.randn(clips, 16, 2 * features), torch.zeros(16))
to_rgb = (torch.randn(clips, 3, 16), torch.zeros(3))
last = fi.Layer(torch.randn(clips, 16, 16) / 4, torch.zeros(16), to_rgb=to_rgb)
inr, grid = fi.INR([fi.Stage(1, [hidden, last], fourier)]), fi.Grid(16, 16)
image = fi.render(inr, grid, backend="cpu")  # [2, 3, 3, 16, 16]
torch.testing.assert_close(image, fi.render(inr, grid, backend="reference"), rtol=1e-4, atol=1e-3)

config = GeneratorConfig(resolution=32, z_dim=8, w_dim=8, fourier_dim=8, fmm_rank=2, channel_base=256, channel_max=8)
generator = Generator(config).eval()
latents = torch.randn(2, 1, config.z_dim)
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    frames = generator(*latents, torch.linspace(0, 1, 4))  # [1, 4, 3, 32, 32]
    assert frames.shape == (1, 4, 3, 32, 32)
    assert frames.isfinite().all()
    generator.save_pretrained(folder)
    again = Generator.from_pretrained(folder)
    torch.testing.assert_close(again(*latents, torch.linspace(0, 1, 4)), frames)

command = [str(Path(sys.prefix) / "bin" / "digan"), "sample", "--network", "none", "--outdir", "none"]
sample = subprocess.run(command, capture_output=True, text=True, check=False)
packages = ", ".join(ABSENT.values())
sentence = f"digan sample needs packages that are not installed ({packages}): pip install 'digan[train]'\n"
assert (sample.returncode, sample.stdout, sample.stderr) == (2, "", sentence), sample
print("the bare package imports, renders, generates frames and names the extra that its commands need")
