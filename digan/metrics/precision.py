"""Numerical precision of feature extractors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 without autocast, TF32 or autotuned algorithms, so that results are reproducible."""
    cudnn = torch.backends.cudnn
    # Set per operator: reading the older `allow_tf32` raises if a caller has set precisions per operator.
    convolutions = (cudnn.conv, torch.backends.mkldnn.conv)  # type: ignore[attr-defined] # replaced at import by torch
    before = cudnn.benchmark, cudnn.deterministic, [conv.fp32_precision for conv in convolutions]
    try:
        cudnn.benchmark, cudnn.deterministic = False, True
        for conv in convolutions:
            conv.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before[:2]
        for conv, precision in zip(convolutions, before[2], strict=True):
            conv.fp32_precision = precision
