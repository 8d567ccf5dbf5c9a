"""The data of a training run, from its configuration to micro-batches."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from accelerate import Accelerator

from digan.config import PRESETS, TrainConfig
from digan.data.clips import content_key
from digan.data.training_data import DEMO_FOLDER, TrainingData
from digan.sharding import BatchSharding


@pytest.fixture(scope="module")
def videos(tmp_path_factory, video):
    root = tmp_path_factory.mktemp("videos")
    for name, count in (("train/x/a.mp4", 20), ("train/y/b.mp4", 24), ("val/x/c.mp4", 20)):
        video(root / name, count=count)
    return root


def data_of(videos, outdir, **options):
    options = dict(resolution=32, frames=8, workers=0, batch=4) | options
    config = TrainConfig(cfg=None, data=str(videos), outdir=str(outdir), **options)
    return TrainingData(config, Accelerator(cpu=True))


def first_batch(data):
    batches = data.batches(BatchSharding(4), start=0)
    return next(batches)


def test_micro_batches_come_from_the_configured_split_and_size(videos, tmp_path):
    data = data_of(videos, tmp_path)
    assert [v.name for v in data.index.videos] == ["train/x/a.mp4", "train/y/b.mp4"]
    assert (data.num_classes, len(data.clips), data.clips.windows.frames) == (0, 5, 8)
    batch = first_batch(data)
    assert batch["frames"].shape == (4, 2, 3, 32, 32)
    assert len(data.clips_of(4)) == 5 + 6


def test_the_number_of_workers_changes_nothing(videos, tmp_path):
    single, several = data_of(videos, tmp_path / "a"), data_of(videos, tmp_path / "b", workers=2)
    streams = [data.batches(BatchSharding(4), start=1) for data in (single, several)]
    for one, other in zip(*(islice(stream, 3) for stream in streams), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_class_folders_are_labels_with_cond_and_deserve_a_hint_without(videos, tmp_path):
    assert data_of(videos, tmp_path, cond=True).num_classes == 2
    hint = "class folders are not used as labels: x, y; to train on them, add --cond"
    assert hint in "\n".join(data_of(videos, tmp_path).summary())
    assert hint not in "\n".join(data_of(videos, tmp_path, cond=True).summary())


def test_resizing_is_configured_and_part_of_every_key(videos, tmp_path):
    smooth, sharp = data_of(videos, tmp_path), data_of(videos, tmp_path, resize="bilinear")
    assert not torch.equal(first_batch(smooth)["frames"], first_batch(sharp)["frames"])
    assert not torch.equal(smooth.clips[0][0], sharp.clips[0][0])
    assert content_key(smooth.clips) != content_key(sharp.clips)
    assert smooth.store.path != sharp.store.path
    bilinear = [name for name, options in PRESETS.items() if options.get("resize") == "bilinear"]
    assert bilinear == ["sky", "taichi", "ucf101"]


def test_damage_is_reported_once(videos, tmp_path, video):
    path = video(tmp_path / "data" / "a.mp4", count=40, gop=40)
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    data = data_of(tmp_path / "data", tmp_path / "out", workers=2)
    reports = []
    list(islice(data.batches(BatchSharding(4), 0, report=reports.append), 6))
    (report,) = reports
    assert report.startswith("a.mp4 is damaged: cannot decode ")
    assert " of 40 frames correctly" in report


def test_without_data_demo_videos_are_made(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "digan.data.training_data.make_demo_videos", lambda folder: made.append(folder) or make_few(folder)
    )
    data = TrainingData(TrainConfig(cfg="demo", outdir=str(tmp_path), resolution=32), Accelerator(cpu=True))
    assert made == [tmp_path / DEMO_FOLDER]
    assert len(data.index.videos) == 3


def make_few(folder):
    from digan.data.demo import make_demo_videos

    return make_demo_videos(folder, videos=3, frames=16, resolution=16)
