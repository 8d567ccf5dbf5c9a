"""Generator files that cannot be used are refused with the reason, and a name that is not here costs no time."""

import json
import re
import shlex
import time
from dataclasses import asdict, fields, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from digan import Generator
from digan.cli.main import main
from digan.cli.train import parse_options, resolve
from digan.config import RESUME_MAY_CHANGE, GeneratorConfig, TrainConfig
from digan.errors import NetworkError, NetworkNotFound
from digan.models import hub as hub_module
from digan.models.hub import filled, find_network, packaged_networks, read_network
from digan.run_dir import append_record, metric_path, snapshot_path

CONFIG = GeneratorConfig(resolution=32, z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8)
WEIGHT = "mapping.w_avg"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "g.safetensors"
    Generator(CONFIG).save(path)
    return path


@pytest.fixture
def write(saved, tmp_path):
    """Writes a network with changed tensors, configuration and metadata."""

    def make(tensors=None, config=None, text=None, **metadata):
        path = tmp_path / "network.safetensors"
        values = text or json.dumps({**asdict(CONFIG), **(config or {})})
        header = {"config": values, **{name: json.dumps(value) for name, value in metadata.items()}}
        save_file({**load_file(saved), **(tensors or {})}, path, metadata=header)
        return path

    return make


def refusal(path):
    with pytest.raises(NetworkError) as error:
        Generator.from_pretrained(path)
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.int64, torch.complex64, torch.bool], ids=str)
def test_weights_of_types_that_float32_does_not_hold_are_refused(write, dtype):
    name = str(dtype).removeprefix("torch.")
    assert f"{WEIGHT} is of type {name}, not float32" in refusal(write({WEIGHT: torch.zeros(8, dtype=dtype)}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_weights_are_read_exactly(write, dtype):
    values = torch.randn(8).to(dtype)
    assert torch.equal(Generator.from_pretrained(write({WEIGHT: values})).mapping.w_avg, values.float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_but_can_be_described(write, value):
    path = write({WEIGHT: torch.full([8], value)})
    assert f"{WEIGHT} holds values that are not finite" in refusal(path)
    assert not Generator.from_file(path, finite=False).mapping.w_avg.isfinite().any()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"resolution": 32.0}, "resolution must be of type int, not 32.0"),
        ({"resolution": True}, "resolution"),
        ({"resolution": "32"}, "resolution"),
        ({"z_dim": None}, "z_dim"),
        ({"z_dim": -8}, "z_dim"),
        ({"z_dim": 10**30}, "z_dim"),
        ({"mapping_layers": 10**9}, "mapping_layers"),
        ({"fourier_dim": 10**6}, "size mismatch|Error"),
        ({"w_avg_beta": float("nan")}, "w_avg_beta"),
        ({"space_frequency": [1]}, "space_frequency"),
        ({"unknown": 1}, "unknown"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_a_configuration_with_a_wrong_value_is_refused(write, config, words):
    text = refusal(write(config=config))
    assert any(word in text for word in words.split("|"))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "[1]", "1", "null", '"x"', "{"], ids=lambda v: v[:5])
def test_a_configuration_that_is_no_object_is_refused(write, text):
    refusal(write(text=text))


@pytest.mark.parametrize(
    "metadata",
    [
        {"data": [1]},
        {"data": {"frames": "16"}},
        {"data": {"frames": 10**12}},
        {"data": {"class_names": 5}},
        {"data": {"class_names": [1]}},
        {"data": {"split": 3}},
        {"clips_seen": "many"},
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["sample", "evaluate", "info"])
def test_malformed_metadata_is_refused_by_every_command(write, metadata, command, tmp_path, capsys):
    words = {"info": [], "sample": ["--outdir", str(tmp_path / "out")], "evaluate": ["--metrics", "ris4_4f"]}[command]
    path = str(write(**metadata))
    assert main([command, *([path] if command == "info" else ["--network", path]), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"digan {command}: {path} is not a generator saved by this project, or is damaged (")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("num_classes", "names", "fits"), [(0, ["a", "b"], True), (2, ["a", "b"], True), (2, [], True), (2, ["a"], False)]
)
def test_class_names_must_be_as_many_as_the_classes(num_classes, names, fits, tmp_path):
    path = tmp_path / "network.safetensors"
    Generator(replace(CONFIG, num_classes=num_classes)).save(path, data={"class_names": names})
    if fits:
        assert Generator.from_pretrained(path).metadata["data"]["class_names"] == names
    else:
        assert "it has 2 classes, but 1 class names" in refusal(path)


def test_other_metadata_may_hold_anything(write):
    assert Generator.from_pretrained(write(note=[1], other="text")).metadata == {"note": [1], "other": "text"}


def test_a_state_that_does_not_fit_is_found_before_memory_is_taken(saved):
    network = read_network(saved)
    huge = GeneratorConfig(**{**asdict(CONFIG), "w_dim": 10**8})  # the mapping alone would take 40 PB
    with pytest.raises(RuntimeError, match="size mismatch"):
        filled(lambda: Generator(huge), network.tensors)


class TestNames:
    """`owner/name` that may be on the hub; the hub here is an address where nothing answers."""

    @pytest.fixture
    def unreachable(self, monkeypatch):
        monkeypatch.setattr(hub_module.constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port
        monkeypatch.setattr(hub_module.urllib.request, "getproxies", dict)
        asked = []

        def download(name, file, **options):
            asked.append(options)
            raise OSError("not in the cache")

        monkeypatch.setattr(hub_module, "hf_hub_download", download)
        return asked

    def test_offline_only_the_cache_is_asked_and_at_once(self, unreachable, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        start = time.monotonic()
        with pytest.raises(NetworkNotFound, match=r"me/sky does not exist here.*127\.0\.0\.1 cannot be reached"):
            find_network("me/sky")
        assert time.monotonic() - start < 15
        assert [options["local_files_only"] for options in unreachable] == [True]

    def test_a_proxy_is_left_to_the_client(self, unreachable, monkeypatch):
        monkeypatch.setattr(hub_module.urllib.request, "getproxies", lambda: {"http": "http://proxy"})
        with pytest.raises(NetworkNotFound, match="not in the cache"):
            find_network("me/sky")
        assert unreachable == [{}]

    def test_a_local_folder_of_that_name_comes_first(self, unreachable, saved, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "me/sky").mkdir(parents=True)
        (tmp_path / "me/sky/model.safetensors").symlink_to(saved)
        assert find_network("me/sky").name == "model.safetensors"
        assert not unreachable


def test_the_snapshot_of_a_run_that_is_asked_for(tmp_path):
    for number, value in (("000001", 2.0), ("000002", 1.0), ("000003", 3.0)):
        path = snapshot_path(tmp_path, number)
        Generator(CONFIG).save(path, clips_seen=int(number) * 1000)
        append_record(
            metric_path(tmp_path, "rfvd4_4f"), {"value": value, "clips": int(number) * 1000, "snapshot": path.name}
        )
    assert Generator.from_pretrained(tmp_path).metadata["clips_seen"] == 3000
    assert Generator.from_pretrained(tmp_path, which="best").metadata["clips_seen"] == 2000
    assert find_network(path, "best") == path
    with pytest.raises(NetworkError, match="which='newest' names no snapshot; give 'latest' or 'best'"):
        find_network(tmp_path, "newest")


class TestPackaged:
    """Networks that come with the package."""

    def test_a_name_is_enough(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert "sky-64" in packaged_networks()
        for name, file in packaged_networks().items():
            g = Generator.from_pretrained(name)
            assert find_network(name) == g.source == file
            assert file.stat().st_size <= 4_000_000
            assert f'Generator.from_pretrained("{name}")' in file.with_suffix(".md").read_text(encoding="utf-8")

    @pytest.mark.parametrize("name", packaged_networks())
    def test_its_card_says_what_its_file_says(self, name):
        g = Generator.from_pretrained(name)
        data, clips = g.metadata["data"], g.metadata["clips_seen"]
        text = " ".join(packaged_networks()[name].with_suffix(".md").read_text(encoding="utf-8").split())
        size = f"at {g.config.resolution}x{g.config.resolution} pixels"
        assert f"{size} on {clips:,} clips ({clips / 1000:,g} kimg)." in text
        assert f"It saw {clips / 1000:.0f} kimg of " in text
        windows = f"Clips of {data['frames']} frames at a frame stride of {data['stride']}, from windows that share "
        assert f"{windows}{data['overlap']} frames, of the split `{data['split']}`." in text

    @pytest.mark.parametrize("name", packaged_networks())
    def test_the_options_of_its_card_are_those_of_its_file_and_command(self, name):
        g = Generator.from_pretrained(name)
        text = packaged_networks()[name].with_suffix(".md").read_text(encoding="utf-8")
        table = dict(re.findall(r"^\| `--([\w-]+)` \| `([^`]*)` \|$", text, re.MULTILINE))
        (*_, command) = re.findall(r"^ +digan train ((?:.*\\\n)*.*)", text, re.MULTILINE)
        # The table leaves out what does not affect the numbers of a run, and the folders of paths.
        hidden = {"init", *RESUME_MAY_CHANGE}
        config = resolve(parse_options(shlex.split(command.replace("\\\n", " "))))
        changed = {field.name: getattr(config, field.name) for field in fields(config)}
        changed = {k: v for k, v in changed.items() if v != getattr(TrainConfig, k) and k not in hidden}
        table.pop("init", None)  # of a run that the reader does not have
        assert {k.replace("_", "-"): str(v) for k, v in changed.items()} == table
        stored = asdict(g.config) | g.metadata["data"]
        for option in changed.keys() & stored.keys():
            assert changed[option] == stored[option]
        for option in asdict(g.config).keys() & asdict(config).keys():
            assert getattr(config, option) == getattr(g.config, option)

    def test_a_local_path_of_that_name_comes_first(self, saved, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "sky-64").symlink_to(saved)
        assert Generator.from_pretrained("sky-64").config == CONFIG

    def test_an_unknown_name_is_told_what_there_is(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(NetworkNotFound, match=r"sky-65 does not exist: .* sky-64, or owner/name"):
            find_network("sky-65")

    def test_its_videos_are_different_and_move(self):
        g = Generator.from_pretrained("sky-64")
        generator = torch.Generator().manual_seed(0)
        z_content, z_motion = (torch.randn(8, g.config.z_dim, generator=generator) for _ in range(2))
        with torch.no_grad():
            frames = g(z_content, z_motion, torch.linspace(0, 1, 4))  # [8, 4, 3, 64, 64]
        assert frames.shape == (8, 4, 3, 64, 64)
        assert frames.isfinite().all()
        across, over_time = frames.std(0).mean().item(), frames.std(1).mean().item()
        assert across > 0.1
        assert over_time > 0.02
