"""A small part of the trials on damaged files of a run."""

import pytest

from tests.endurance import run_files


@pytest.mark.ci
def test_a_damaged_run_gives_the_right_content_or_one_sentence(tmp_path):
    for seed in range(25):
        folder = tmp_path / str(seed)
        folder.mkdir()
        run_files.trial(seed, folder)
