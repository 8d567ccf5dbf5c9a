"""The measure of moving shapes: full marks for the demonstration videos, and few for each way to miss them."""

from __future__ import annotations

import numpy as np
import pytest

from digan import Generator, GeneratorConfig
from digan.data import load_index, make_demo_videos
from digan.data.clips import cut_clips
from digan.data.demo import SHAPES, render_demo_video
from digan.data.training_data import DEMO_FOLDER
from digan.run_dir import snapshot_path
from digan.sampling.latents import clip_times
from tests.digan.data.shape_score import generated_clips, main, real_clips, shape_score

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


@pytest.fixture(params=[0, 3], ids=["unconditional", "classes"])
def run(request, tmp_path):
    """The run folder of a small generator, beside the demonstration videos that it names as its own."""
    make_demo_videos(tmp_path / DEMO_FOLDER, videos=24, frames=12, resolution=SIDE)
    sizes = dict(resolution=SIDE, z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8)
    g = Generator(GeneratorConfig(num_classes=request.param, **sizes)).eval()
    data = {"frames": 4, "stride": 2, "overlap": 6, "resize": "antialias", "split": "train"}
    path = snapshot_path(tmp_path / "00000-demo", "000001")
    path.parent.mkdir(parents=True)
    g.save(path, clips_seen=1000, data=data)
    return tmp_path / "00000-demo"


def test_real_clips_are_cut_as_in_training(run):
    videos = run.parent / DEMO_FOLDER
    clips = real_clips(Generator.from_pretrained(run), videos, 8)
    assert (clips.shape, clips.dtype) == ((8, 4, SIDE, SIDE, 3), np.uint8)
    trained = cut_clips(load_index(videos, None, split="train"), 4, 2, 6, SIDE, "antialias")
    every = trained.batch(range(len(trained))).permute(0, 1, 3, 4, 2).numpy()
    places = [np.flatnonzero((every == clip).all((1, 2, 3, 4))) for clip in clips]
    assert all(len(place) for place in places)
    assert len({place[0] for place in places}) == 8  # different clips
    assert shape_score(clips, every).total > 0.8
    g = Generator.from_pretrained(run)
    g.metadata["data"]["split"] = "val"
    held_out = real_clips(g, videos, 1)  # the split is that of the network
    assert not (every == held_out).all((1, 2, 3, 4)).any()


def test_generated_clips_are_those_of_the_training_length(run):
    g = Generator.from_pretrained(run)
    clips = generated_clips(g, 5)
    assert (clips.shape, clips.dtype) == ((5, 4, SIDE, SIDE, 3), np.uint8)
    assert np.array_equal(generated_clips(g, 7)[:5], clips)  # the same ones, however many
    assert len(np.unique(clips.reshape(5, -1), axis=0)) == 5
    g.metadata["data"]["frames"] = 7
    more = generated_clips(g, 5)
    assert more.shape[1] == 7
    assert clip_times(7)[2] == clip_times(4)[1]  # the same span of time, in smaller steps
    assert np.array_equal(more[:, ::2], clips)


def test_the_command_scores_both_kinds_of_clips(run, capsys):
    main([str(run), "--clips", "6"])
    reals, fakes = capsys.readouterr().out.splitlines()
    g = Generator.from_pretrained(run)
    clips = real_clips(g, run.parent / DEMO_FOLDER, 6)
    assert reals == f"reals {shape_score(clips, clips)}"
    assert fakes == f"fakes {shape_score(generated_clips(g, 6), clips)}"
    assert "speed 100%" in reals


def test_the_command_needs_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        main([str(tmp_path / "00009-demo")])
