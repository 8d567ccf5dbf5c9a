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
    operators = (
        cudnn.conv,  # type: ignore[attr-defined] # replaced at import by torch
        torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
        torch.backends.cuda.matmul,
    )
    before = cudnn.benchmark, cudnn.deterministic, [operator.fp32_precision for operator in operators]
    try:
        cudnn.benchmark, cudnn.deterministic = False, True
        for operator in operators:
            operator.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before[:2]
        for operator, precision in zip(operators, before[2], strict=True):
            operator.fp32_precision = precision
