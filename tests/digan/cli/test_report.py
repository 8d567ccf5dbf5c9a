"""`digan report`: the page holds every run's options, curves and samples, and needs nothing beside it."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from digan.cli import report
from digan.cli.main import main
from digan.sampling.media import write_png

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text; every tag must be closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run(tmp_path):
    """Makes a run folder without training."""

    def make(name, **options):
        folder = tmp_path / "runs" / name
        for each in ("samples", "snapshots"):
            (folder / each).mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"data": "x", "kimg": 2.0, **options}))
        (folder / "command.sh").touch()
        ticks = [
            {"clips": 1000, "loss_d": 1.0, "clips_per_second": 4.0, "memory_gb": 1.0, "seconds": 60.0},
            {"clips": 2000, "loss_d": 2.0, "clips_per_second": 2.0, "memory_gb": 2.0, "seconds": 30.0},
        ]
        (folder / "stats.jsonl").write_text("".join(json.dumps(tick) + "\n" for tick in ticks) + '{"cli')
        results = [(0, 1.0, "untrained")]
        results += [(1000 * k, 10.0 / k, f"network-snapshot-00000{k}.safetensors") for k in (1, 2)]
        lines = [json.dumps({"clips": clips, "value": value, "snapshot": name}) for clips, value, name in results]
        (folder / "metric-rfvd4_4f.jsonl").write_text("\n".join(lines))
        for k, sample in enumerate(("reals", "fakes_init", "fakes000001", "fakes000002")):
            write_png(folder / "samples" / f"{sample}.png", np.full((60, 800, 3), 60 * k, dtype=np.uint8))
        return folder

    return make


@pytest.fixture
def page(tmp_path, capsys):
    """Writes the page about some paths; returns it and what the command prints."""

    def make(*paths):
        file = tmp_path / "page.html"
        assert main(["report", *map(str, paths), "-o", str(file)]) == 0
        return file.read_text(encoding="utf-8"), capsys.readouterr().out

    return make


def pictures(text):
    sources = [attrs["src"] for tag, attrs in Page(text).tags if tag == "img"]
    contents = [base64.b64decode(source.removeprefix("data:image/jpeg;base64,")) for source in sources]
    return [Image.open(io.BytesIO(content)) for content in contents]


def test_a_page_about_two_runs(run, page):
    text, printed = page(run("00000-a", gamma=1.0), run("00001-b", gamma=3.0, desc="<b>&"))
    words = Page(text).text
    differing, common = words.split("options that all runs share")
    for flag, where in (("--gamma", differing), ("--desc", differing), ("--batch", common), ("--seed", common)):
        assert flag in where
    assert "--gamma" not in common
    assert "<b>&" in words  # escaped, so that it is text
    assert "5 at 2 kimg" in words
    assert "2 of 2" in words
    assert "1m 30s" in words  # both parts of a run that was resumed
    assert "2.0 GiB" in words
    assert text.count("<svg") == 4  # the metric, the loss, the speed and the memory, of both runs in each
    assert printed.count("line without a complete record") == 2


def test_the_page_needs_nothing_beside_it(run, page):
    text, _ = page(run("00000-a"))
    for tag, attributes in Page(text).tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href", "srcset"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    assert not re.search(r"@import|url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text


def test_the_samples_of_every_snapshot_are_in_order_and_small(run, page):
    text, _ = page(run("00000-a"))
    images = pictures(text)
    assert [image.size for image in images] == [(report.STRIP_WIDTH, 30)] * 4
    assert [round(np.asarray(image).mean() / 60) for image in images] == [0, 1, 2, 3]
    titles = re.findall(r"<figcaption[^>]*>([^<]*)", text)
    assert titles == ["real clips", "untrained", "1 kimg", "2 kimg"]
    (best,) = re.findall(r'<figure class="best">.*?</figure>', text, re.DOTALL)
    assert "2 kimg" in best  # not the untrained generator, whose value is smaller
    assert "rfvd4_4f 5, the best" in best


@pytest.mark.parametrize(("value", "cell"), [(1.0, "1 at start (--init)"), (9.0, "5 at 2 kimg")])
@pytest.mark.parametrize("name", ["untrained", "start (--init)"])
def test_what_a_run_starts_from_is_named_and_can_be_the_best(run, page, name, value, cell):
    folder = run("00000-a", init="runs/00000-other")
    file = folder / "metric-rfvd4_4f.jsonl"
    start = {"clips": 0, "value": value, "snapshot": name}
    file.write_text("\n".join([json.dumps(start), *file.read_text().splitlines()[1:]]))
    text, _ = page(folder)
    titles = re.findall(r"<figcaption[^>]*>([^<]*)", text)
    assert titles == ["real clips", "start (--init)", "1 kimg", "2 kimg"]
    (best,) = re.findall(r'<figure class="best">.*?</figure>', text, re.DOTALL)
    assert cell.partition(" at ")[2] in best
    assert f"rfvd4_4f {value:g}" in text
    assert cell in Page(text).text


def test_damaged_and_foreign_files_are_left_out(run, page):
    folder = run("00000-a")
    (folder / "samples" / "fakes000001.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    (folder / "samples" / "fakes-of-mine.png").write_bytes(b"x")
    (folder / "samples" / "reals.png").unlink()
    text, printed = page(folder)
    assert len(pictures(text)) == 2
    assert "fakes000001.png is not shown" in printed


@pytest.mark.parametrize(
    ("sessions", "total"),
    [(None, 150.0 + 30.0), ([7.5, 7.5, 9.5, 9.5], 150.0 + 30.0), ([7.5, 8.5, 8.5, 9.5], 100.0 + 200.0 + 30.0)],
)
def test_the_time_of_a_run_is_that_of_all_its_sessions(sessions, total):
    elapsed = [100.0, 150.0, 20.0, 30.0] if sessions != [7.5, 8.5, 8.5, 9.5] else [100.0, 150.0, 200.0, 30.0]
    records = [{"seconds": seconds} for seconds in elapsed]
    if sessions:
        records = [record | {"started": start} for record, start in zip(records, sessions, strict=True)]
    assert report._total(records) == total


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1e300", "9223372036854775807"])
def test_numbers_of_any_size_are_reported_or_left_out(run, page, value):
    folder = run("00000-a")
    names = ("clips", "seconds", "clips_per_second", "memory_gb", "loss_d", "share_of_peak", "tflops_per_second")
    with (folder / "stats.jsonl").open("a") as file:
        file.write("\n{" + ", ".join(f'"{name}": {value}' for name in names) + "}\n")
    with (folder / "metric-rfvd4_4f.jsonl").open("a") as file:
        file.write(f'\n{{"clips": {value}, "value": {value}, "snapshot": "x"}}\n')
    assert "5 at 2 kimg" in page(folder)[0] or value == "-1e300"


def test_a_run_that_has_only_begun(run, page):
    folder = run("00000-a")
    for file in (*folder.glob("samples/*"), *folder.glob("*.jsonl")):
        file.unlink()
    words = Page(page(folder)[0]).text
    assert "There are no records yet." in words
    assert "There are no samples yet." in words


def test_a_folder_of_runs_stands_for_its_runs(run, page, tmp_path):
    first, _ = run("00000-a"), run("00001-b")
    text, _ = page(tmp_path / "runs", first)
    assert "2 training runs" in text


def test_runs_of_the_same_name_are_told_apart(run, tmp_path):
    run("00000-a").rename(tmp_path / "00000-a")
    other = run("00000-a")
    assert report._names([tmp_path / "00000-a", other]) == [str(tmp_path / "00000-a"), str(other)]
    assert report._names([other]) == ["00000-a"]


def test_what_cannot_be_reported_is_refused(run, tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "is neither a run folder nor a folder of runs" in capsys.readouterr().err
    assert main(["report", str(run("00000-a")), "-o", str(tmp_path)]) == 2
    assert f"--output {tmp_path} cannot be written" in capsys.readouterr().err
