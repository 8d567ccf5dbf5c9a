"""The model card states what a run knows about its network, and marks what its author has to add."""

import json
from dataclasses import asdict

import pytest

from digan import Generator, GeneratorConfig
from digan.config import TrainConfig
from digan.models.model_card import card_values
from digan.run_dir import append_record, metric_path, snapshot_path

CONFIG = GeneratorConfig(resolution=32, z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8)
DATA = {"frames": 16, "stride": 4, "overlap": 15, "split": "train", "class_names": ["red", "green"]}


@pytest.fixture
def run(tmp_path):
    """A run with one snapshot and its metric."""
    config = TrainConfig(resolution=32, gamma=10.0, data="/home/me/videos", init="/home/me/runs/00001-sky", kimg=0.4)
    (tmp_path / "config.json").write_text(json.dumps(asdict(config)))
    (tmp_path / "command.sh").write_text("digan train")
    snapshot = snapshot_path(tmp_path, "000400")
    snapshot.parent.mkdir()
    Generator(CONFIG).save(snapshot, clips_seen=400_500, data=DATA)
    for number, value in (("000200", 9.0), ("000400", 0.51234)):
        record = {"metric": "rfvd256_16f", "value": value, "clips": int(number) * 1000}
        append_record(metric_path(tmp_path, "rfvd256_16f"), record | {"snapshot": snapshot_path(tmp_path, number).name})
    return tmp_path


def card(generator, **values):
    return str(generator.generate_model_card(**values))


def test_card_of_a_run_states_data_options_and_metrics(run):
    text = card(Generator.from_pretrained(run), repo_id="me/sky")
    assert "at 32x32 pixels on 400,500 clips (400.5 kimg). It renders" in text
    assert "Clips of 16 frames at a frame stride of 4, from windows that share 15 frames, of the split `train`." in text
    assert "| `--resolution` | `32` |\n| `--gamma` | `10.0` |" in text
    assert "| `rfvd256_16f` | 0.5123 | smaller |" in text
    assert "Classes" not in text  # the network does not know them
    assert "digan sample --network me/sky" in text
    assert "kimg`" not in text
    assert text.count("to be filled in") == 3  # dataset, limits, licence


def test_paths_of_the_machine_are_left_out(run):
    text = card(Generator.from_pretrained(run))
    assert "/home" not in text
    assert "| `--init` | `00001-sky` |" in text


def test_the_author_adds_the_rest(run):
    values = {"title": "Skies", "dataset": "40 videos.", "limits": "No birds.", "license": "cc-by-4.0"}
    text = card(Generator.from_pretrained(run), **values)
    header, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert "license: cc-by-4.0" in header.splitlines()
    assert "to be filled in" not in body
    for part in ("# Skies\n", "40 videos.", "No birds.", "## Licence\n\ncc-by-4.0"):
        assert part in body
    assert "license:" not in card(Generator(CONFIG))  # the licence of one card is not that of the next


def test_card_names_the_classes_of_a_conditional_network(tmp_path):
    generator = Generator(GeneratorConfig(**asdict(CONFIG) | {"num_classes": 2}))
    generator.metadata = {"data": DATA}
    text = card(generator)
    assert "of 2 classes" in text
    assert "Classes: red, green." in text
    assert "labels = torch.arange(4)" in text


def test_card_without_a_run(tmp_path):
    assert card_values(None, {}) == {"clips_seen": None, "data": {}, "options": None, "metrics": {}}
    generator = Generator(CONFIG)
    text = card(generator)
    assert text.count("to be filled in") == 5
    generator.save_pretrained(tmp_path / "g", model_card_kwargs={"dataset": "mine"})
    assert "## Training data\n\nmine\n" in (tmp_path / "g" / "README.md").read_text()
    assert card_values(tmp_path / "g" / "model.safetensors", {})["options"] is None


def test_damaged_configuration_leaves_the_options_open(run):
    (run / "config.json").write_text("{")
    text = card(Generator.from_pretrained(run))
    assert "options, hardware and time" in text
    assert "0.5123" in text


def test_published_options_are_stated_as_such(run):
    (run / "config.json").write_text(json.dumps(asdict(TrainConfig(data="videos"))))
    assert "With the published options." in card(Generator.from_pretrained(run))
