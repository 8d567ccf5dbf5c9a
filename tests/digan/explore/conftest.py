"""Small generators to explore, and messages of the page about them."""

import pytest
import torch

from digan import Generator
from digan.config import GeneratorConfig
from digan.explore.pictures import Painter

SIZES = dict(z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=512, channel_max=8, resolution=64)
CLIP = {"seed": 3, "contents": [4, 5, 6, 7], "pad": [0.25, 0.5], "psi": 0.7, "label": 1, "motion": 9}
WINDOW = {"x": [-0.5, 0.75], "y": [-1.5, -0.25]}


def build(classes: int = 0) -> Generator:
    """Return a generator whose pictures vary, and whose average w is not 0."""
    torch.manual_seed(classes)
    g = Generator(GeneratorConfig(num_classes=classes, **SIZES)).eval()
    torch.nn.init.normal_(g.mapping.w_avg)
    g.metadata = {"clips_seen": 7000, "data": {"frames": 5, "class_names": ["sun", "moon", "star"][:classes]}}
    return g


@pytest.fixture(params=[0, 3], ids=["unconditional", "classes"])
def classes(request):
    return request.param


@pytest.fixture
def painter():
    """Renders with a generator in float32, and knows a speed at which nothing is coarse."""
    painter = Painter(build())
    painter.rate = 1e9
    return painter


@pytest.fixture
def message():
    """Makes a message of the page, with fields changed or removed (None)."""

    def make(kind: str = "frames", /, **changes) -> dict:
        fields = {
            "frames": {**WINDOW, "times": [0.25, 1.5], "size": [40, 40], "sharp": False},
            "slice": {"line": [-1, -0.5, 1, 0.5], "span": [0, 2], "size": [48, 24]},
            "enlarged": {**WINDOW, "time": 0.25, "size": [40, 30]},
            "motions": {"motions": [3, 4], "times": [0, 0.5, 1], "side": 32},
            "file": {**WINDOW, "format": "mp4", "span": [0, 2], "frames": 5, "fps": 8, "size": [32, 32]}
            | {"line": [-1, -0.5, 1, 0.5]},
        }[kind]
        message = {"kind": kind, "id": 1, "generation": 2, **CLIP, **fields, **changes}
        return {name: value for name, value in message.items() if value is not None}

    return make
