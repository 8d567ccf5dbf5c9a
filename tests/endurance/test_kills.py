"""A small part of the trials that kill a run: one process, inside the writing of a checkpoint."""

import pytest

from tests.endurance import kills


@pytest.mark.ci
def test_a_killed_run_ends_like_an_undisturbed_one(tmp_path):
    assert kills.trial(0, tmp_path) == "checkpoint, 1 process(es)"
