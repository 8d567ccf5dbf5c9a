"""The choice of the measured device, and its description."""

import pytest
import torch

from benchmarks import device


def test_a_missing_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="no CUDA device"):
        device.use("cuda")
    device.use(None)
    assert device.device().type == "cpu"
    assert device.pick(cpu=1, cuda=2) == 1


def test_the_machine_is_described():
    text = device.description()
    assert f"torch {torch.__version__}" in text
    assert f"{torch.get_num_threads()} threads" in text
