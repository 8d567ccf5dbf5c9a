"""The measure of moving shapes: full marks for the demonstration videos, and few for each way to miss them."""

from __future__ import annotations

import numpy as np
import pytest

from digan.data.demo import SHAPES, render_demo_video
from tests.digan.data.shape_score import shape_score

FRAMES, SIDE = 16, 32


@pytest.fixture(scope="module")
def reals():
    videos = [render_demo_video(SHAPES[i % 3], FRAMES, SIDE, np.random.default_rng((1, i))) for i in range(24)]
    return np.stack(videos)


def test_demo_videos_are_right(reals):
    others = [render_demo_video(SHAPES[i % 3], FRAMES, SIDE, np.random.default_rng((2, i))) for i in range(24)]
    assert shape_score(reals, reals).total == 1
    assert shape_score(np.stack(others), reals).total > 0.95


def test_noise_that_stands_still_is_not(reals):
    noise = np.random.default_rng(0).integers(0, 120, (8, 1, SIDE, SIDE, 3), dtype=np.uint8)
    score = shape_score(noise.repeat(FRAMES, 1), reals)
    assert (score.one_blob, score.speed, score.total) == (0, 0, 0)


def test_a_shape_that_stands_still_is_not(reals):
    score = shape_score(reals[:, :1].repeat(FRAMES, 1), reals)
    assert (score.one_blob, score.area, score.colour, score.speed) == (1, 1, 1, 0)


def test_two_shapes_are_not(reals):
    small = reals[:, :, ::2, ::2]
    assert shape_score(np.concatenate([np.concatenate([small, small], 2)] * 2, 3), reals).one_blob == 0


def test_a_shape_that_vanishes_is_not(reals):
    fade = np.linspace(1, 0, FRAMES).reshape(-1, 1, 1, 1)
    score = shape_score((reals * fade).astype(np.uint8), reals)
    assert score.area == score.colour == 0
    assert 0.2 < score.one_blob < 0.8


def test_a_shape_that_changes_its_colour_is_not(reals):
    turned = reals.copy()
    turned[:, FRAMES // 2 :] = turned[:, FRAMES // 2 :, ..., [1, 2, 0]]
    score = shape_score(turned, reals)
    assert score.colour == 0
    assert score.one_blob == score.area == 1


def test_a_shape_that_grows_is_not(reals):
    grown = reals.copy()
    grown[:, -1] = np.maximum(grown[:, -1], np.roll(grown[:, -1], 3, axis=1))
    assert shape_score(grown, reals).area < 0.1


def test_shapes_that_jump_are_not(reals):
    assert shape_score(reals[:, [0, -1] * (FRAMES // 2)], reals).speed == 0
