"""What tests of the page do in a browser, and what they expect on its stage."""

import base64
import io
import time
from collections.abc import Callable
from urllib.parse import parse_qsl

import numpy as np
import torch
from PIL import Image

import fused_inr as fi
from benchmarks.explore import SETTLED
from digan import Generator
from digan.config import GeneratorConfig
from digan.explore.messages import Content, Window
from digan.explore.pictures import Painter
from digan.sampling.media import to_uint8

SIZES = dict(z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=512, channel_max=8, resolution=64)
START = dict(seed=0, a=0, b=1, c=2, d=3, u=0, v=0, psi=1, label=0, motion=0, t=0, x=0, y=0, half=1)
TIMEOUT = 60_000  # ms; other tests may use all cores


def build(classes: int = 0) -> Generator:
    """Return a generator whose pictures vary, and whose average w is not 0."""
    torch.manual_seed(classes)
    g = Generator(GeneratorConfig(num_classes=classes, **SIZES)).eval()
    torch.nn.init.normal_(g.mapping.w_avg)
    g.metadata = {"clips_seen": 7000, "data": {"frames": 5, "class_names": ["sun", "moon", "star"][:classes]}}
    return g


def update(page) -> None:
    """Wait until the page has seen its last change."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def rest(page) -> None:
    """Wait until the page shows its last change in full resolution."""
    update(page)
    page.wait_for_selector(SETTLED)


def pixels(page, canvas: str = "canvas") -> np.ndarray:
    """What a canvas shows, uint8 [H, W, 3]."""
    url = page.evaluate("id => document.getElementById(id).toDataURL()", canvas)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def clip(state: dict, times, classes: int = 0) -> tuple[Painter, fi.INR]:
    painter = Painter(build(classes))
    content = Content(
        state["seed"],
        tuple(state[name] for name in "abcd"),
        (state["u"], state["v"]),
        state["psi"],
        state["label"] if classes else None,
    )
    with torch.no_grad():
        return painter, painter.inr(content, state["motion"], times)


def window(state: dict) -> Window:
    x, y, half = state["x"], state["y"], state["half"]
    return Window((x - half, x + half), (y - half, y + half))


@torch.no_grad()
def expected(state: dict, side: int, classes: int = 0) -> np.ndarray:
    painter, inr = clip(state, (state["t"],), classes)
    frame = fi.render(inr, painter.grid(window(state), (side, side)))[0, 0]
    return to_uint8(frame).permute(1, 2, 0).numpy()


def assert_same(image: np.ndarray, wanted: np.ndarray) -> None:
    assert image.shape == wanted.shape
    # Rows are rendered in bands, whose coordinates are rounded otherwise: a level, rarely.
    difference = np.abs(image.astype(int) - wanted)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def assert_shows(page, classes: int = 0, **changes) -> np.ndarray:
    """Check that the stage shows the state with these changes, and return its pixels."""
    rest(page)
    image = pixels(page)
    assert_same(image, expected(START | changes, image.shape[0], classes))
    return image


def value(page, field: str) -> float:
    update(page)
    return float(page.input_value(f"#{field}"))


def link(page) -> dict[str, str]:
    """The state in the address bar, once the last change has been written."""
    update(page)
    page.wait_for_selector("body:not([data-link])")
    return dict(parse_qsl(page.url.partition("#")[2]))


def eventually(check: Callable[[], None]) -> None:
    """Repeat a check until it holds."""
    end = time.monotonic() + TIMEOUT / 1000
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def center(page, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
