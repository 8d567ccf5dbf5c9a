"""The Triton backend: GPU kernels that are compiled on their first call, without nvcc.

Triton itself compiles a small launcher in C on its first call, which needs a C compiler and Python's header files.

Importing this package does not import Triton. `python -m fused_inr.tools.triton` compiles every kernel ahead of time,
without a GPU, and prints the GPU resources that each kernel needs.
"""

import importlib
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch

from fused_inr._backends.implementation import Implementation
from fused_inr._backends.triton import networks, render
from fused_inr.primitives import augment, bias_act, conv2d, minibatch_stddev, upfirdn2d

MAX_SAMPLES = 64  # largest group of minibatch_stddev: a program holds the whole group at a few positions
OPS = ("bias_act", "bias_act_slope", "upfirdn2d", "minibatch_stddev", "minibatch_stddev_backward", "augment")
"""The ops of `fused_inr.primitives` registered for CUDA tensors; each is a function of `image_ops`."""


def _missing() -> str:
    """Return what Triton lacks; "" if nothing."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler: install gcc or clang, or set CC"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Triton needs Python's header files: install python3-dev, or your distribution's equivalent"
    return ""


_MISSING = _missing()


def status() -> str:
    """Return "ready", or one line saying what is missing."""
    return _MISSING or ("ready" if torch.cuda.is_available() else "no CUDA device")


def _supports_stddev(x: torch.Tensor, group: int, channels: int) -> tuple[bool, str]:
    if group > MAX_SAMPLES:
        return False, f"it takes groups of at most {MAX_SAMPLES} samples, not {group}"
    return minibatch_stddev.supports(x, group, channels)


KERNELS = {
    "render": Implementation(render.supports, render.render, render.memory),
    "mlp": Implementation(networks.supports, networks.mlp),
    "bias_act": Implementation(bias_act.supports, bias_act.bias_act),
    "conv2d": Implementation(conv2d.supports, conv2d.conv2d),
    "upfirdn2d": Implementation(upfirdn2d.supports, upfirdn2d.upfirdn2d),
    "minibatch_stddev": Implementation(_supports_stddev, minibatch_stddev.minibatch_stddev),
    "augment": Implementation(augment.supports, augment.augment),
}


def _register(op: str) -> None:
    @torch.library.impl(f"fused_inr::{op}", "cuda")
    def _(*arguments: Any) -> Any:
        return getattr(importlib.import_module(f"{__name__}.image_ops"), op)(*arguments)


for _op in OPS:
    _register(_op)
