"""Feature extractors compute in float32, whatever precision the caller has set, and leave that as it was."""

import pytest
import torch

from digan.metrics.precision import full_precision

CPU = torch.device("cpu")


def settings():
    cudnn, onednn = torch.backends.cudnn, torch.backends.mkldnn
    return cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision, onednn.conv.fp32_precision


def set_to(benchmark, deterministic, cudnn, onednn):
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic
    torch.backends.cudnn.conv.fp32_precision, torch.backends.mkldnn.conv.fp32_precision = cudnn, onednn


@pytest.fixture
def fast():
    """The caller's settings: everything that is fast and inexact."""
    before = settings()
    set_to(True, False, "tf32", "bf16")
    yield settings()
    set_to(*before)


def test_everything_inexact_is_off_inside_and_restored_after(fast):
    assert fast == (True, False, "tf32", "bf16")
    with full_precision(CPU):
        assert settings() == (False, True, "ieee", "ieee")
    assert settings() == fast


def test_settings_are_restored_after_an_error(fast):
    with pytest.raises(RuntimeError, match="no memory"), full_precision(CPU):
        raise RuntimeError("no memory")
    assert settings() == fast


def test_autocast_is_off_inside():
    x = torch.full([2, 2], 1 + 2**-10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision(CPU):
            exact = x @ x
        assert (x @ x).dtype == torch.bfloat16
    assert exact.dtype == torch.float32
    assert torch.equal(exact, torch.full([2, 2], 2 * (1 + 2**-10) ** 2))
