"""All snapshots of a run: the values that the run itself computes, once each, and the best of them."""

import sys

import pytest
import torch

from digan.cli.main import main
from digan.data import Clips
from digan.files import parse_json
from digan.run_dir import list_snapshots, metric_path, read_records
from digan.run_results import BEST, own_results
from digan.training.curves import CURVES

pytestmark = pytest.mark.filterwarnings("ignore:the Fréchet distance")
METRIC = "rfvd2_4f"


@pytest.fixture
def trained(make_run):
    """A run with three different snapshots and its own results."""
    run, trainer = make_run(metrics=METRIC)
    for clips in (8, 16, 24):
        trainer.clips_seen = clips
        torch.nn.init.constant_(trainer.g_ema.blocks["32"].to_rgb.bias, clips / 20 - 1)
        run.snapshot()
    return run


@pytest.fixture
def evaluate(trained, capsys):
    """Evaluates all snapshots with the options given, and returns what is printed."""

    def call(*options, status=0):
        data = ["--data", trained.config.data, "--metrics", METRIC, "--threads", "1"]
        network = ["--network", str(trained.folder), "--snapshots", "all"]
        capsys.readouterr()
        assert main(["evaluate", *network, *data, *map(str, options)]) == status
        return "".join(capsys.readouterr())

    return call


def values(run):
    return {result["clips"]: result["value"] for result in own_results(run.folder, METRIC)}


def lines_of(run):
    return len(read_records(metric_path(run.folder, METRIC)))


def test_missing_results_are_those_that_the_run_computes(trained, evaluate, monkeypatch):
    expected, best = values(trained), parse_json((trained.folder / BEST).read_bytes())
    assert len(set(expected.values())) == 3
    metric_path(trained.folder, METRIC).unlink()
    (trained.folder / BEST).unlink()
    read, batch = [], Clips.batch
    monkeypatch.setattr(Clips, "batch", lambda self, indices: read.extend(indices) or batch(self, indices))
    text = evaluate()
    assert f"3 snapshots of {trained.folder}" in text
    assert len(read) <= 2  # real clips: once for all snapshots, or not at all where the run has left their features
    assert values(trained) == pytest.approx(expected, rel=1e-6)
    found = parse_json((trained.folder / BEST).read_bytes())
    assert found == {**best, "value": pytest.approx(best["value"], rel=1e-6)}
    assert f"{BEST} names {best['snapshot']}, by {METRIC}" in text
    (marked,) = [line for line in text.splitlines() if line.endswith("  best")]
    assert marked.split()[0] == f"000000.{round(best['kimg'] * 1000):03d}"


def test_the_curves_are_drawn_again(trained, evaluate, monkeypatch):
    file = trained.folder / CURVES
    file.write_bytes(b"old")
    assert f"curves are in {file}\n" in evaluate()
    drawn = file.read_bytes()
    assert drawn.startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert f"{file} is not drawn: pip install 'digan[report]' to have the curves of a run drawn." in evaluate()
    assert file.read_bytes() == drawn


def test_best_json_of_a_run_without_metrics_follows_the_one_asked_for_first(make_run, capsys):
    run, trainer = make_run(metrics="none")
    for clips in (8, 16):
        trainer.clips_seen = clips
        torch.nn.init.constant_(trainer.g_ema.blocks["32"].to_rgb.bias, clips / 20 - 1)
        run.snapshot()

    def evaluate(metric):
        options = ["--network", str(run.folder), "--snapshots", "all", "--metrics", metric, "--threads", "1"]
        assert main(["evaluate", *options]) == 0
        return capsys.readouterr().out

    assert f"{BEST} names" in evaluate("rfvd2_4f")
    first = parse_json((run.folder / BEST).read_bytes())
    assert first["metric"] == "rfvd2_4f"
    last = evaluate("rfvd2_3f")  # before it by name
    assert parse_json((run.folder / BEST).read_bytes()) == first
    results = own_results(run.folder, "rfvd2_3f")
    best = min(results, key=lambda result: result["value"])["snapshot"]
    named = (
        f"{BEST} names {first['snapshot']}, by rfvd2_4f, the first metric of the run; by rfvd2_3f, the best is {best}"
    )
    assert named in last.splitlines()


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("known", [False, True])
def test_a_damaged_snapshot_is_named_and_left_out(trained, evaluate, position, known):
    expected = values(trained)
    file = list_snapshots(trained.folder)[position]
    content = file.read_bytes()
    file.write_bytes(content[:-4] + b"\0\1\2\3")
    clips = 8 * (position + 1)
    best = min((value, clips) for clips, value in expected.items())[1]
    if known and clips != best:
        assert evaluate(status=2 if position == 2 else 0)  # nothing opens an older one whose results are known
        return
    if not known:
        metric_path(trained.folder, METRIC).unlink()
    text = evaluate(status=2)
    (line,) = [line for line in text.splitlines() if line.startswith("left out: ")]
    assert str(file) in line
    del expected[clips]
    if not known:
        assert values(trained) == pytest.approx(expected, rel=1e-6)
    best = min((value, clips) for clips, value in expected.items())[1]
    name = f"network-snapshot-000000.{best:03d}.safetensors"
    assert f"the best by {METRIC}: {trained.folder / 'snapshots' / name}" in text
    assert parse_json((trained.folder / BEST).read_bytes())["snapshot"] == name
    assert f"curves are in {trained.folder / CURVES}" in text


def test_without_a_sound_snapshot_there_is_nothing_to_evaluate(trained, evaluate):
    for file in list_snapshots(trained.folder):
        file.write_bytes(b"x")
    assert "network-snapshot-000000.024.safetensors is not a generator" in evaluate(status=2).splitlines()[-1]


def test_results_that_the_run_has_are_not_computed_again(trained, evaluate, monkeypatch):
    metric_path(trained.folder, METRIC).write_text(
        "\n".join(metric_path(trained.folder, METRIC).read_text().splitlines()[1:]) + '\n{"va'
    )
    text = evaluate()
    assert "not computed again: 2 results" in text
    assert (lines_of(trained), len(values(trained))) == (3, 3)
    assert "not computed again: 3 results" in evaluate()
    assert lines_of(trained) == 3


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (["--seed", 1], "--seed"),
        (["--psi", 0.5], "--psi"),
        (["--stride", 2], "--stride"),
        (["--one-per-video"], "--one-per-video"),
    ],
)
def test_other_settings_leave_the_results_of_the_run_alone(trained, evaluate, options, flag):
    before, best = values(trained), (trained.folder / BEST).read_bytes()
    text = evaluate(*options)
    assert f"not as the run evaluates itself ({flag}): {BEST} is unchanged" in text
    assert (values(trained), (trained.folder / BEST).read_bytes()) == (before, best)
    rows = [r for r in read_records(metric_path(trained.folder, METRIC)) if "row" in r]
    assert [(r["row"], r["clips"]) for r in rows] == [("000000.008", 8), ("000000.016", 16), ("000000.024", 24)]
    assert len({r["network_sha256"] for r in rows}) == 3


def test_the_options_of_the_run_are_the_defaults(trained, capsys):
    metric_path(trained.folder, METRIC).unlink()
    for network in (trained.folder, trained.folder / "snapshots"):
        assert main(["evaluate", "--network", str(network), "--snapshots", "all", "--threads", "1"]) == 0
    assert len(values(trained)) == lines_of(trained) == 3
    assert "not computed again: 3 results" in capsys.readouterr().out


def test_another_folder_has_all_results(trained, evaluate, tmp_path):
    before = lines_of(trained)
    evaluate("--outdir", tmp_path / "out")
    assert lines_of(trained) == before
    assert len(read_records(metric_path(tmp_path / "out", METRIC))) == 3


def test_what_does_not_fit_is_refused(trained, evaluate, capsys):
    assert "leave --which out" in evaluate("--which", "best", status=2)
    assert "leave --experiment out" in evaluate("--experiment", "upsample", status=2)
    (first, *_) = list_snapshots(trained.folder)
    assert main(["evaluate", "--network", str(first), "--snapshots", "all", "--data", "x"]) == 2
    assert "holds no snapshots; give the folder of a run" in capsys.readouterr().err


def test_a_conditional_run_gets_the_values_that_it_computes_itself(make_run, capsys):
    run, trainer = make_run(metrics=METRIC, cond=True)
    assert trainer.num_classes > 1
    trainer.clips_seen = 8
    run.snapshot()
    own = values(run)
    metric_path(run.folder, METRIC).unlink()
    options = ["--network", str(run.folder), "--snapshots", "all", "--data", run.config.data, "--threads", "1"]
    assert main(["evaluate", *options, "--metrics", METRIC]) == 0
    assert values(run)[8] == own[8]
