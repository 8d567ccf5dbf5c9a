"""--init: what is copied from which kind of network, what stays new, and what is refused."""

import json

import pytest
import torch
from accelerate import Accelerator

from digan.cli.train import parse_options, start
from digan.data import make_demo_videos
from digan.errors import ConfigError
from digan.run_results import own_results
from digan.training import checkpoint
from digan.training.initial_weights import initialise, read_initial_weights
from digan.training.trainer import NETWORKS, Trainer

GENERATORS = ("g", "g_ema")


@pytest.fixture
def trainer_of(tiny):
    """Makes a trainer with the options given, whose weights nothing else has."""
    seeds = iter(range(100))

    def make(num_classes=0, **options) -> Trainer:
        config = tiny(seed=next(seeds), **options)
        trainer = Trainer(config, Accelerator(cpu=True, mixed_precision="no"), num_classes)
        with torch.no_grad():
            for parameter in trainer.g_ema.parameters():
                parameter.add_(0.25)  # so that it differs from g
        return trainer

    return make


@pytest.fixture
def saved(tmp_path):
    """Saves a trainer as the checkpoint of a run and returns the run folder."""

    def save(trainer: Trainer):
        trainer.clips_seen = 24
        checkpoint.save(trainer, tmp_path / "run" / "checkpoints", vars(trainer.config), keep=2)
        return tmp_path / "run"

    return save


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": t for name, net in trainer.networks().items() for key, t in net.state_dict().items()}


def copied(source: Trainer, target: Trainer) -> tuple[set[str], set[str]]:
    """Return the names of the tensors of `target` that equal those of `source`, and of the others."""
    given, own = state_of(source), state_of(target)
    same = {key for key, tensor in own.items() if key in given and torch.equal(given[key], tensor)}
    return same, set(own) - same


def parts(keys: set[str]) -> set[str]:
    return {".".join(key.split(".")[: 3 if "blocks" in key else 2]) for key in keys}


@pytest.mark.parametrize("place", ["run", "checkpoint"])
def test_a_run_gives_all_networks_but_no_optimizer_or_counter(place, trainer_of, saved):
    source, target = trainer_of(), trainer_of()
    run = saved(source)
    path = run if place == "run" else checkpoint.list_all(run / "checkpoints")[-1]
    notes = initialise(target, read_initial_weights(str(path)))
    assert copied(source, target)[1] == set()
    assert (target.iteration, target.clips_seen, target.opt_g.state_dict()["state"]) == (0, 0, {})
    assert notes == [f"--init: {', '.join(NETWORKS)} start from {checkpoint.list_all(run / 'checkpoints')[-1]}."]


def test_a_snapshot_gives_both_generators(trainer_of, tmp_path):
    source, target = trainer_of(), trainer_of()
    before = {name: net.state_dict()["out.weight"].clone() for name, net in target.networks().items() if name[0] == "d"}
    source.g_ema.save(tmp_path / "network.safetensors")
    notes = initialise(target, read_initial_weights(str(tmp_path / "network.safetensors")))
    for name in GENERATORS:
        for key, tensor in target.networks()[name].state_dict().items():
            assert torch.equal(tensor, source.g_ema.state_dict()[key])
    assert all(torch.equal(target.networks()[name].out.weight, weight) for name, weight in before.items())
    assert notes[1] == "--init: network.safetensors holds a generator alone: d_image, d_motion start untrained."


@pytest.mark.parametrize(("given", "wanted"), [(32, 64), (64, 32)])
def test_another_resolution_keeps_the_blocks_that_both_have(given, wanted, trainer_of, saved):
    source, target = trainer_of(resolution=given), trainer_of(resolution=wanted)
    notes = initialise(target, read_initial_weights(str(saved(source))))
    new = parts(copied(source, target)[1])
    from_rgb = {"d_image.from_rgb", "d_motion.from_rgb"}
    grown = {f"{name}.blocks.64" for name in NETWORKS} if wanted == 64 else set()
    assert new == grown | from_rgb
    named = set(notes[1].removeprefix("--init: these parts are new: ").rstrip(".").split(", "))
    assert named == new
    assert (len(notes) == 3) == (wanted == 32)
    assert wanted == 64 or "are not used: g.blocks.64, g_ema.blocks.64, d_image.blocks.64" in notes[2]


@pytest.mark.parametrize(("given", "wanted"), [(0, 3), (3, 0), (3, 5)])
def test_other_classes_keep_what_does_not_depend_on_them(given, wanted, trainer_of, saved):
    source, target = trainer_of(given), trainer_of(wanted)
    initialise(target, read_initial_weights(str(saved(source))))
    new = copied(source, target)[1]
    allowed = ("mapping.embed.", "mapping.layers.0.", "label_mapping.", "out.")
    assert all(key.partition(".")[2].startswith(allowed) for key in new)
    assert any(key.startswith("g.mapping.layers.0") for key in new)


def test_another_width_names_the_tensor_and_the_option(trainer_of, saved):
    run = saved(trainer_of(channel_max=4))
    sentence = (
        r"--init: g\.blocks\.\S+ of \S+ has the shape \[.*4.*\], but \[.*8.*\] in this run: "
        r"give the widths of that network, --channel-max 4\."
    )
    with pytest.raises(ConfigError, match=sentence):
        initialise(trainer_of(), read_initial_weights(str(run)))


@pytest.mark.parametrize(("option", "default"), [("space_frequency", r"3\.162\d*"), ("time_frequency", r"0\.25")])
def test_another_scale_of_the_frequencies_is_refused(option, default, trainer_of, saved):
    run = saved(trainer_of(**{option: 1.5}))
    flag = option.replace("_", "-")
    with pytest.raises(ConfigError, match=rf"--init: give --{flag} 1\.5, as \S+ was trained, instead of {default}\.$"):
        initialise(trainer_of(), read_initial_weights(str(run)))


def test_all_options_that_differ_are_in_one_sentence_that_is_enough(trainer_of, saved):
    source = trainer_of(space_frequency=1.5, z_dim=6, channel_max=4)
    run = saved(source)
    with pytest.raises(
        ConfigError, match=r"--init: give (.*), as \S+ was trained, instead of 3.162\d*, 8, 8\.$"
    ) as refused:
        initialise(trainer_of(), read_initial_weights(str(run)))
    options = str(refused.value).removeprefix("--init: give ").partition(",")[0]
    assert options == "--space-frequency 1.5 --z-dim 6 --channel-max 4"
    assert initialise(trainer_of(space_frequency=1.5, z_dim=6, channel_max=4), read_initial_weights(str(run)))


def test_the_packaged_network_needs_one_sentence(trainer_of):
    weights = read_initial_weights("sky-64")
    with pytest.raises(ConfigError) as refused:
        initialise(trainer_of(resolution=64), weights)
    words = str(refused.value).removeprefix("--init: give ").partition(", as ")[0].split()
    options = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        options[name] = type(getattr(weights.config, name))(value)
    assert initialise(trainer_of(resolution=64, **options), weights)


def test_values_that_are_not_finite_are_refused(trainer_of, saved):
    source = trainer_of()
    source.d_motion.fc.weight.data[0, 0] = torch.nan
    run = saved(source)
    with pytest.raises(ConfigError, match=r"--init: d_motion\.fc\.weight of .* not finite\.$"):
        initialise(trainer_of(), read_initial_weights(str(run)))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing-here", "--init: .*nothing-here does not exist"),
        ("official.pkl", "convert it first, with `digan convert .*official.pkl OUT.safetensors`"),
        ("text.safetensors", "--init: .*text.safetensors is not a generator"),
        ("empty", "--init: .*empty holds no network-snapshot"),
    ],
)
def test_what_holds_no_network_is_refused(name, sentence, tmp_path):
    (tmp_path / "official.pkl").write_bytes(b"\x80\x04.")
    (tmp_path / "text.safetensors").write_text("text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_initial_weights(str(tmp_path / name))
    assert str(caught.value).endswith(".")


def test_a_damaged_checkpoint_is_refused(trainer_of, saved):
    path = checkpoint.list_all(saved(trainer_of()) / "checkpoints")[-1]
    (path / "g.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"--init: the checkpoint .* is damaged"):
        read_initial_weights(str(path))


@pytest.fixture
def launch(tmp_path):
    """Runs `digan train` in this process on demo videos, with the options given, and returns the run folder."""
    videos = make_demo_videos(tmp_path / "videos", videos=4, frames=8, resolution=32)
    common = ["--data", videos, "--outdir", tmp_path / "runs", "--resolution", 32, "--batch", 4, "--frames", 4]
    common += ["--z-dim", 8, "--w-dim", 8, "--fourier-dim", 4, "--fmm-rank", 2, "--channel-base", 128]
    common += ["--channel-max", 8, "--workers", 0, "--report-to", "none", "--metrics", "none", "--samples", 1]
    return lambda *options: start(parse_options([str(option) for option in (*common, *options)]))


@pytest.mark.filterwarnings("ignore:the Fréchet distance")
def test_a_run_is_fine_tuned_with_other_options_and_resumed(launch):
    first = launch("--kimg", 0.008)
    second = launch("--kimg", 0.008, "--init", first, "--gamma", 5, "--lr", 0.001, "--metrics", "rfvd2_4f")
    text = (second / "log.txt").read_text()
    assert f"--init: g, g_ema, d_image, d_motion start from {first}" in text
    assert json.loads((second / "config.json").read_text())["init"] == str(first)
    assert own_results(second, "rfvd2_4f")[0]["snapshot"] == "start (--init)"
    again = launch("--kimg", 0.012, "--resume", second, "--init", first)
    assert again == second
    with pytest.raises(ConfigError, match="start a new run from its weights, with --init in place of --resume"):
        launch("--resume", first, "--gamma", 7)
