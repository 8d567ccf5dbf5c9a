"""The dtype in which matrix products are computed."""

import torch

from fused_inr import checks

PRODUCT_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def autocast_enabled(device: str) -> bool:
    """Return whether autocast is on for a device type."""
    # "meta" has no autocast, and the query raises for it. torch 2.11 cannot trace torch.amp.is_autocast_available.
    return device != "meta" and torch.is_autocast_enabled(device)


def product_dtype(dtype: torch.dtype | None, wide: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of the matrix products: `dtype` if not None, else autocast's if it is on, else `wide`.

    Raises:
        ValueError: `dtype` is not supported, or the tensors are float64 and `dtype` is not.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype must be a torch.dtype or None, not {checks.described(dtype)}.")
    if wide == torch.float64:
        if dtype not in (None, torch.float64):
            raise ValueError(
                f"dtype must be float64 or None for float64 tensors, not {dtype}; convert them to float32."
            )
        return wide
    if dtype is None:
        return torch.get_autocast_dtype(device.type) if autocast_enabled(device.type) else wide
    if dtype not in PRODUCT_TYPES:
        raise ValueError(f"dtype must be float32, bfloat16, float16 or None, not {dtype}.")
    return dtype
