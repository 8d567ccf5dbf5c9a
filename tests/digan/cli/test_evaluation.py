"""Which network of a run is evaluated, and where its results and features lie."""

import pytest

from digan.cli.main import main
from digan.run_dir import read_records
from digan.run_results import refresh_best

pytestmark = pytest.mark.filterwarnings("ignore:the Fréchet distance")
METRIC = "rfvd2_4f"


@pytest.fixture
def trained(make_run):
    """A run with two snapshots, of which the first is recorded as the better one."""
    run, trainer = make_run()
    for clips in (16, 24):
        trainer.clips_seen = clips
        run.snapshot()
        name = f"network-snapshot-000000.{clips:03d}.safetensors"
        line = f'{{"value": {clips}, "clips": {clips}, "snapshot": "{name}"}}\n'
        with (run.folder / "metric-rfvd9_4f.jsonl").open("a") as file:
            file.write(line)
    refresh_best(run.folder)
    return run


@pytest.mark.parametrize(("options", "clips"), [([], 24), (["--which", "latest"], 24), (["--which", "best"], 16)])
def test_the_snapshot_of_a_run(trained, options, clips):
    data = ["--data", trained.config.data, "--metrics", METRIC, "--threads", "1"]
    assert main(["evaluate", "--network", str(trained.folder), *options, *data]) == 0
    (record,) = read_records(trained.folder / f"metric-{METRIC}.jsonl")
    assert record["clips"] == clips
    assert record["network"].endswith(f".{clips:03d}.safetensors")
    assert list((trained.folder.parent / ".index").glob("random3d-*"))


def test_two_sets_of_videos_have_no_snapshots(trained, capsys):
    data = str(trained.config.data)
    for option in (["--which", "best"], ["--snapshots", "all"]):
        assert main(["evaluate", "--fake", data, "--data", data, *option]) == 2
        assert f"{option[0]} applies only to a --network" in capsys.readouterr().err
