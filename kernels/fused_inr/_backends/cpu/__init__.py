"""The CPU backend: C++ kernels that keep a band of pixels in cache from the first layer of an INR to its last.

First gradients come from the kernels too. Those of `render` where a layer is a sine, and all gradients of gradients,
come from PyTorch calls (`fused_inr.composed`).
"""

import math

import torch
from torch import Tensor

from fused_inr import composed, flattening
from fused_inr._backends.cpu import image_ops, native, render, siren  # noqa: F401 (image_ops registers its kernels)
from fused_inr._backends.implementation import Implementation
from fused_inr.inr import INR, Grid
from fused_inr.primitives import augment, bias_act, conv2d, minibatch_stddev, upfirdn2d

_TYPES = (torch.float32, torch.bfloat16)


# Found out once, here: torch.compile can read a constant but not open a library. It takes a few milliseconds.
_STATUS = native.load()[1]


def status() -> str:
    """Return "ready", or why the compiled library cannot be used."""
    return _STATUS


def _supports_render(inr: INR, grid: Grid, dtype: torch.dtype) -> tuple[bool, str]:
    if inr.dtype != torch.float32 or dtype not in _TYPES:
        return False, f"it computes in float32 or bfloat16, not in {dtype if inr.dtype == torch.float32 else inr.dtype}"
    return True, ""


def _has_native_gradients(inr: INR) -> bool:
    """Return whether the kernels differentiate an INR. They derive slopes from outputs, which a sine does not allow."""
    layers = [layer for stage in inr.stages for layer in stage.layers]
    small = len(layers) <= native.MOST_LAYERS and len(inr.stages) <= native.MOST_STAGES
    return small and all(layer.activation != "sine" for layer in layers)


def _render(inr: INR, grid: Grid, dtype: torch.dtype) -> Tensor:
    needs_gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inr.tensors())
    if needs_gradients and not _has_native_gradients(inr):
        return composed.render(inr, grid, dtype)
    return render.render(inr, grid, dtype)


def _render_memory(inr: INR, grid: Grid, dtype: torch.dtype) -> int:
    return 4 * math.prod(flattening.frames_shape(inr, grid)) + render.workspace(inr, grid, dtype)


def _supports_siren(
    coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: float | str | torch.dtype
) -> tuple[bool, str]:
    dtype = options[-1]
    if coords.dtype != torch.float32 or dtype not in _TYPES:
        return False, f"it computes in float32 or bfloat16, not in {dtype}"
    return True, ""


KERNELS = {
    "render": Implementation(_supports_render, _render, _render_memory),
    "siren": Implementation(_supports_siren, siren.siren),
    "bias_act": Implementation(bias_act.supports, bias_act.bias_act),
    "conv2d": Implementation(conv2d.supports, conv2d.conv2d),
    "upfirdn2d": Implementation(upfirdn2d.supports, upfirdn2d.upfirdn2d),
    "minibatch_stddev": Implementation(minibatch_stddev.supports, minibatch_stddev.minibatch_stddev),
    "augment": Implementation(augment.supports, augment.augment),
}
