"""Several processes, started as launchers and Slurm start them: what they agree in, and how they end and go on."""

import json
import re
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from digan.cli import train as command
from digan.data import make_demo_videos
from tests.digan.training import launches
from tests.digan.training.launches import GONE, SMALL, free_port, left_after, run, started

HERE = Path(__file__).parent
SCRIPT = HERE / "launches.py"
ACCELERATE = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --dynamo_backend no "
ACCELERATE += "--mixed_precision no --main_process_port 0"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_demo_videos(tmp_path_factory.mktemp("data") / "videos", videos=8)


@pytest.fixture(scope="module")
def alone(videos, tmp_path_factory):
    """A run of one process: its statistics and its networks at the end."""
    outdir = tmp_path_factory.mktemp("alone")
    command.start(command.parse_options(options(videos, outdir)), keep_memory=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    return numbers(outdir)


def options(videos, outdir, *more):
    fixed = "--batch 16 --kimg 0.064 --tick 0.016 --snap 2 --workers 1 --seed 3"
    return [*SMALL.split(), *fixed.split(), "--data", str(videos), "--outdir", str(outdir), *more]


def numbers(outdir):
    """Return the losses of a run and the values of its networks at the end."""
    (folder,) = outdir.glob("0*")
    records = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    newest = sorted(folder.glob("checkpoints/checkpoint-*"))[-1]
    networks = {file.stem: load_file(file) for file in newest.glob("*.safetensors")}
    losses = [[r[name] for name in ("clips", "loss_g", "loss_d", "nonfinite")] for r in records]
    return losses, {name: torch.cat([v.flatten() for v in net.values()]) for name, net in networks.items()}


def assert_same(one, other):
    assert other[0] == [pytest.approx(row, rel=1e-5) for row in one[0]]
    assert [row[0] for row in other[0]] == [16, 32, 48, 64]
    for name, values in one[1].items():
        assert (values - other[1][name]).norm() <= 1e-5 * values.norm(), name


@pytest.mark.ci
def test_two_machines_with_two_processes_give_the_numbers_of_one_process(videos, alone, tmp_path):
    port = free_port()
    torchrun = f"-m torch.distributed.run --nnodes 2 --nproc-per-node 2 --master-addr 127.0.0.1 --master-port {port}"
    commands = [
        [*torchrun.split(), "--node-rank", node, SCRIPT, *options(videos, tmp_path / "runs")] for node in range(2)
    ]
    statuses, outputs = run(commands, tmp_path)
    assert statuses == [0, 0], outputs
    assert_same(alone, numbers(tmp_path / "runs"))


@pytest.mark.ci
def test_the_launcher_restarts_a_run_whose_process_was_killed(videos, alone, tmp_path):
    words = [*ACCELERATE.split(), "--max_restarts", "1", SCRIPT, *options(videos, tmp_path / "runs")]
    with started([words], tmp_path, [{launches.KILLED: "1 3"}]) as (processes, alive):
        assert processes[0].wait(240) == 0, (tmp_path / "out-0.txt").read_text()
        assert not left_after(GONE, alive)
    output = (tmp_path / "out-0.txt").read_text()
    assert "continues from" in output
    assert "checkpoint-000000032" in output
    assert len(re.findall("process 1 of 2 ended too early", output)) == 1
    assert "Traceback" not in output
    assert_same(alone, numbers(tmp_path / "runs"))


@pytest.mark.ci
def test_a_killed_main_process_ends_all_and_the_run_goes_on_with_another_number(videos, alone, tmp_path):
    outdir = tmp_path / "runs"
    commands = [[SCRIPT, *options(videos, outdir)]] * 2
    variables = [{**v, launches.KILLED: "0 3"} for v in launches.ranks(2, free_port())]
    with started(commands, tmp_path, variables) as (processes, alive):
        assert processes[0].wait(240) == -9
        assert processes[1].wait(30) == 1
        assert not left_after(GONE, alive)  # neither data workers nor fork servers
    output = (tmp_path / "out-1.txt").read_text()
    assert "process 0 of 2 ended too early" in output
    assert "Traceback" not in output
    command.start(command.parse_options(["--outdir", str(outdir), "--resume", "latest"]), keep_memory=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert_same(alone, numbers(outdir))


@pytest.mark.ci
def test_disagreements_end_both_processes_with_one_sentence(videos, tmp_path):
    (tmp_path / "videos").symlink_to(videos)
    make_demo_videos(tmp_path / "other", videos=8, seed=1)
    step = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": "7"}
    step["MASTER_PORT"] = str(free_port())
    variables = [{**step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"]
    statuses, outputs = run([[HERE / "disagreements.py", tmp_path]] * 2, tmp_path, variables)
    assert statuses == [0, 0], outputs
    main, other = (json.loads((tmp_path / f"machine-{r}" / "results.json").read_text()) for r in range(2))
    for name, (text, quiet) in main.items():
        assert other[name] == [text, name != "nothing"]
        assert not quiet
        assert "\n" not in text
    said = {name: text for name, (text, _) in main.items()}
    assert "--lr is 0.0025 in process 0 but 0.5 in process 1" in said["options"]
    assert "--seed is 0 in process 0 but 1 in process 1" in said["options"]
    assert said["data"].startswith("the processes do not agree: --data is 8 videos of")
    assert said["no data"].startswith(f"process 1 of 2: --data {tmp_path / 'nowhere'} ")
    assert said["group"].startswith("--batch 4 on 2 process(es)")
    assert said["nothing"] == "runs/00000-videos-32x16-batch8"
    newest = Path("runs/00000-videos-32x16-batch8/checkpoints/checkpoint-000000016")
    assert f"process 1 of 2: --resume: {tmp_path / 'machine-1' / newest}, from which" in said["unreadable"]
    assert said["older"].startswith(f"process 1 of 2: the checkpoint {newest} is damaged")
    assert "it is the state at 8 clips" in said["older"]
