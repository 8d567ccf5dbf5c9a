"""Checkpoints: whole or not at all, found where --resume says, refused in one sentence."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from digan.errors import ConfigError
from digan.training import checkpoint
from digan.training.trainer import Trainer


@pytest.fixture
def trainer(tiny):
    return Trainer(tiny(), Accelerator(cpu=True, mixed_precision="no"))


def save(trainer, folder, clips, keep=2):
    trainer.clips_seen = clips
    return checkpoint.save(trainer, folder / "checkpoints", {"batch": 8}, keep)


def test_only_the_newest_are_kept_and_nothing_partial_remains(trainer, tmp_path):
    for clips in (8, 16, 1000):
        save(trainer, tmp_path, clips)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["checkpoint-000000016", "checkpoint-000001000"]
    again = save(trainer, tmp_path, 1000)
    assert checkpoint.read_state(again)["counters"]["clips_seen"] == 1000


def test_a_checkpoint_that_was_cut_off_does_not_exist(trainer, tmp_path, monkeypatch):
    whole = save(trainer, tmp_path, 8)

    def cut_off(*_args):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", cut_off)
    with pytest.raises(OSError, match="no space"):
        save(trainer, tmp_path, 16)
    assert checkpoint.find(str(tmp_path), "unused") == whole


@pytest.fixture
def checkpoints(trainer, tmp_path):
    return [save(trainer, tmp_path, clips) for clips in (8, 16)]


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_loaded_on_the_devices_that_accelerate_gives(trainer, tiny, tmp_path, device):
    saved = save(trainer, tmp_path, 8)
    other = Trainer(tiny(seed=1), trainer.accelerator)
    other.device = torch.device(device)  # cpu:0 where there are several processes
    checkpoint.load(other, saved)
    assert other.clips_seen == 8
    for name, net in trainer.networks().items():
        for one, two in zip(net.parameters(), other.networks()[name].parameters(), strict=True):
            assert torch.equal(one, two)


def test_latest_is_the_newest_run_that_has_one(trainer, tmp_path):
    older = save(trainer, tmp_path / "00003-a", 8)
    (tmp_path / "00004-b" / "checkpoints").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    assert checkpoint.find("latest", str(tmp_path)) == older
    save(trainer, tmp_path / "00004-b", 8)
    newer = save(trainer, tmp_path / "00004-b", 16)
    assert checkpoint.find("latest", str(tmp_path)) == newer
    assert checkpoint.find(str(tmp_path / "00003-a"), "unused") == older
    assert checkpoint.find(str(tmp_path / "00004-b"), "unused") == newer
    assert checkpoint.find(str(older), "unused") == older


def truncate(file):
    file.write_bytes(file.read_bytes()[:-5])


def empty(file):
    file.write_bytes(b"")


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def other_object(file):
    file.write_text("[1]")


@pytest.mark.parametrize("damage", [truncate, empty, flip, other_object, Path.unlink])
@pytest.mark.parametrize("name", ["d_image.safetensors", "optimizers.pt", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(checkpoints, damage, name):
    older, newer = checkpoints
    damage(newer / name)
    reports = []
    assert checkpoint.find(str(newer.parents[1]), "unused", reports.append) == older
    (report,) = reports
    assert report.startswith(f"the checkpoint {newer} is damaged ({name}: ")
    assert report.endswith("checkpoint-000000008, the one before, is used.")
    with pytest.raises(ConfigError, match=f"checkpoint {newer} is damaged .{name}"):  # where it is named itself
        checkpoint.find(str(newer), "unused", reports.append)
    damage(older / name)
    with pytest.raises(ConfigError, match="and there is no sound one before it"):
        checkpoint.find(str(newer.parents[1]), "unused", reports.append)


def test_swapped_files_and_folders_are_damage(checkpoints):
    older, newer = checkpoints
    aside = older.with_name("aside")
    for one, two in [(newer / "g.safetensors", newer / "d_image.safetensors"), (older, newer)]:
        for damaged in (True, False):  # swaps, then swaps back
            one.rename(aside)
            two.rename(one)
            aside.rename(two)
            with pytest.raises(ConfigError, match="is damaged") if damaged else contextlib.nullcontext():
                checkpoint.verify(newer)


def test_a_checkpoint_without_checksums_is_loaded_and_called_unchecked(checkpoints, trainer):
    older, newer = checkpoints
    for path in checkpoints:
        state = json.loads((path / "state.json").read_text())
        (path / "state.json").write_text(json.dumps({key: state[key] for key in ("counters", "config", "torch")}))
    reports = []
    assert checkpoint.find(str(newer.parents[1]), "unused", reports.append) == newer
    assert reports == [f"the checkpoint {newer} is from a version without checksums: its content is unchecked."]
    checkpoint.load(trainer, newer)
    empty(newer / "optimizers.pt")
    assert checkpoint.find(str(newer.parents[1]), "unused", reports.append) == older
    assert "optimizers.pt" in reports[1]
    assert reports[2].endswith("its content is unchecked.")


def test_a_run_resumed_before_its_newest_checkpoints_leaves_them(trainer, tmp_path):
    for clips in (8, 16, 24):
        save(trainer, tmp_path, clips, keep=3)
    again = save(trainer, tmp_path, 12, keep=1)
    assert checkpoint.list_all(again.parent) == [again]


def test_nothing_to_resume_is_said(tmp_path):
    reports = []
    assert checkpoint.find("latest", str(tmp_path), reports.append) is None
    assert reports == [f"nothing to resume under {tmp_path}: a new run starts."]
    with pytest.raises(ConfigError, match=f"nothing to resume under {tmp_path};"):
        checkpoint.find(str(tmp_path), "unused")


def test_the_run_of_a_relative_path(checkpoints, monkeypatch):
    newer = checkpoints[1]
    monkeypatch.chdir(newer.parent)
    found = checkpoint.find(newer.name, "unused")
    assert checkpoint.run_of(found).resolve() == newer.parents[1].resolve()


def test_refusals_name_the_checkpoint(trainer, tiny, tmp_path):
    saved = save(trainer, tmp_path, 8)
    other = Trainer(tiny(channel_max=4), trainer.accelerator)
    with pytest.raises(ConfigError, match=f"checkpoint {saved} cannot be loaded") as refusal:
        checkpoint.load(other, saved)
    assert "\n" not in str(refusal.value)
    (saved / "optimizers.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        checkpoint.load(trainer, saved)
