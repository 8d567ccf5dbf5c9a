"""Measure `digan explore` in a headless Chromium: frames per second, the answer to a drag, and memory over time.

    python -m benchmarks.explore [--network NETWORK] [--seconds 20] [--minutes 10] [--dtype bf16]

Without `--network` it explores a generator of the default size, 128x128, with random weights. A picture counts when the
page puts its pixels on the stage. A drag is answered by the first picture that the server renders for it; until then
the page moves the picture that it has. Needs Chromium and the extra `test`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.records import machine, machine_text
from digan.config import GeneratorConfig
from digan.models.generator import Generator

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SETTLED = '#canvas[data-settled]:not([data-settled=""])'
# Notes when the pointer moved last, and the time and the width of every picture on its way to the stage, whose layers
# are the only offscreen canvases in use while neither the comparison nor a slice is shown.
NOTE_PICTURES = """
window.pictures = [];
window.moved = 0;
addEventListener("pointermove", (event) => { window.moved = event.timeStamp; }, true);
const put = OffscreenCanvasRenderingContext2D.prototype.putImageData;
OffscreenCanvasRenderingContext2D.prototype.putImageData = function (image, ...place) {
  window.pictures.push([performance.now(), image.width]);
  return put.call(this, image, ...place);
};
"""


@contextlib.contextmanager
def start_server(network: str | Path, *options: str, port: int = 0) -> Iterator[tuple[subprocess.Popen, str]]:
    """Start `digan explore` of this tree in a process of its own, and end it; yields the process and its address."""
    words = [sys.executable, "-m", "digan", "explore", "--network", str(network), "--port", str(port), *options]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        line = process.stdout.readline()
        if not line:
            sys.exit(process.stderr.read().strip())
        yield process, line.split()[1]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=60)
        process.stdout.close()
        process.stderr.close()


@contextlib.contextmanager
def chromium() -> Iterator[Browser | None]:
    """Start the installed Chromium or Chrome without a window; None if there is none."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        yield None
        return
    with sync_playwright() as playwright:
        # Its sandbox does not work for root; 127.0.0.1 needs no proxy.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--no-proxy-server"])
        yield browser
        browser.close()


@contextlib.contextmanager
def page(url: str) -> Iterator[Page]:
    """Open the page in a headless browser of 1280x800 pixels."""
    with chromium() as browser:
        if browser is None:
            sys.exit("benchmarks.explore needs Chromium or Chrome on the PATH.")
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(NOTE_PICTURES)
        page.goto(url)
        page.wait_for_selector(SETTLED)
        yield page


def frame_rate(page: Page, seconds: float) -> tuple[float, float]:
    """Play for some seconds after two of warming up; return frames per second and the median width of a frame."""
    page.click("#play")
    page.wait_for_timeout(2000)
    page.evaluate("() => { window.pictures = []; }")
    page.wait_for_timeout(1000 * seconds)
    pictures = page.evaluate("() => window.pictures")
    page.click("#play")
    page.wait_for_selector(SETTLED)
    span = (pictures[-1][0] - pictures[0][0]) / 1000
    return (len(pictures) - 1) / span, statistics.median(width for _, width in pictures)


def drag_times(page: Page, count: int) -> list[float]:
    """Return the milliseconds from each of some drags of a picture at rest to the first picture rendered for it."""
    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    times = []
    for step in range(count):
        page.wait_for_selector(SETTLED)
        page.wait_for_timeout(300)
        page.evaluate("() => { window.pictures = []; }")
        page.mouse.move(x + 7 * (step % 10 + 1), y + 5 * (step % 7))
        page.wait_for_function("() => window.pictures.length")
        times.append(page.evaluate("() => window.pictures[0][0] - window.moved"))
    page.mouse.up()
    page.wait_for_selector(SETTLED)
    return times


def use(page: Page, step: int) -> None:
    """Use the page for about ten seconds: play, pan and zoom, and change content and motion."""
    page.click("#play")
    page.wait_for_timeout(5000)
    page.fill("#motion", str(step % 20))
    page.locator("#pad").click(position={"x": 10 + 7 * (step % 12), "y": 60})
    page.wait_for_timeout(2000)
    page.click("#play")
    drag_times(page, 3)
    page.click("#zoom-in" if step % 4 < 2 else "#zoom-out")
    page.wait_for_selector(SETTLED)


def memory(process: psutil.Process, page: Page, minutes: float) -> list[tuple[float, float]]:
    """Use the page, and return the memory of the server and of the page's scripts in MB, once a minute."""
    start, values, step = time.monotonic(), [], 0
    while time.monotonic() - start < 60 * minutes:
        use(page, step)
        step += 1
        if time.monotonic() - start >= 60 * (len(values) + 1):
            heap = page.evaluate("() => performance.memory.usedJSHeapSize")
            values.append((process.memory_info().rss / 1e6, heap / 1e6))
            print(f"  minute {len(values)}: server {values[-1][0]:.0f} MB, page {values[-1][1]:.0f} MB", flush=True)
    return values


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a line for each result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", help="network file, run folder or name; default: 128x128 with random weights")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16", help="type of the matrix products [bf16]")
    parser.add_argument("--seconds", type=float, default=20, help="seconds of playing [20]")
    parser.add_argument("--drags", type=int, default=20, help="number of drags [20]")
    parser.add_argument("--minutes", type=float, default=10, help="minutes of use for the memory [10]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        network = options.network
        if network is None:
            network = Path(folder) / "random.safetensors"
            Generator(GeneratorConfig()).save(network)
        print(machine_text(machine()))
        with start_server(network, "--dtype", options.dtype) as (process, url), page(url) as opened:
            side = opened.evaluate("() => document.getElementById('canvas').width")
            rate, width = frame_rate(opened, options.seconds)
            print(f"playing: {rate:.1f} frames/s of {width:g}x{width:g} pixels, on a stage of {side}x{side}")
            times = sorted(drag_times(opened, options.drags))
            print(f"drag to the first picture: median {statistics.median(times):.0f} ms, at most {times[-1]:.0f} ms")
            print("memory in use:")
            values = memory(psutil.Process(process.pid), opened, options.minutes)
    if values:
        growth = values[-1][0] - values[0][0]
        print(f"memory of the server: {growth:+.0f} MB from minute 1 to minute {len(values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
