"""Files, commands and links that the page gives away, in a real browser."""

import re
import shlex

import av
import pytest
from playwright.sync_api import expect

from digan.cli.main import main
from tests.digan.explore.browsing import (
    TIMEOUT,
)


@pytest.mark.parametrize("format", ["mp4", "gif", "png", "slice"])
def test_downloads_are_what_the_command_writes(format, open_page, server, tmp_path):
    page = open_page(f"{server}/#seed=2&u=0.4&v=0.3&motion=5&t=0.4&from=-0.2&to=0.6&speed=1&half=1.5&y1=0.5")
    page.select_option("#format", format)
    page.fill("#pixels", "48")
    page.fill("#fps", "10")
    with page.expect_download() as waiting:
        page.click("#download")
    content = waiting.value.path().read_bytes()
    expect(page.locator("#saving")).to_contain_text("saved digan")
    expect(page.locator("#command")).to_have_value(re.compile(rf"--resolution 48x48.* --format {format}"))
    words = shlex.split(page.input_value("#command"))
    words[words.index("out")] = str(tmp_path / "out")
    assert main([*words[1:], "--device", "cpu"]) == 0
    (file,) = (path for path in (tmp_path / "out").iterdir() if path.name != "sample.json")
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("speed", "end", "format", "fps", "frames"),
    [(0.005, 1, "mp4", 4.995, 1000), (0.01, 5, "gif", 1.998, 1000), (0.5, 1, "mp4", 24, 49), (0.005, 1, "png", 24, 1)],
)
def test_a_slow_video_has_fewer_frames_per_second(speed, end, format, fps, frames, open_page, server):
    page = open_page(f"{server}/#speed={speed}&to={end}")
    page.select_option("#format", format)
    page.fill("#pixels", "8")
    page.press("#pixels", "Tab")
    rate = rf" --fps {fps}" if frames > 1 else ""
    expect(page.locator("#command")).to_have_value(re.compile(rf" --frames {frames} .*--format {format}{rate}$"))
    if fps < 24:
        assert page.inner_text("#file-rate") == f"{fps} frames/s: a file holds 1000 frames"
        assert (frames - 1) / fps == pytest.approx(end / speed)
    else:
        expect(page.locator("#file-rate")).to_be_hidden()


@pytest.mark.ci
def test_the_time_that_a_slow_video_takes_is_that_of_its_file(open_page, server):
    page = open_page(f"{server}/#speed=0.005")
    page.fill("#pixels", "4")
    with page.expect_download(timeout=5 * TIMEOUT) as waiting:
        page.click("#download")
    with av.open(str(waiting.value.path())) as container:
        (stream,) = container.streams
        assert stream.frames == 1000
        assert float(stream.duration * stream.time_base) == pytest.approx(200, abs=0.3)


def test_a_video_longer_than_a_file_is_refused(open_page, server):
    page = open_page(f"{server}/#speed=0.0001&to=2")
    page.click("#download")
    sentence = "At this speed the video lasts 20000 s; a file holds 9990 s: raise the speed."
    expect(page.locator("#file-rate")).to_have_text(sentence)
    assert page.inner_text("#download") == "Download"
    page.fill("#speed", "1")
    page.press("#speed", "Tab")
    expect(page.locator("#file-rate")).to_be_hidden()


@pytest.mark.parametrize(("field", "name"), [("pixels", "Pixels"), ("fps", "Frames/s")])
@pytest.mark.parametrize("text", ["", "0", "-8"])
def test_an_empty_field_is_refused(field, name, text, open_page, server):
    page = open_page(server, permissions=["clipboard-read", "clipboard-write"])
    page.evaluate("() => navigator.clipboard.writeText('mine')")
    expect(page.locator("#command")).to_have_value(re.compile("^digan sample "))
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.fill(f"#{field}", text)
    for button in ("#download", "#copy-command"):
        page.click(button)
        expect(page.locator("#file-rate")).to_have_text(f"{name} must be a number above 0.")
    assert page.inner_text("#download") == "Download"
    assert page.input_value("#command") == ""
    assert page.evaluate("() => navigator.clipboard.readText()") == "mine"
    assert requests == []
    page.fill(f"#{field}", "10")
    page.press(f"#{field}", "Tab")
    expect(page.locator("#command")).to_have_value(re.compile("--resolution 10x10|--fps 10"))


def test_a_refused_command_is_not_copied(open_page, server):
    page = open_page(server, permissions=["clipboard-read", "clipboard-write"])
    page.evaluate("() => navigator.clipboard.writeText('mine')")
    page.fill("#pixels", "4000")
    page.click("#copy-command")
    expect(page.locator("#saving")).to_have_text("size 4000 must be at most 1,024.")
    assert page.evaluate("() => navigator.clipboard.readText()") == "mine"


def test_a_refused_file_is_one_sentence(page):
    page.evaluate("() => { document.getElementById('fps').value = '1000'; }")
    page.click("#download")
    expect(page.locator("#saving")).to_have_text("fps 1000 must be at most 100.")


def test_links_and_commands_can_be_copied(open_page, server):
    page = open_page(f"{server}/#seed=4", permissions=["clipboard-read", "clipboard-write"])
    page.click("#copy-link")
    expect(page.locator("#saving")).to_have_text("The link is copied.")
    assert page.evaluate("() => navigator.clipboard.readText()") == page.url
    page.click("#copy-command")
    expect(page.locator("#saving")).to_have_text("The command is copied.")
    assert page.evaluate("() => navigator.clipboard.readText()").startswith("digan sample --network ")


def test_a_download_can_be_cancelled(page):
    page.fill("#to", "20")
    page.fill("#pixels", "512")
    page.fill("#fps", "20")
    page.click("#download")
    expect(page.locator("#download")).to_have_text("Cancel")
    assert page.inner_text("#saving") == "rendering 801 frames …"
    page.click("#download")
    expect(page.locator("#saving")).to_have_text("cancelled")
    expect(page.locator("#download")).to_have_text("Download")
    page.fill("#to", "1")
    page.fill("#pixels", "8")
    with page.expect_download():  # the server has stopped, so that there is room for the next
        page.click("#download")
    expect(page.locator("#saving")).to_have_text("saved digan.mp4")
