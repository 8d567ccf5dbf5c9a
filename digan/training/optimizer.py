"""Adam as the published system sets it up, and what happens to gradients before they reach it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

ADAM_BETAS = (0.0, 0.99)
ADAM_EPS = 1e-8
GRADIENT_LIMIT = 1e5  # what an infinite gradient is replaced with
_HOW = ("fused", "foreach")  # options that say how a step is computed, and not what


def lazy_adam(module: nn.Module | list[nn.Module], lr: float, interval: int) -> Adam:
    """Adam corrected for a penalty that is applied only every `interval` steps (StyleGAN2, appendix B).

    Its steps read and write every tensor once where PyTorch has such a kernel: on CPUs and on CUDA, in float32. The
    parameters must be on their device already.
    """
    ratio = interval / (interval + 1)
    modules = module if isinstance(module, list) else [module]
    params = [p for m in modules for p in m.parameters()]
    betas = (ADAM_BETAS[0] ** ratio, ADAM_BETAS[1] ** ratio)
    fused = all(p.device.type in ("cpu", "cuda") and p.dtype is torch.float32 for p in params)
    return Adam(params, lr=lr * ratio, betas=betas, eps=ADAM_EPS, fused=fused or None)


def load_adam(optimizer: Adam, state: dict[str, Any]) -> None:
    """Restores what `optimizer.state_dict()` gave, wherever and however it was computed; here it stays as it is."""
    groups = zip(optimizer.param_groups, state["param_groups"], strict=True)
    groups = [{**saved, **{how: own[how] for how in _HOW}} for own, saved in groups]
    optimizer.load_state_dict({**state, "param_groups": groups})


def replace_nonfinite(gradients: Sequence[Tensor]) -> Tensor:
    """Replaces in place nan by 0 and infinities by +-GRADIENT_LIMIT; finite values stay, however large.

    Returns how many there were, int64 [] on their device. The host waits for nothing. One tensor after the other, so
    that on a CPU what is read twice is still in the cache.
    """
    counts = []
    for gradient in gradients:
        counts.append((gradient - gradient).count_nonzero())  # inf - inf is nan, and nan is not zero
        gradient.nan_to_num_(nan=0.0, posinf=GRADIENT_LIMIT, neginf=-GRADIENT_LIMIT)
    return torch.stack(counts).sum()
