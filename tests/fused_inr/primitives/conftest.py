"""Images on "meta" tensors, in every memory format and type that kernels take."""

from collections.abc import Callable

import pytest
import torch


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=str)
def layout(request) -> torch.memory_format:
    return request.param


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(scope="session")
def make_image() -> Callable[[torch.memory_format, torch.dtype], torch.Tensor]:
    """Return an image [4, 6, 8, 10] without contents."""
    return lambda layout, dtype: torch.empty(4, 6, 8, 10, dtype=dtype, device="meta").contiguous(memory_format=layout)
