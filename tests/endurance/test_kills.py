"""A small part of the trials that kill a run: inside the writing of a checkpoint, and of the last results."""

import pytest

from tests.endurance import kills


@pytest.mark.ci
@pytest.mark.parametrize(("seed", "outcome"), [(0, "checkpoint, 1 process(es)"), (45, "results, 2 process(es)")])
def test_a_killed_run_ends_like_an_undisturbed_one(seed, outcome, tmp_path):
    assert kills.trial(seed, tmp_path) == outcome
