"""Evaluation of INRs on grids."""

import functools

import torch
from torch import Tensor

from fused_inr import checks
from fused_inr.inr import INR, Grid
from fused_inr.ops.dispatch import call, select
from fused_inr.ops.precision import product_dtype


def check_arguments(owner: str, inr: INR, grid: Grid, dtype: torch.dtype | None) -> tuple[INR, Grid, torch.dtype]:
    """Return the arguments of the op for those of the function `owner`.

    Raises:
        ValueError: one of them has the wrong type, the dtype is unknown, or no memory could hold the result.
    """
    for name, value, kind in (("inr", inr, INR), ("grid", grid, Grid)):
        if not isinstance(value, kind):
            raise ValueError(f"{owner} {name} must be a fused_inr.{kind.__name__}, not {checks.described(value)}.")
    scale = inr.stages[-1].scale
    shape = (inr.batch, inr.times, inr.channels, grid.height * scale, grid.width * scale)
    checks.result(owner, shape, inr.dtype, "height or width of the grid")
    return inr, grid, product_dtype(dtype, _weight_dtype(inr), inr.device)


def _weight_dtype(inr: INR) -> torch.dtype:
    """Return the type to which PyTorch promotes those of the layers' weights; float64 if any tensor has it."""
    dtypes = [layer.weight.dtype for stage in inr.stages for layer in stage.layers]
    promoted = functools.reduce(torch.promote_types, dtypes)
    return torch.float64 if inr.dtype == torch.float64 else promoted


def render(inr: INR, grid: Grid, *, dtype: torch.dtype | None = None, backend: str | None = None) -> Tensor:
    """Evaluate a batch of INRs on a pixel grid (DIGAN, ICLR 2022).

    Each stage is evaluated on `grid.scaled(stage.scale)`. The result is the running image (the sum of all to_rgb
    read-outs) at the scale of the last stage, or the output of the last layer if no layer has to_rgb. Differentiable in
    every tensor of the INR, to any order, under every transform of `torch.func` and in forward mode.

    Args:
        inr: N videos at T times; N = 0 and T = 0 are allowed.
        grid: base grid, on which a stage of scale 1 is evaluated.
        dtype: compute dtype of the matrix products: float32, bfloat16 or float16. None means autocast's dtype if
            autocast is on, otherwise the one to which PyTorch promotes those of the layers' weights. Angles, sines,
            accumulation, biases and activations stay float32. If any tensor is float64, everything is computed in
            float64, and `dtype` must be float64 or None.
        backend: a key of `fi.backends()`; None for the backend of `with fi.backend(...)`, or else the fastest one that
            supports the call.

    Returns:
        `[N, T, C, H, W]` float32 (float64 for float64 tensors), where H and W are the grid's height and width times the
        scale of the last stage.

    Raises:
        ValueError: an argument has the wrong type, or the dtype or backend is unknown.
        RuntimeError: the requested backend cannot serve this call; the message says why.
    """
    args = check_arguments("render", inr, grid, dtype)
    return call("render", inr.device.type, args, backend)


def render_memory(inr: INR, grid: Grid, *, dtype: torch.dtype | None = None, backend: str | None = None) -> int:
    """Return the peak bytes that `render` allocates for these arguments without gradients, its result included.

    The count comes from the backend that would serve the call, or from the reference if that backend has none.
    """
    args = check_arguments("render", inr, grid, dtype)
    kernel = select("render", inr.device.type, args, backend)
    count = kernel.memory or select("render", inr.device.type, args, "reference").memory
    return count(*args)
