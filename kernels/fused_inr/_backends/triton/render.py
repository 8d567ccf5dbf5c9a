"""`render` on the Triton kernels, as ops that torch.compile can trace. Importing this module does not import Triton."""

import importlib
from typing import Any

import torch
from torch import Tensor

from fused_inr.inr import INR, Grid
from fused_inr.primitives.render import register

MAX_COLOURS = 64  # of a read-out: a program holds all colours of its pixels
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def _kernels(name: str) -> Any:
    """Import a module of the package `kernels`, which imports Triton."""
    return importlib.import_module(f"fused_inr._backends.triton.kernels.{name}")


def _evaluate(inr: INR, grid: Grid, dtype: torch.dtype, keep: bool) -> tuple[Tensor, list[Tensor]]:
    return _kernels("render_forward").evaluate(inr, grid, dtype, keep=keep)


def _differentiate(inr: INR, grid: Grid, gradient: Tensor, dtype: torch.dtype, kept: list[Tensor]) -> list[Tensor]:
    return _kernels("render_backward").backward(inr, grid, gradient, dtype, kept or None)


render = register("triton", _evaluate, _differentiate)


def supports(inr: INR, grid: Grid, dtype: torch.dtype) -> tuple[bool, str]:
    """Return whether the kernels support a call, and if not, why."""
    if inr.dtype != torch.float32 or dtype not in _TYPES:
        return False, f"it computes in float32, bfloat16 or float16, not in {torch.float64}"
    read_outs = any(layer.to_rgb is not None for stage in inr.stages for layer in stage.layers)
    if read_outs and inr.channels > MAX_COLOURS:
        return False, f"it reads out at most {MAX_COLOURS} colours, not {inr.channels}"
    return True, ""


def memory(inr: INR, grid: Grid, dtype: torch.dtype) -> int:
    """Return the peak bytes of a call without gradients, result included, before the allocator's rounding."""
    return _kernels("render_forward").memory(inr, grid, dtype)
