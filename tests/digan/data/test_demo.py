"""The demonstration videos: their content, their files, and that they are made only once."""

from __future__ import annotations

import numpy as np
import pytest

from digan.data import Clips, ClipWindows, load_index, make_demo_videos
from digan.data.demo import SHAPES, render_demo_video


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_same_arguments_give_the_same_files(tmp_path):
    arguments = {"videos": 4, "frames": 6, "resolution": 32}
    one, two = (contents(make_demo_videos(tmp_path / n, **arguments)) for n in ("one", "two"))
    assert len(one) == 5
    assert one == two
    other = contents(make_demo_videos(tmp_path / "three", **arguments, seed=1))
    assert other.keys() == one.keys()
    assert other != one


def test_default_set_trains_through_the_usual_path(tmp_path):
    root = make_demo_videos(tmp_path / "demo", resolution=32)
    train = load_index(root, None, labels=True)
    val = load_index(root, None, split="val", labels=True)
    assert train.class_names == val.class_names == sorted(SHAPES)
    assert (len(train.videos), len(val.videos)) == (449, 63)
    assert {v.codec for v in train.videos} == {"h264"}
    assert {v.label for v in val.videos} == {0, 1, 2}
    assert len(ClipWindows(train, 16)) == 449


def test_made_once_and_again_when_incomplete_or_different(tmp_path):
    arguments = {"videos": 3, "frames": 4, "resolution": 32}
    root = make_demo_videos(tmp_path / "demo", **arguments)
    times = {p: p.stat().st_mtime_ns for p in root.rglob("*.mp4")}
    make_demo_videos(root, **arguments)
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*.mp4")} == times
    before = contents(root)
    (root / "train" / "disc" / "0000.mp4").write_bytes(b"cut")
    assert contents(make_demo_videos(root, **arguments)) == before
    (root / "manifest.json").unlink()
    assert contents(make_demo_videos(root, **arguments)) == before
    make_demo_videos(root, videos=2, frames=4, resolution=32)
    assert len(list(root.rglob("*.mp4"))) == 2


@pytest.mark.parametrize(
    "content",
    ["[]", "null", "{", '{"settings": 1}', '{"settings": {}, "files": 3}', '{"settings": {}, "files": {"FOREIGN": 1}}'],
)
def test_a_damaged_manifest_is_written_again_and_removes_nothing_else(tmp_path, content):
    arguments = {"videos": 3, "frames": 4, "resolution": 32}
    root, foreign = make_demo_videos(tmp_path / "demo", **arguments), tmp_path / "mine.txt"
    before = contents(root)
    foreign.write_text("mine")
    (root / "manifest.json").write_text(content.replace("FOREIGN", str(foreign)))
    assert contents(make_demo_videos(root, **arguments)) == before
    assert foreign.read_text() == "mine"


@pytest.mark.parametrize("shape", SHAPES)
def test_one_bright_shape_moves_at_constant_speed_over_a_dark_ground(shape):
    for seed in range(4):
        video = render_demo_video(shape, 16, 64, np.random.default_rng(seed)).astype(float)
        background = video[0].reshape(-1, 3).min(0)
        assert background.max() < 50
        light = (video - background).sum(-1)  # [F, R, R]
        covered = light.sum((1, 2)) / light.max() / 64**2
        assert covered.min() > 0.1
        assert covered.max() < 0.2
        assert covered.max() / covered.min() < 1.01  # all of the shape stays in the picture
        y, x = np.mgrid[:64, :64]
        centre = np.stack([(light * a).sum((1, 2)) / light.sum((1, 2)) for a in (x, y)], 1)
        steps = np.diff(centre, axis=0)
        assert abs(steps - steps.mean(0)).max() < 0.1
        assert 0.5 < np.linalg.norm(steps.mean(0)) < 2
        # Smooth edges have pixels between the two colours.
        share = light / light.max()
        assert ((share > 0.1) & (share < 0.9)).any((1, 2)).all()


def test_shapes_differ_and_files_show_them(tmp_path):
    root = make_demo_videos(tmp_path / "demo", videos=3, frames=8, resolution=64)
    clips = Clips(ClipWindows(load_index(root, None), 8), 64)
    for i, shape in enumerate(SHAPES):
        drawn = render_demo_video(shape, 8, 64, np.random.default_rng((0, i))).transpose(0, 3, 1, 2)
        error = abs(clips[i][0].numpy().astype(float) - drawn).mean()
        assert error < 6  # h264 at crf 16 with half-resolution colour


@pytest.mark.parametrize("arguments", [{"resolution": 33}, {"resolution": 8}, {"videos": 0}, {"frames": 0}])
def test_impossible_demos_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="demo"):
        make_demo_videos(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())
