"""Small generators to explore, and messages of the page about them."""

import pytest

from benchmarks.explore import chromium, start_server
from digan.explore.pictures import Painter
from tests.digan.explore.browsing import TIMEOUT, build, rest

CLIP = {"seed": 3, "contents": [4, 5, 6, 7], "pad": [0.25, 0.5], "psi": 0.7, "label": 1, "motion": 9}
WINDOW = {"x": [-0.5, 0.75], "y": [-1.5, -0.25]}


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


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        if browser is None:
            pytest.skip("no browser")
        from playwright.sync_api import expect

        expect.set_options(timeout=TIMEOUT)
        yield browser


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    for classes in (0, 3):
        g = build(classes)
        g.save(folder / f"{classes}.safetensors", **g.metadata)
    return folder


@pytest.fixture(scope="module")
def server(networks):
    with start_server(networks / "0.safetensors", "--dtype", "fp32", "--device", "cpu") as (_, url):
        yield url


@pytest.fixture
def open_page(browser):
    """Opens a page and waits for its picture; afterwards, nothing may have gone wrong in it."""
    problems, contexts = [], []

    def open_page(url: str, width: int = 1000, height: int = 700, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        rest(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(open_page, server):
    return open_page(server)
