"""Adam as configured in the published system, and replacement of non-finite gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

ADAM_BETAS = (0.0, 0.99)
ADAM_EPS = 1e-8
GRADIENT_LIMIT = 1e5  # replaces infinite gradient values
_IMPLEMENTATION = ("fused", "foreach")  # options that select the implementation of a step, not its result


def lazy_adam(module: nn.Module | list[nn.Module], lr: float, interval: int) -> Adam:
    """Return Adam corrected for a penalty that is applied only every `interval` steps (StyleGAN2, appendix B).

    Steps use PyTorch's fused kernels, which read and write every tensor once, where they exist: on CPUs and on CUDA, in
    float32. The parameters must already be on their device.
    """
    ratio = interval / (interval + 1)
    modules = module if isinstance(module, list) else [module]
    params = [p for m in modules for p in m.parameters()]
    betas = (ADAM_BETAS[0] ** ratio, ADAM_BETAS[1] ** ratio)
    fused = all(p.device.type in ("cpu", "cuda") and p.dtype is torch.float32 for p in params)
    return Adam(params, lr=lr * ratio, betas=betas, eps=ADAM_EPS, fused=fused or None)


def load_adam(optimizer: Adam, state: dict[str, Any]) -> None:
    """Restore a result of `optimizer.state_dict()`, but keep the implementation that `optimizer` uses."""
    pairs = zip(optimizer.param_groups, state["param_groups"], strict=True)
    groups = [{**saved, **{option: own[option] for option in _IMPLEMENTATION}} for own, saved in pairs]
    optimizer.load_state_dict({**state, "param_groups": groups})


def replace_nonfinite(gradients: Sequence[Tensor]) -> Tensor:
    """Replace nan by 0 and infinities by +-GRADIENT_LIMIT in place; finite values stay, however large.

    The host does not wait for the device. Tensors are processed one after the other, so that on a CPU the second pass
    over a tensor finds it in the cache.

    Returns:
        The number of replaced values in each, int64 [len(gradients)] on their device.
    """
    counts = []
    for gradient in gradients:
        counts.append((gradient - gradient).count_nonzero())  # inf - inf is nan, and nan is not zero
        gradient.nan_to_num_(nan=0.0, posinf=GRADIENT_LIMIT, neginf=-GRADIENT_LIMIT)
    return torch.stack(counts)
