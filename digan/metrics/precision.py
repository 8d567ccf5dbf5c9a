"""The arithmetic of feature extractors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 throughout, without autocast, TF32 or autotuned algorithms: one number for one set of clips."""
    cudnn = torch.backends.cudnn
    # Per operator, since reading the older `allow_tf32` raises once a caller has set precisions one by one.
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
