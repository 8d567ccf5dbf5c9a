"""Charts hold what the records hold, and drawing them never ends a run."""

import json
import math
import sys
from xml.etree import ElementTree

import pytest
from PIL import Image

from digan.training import curves
from digan.training.curves import CURVES, Chart, CurveWriter, read_charts, svg, write_png


@pytest.fixture
def run(tmp_path):
    """Makes a run folder with ticks, results of a metric, and lines that are neither."""

    def make(name="00000-x", count=3, **facts):
        folder = tmp_path / name
        folder.mkdir()
        ticks = [
            {"clips": 500 * i, "loss_d": 1 / i, "nonfinite": 0.0, "seconds": 2.0, "memory_gb": 0.5, **facts}
            for i in range(1, count + 1)
        ]
        foreign = ['{"clips": 5', "[1]", json.dumps({"loss_d": 7.0}), json.dumps({"clips": 9, "loss_d": "x"})]
        (folder / "stats.jsonl").write_text("\n".join([*map(json.dumps, ticks), *foreign]))
        results = [{"clips": clips, "value": clips / 100, "snapshot": "x"} for clips in (1000, 0)]
        (folder / "metric-rfvd4_4f.jsonl").write_text("\n".join(map(json.dumps, results)))
        return folder

    return make


def test_charts_hold_the_records_of_all_runs(run):
    problems = []
    charts = read_charts([run(), run("00001-y", count=1, gpu_memory_gb=8.0)], problems.append)
    assert [chart.title for chart in charts] == ["rfvd4_4f", "loss_d", "memory, GiB", "GPU memory, GiB"]
    metric, loss, memory, gpu = (chart.curves for chart in charts)
    assert metric == {0: ([0.0, 1.0], [0.0, 10.0]), 1: ([0.0, 1.0], [0.0, 10.0])}
    assert loss == {0: ([0.5, 1.0, 1.5], [1.0, 0.5, 1 / 3]), 1: ([0.5], [1.0])}
    assert memory[0][1] == [0.5] * 3
    assert gpu == {1: ([0.5], [8.0])}
    assert len(problems) == 2  # one line for each file


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**30, True, None, "x"])
def test_values_that_cannot_be_drawn_are_left_out(run, value):
    folder = run()
    with (folder / "stats.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"clips": 2000, "loss_d": value}))
    (loss,) = [chart.curves for chart in read_charts([folder]) if chart.title == "loss_d"]
    assert loss[0][0] == [0.5, 1.0, 1.5]


def test_an_svg_is_one_element_in_the_colour_of_the_text(run):
    text = svg(Chart("a < b", curves={0: ([0, 1], [1.0, 2.0]), 1: ([0, 1], [2.0, 3.0])}))
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert "a < b" in "".join(root.itertext())
    assert all(colour in text for colour in (*curves.COLOURS[:2], "currentColor"))
    assert curves._INK not in text
    assert 'href="http' not in text
    assert "url(http" not in text
    assert svg(Chart("a", curves={0: ([0], [1.0])})) == svg(Chart("a", curves={0: ([0], [1.0])}))


@pytest.mark.parametrize(
    ("values", "from_zero", "scale", "bottom"),
    [
        ([1.0, 100.0], False, "log", None),
        ([1.0, 100.0], True, "linear", 0),
        ([100.0, *[1.0] * 20], False, "linear", 0),  # an outlier
        ([1.0, 20.5], False, "log", None),
        ([1.0, 19.5], False, "linear", 0),
        ([1.0, 3.0], False, "linear", 0),
        ([1.45, 3.0], False, "linear", 0),
        ([1.55, 3.0], False, "linear", None),
        ([2.9, 3.0], True, "linear", 0),
        ([2.9, 3.0], False, "linear", None),
        ([-1.0, 100.0], False, "linear", None),
    ],
)
def test_the_value_axis(values, from_zero, scale, bottom):
    axes = curves._figure(1, 1).add_subplot()
    curves._draw(axes, Chart("x", from_zero=from_zero, curves={0: (list(range(len(values))), values)}), "#000000")
    assert axes.get_yscale() == scale
    low = axes.get_ylim()[0]
    assert low == bottom if bottom is not None else low != 0


def test_long_curves_are_smoothed_and_metrics_are_not():
    values = [float(i % 2) for i in range(200)]
    smoothed = curves._smoothed(values)
    assert len(smoothed) == 200
    assert {round(value * 9) for value in smoothed[4:-4]} == {4, 5}  # averages over 9 values
    assert curves._smoothed([1.0, 2.0, 3.0]) == [1.5, 2.0, 2.5]
    for sampled, lines in ((False, 2), (True, 1)):
        axes = curves._figure(1, 1).add_subplot()
        curves._draw(axes, Chart("x", sampled=sampled, curves={0: (list(range(200)), values)}), "#000000")
        assert len(axes.lines) == lines


def test_the_picture_of_a_run(run, tmp_path):
    folder = run()
    write_png(folder)
    with Image.open(folder / CURVES) as image:
        image.load()
        assert image.width > image.height > 100
    empty = tmp_path / "empty"
    empty.mkdir()
    write_png(empty)
    assert not (empty / CURVES).exists()


def test_what_goes_wrong_is_said_once(run, monkeypatch):
    folder, reports = run(), []
    monkeypatch.setattr(curves, "write_png", lambda _: 1 / 0)
    writer = CurveWriter(folder, reports.append)
    writer.write()
    writer.write()
    assert reports == [f"{folder / CURVES} is not drawn: division by zero."]


def test_without_the_library_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    reports = []
    CurveWriter(run(), reports.append).write()
    assert len(reports) == 1
    assert "pip install 'digan[report]'" in reports[0]
