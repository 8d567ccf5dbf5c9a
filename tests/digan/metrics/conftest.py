"""Stand-ins for the published detectors."""

import warnings

import pytest
import torch


class SmallI3D(torch.nn.Module):
    """Scaled channel means of the first frames, repeated to an I3D's number of outputs."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        assert rescale
        assert resize
        assert return_features
        assert x.dtype == torch.float32
        return self.scale * x.mean((3, 4)).flatten(1)[:, :8].repeat(1, 50)


class SmallC3D(torch.nn.Module):
    """101 outputs that depend on the colours of the first frames: logits, or their softmax."""

    def __init__(self, logits: bool = False) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor):
        assert x.dtype == torch.uint8
        numbers = (x.float().mean((3, 4)).flatten(1)[:, :1] / 255 * torch.arange(101)).sin() * 4
        return numbers if self.logits else numbers.softmax(1)


class SmallInception(torch.nn.Module):
    """Channel means of a frame, repeated to an Inception-v3's number of outputs."""

    def forward(self, x: torch.Tensor, return_features: bool = False):
        assert return_features
        assert x.dtype == torch.uint8
        return x.float().mean((2, 3)).repeat(1, 683)[:, :2048]


@pytest.fixture
def save_script(tmp_path):
    """Save a module as TorchScript and return its path."""

    def save(module: torch.nn.Module, name: str = "detector.pt") -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.script(module).save(str(tmp_path / name))
        return str(tmp_path / name)

    return save


@pytest.fixture
def detector_file(save_script):
    """Save a stand-in for a kind of detector and return its path; options are passed to its module."""
    modules = {"i3d": SmallI3D, "c3d": SmallC3D, "inception": SmallInception}

    def make(kind: str, name: str | None = None, **options) -> str:
        return save_script(modules[kind](**options), name or f"{kind}.pt")

    return make
