"""The memory formats that kernels take."""

import pytest
import torch

from fused_inr.primitives import memory_format

IMAGE = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
LAST = IMAGE.contiguous(memory_format=torch.channels_last)


def test_channels_last_is_distinguished_from_contiguous():
    assert memory_format.is_channels_last(LAST)
    assert not memory_format.is_channels_last(IMAGE)
    assert not memory_format.is_channels_last(torch.ones(2, 1, 4, 5).contiguous(memory_format=torch.channels_last))
    assert memory_format.format_of(LAST) == torch.channels_last
    assert memory_format.format_of(IMAGE) == torch.contiguous_format


def test_dense_copies_only_strided_tensors():
    assert memory_format.dense(IMAGE).data_ptr() == IMAGE.data_ptr()
    assert memory_format.dense(LAST) is LAST
    strided = IMAGE[..., ::2]
    assert memory_format.dense(strided).is_contiguous()
    assert torch.equal(memory_format.dense(strided), strided)
    assert memory_format.like(LAST.half(), IMAGE).stride() == LAST.stride()
    assert memory_format.like(LAST.half(), IMAGE).dtype == torch.float16


def test_extents_are_in_memory_order():
    assert memory_format.extents(IMAGE, 1) == (2, 3, 20)
    assert memory_format.extents(IMAGE, 3) == (24, 5, 1)
    assert memory_format.extents(LAST, 1) == (40, 3, 1)
    assert memory_format.extents(torch.tensor(1.0), 0) == (1, 1, 1)
    assert memory_format.extents(LAST[:, :0].contiguous(memory_format=torch.channels_last), 1) == (2, 0, 20)
    with pytest.raises(ValueError, match="axis 2 of a channels_last image"):
        memory_format.extents(LAST, 2)


def test_batch_stride_is_zero_where_samples_share():
    assert memory_format.batch_stride(IMAGE) == 60
    assert memory_format.batch_stride(IMAGE[:1]) == 0
    assert memory_format.batch_stride(IMAGE[:1].expand(4, -1, -1, -1)) == 0


def test_double_precision_is_not_supported():
    assert memory_format.supports(IMAGE) == (True, "it computes in float32, bfloat16 and float16, not in torch.float32")
    assert not memory_format.supports(IMAGE.double())[0]
