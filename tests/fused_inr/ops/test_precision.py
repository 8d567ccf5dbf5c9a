"""The dtype of matrix products: explicit, by autocast, or that of the tensors."""

import pytest
import torch

from fused_inr.ops.precision import PRODUCT_TYPES, autocast_enabled, product_dtype

CPU, META = torch.device("cpu"), torch.device("meta")


def test_an_explicit_type_takes_precedence_over_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [product_dtype(dtype, torch.float32, CPU) for dtype in PRODUCT_TYPES] == list(PRODUCT_TYPES)
        assert product_dtype(None, torch.float32, CPU) == torch.bfloat16
    assert product_dtype(None, torch.float32, CPU) == torch.float32


def test_float64_tensors_are_multiplied_in_float64():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product_dtype(None, torch.float64, CPU) == torch.float64
    assert product_dtype(torch.float64, torch.float64, CPU) == torch.float64
    with pytest.raises(ValueError, match=r"float64 or None for float64 tensors, not torch\.float32; convert them"):
        product_dtype(torch.float32, torch.float64, CPU)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.complex64], ids=str)
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match=f"dtype must be float32, bfloat16, float16 or None, not {dtype}"):
        product_dtype(dtype, torch.float32, CPU)


def test_a_device_without_autocast():
    assert not autocast_enabled("meta")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert autocast_enabled("cpu")
        assert product_dtype(None, torch.float32, META) == torch.float32
