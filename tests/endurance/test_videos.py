"""A short run of the damaged videos; `python -m tests.endurance videos` is the long one."""

from __future__ import annotations

import pytest

from tests.endurance import videos


@pytest.mark.parametrize("kind", videos.KINDS)
def test_damage_has_no_effect_beyond_the_damaged_frames(kind, tmp_path):
    for seed in range(videos.KINDS.index(kind), 2 * len(videos.KINDS), len(videos.KINDS)):
        (tmp_path / str(seed)).mkdir()
        videos.trial(seed, tmp_path / str(seed))
