"""The page in a real browser: every control changes the picture as the generator says it should."""

import base64
import io
import json
import os
import re
import signal
import time
from functools import partial
from itertools import pairwise

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

import fused_inr as fi
from benchmarks.explore import start_server
from digan.explore.pictures import METHODS, enlarged
from digan.files import checksum
from digan.sampling.latents import Latents, clip_times, seeded_latents, write_latents
from digan.sampling.media import to_uint8
from digan.sampling.slices import line_slice
from tests.digan.explore.browsing import (
    START,
    TIMEOUT,
    assert_same,
    assert_shows,
    center,
    clip,
    eventually,
    expected,
    link,
    pixels,
    rest,
    update,
    value,
    window,
)
from tests.digan.explore.conftest import build

# Notes every label of the button that plays, as it changes.
NOTE_LABELS = """() => {
  const button = document.querySelector("#play");
  const label = () => button.textContent.trim();
  window.labels = [];
  let before = label();
  new MutationObserver(() => {
    if (label() !== before) window.labels.push((before = label()));
  }).observe(button, { subtree: true, childList: true, characterData: true });
}"""


def test_fields_and_buttons_of_the_content(page):
    images = [assert_shows(page)]
    page.fill("#seed", "5")
    images.append(assert_shows(page, seed=5))
    page.fill("#psi", "0.5")
    images.append(assert_shows(page, seed=5, psi=0.5))
    page.fill("#a", "9")
    images.append(assert_shows(page, seed=5, psi=0.5, a=9))
    page.locator("#pad").click(position={"x": 40, "y": 110})
    update(page)
    u, v = map(float, re.findall(r"[\d.]+", page.inner_text("#mix")))
    side = page.locator("#pad").bounding_box()["width"]
    assert (u, v) == (pytest.approx(40 / side, abs=0.02), pytest.approx(110 / side, abs=0.02))
    images.append(assert_shows(page, seed=5, psi=0.5, a=9, u=u, v=v))
    page.press("#pad", "ArrowRight")
    images.append(assert_shows(page, seed=5, psi=0.5, a=9, u=round(u + 0.05, 3), v=v))
    page.click("#shuffle")
    images.append(assert_shows(page, seed=5, psi=0.5, a=10, b=11, c=12, d=13, u=round(u + 0.05, 3), v=v))
    for before, after in pairwise(images):
        assert not np.array_equal(before, after)


def test_motions_and_times(page):
    page.fill("#t-number", "0.75")
    images = [assert_shows(page, t=0.75)]
    page.click("#motions button:nth-child(4)")
    images.append(assert_shows(page, t=0.75, motion=3))
    page.click("#later")
    page.click("#motions button:nth-child(2)")
    images.append(assert_shows(page, t=0.75, motion=9))
    page.fill("#motion", "1")
    images.append(assert_shows(page, t=0.75, motion=1))
    page.fill("#t-number", "-1.25")
    images.append(assert_shows(page, t=-1.25, motion=1))
    page.locator("#t").press("End")
    assert value(page, "t-number") == 1.5
    images.append(assert_shows(page, t=1.5, motion=1))
    page.press("#stage", ",")
    images.append(assert_shows(page, t=1.48, motion=1))
    for before, after in pairwise(images):
        assert not np.array_equal(before, after)


def test_the_strip_shows_each_motion(page):
    page.fill("#t-number", "0.9")
    rest(page)
    expect(page.locator("#motions button:nth-child(8) canvas")).to_have_attribute("width", "64")
    for motion in (0, 7):
        wanted = expected(START | {"motion": motion, "t": 5.5 / 6}, 64)

        def check(motion=motion, wanted=wanted) -> None:
            url = page.evaluate("i => document.querySelectorAll('#motions canvas')[i].toDataURL()", motion)
            assert_same(
                np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")), wanted
            )

        eventually(check)


def test_zoom_and_pan(page):
    def shown():
        rest(page)
        return {name: value(page, name) for name in ("x", "y", "half")}

    page.click("#zoom-in")
    assert shown() == {"x": 0, "y": 0, "half": pytest.approx(2 / 3, abs=1e-5)}
    assert_shows(page, **shown())

    x, y = center(page, "#stage")
    side = page.locator("#stage").bounding_box()["width"]
    page.mouse.move(x + side / 4, y)
    page.mouse.wheel(0, -300)
    zoomed = shown()
    assert zoomed["half"] == pytest.approx(2 / 3 * np.exp(-0.45), abs=1e-4)
    # What is below the pointer stays there.
    assert zoomed["x"] + zoomed["half"] / 2 == pytest.approx(1 / 3, abs=0.01)
    assert_shows(page, **zoomed)

    page.mouse.down()
    page.mouse.move(x, y + side / 8, steps=4)
    page.mouse.up()
    panned = shown()
    assert panned["x"] - zoomed["x"] == pytest.approx(zoomed["half"] / 2, abs=0.01)
    assert panned["y"] - zoomed["y"] == pytest.approx(zoomed["half"] / 4, abs=0.01)
    assert_shows(page, **panned)

    page.focus("#stage")
    page.keyboard.press("ArrowLeft")
    assert shown()["x"] == pytest.approx(panned["x"] - 0.2 * panned["half"], abs=1e-5)
    page.keyboard.press("-")
    assert shown()["half"] == pytest.approx(1.5 * panned["half"], abs=1e-5)
    page.fill("#y", "2.5")
    assert_shows(page, **shown())
    page.focus("#stage")
    page.keyboard.press("0")
    assert shown() == {"x": 0, "y": 0, "half": 1}
    assert_shows(page)


def test_classes(open_page, networks):
    with start_server(networks / "3.safetensors", "--dtype", "fp32", "--device", "cpu") as (_, url):
        page = open_page(url)
        first = assert_shows(page, classes=3)
        page.select_option("#label", "moon")
        second = assert_shows(page, classes=3, label=1)
        assert not np.array_equal(first, second)
        assert link(page) == {"label": "1"}


def test_given_clips_take_the_place_of_the_first_samples(open_page, networks, tmp_path):
    g, network = build(), networks / "0.safetensors"
    z_content, z_motion = seeded_latents(8, 0, [5])
    with torch.no_grad():
        w = g.broadcast(g.mapping(z_content))[0]
    write_latents(tmp_path / "found.safetensors", Latents(w, z_motion[0], clip_times(4)), checksum(network))
    options = ["--dtype", "fp32", "--device", "cpu", "--latents", str(tmp_path / "found.safetensors")]
    with start_server(network, *options) as (_, url):
        page = open_page(url)
        assert page.inner_text("#clips") == "0 is found.safetensors"
        assert_shows(page, a=5, motion=5)
        page.fill("#motion", "2")
        assert_shows(page, a=5, motion=2)
        page.fill("#a", "3")
        assert_shows(page, a=3, motion=2)
        assert link(page) == {"a": "3", "motion": "2"}


def test_comparing_with_enlarged_frames(open_page, server):
    page = open_page(f"{server}/#compare=1&t=0.5&half=0.4&x=0.7")
    state = START | {"t": 0.5, "half": 0.4, "x": 0.7}
    painter, inr = clip(state, (0.5,))
    with torch.no_grad():
        frame = fi.render(inr, painter.g.grid())[0]

    def check(method: str) -> None:
        image = pixels(page, method)
        wanted = to_uint8(enlarged(frame, window(state), image.shape[1::-1], method))[0].permute(1, 2, 0).numpy()
        assert_same(image, wanted)

    for method in METHODS:
        eventually(partial(check, method))
    assert_shows(page, t=0.5, half=0.4, x=0.7)
    page.click("#compare")
    expect(page.locator("#bicubic")).to_be_hidden()


def test_a_slice_along_a_drawn_line(page):
    x, y = center(page, "#stage")
    side = page.locator("#stage").bounding_box()["width"]
    page.keyboard.down("Shift")
    page.mouse.move(x - side / 4, y + side / 4)
    page.mouse.down()
    page.mouse.move(x + side / 4, y, steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.fill("#to", "2")
    rest(page)
    page.wait_for_selector('#slice-canvas[data-settled]:not([data-settled=""])')
    line = [float(link(page).get(name, 0)) for name in ("x0", "y0", "x1", "y1")]
    assert line == pytest.approx([-0.5, -0.5, 0.5, 0], abs=0.01)
    image = pixels(page, "slice-canvas")
    height, width = image.shape[:2]
    _, inr = clip(START, clip_times(height, 0, 2))
    with torch.no_grad():
        wanted = to_uint8(line_slice(inr, line, width)).permute(0, 2, 1).numpy()
    assert_same(image, wanted)
    page.press("#line-end", "ArrowUp")
    assert float(link(page)["y1"]) == pytest.approx(line[3] + 0.05, abs=1e-5)
    page.locator("#slice-view").click(
        position={"x": 9, "y": 0.25 * page.locator("#slice-view").bounding_box()["height"]}
    )
    assert value(page, "t-number") == pytest.approx(0.5, abs=0.02)
    page.click("#draw")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + side / 4, y, steps=2)
    page.mouse.up()
    assert float(link(page)["x1"]) == pytest.approx(0.5, abs=0.01)


def steps_of_time(page) -> list[float]:
    """The steps of the time while it plays from -0.5 to 1 or back, until it has jumped to the start twice."""
    times, steps = [value(page, "t-number")], []
    end = time.monotonic() + TIMEOUT / 1000
    while sum(abs(step) > 0.75 for step in steps) < 2 or len(steps) < 20:
        assert time.monotonic() < end, times
        page.wait_for_timeout(60)
        times.append(value(page, "t-number"))
        steps.append(times[-1] - times[-2])
    assert min(times) < 0 < 0.5 < max(times)
    assert all(-0.5 <= t <= 1 for t in times)
    return steps


def test_playing_loops_both_ways_and_shows_its_time(page):
    page.fill("#from", "-0.5")
    page.focus("#stage")
    page.keyboard.press(" ")
    steps = np.array(steps_of_time(page))
    assert (steps > 0).sum() > (steps < 0).sum() > 0  # forwards, with jumps back to the start
    page.keyboard.press("r")
    page.wait_for_timeout(300)
    steps = np.array(steps_of_time(page))
    assert (steps < 0).sum() > (steps > 0).sum() > 0
    page.keyboard.press(" ")
    rest(page)
    assert_shows(page, t=value(page, "t-number"))


def test_without_a_loop_it_stops_at_the_end(page):
    page.click("#loop")
    page.fill("#speed", "5")
    page.evaluate(NOTE_LABELS)  # it plays for a fifth of a second, which a busy machine may not see
    page.click("#play")
    page.wait_for_function("() => window.labels.length > 1")
    assert [label.split()[-1] for label in page.evaluate("() => window.labels")] == ["Pause", "Play"]
    assert_shows(page, t=1)


def test_changes_show_while_playing(page):
    page.fill("#speed", "0.0001")
    page.click("#play")
    page.wait_for_timeout(500)
    before = pixels(page)
    page.fill("#seed", "8")
    wanted = expected(START | {"seed": 8}, before.shape[0])

    def check() -> None:  # playing may be coarser than the stage
        after = pixels(page)
        assert np.abs(after.astype(int) - wanted).mean() < 0.5 * np.abs(before.astype(int) - wanted).mean()

    eventually(check)


def test_a_link_that_is_opened_while_playing_sets_the_time(open_page, server):
    page = open_page(f"{server}/#speed=0.01&t=0.8")
    page.click("#play")
    page.wait_for_function("() => Number(document.getElementById('t-number').value) > 0.801")
    page.evaluate("() => { location.hash = '#play=1&speed=0.01&t=0.3'; }")
    page.wait_for_function("() => Number(document.getElementById('t-number').value) < 0.7")
    times = []
    for _ in range(10):
        page.wait_for_timeout(100)
        times.append(value(page, "t-number"))
    assert times == sorted(times)
    assert 0.3 <= times[0] <= times[-1] < 0.7  # at this speed, 0.4 takes 40 s
    page.wait_for_function("t => Number(document.getElementById('t-number').value) > t", arg=times[-1])
    page.evaluate("() => { location.hash = '#play=1&speed=0.01&t=0.9&reverse=1'; }")
    page.wait_for_function("() => Number(document.getElementById('t-number').value) > 0.85")
    page.evaluate("() => { location.hash = '#t=0.2'; }")
    assert_shows(page, t=0.2)


def test_a_link_and_a_reload_reproduce_the_view(page, open_page, server):
    page.fill("#seed", "6")
    page.fill("#t-number", "0.3")
    page.click("#zoom-in")
    page.locator("#pad").click(position={"x": 60, "y": 30})
    page.fill("#from", "-1")
    rest(page)
    image, state = pixels(page), link(page)
    assert {"seed", "t", "half", "u", "v", "from"} == set(state)
    page.reload()
    rest(page)
    other = open_page(page.url)
    for reopened in (page, other):
        assert np.array_equal(pixels(reopened), image)
        assert link(reopened) == state
    other.evaluate("() => { location.hash = '#seed=1'; }")
    assert_shows(other, seed=1)


@pytest.mark.parametrize(
    "hash", ["seed=x&t=&half=-3&u=7&label=9&speed=nan", "half=1e99&psi=Infinity&constructor=1", "%"]
)
def test_a_wrong_link_shows_what_it_can(hash, open_page, server):
    page = open_page(f"{server}/#{hash}")
    rest(page)
    assert page.locator("#message").is_hidden()


def test_two_tabs_at_once(open_page, server):
    first, second = (open_page(f"{server}/#seed={seed}") for seed in (1, 2))
    first.click("#play")
    assert_shows(second, seed=2)
    second.fill("#motion", "4")
    second.fill("#t-number", "0.5")
    assert_shows(second, seed=2, motion=4, t=0.5)
    first.click("#play")
    assert_shows(first, seed=1, t=value(first, "t-number"))


def test_the_page_reconnects_to_a_restarted_server(open_page, networks):
    options = ("--dtype", "fp32", "--device", "cpu")
    with start_server(networks / "0.safetensors", *options) as (process, url):
        page = open_page(url)
        os.killpg(process.pid, signal.SIGKILL)
        expect(page.locator("#status")).to_have_text("not connected, trying again")
    page.fill("#seed", "7")
    with start_server(networks / "0.safetensors", *options, port=int(url.rpartition(":")[2])):
        expect(page.locator("#status")).to_have_text("connected")
        assert_shows(page, seed=7)
        page.click("#play")

        def check() -> None:
            assert value(page, "t-number") > 0

        eventually(check)


def test_a_wrong_message_is_one_sentence_on_the_page(page):
    page.evaluate("""() => {
        const send = WebSocket.prototype.send;
        WebSocket.prototype.send = function (text) {
            WebSocket.prototype.send = send;
            send.call(this, text.replace('"psi":1', '"psi":99'));
        };
    }""")
    page.fill("#motion", "2")
    expect(page.locator("#message")).to_have_text("psi 99 must be at most 10.")
    page.fill("#t-number", "0.5")
    assert_shows(page, motion=2, t=0.5)
    expect(page.locator("#message")).to_be_hidden()


def test_pages_of_other_origins_cannot_connect(page, open_page, server):
    other = open_page(server.replace("127.0.0.1", "localhost"))
    outcome = other.evaluate(
        """url => new Promise(done => {
            const socket = new WebSocket(url);
            socket.onopen = () => done("open");
            socket.onerror = () => done("refused");
        })""",
        server.replace("http", "ws") + "/pictures",
    )
    assert outcome == "refused"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_button(scheme, open_page, server):
    def ground(page):
        return page.evaluate("() => getComputedStyle(document.body).backgroundColor")

    colors = {"light": "rgb(244, 245, 247)", "dark": "rgb(16, 21, 27)"}
    page = open_page(server, color_scheme=scheme)
    assert ground(page) == colors[scheme]
    for theme in ("dark", "light"):
        page.click("#theme")
        expect(page.locator("#theme")).to_have_text(f"Theme: {theme}")
        assert ground(page) == colors[theme]
    page.reload()
    assert ground(page) == colors["light"]
    page.click("#theme")
    assert ground(page) == colors[scheme]


@pytest.mark.parametrize("width", [320, 390, 700, 1000])
def test_nothing_is_wider_than_the_window(width, open_page, server):
    page = open_page(f"{server}/#slice=1&compare=1", width=width, height=800)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    stage = page.locator("#stage").bounding_box()
    assert stage["width"] == pytest.approx(stage["height"])
    assert stage["width"] > 0.4 * min(width, 400)


def test_every_control_has_a_name(page):
    for control in page.locator("button:visible, input:visible, select:visible, textarea:visible").all():
        name = control.evaluate("e => e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim() || ''")
        assert name, control.evaluate("e => e.outerHTML")


@pytest.mark.ci
def test_memory_stays_flat(open_page, networks):
    with start_server(networks / "0.safetensors", "--device", "cpu") as (process, url):
        page = open_page(f"{url}/#compare=1&slice=1&speed=2")
        page.click("#play")
        devtools = page.context.new_cdp_session(page)

        def sizes() -> tuple[float, float]:
            devtools.send("HeapProfiler.collectGarbage")
            heap = devtools.send("Runtime.getHeapUsage")
            used = heap["usedSize"] + heap.get("backingStorageSize", 0)
            return psutil.Process(process.pid).memory_info().rss / 2**20, used / 2**20

        def use(seconds: float) -> None:
            end = time.monotonic() + seconds
            x, y = center(page, "#stage")
            step = 0
            while time.monotonic() < end:
                step += 1
                page.mouse.move(x, y)
                page.mouse.down()
                page.mouse.move(x + 30 * (-1) ** step, y + 20, steps=5)
                page.mouse.up()
                page.mouse.wheel(0, 100 * (-1) ** step)
                page.fill("#seed", str(step))
                page.click("#shuffle")
                page.wait_for_timeout(200)

        use(10)
        before = sizes()
        use(30)
        after = sizes()
        # MiB; from the third to the tenth minute, the server of the default generator grew by 2 and the page by 0.03.
        assert after[0] - before[0] < 25, (before, after)
        assert after[1] - before[1] < 5, (before, after)


def test_messages_are_json(page):
    """The state has no value that JSON lacks, which the server would refuse."""
    sent = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda text: sent.append(text)))
    page.reload()
    rest(page)
    assert sent
    for message in sent:
        json.loads(message, parse_constant=pytest.fail)
