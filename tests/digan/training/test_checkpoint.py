"""Checkpoints: whole or not at all, found where --resume says, refused in one sentence."""

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
    assert checkpoint.find("latest", str(tmp_path)) is None
    older = save(trainer, tmp_path / "00003-a", 8)
    (tmp_path / "00004-b" / "checkpoints").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    assert checkpoint.find("latest", str(tmp_path)) == older
    newer = save(trainer, tmp_path / "00004-b", 8)
    assert checkpoint.find("latest", str(tmp_path)) == newer
    assert checkpoint.find(str(tmp_path / "00003-a"), "unused") == older
    assert checkpoint.find(str(older), "unused") == older


def test_refusals_name_the_checkpoint(trainer, tiny, tmp_path):
    with pytest.raises(ConfigError, match="nothing to resume under"):
        checkpoint.find(str(tmp_path), "unused")
    saved = save(trainer, tmp_path, 8)
    other = Trainer(tiny(channel_max=4), trainer.accelerator)
    with pytest.raises(ConfigError, match=f"checkpoint {saved} cannot be loaded") as refusal:
        checkpoint.load(other, saved)
    assert "\n" not in str(refusal.value)
    (saved / "optimizers.pt").write_bytes(b"<html>")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        checkpoint.load(trainer, saved)
    (saved / "state.json").write_text("{")
    with pytest.raises(ConfigError, match=r"no readable state\.json"):
        checkpoint.read_state(saved)
