"""The Triton backend: GPU kernels that need no C++ compiler and are compiled on their first call.

Importing this package does not import Triton. `python -m fused_inr.tools.triton` compiles every kernel ahead of time,
without a GPU, and prints the GPU resources that each kernel needs.
"""

import importlib
import importlib.util
from typing import Any

import torch

from fused_inr._backends.implementation import Implementation
from fused_inr._backends.triton import networks, render
from fused_inr.primitives import augment, bias_act, conv2d, minibatch_stddev, upfirdn2d

MAX_SAMPLES = 64  # largest group of minibatch_stddev: a program holds the whole group at a few positions
OPS = ("bias_act", "bias_act_slope", "upfirdn2d", "minibatch_stddev", "minibatch_stddev_backward", "augment")
"""The ops of `fused_inr.primitives` registered for CUDA tensors; each is a function of `image_ops`."""
_INSTALLED = importlib.util.find_spec("triton") is not None


def status() -> str:
    """Return "ready", or one line saying what is missing."""
    if not _INSTALLED:
        return "triton is not installed"
    return "ready" if torch.cuda.is_available() else "no CUDA device"


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
