"""Keys, buttons and fingers on the page, in a real browser."""

import time
from itertools import pairwise

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.digan.explore.browsing import (
    TIMEOUT,
    assert_shows,
    link,
    rest,
    update,
    value,
)


def test_the_keyboard_is_explained(page):
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()


def test_the_trained_times_are_marked_on_the_time_line(page):
    def place(selector: str) -> tuple[float, float]:
        """Return where a mark starts and ends, in times of the time line."""
        box, line = page.locator(selector).bounding_box(), page.locator("#marks").bounding_box()
        low, high = (float(page.get_attribute("#t", name)) for name in ("min", "max"))
        start = (box["x"] - line["x"]) / line["width"]
        return tuple(low + (high - low) * share for share in (start, start + box["width"] / line["width"]))

    assert page.inner_text("#trained") == "trained"
    for start, end in ((0, 1), (-3, 2), (0.25, 0.5), (4, 2)):
        page.fill("#from", str(start))
        page.fill("#to", str(end))
        update(page)
        assert place("#trained") == pytest.approx((0, 1), abs=0.02)
        assert place("#span") == pytest.approx(sorted((start, end)), abs=0.02)


def test_the_keys_do_what_their_list_says(open_page, server):
    page = open_page(f"{server}/#t=0.5&speed=0.5")
    page.focus("#stage")

    def press(key: str) -> dict[str, str]:
        page.keyboard.press(key)
        return link(page)

    start = {"t": "0.5"}
    assert press("m") == start | {"motion": "1"}
    assert_shows(page, t=0.5, motion=1)
    state = press("n")
    assert state == start | {"motion": "1", "a": "4", "b": "5", "c": "6", "d": "7"}
    assert_shows(page, t=0.5, motion=1, a=4, b=5, c=6, d=7)
    for key, field in (("c", "compare"), ("s", "slice")):
        assert press(key) == state | {field: "1"}
        expect(page.locator(f"#{field}")).to_have_attribute("aria-pressed", "true")
        assert press(key) == state
    assert press("l") == state | {"loop": "0"}
    assert press("l") == state
    assert press("]") == state | {"speed": "0.625"}
    assert press("[") == state
    assert press("[") == state | {"speed": "0.4"}
    assert press("]") == state
    assert press(".") == state | {"t": "0.52"}
    assert press(",") == state
    assert float(press("+")["half"]) == pytest.approx(1 / 1.5, abs=1e-5)
    assert float(press("=")["half"]) == pytest.approx(1 / 1.5**2, abs=1e-5)
    assert press("0") == state
    assert_shows(page, t=0.5, motion=1, a=4, b=5, c=6, d=7)


def test_keys_in_a_field_are_text(page):
    page.fill("#seed", "3")
    page.focus("#seed")
    for key in "mncsl.,0":
        page.keyboard.press(key)
    assert {"a", "motion", "compare", "slice", "loop", "half"}.isdisjoint(link(page))


def test_playing_from_the_larger_to_the_smaller_time(open_page, server):
    page = open_page(f"{server}/#from=0.8&to=0.2&t=0.8&speed=0.3")
    page.click("#play")
    times = [value(page, "t-number")]
    end = time.monotonic() + TIMEOUT / 1000
    while sum(after > before for before, after in pairwise(times)) < 2 or len(times) < 20:
        assert time.monotonic() < end, times
        page.wait_for_timeout(60)
        times.append(value(page, "t-number"))
    assert all(0.2 <= t <= 0.8 for t in times)
    steps = np.diff(times)
    assert (steps < 0).sum() > (steps > 0).sum()  # backwards, with jumps to 0.8
    assert steps.max() > 0.3
    page.click("#play")
    page.click("#loop")
    page.fill("#t-number", "0.3")
    page.fill("#speed", "5")
    page.click("#play")
    expect(page.locator("#play")).to_contain_text("Play")
    assert_shows(page, t=0.2)


def test_the_buttons_of_the_view_and_of_the_motions(open_page, server):
    page = open_page(f"{server}/#x=0.4&y=-0.2&half=0.5&motion=9&strip=8")
    page.click("#zoom-out")
    assert_shows(page, x=0.4, y=-0.2, half=0.75, motion=9)
    page.click("#reset")
    assert_shows(page, motion=9)
    assert page.get_attribute("#motions button:first-child", "data-motion") == "8"
    page.click("#earlier")
    update(page)
    assert page.get_attribute("#motions button:first-child", "data-motion") == "0"
    expect(page.locator("#earlier")).to_be_disabled()
    page.click("#motions button:first-child")
    assert_shows(page)
    assert link(page) == {}


@pytest.fixture
def touch(open_page, server):
    """Opens the page on a phone; returns it and a function that puts fingers on the stage, in its own fractions."""
    page = open_page(server, width=390, height=800, has_touch=True, is_mobile=True)
    devtools = page.context.new_cdp_session(page)
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()

    def put(kind: str, *fingers: tuple[float, float]) -> None:
        points = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": i}
            for i, (x, y) in enumerate(fingers)
        ]
        devtools.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    return page, put


def test_one_finger_pans(touch):
    page, put = touch
    put("Start", (0.5, 0.5))
    for share in (0.55, 0.6, 0.75):
        put("Move", (share, 0.5 - (share - 0.5) / 2))
    put("End")
    rest(page)
    x, y = value(page, "x"), value(page, "y")
    assert (x, y) == (pytest.approx(-0.5, abs=0.02), pytest.approx(-0.25, abs=0.02))
    assert_shows(page, x=x, y=y)
    assert page.evaluate("() => scrollY") == 0  # the page does not scroll along


def test_two_fingers_zoom(touch):
    page, put = touch
    put("Start", (0.5, 0.5))
    put("Start", (0.5, 0.5), (0.7, 0.5))
    for spread in (0.25, 0.3, 0.4):
        put("Move", (0.6 - spread / 2, 0.5), (0.6 + spread / 2, 0.5))
    put("End")
    rest(page)
    shown = {name: value(page, name) for name in ("x", "y", "half")}
    assert shown["half"] == pytest.approx(0.5, abs=0.02)
    assert shown["x"] + 0.2 * shown["half"] == pytest.approx(0.2, abs=0.03)  # what is between the fingers stays there
    assert shown["y"] == pytest.approx(0, abs=0.02)
    assert_shows(page, **shown)
    assert page.evaluate("() => visualViewport.scale") == 1  # the page is not enlarged


def test_a_finger_draws_a_line(touch):
    page, put = touch
    page.evaluate("() => document.getElementById('slice').click()")
    page.evaluate("() => document.getElementById('draw').click()")
    put("Start", (0.25, 0.75))
    for share in (0.4, 0.6, 0.75):
        put("Move", (share, 0.5))
    put("End")
    line = [float(link(page).get(name, 0)) for name in ("x0", "y0", "x1", "y1")]
    assert line == pytest.approx([-0.5, -0.5, 0.5, 0], abs=0.03)
    expect(page.locator("#draw")).to_have_attribute("aria-pressed", "false")
    put("Start", (0.5, 0.5))
    put("Move", (0.6, 0.5))
    put("End")
    assert value(page, "x") < 0  # the next finger pans again
