"""A run that diverged ends with a sentence and its state and keeps its checkpoints; single overflows do not end it."""

import math

import pytest
import torch

from digan.errors import DivergenceError
from digan.run_dir import CHECKPOINTS, DIVERGED, list_snapshots
from digan.training import checkpoint
from digan.training.divergence import NonfiniteWatch

NAMES = ["loss", "a", "b"]


def watched(rows, limit=3):
    """The problem after each update with these counts."""
    watch, problems = NonfiniteWatch(limit), []
    for iteration, counts in enumerate(rows):
        watch.record("D", iteration, NAMES, torch.tensor(counts))
        problems.append(watch.problem())
    return problems


def test_the_first_tensor_of_the_first_update_is_named():
    problems = watched([[0, 0, 0], [0, 0, 7], [1, 2, 0], [1, 1, 1]])
    assert problems[:3] == ["", "", ""]
    assert problems[3].startswith("b was not finite at iteration 1")
    assert "first of 3 such updates of D in a row" in problems[3]


def test_a_finite_update_starts_the_count_again():
    bad, good = [0, 1, 0], [0, 0, 0]
    assert not any(watched([bad, bad, good] * 5))
    assert "at iteration 3" in watched([bad, bad, good, bad, bad, bad])[-1]


def test_kinds_of_updates_are_counted_separately():
    watch = NonfiniteWatch(2)
    for iteration in range(4):
        watch.record("G", iteration, NAMES, torch.tensor([0, 0, 0]))
        if iteration % 2 == 0:
            watch.record("R1", iteration, NAMES, torch.tensor([1, 0, 0]))
        assert bool(watch.problem()) == (iteration >= 2)


@pytest.fixture
def step(real_batch):
    def call(run, trainer):
        batch = real_batch(8, trainer.iteration)
        trainer.step([trainer.reals(batch)])
        run.check_finite()

    return call


def test_a_diverged_run_stops_and_names_iteration_and_tensor(make_run, step):
    run, trainer = make_run(lr=1e12, nonfinite_limit=4, kimg=1.0)
    run.save_checkpoint()
    for _ in range(40):
        try:
            step(run, trainer)
        except DivergenceError as error:
            message = str(error)
            break
    assert message.startswith("training diverged: ")
    assert "not finite at iteration " in message
    assert "4 such updates" in message
    assert "--lr" in message
    assert message.count("\n") == 0
    (state,) = checkpoint.list_all(run.folder / DIVERGED)
    assert str(state) in message
    assert checkpoint.read_state(state)["counters"] == trainer.counters()
    assert [c.name for c in checkpoint.list_all(run.folder / CHECKPOINTS)] == ["checkpoint-000000000"]
    assert "diverged" in (run.folder / "log.txt").read_text()


def test_overflows_now_and_then_do_not_stop_a_run(make_run, step):
    run, trainer = make_run(nonfinite_limit=2, gamma=0.0)
    trainer.d_image.out.weight.register_hook(lambda g: g * (math.inf if trainer.iteration % 2 else 1))
    for _ in range(6):
        step(run, trainer)
    assert trainer.collect_statistics()["nonfinite"] > 0


@pytest.mark.parametrize("save", ["snapshot", "save_checkpoint"])
def test_networks_that_are_not_finite_are_never_saved_in_place_of_finite_ones(make_run, save):
    run, trainer = make_run()
    with torch.no_grad():
        trainer.g_ema.mapping.w_avg[1] = math.nan
    with pytest.raises(DivergenceError, match=r"g_ema\.mapping\.w_avg is not finite at iteration 0"):
        getattr(run, save)()
    assert not list_snapshots(run.folder)
    assert not (run.folder / CHECKPOINTS).exists()
    assert checkpoint.list_all(run.folder / DIVERGED)
