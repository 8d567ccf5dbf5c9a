"""Digests of tensors, by which processes compare what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch


def tensor_digest(tensors: Iterable[torch.Tensor]) -> str:
    """Return 16 hex digits that change with the values, bit for bit, types and shapes of tensors, and their order."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
