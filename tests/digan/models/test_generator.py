"""The generator: parity with the official implementation, the slot table, sizes, times, and files."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin, hub_mixin
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import fused_inr as fi
from digan import Generator, GeneratorConfig
from digan.errors import NetworkError, NetworkNotFound
from digan.models import hub as hub_module
from digan.official import names as official_names
from digan.run_dir import list_snapshots, snapshot_number, snapshot_path

FIXTURE = Path(__file__).parents[2] / "fixtures" / "generator_small.safetensors"
FULL = Path(__file__).parents[4] / "shared" / "parity" / "generator_small.safetensors"  # every pixel, if available
PARITY = 1e-5  # relative difference in float32; measured: frames 4e-7, gradients below 2e-6
TINY = GeneratorConfig(resolution=64, z_dim=12, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=1024, channel_max=8)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def latents(n, config=TINY, seed=0):
    """Return z_content and z_motion, each [n, z_dim]."""
    return torch.randn(2, n, config.z_dim, generator=torch.Generator().manual_seed(seed)).unbind()


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return Generator(TINY)


@pytest.fixture(scope="module", params=[FIXTURE, FULL], ids=["fixture", "full"])
def official(request):
    if not request.param.exists():
        pytest.skip(f"no {request.param}")
    with safe_open(request.param, framework="pt") as file:
        stride = int((file.metadata() or {}).get("frames_stride", 1))
    return load_file(request.param) | {"stride": stride}


@pytest.fixture(scope="module")
def official_generator(official):
    """A generator with the official weights."""
    state = official_names.generator_state(
        {name.removeprefix("state."): x for name, x in official.items() if name.startswith("state.")}
    )
    generator = Generator(official_names.generator_config(state))
    generator.load_state_dict(state)
    return generator


def test_initial_values():
    torch.manual_seed(0)
    for name, parameter in Generator(GeneratorConfig(resolution=32, channel_base=4096)).named_parameters():
        if name.endswith("bias"):
            assert parameter.eq(1.0 if name.endswith("to_rgb.affine.bias") else 0.0).all(), name
        else:
            lr_mult = 0.01 if name.startswith("mapping") else 1.0
            assert (parameter * lr_mult).std().item() == pytest.approx(1, rel=0.2), name  # to_rgb has 384 values
            assert abs((parameter * lr_mult).mean().item()) < 0.2, name


class TestParity:
    def test_config_is_read_off_the_shapes(self, official_generator):
        assert official_generator.config == GeneratorConfig(
            resolution=128, z_dim=16, w_dim=16, fourier_dim=8, fmm_rank=4, channel_base=1024, channel_max=16
        )

    def test_frames_and_gradients(self, official, official_generator):
        frames = official_generator(official["in.z"], official["in.z_motion"], official["in.t"])
        stride = official["stride"]
        assert relative(frames[..., ::stride, ::stride], official["out.frames"]) <= PARITY
        (frames * official["in.probe"]).sum().backward()
        names = [name for name in official if name.startswith("grad.")]
        assert names
        for name in names:
            gradient = official_generator.get_parameter(official_names.generator_name(name.removeprefix("grad."))).grad
            assert relative(gradient, official[name].view_as(gradient)) <= PARITY, name


def test_default_parameter_count():
    with torch.device("meta"):
        generator = Generator()
    assert sum(p.numel() for p in generator.parameters()) == 63_538_706


def test_stages_at_128():
    """The layers match the published table, at 1/32 of its widths."""
    config = GeneratorConfig(z_dim=12, w_dim=8, fourier_dim=128 // 32, channel_base=32768 // 32, channel_max=512 // 32)
    inr = Generator(config).inr(*latents(2), torch.rand(2, 5))
    table = [
        (stage.scale, [(x.weight.shape[2] * 32, x.weight.shape[1] * 32) for x in stage.layers], stage.fourier is None)
        for stage in inr.stages
    ]
    assert table == [
        (1, [(256, 512)] + 6 * [(512, 512)], False),
        (2, [(768, 512), (512, 512)], False),
        (4, [(768, 256), (256, 256), (256, 256)], False),
    ]
    read_out = [i for i, layer in enumerate(x for s in inr.stages for x in s.layers) if layer.to_rgb is not None]
    assert read_out == [0, 2, 4, 6, 8, 11]
    assert (inr.batch, inr.times) == (2, 5)


def test_256_adds_a_stage():
    with torch.device("meta"):
        generator = Generator(GeneratorConfig(resolution=256))
    shapes = [tuple(layer.weight.shape) for layer in generator.blocks["256"].layers]
    assert shapes == [(128, 512), (128, 128), (128, 128)]
    assert generator.num_slots == 16


def test_each_head_reads_its_slot():
    """Layers use slots in order, features that of their stage's first layer, read-outs that of the next layer."""
    generator = Generator(replace(TINY, resolution=128))
    slots = torch.randn(1, generator.num_slots, 8, requires_grad=True)
    inr = generator.inr_from_slots(slots, torch.randn(1, 12), torch.rand(1, 2))

    def read(*tensors):
        (gradient,) = torch.autograd.grad(
            sum((x * torch.randn_like(x)).sum() for x in tensors), slots, retain_graph=True
        )
        return gradient[0].abs().sum(dim=1).nonzero().flatten().tolist()

    layers = [layer for stage in inr.stages for layer in stage.layers]
    assert [read(layer.weight) for layer in layers] == [[i] for i in range(12)]
    assert [read(stage.fourier.frequency, stage.fourier.phase) for stage in inr.stages] == [[0], [7], [9]]
    assert [read(x.to_rgb[0]) for x in layers if x.to_rgb is not None] == [[1], [3], [5], [7], [9], [12]]


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512])
def test_resolutions(resolution):
    generator = Generator(replace(TINY, resolution=resolution, channel_max=4))
    z_content, z_motion = latents(1)
    frames = generator(z_content, z_motion, torch.tensor([0.5]))
    assert frames.shape == (1, 1, 3, resolution, resolution)
    frames.square().mean().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_conditional():
    torch.manual_seed(0)
    generator = Generator(replace(TINY, num_classes=3))
    z_content, z_motion = (z[:1].expand(3, -1) for z in latents(1))
    frames = generator(z_content, z_motion, torch.tensor([0.0, 1.0]), torch.arange(3))
    assert torch.pdist(frames.flatten(1)).min() > 1e-3
    frames.square().mean().backward()
    assert generator.mapping.embed.weight.grad.abs().sum(dim=0).min() > 0
    with pytest.raises(ValueError, match="labels are missing"):
        generator(z_content, z_motion, torch.zeros(1))


class TestTimes:
    def test_frames_do_not_depend_on_the_other_times(self, tiny):
        z_content, z_motion = latents(2)
        times = torch.tensor([[0.0, 0.3, 1.0, 1.7, -0.5], [0.2, 0.1, 2.5, 0.9, 0.9]])
        together = tiny(z_content, z_motion, times)
        assert together.shape == (2, 5, 3, 64, 64)
        for k in range(5):
            alone = tiny(z_content, z_motion, times[:, k : k + 1])
            torch.testing.assert_close(alone[:, 0], together[:, k], rtol=0, atol=1e-5)

    def test_times_may_be_shared_by_all_clips(self, tiny):
        z_content, z_motion = latents(2)
        times = torch.linspace(0, 1, 4)
        assert torch.equal(tiny(z_content, z_motion, times), tiny(z_content, z_motion, times.expand(2, -1)))

    def test_times_beyond_the_clip_extrapolate(self, tiny):
        z_content, z_motion = latents(1)
        frames = tiny(z_content, z_motion, torch.tensor([1.0, 1.5, 3.0]))
        assert torch.pdist(frames[0].flatten(1)).min() > 1e-3

    def test_phase_is_the_motion_networks(self, tiny):
        head = tiny.blocks["64"].fourier
        w, z_motion = torch.randn(1, 8), torch.randn(1, 12)
        times = torch.tensor([[0.0, 0.8, 2.0]])
        fourier = head(w, z_motion, times)
        content = head.content(w)[0]
        torch.testing.assert_close(fourier.frequency[0], 10**0.5 * content[:8].view(4, 2))
        code = head.motion(torch.cat([w, z_motion], dim=1))[0]
        for k, t in enumerate(times[0]):
            x = code * t * 0.25
            moved = head.motion_mlp(torch.where(x < 0, 0.01 * x, x)[None])[0]
            torch.testing.assert_close(fourier.phase[0, k], content[8:] + moved)

    def test_motion_starts_from_one_frame(self, tiny):
        z_content = latents(1)[0].expand(2, -1)
        frames = tiny(z_content, latents(2)[1], torch.tensor([0.0, 1.0]))
        torch.testing.assert_close(frames[0, 0], frames[1, 0])
        assert not torch.allclose(frames[0, 1], frames[1, 1], atol=1e-3)

    def test_another_motion_and_times_with_the_same_weights(self, tiny):
        z_content, z_motion = latents(2)
        slots = tiny.broadcast(tiny.mapping(z_content)) + 0.1 * torch.randn(2, tiny.num_slots, 8)
        inr = tiny.inr_from_slots(slots, z_motion, torch.zeros(1))
        other, times = latents(2, seed=1)[1], torch.tensor([[0.5, 2.0], [-1.0, 0.0]])
        moved = tiny.with_motion(inr, slots, other, times)
        expected = tiny.inr_from_slots(slots, other, times)
        for a, b in zip(moved.tensors(), expected.tensors(), strict=True):
            assert torch.equal(a, b)
        assert moved.stages[1].layers is inr.stages[1].layers
        with pytest.raises(ValueError, match=r"z_motion must be \[2, 12\]"):
            tiny.with_motion(inr, slots, other[:1], times)


class TestGrid:
    def test_any_multiple_of_the_last_scale(self, tiny):
        z_content, z_motion = latents(1)
        assert tiny(z_content, z_motion, torch.zeros(1), resolution=46).shape[-2:] == (46, 46)
        assert (tiny.grid().height, tiny.grid().width) == (32, 32)
        assert tiny.grid(128).width == 64

    @pytest.mark.parametrize("resolution", [0, -64, 33])
    def test_other_resolutions(self, tiny, resolution):
        with pytest.raises(ValueError, match="multiple of 2"):
            tiny.grid(resolution)

    def test_denser_and_partial_grids_are_the_same_function(self):
        # With a single stage nothing is upsampled, so a pixel depends on its own coordinates only.
        generator = Generator(replace(TINY, resolution=32))
        z_content, z_motion = latents(1)
        inr = generator.inr(z_content, z_motion, torch.tensor([0.3]))
        whole = fi.render(inr, generator.grid())
        dense = fi.render(inr, generator.grid(64))
        top_left = fi.render(inr, generator.grid(32, x=(-1, 0), y=(0, 1)))
        torch.testing.assert_close(dense[..., 1::2, ::2], whole, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(top_left, dense[..., :32, :32], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("slots", "z_motion", "times", "message"),
    [((2, 9, 8), (2, 12), (2, 3), "slots must be"), ((2, 10, 8), (1, 12), (2, 3), "z_motion must be")]
    + [((2, 10, 8), (2, 12), times, "times must be") for times in [(3, 3), (2, 3, 1)]],
)
def test_wrong_shapes(tiny, slots, z_motion, times, message):
    with pytest.raises(ValueError, match=message):
        tiny.inr_from_slots(torch.zeros(slots), torch.zeros(z_motion), torch.zeros(times))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 48}, "resolution"),
        ({"base_resolution": 128}, "base_resolution"),
        ({"channel_base": 8}, "channels"),
    ],
    ids=["resolution", "base", "channels"],
)
def test_wrong_config(change, message):
    with pytest.raises(ValueError, match=message):
        Generator(replace(TINY, **change))


class TestFiles:
    def test_round_trip_is_exact(self, tiny, tmp_path):
        tiny.mapping.w_avg.normal_()
        tiny.save(tmp_path / "g.safetensors", kimg=12.5, classes=["a", "b"])
        again = Generator.from_pretrained(tmp_path / "g.safetensors")
        assert again.config == TINY
        assert again.metadata == {"kimg": 12.5, "classes": ["a", "b"]}
        assert not again.training
        assert_same(again, tiny)
        assert [path.name for path in tmp_path.iterdir()] == ["g.safetensors"]

    @pytest.mark.parametrize("inside", [".", "snapshots"])
    def test_newest_snapshot_of_a_folder(self, tiny, tmp_path, inside):
        folder = tmp_path / inside
        folder.mkdir(exist_ok=True)
        for kimg in (2, 1000, 400):
            tiny.save(folder / f"network-snapshot-{kimg:03d}.safetensors", kimg=kimg)
        assert Generator.from_pretrained(tmp_path).metadata == {"kimg": 1000}

    def test_snapshots_between_whole_kimg_have_names_of_their_own(self, tiny, tmp_path):
        for clips in (400_000, 399_900, 400_300, 400_008):
            tiny.save(snapshot_path(tmp_path, snapshot_number(clips, batch=64)), clips=clips)
        names = [file.name.split("-")[-1] for file in list_snapshots(tmp_path)]
        assert names == ["000399.900.safetensors", "000400.safetensors", "000400.300.safetensors"]
        assert Generator.from_pretrained(tmp_path).metadata == {"clips": 400_300}
        until = list_snapshots(tmp_path, until=snapshot_number(400_064, batch=64))
        assert [file.stem.split("-")[-1] for file in until] == ["000399.900", "000400"]

    @pytest.mark.parametrize("name", ["no.safetensors", "/nowhere/no.safetensors", "runs/00000/snapshots", "../x"])
    def test_missing_path_does_not_use_the_network(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(hub_module, "hf_hub_download", lambda *_, **__: pytest.fail("the hub was contacted"))
        with pytest.raises(FileNotFoundError, match=r"does not exist: give .* or owner/name"):
            Generator.from_pretrained(name)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no network-snapshot"):
            Generator.from_pretrained(tmp_path)

    def test_not_a_generator(self, tiny, tmp_path):
        other = tmp_path / "other.safetensors"
        save_file({"x": torch.zeros(1)}, other)
        page = tmp_path / "page.safetensors"
        page.write_text("<html>not found</html>")
        cut = tmp_path / "cut.safetensors"
        tiny.save(cut)
        cut.write_bytes(cut.read_bytes()[:-100])
        for path in (other, page, cut):
            with pytest.raises(ValueError, match="not a generator saved by this project"):
                Generator.from_pretrained(path)


class Plain(nn.Module, PyTorchModelHubMixin):
    """The same parameters in a class that the generic mixin reads and writes, like another project's."""

    def __init__(self, **values):
        super().__init__()
        generator = Generator(GeneratorConfig(**values))
        self.mapping, self.blocks = generator.mapping, generator.blocks


def assert_same(one, two):
    assert one.state_dict().keys() == two.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Replace the hub by the folder tmp_path/hub, with repositories owner/name, and return the log of calls."""
    calls = []

    def download(repo_id, filename, **options):
        calls.append((repo_id, filename, options["revision"], options["token"]))
        file = tmp_path / "hub" / repo_id / filename
        if not file.parent.is_dir():
            raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub.\nTraceback")
        if not file.is_file():
            raise EntryNotFoundError(f"404 {filename}")
        return str(file)

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, private=None, exist_ok=False):
            calls.append(("create", repo_id, private, exist_ok))
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id, folder_path, commit_message, **_):
            calls.append(("upload", repo_id, commit_message))
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id)
            return "address of the commit"

    monkeypatch.setattr(hub_module, "hf_hub_download", download)
    monkeypatch.setattr(hub_module, "_connection_problem", lambda: "")
    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    return calls


class TestHub:
    def test_save_pretrained_is_read_by_this_class_and_by_the_generic_mixin(self, tiny, tmp_path):
        tiny.metadata = {"clips_seen": 1234}
        tiny.save_pretrained(tmp_path / "g")
        assert {p.name for p in (tmp_path / "g").iterdir()} == {"model.safetensors", "config.json", "README.md"}
        again = Generator.from_pretrained(tmp_path / "g")
        assert (again.config, again.metadata) == (TINY, {"clips_seen": 1234})
        assert_same(again, tiny)
        assert_same(Plain.from_pretrained(tmp_path / "g"), tiny)
        again.save_pretrained(tmp_path / "g")  # overwrites the files
        assert Generator.from_pretrained(tmp_path / "g" / "model.safetensors").metadata == {"clips_seen": 1234}

    def test_folder_written_by_the_generic_mixin(self, tmp_path):
        plain = Plain(**asdict(TINY))
        plain.save_pretrained(tmp_path)
        again = Generator.from_pretrained(tmp_path)
        assert (again.config, again.metadata) == (TINY, {})
        assert_same(again, plain)
        (tmp_path / "config.json").unlink()
        with pytest.raises(NetworkError, match="not a generator saved by this project"):
            Generator.from_pretrained(tmp_path)

    def test_pushed_and_loaded_by_name(self, tiny, hub, tmp_path):
        tiny.metadata = {"clips_seen": 25_000}
        assert tiny.push_to_hub("me/sky", private=True, token="t", commit_message="new") == "address of the commit"
        assert hub == [("token", "t"), ("create", "me/sky", True, True), ("upload", "me/sky", "new")]
        card = (tmp_path / "hub/me/sky/README.md").read_text()
        assert 'Generator.from_pretrained("me/sky")' in card
        assert "on 25,000 clips" in card
        assert "library_name: digan" in card
        tiny.push_to_hub(repo_id="me/again", model_card_kwargs={"clips_seen": 7})
        assert "on 7 clips" in (tmp_path / "hub/me/again/README.md").read_text()
        hub.clear()
        again = Generator.from_pretrained("me/sky", revision="v2", token="t")
        assert hub == [("me/sky", name, "v2", "t") for name in ("model.safetensors", "config.json")]
        assert again.metadata == {"clips_seen": 25_000}
        assert_same(again, tiny)

    @pytest.mark.parametrize(
        "given",
        [{}, dict(revision="v2", token="t", cache_dir="folder", force_download=True, local_files_only=True)],
        ids=["defaults", "all"],
    )
    def test_options_reach_the_hub(self, monkeypatch, given):
        asked = []

        def download(repo_id, filename, **options):
            asked.append(options)
            raise LocalEntryNotFoundError("not there")

        monkeypatch.setattr(hub_module, "hf_hub_download", download)
        monkeypatch.setattr(hub_module, "_connection_problem", lambda: "")
        with pytest.raises(NetworkNotFound):
            Generator.from_pretrained("me/sky", **given)
        defaults = dict(revision=None, token=None, cache_dir=None, force_download=False, local_files_only=False)
        assert asked == [{**defaults, **given}]

    def test_weights_alone_are_enough(self, tiny, hub, tmp_path):
        tiny.save(tmp_path / "hub/me/sky/model.safetensors")
        assert Generator.from_pretrained("me/sky").config == TINY

    def test_a_local_folder_takes_precedence_over_the_hub(self, tiny, hub, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        tiny.save(tmp_path / "me/sky/network-snapshot-000001.safetensors")
        Generator.from_pretrained("me/sky")
        assert not hub

    def test_without_network_the_error_names_path_and_repository(self, hub):
        with pytest.raises(NetworkNotFound) as refusal:
            Generator.from_pretrained("me/sky")
        message = str(refusal.value)
        assert message.startswith("me/sky does not exist here, and model.safetensors of a repository of that name")
        assert "An error happened while trying to locate the file" in message
        assert "\n" not in message


@pytest.mark.parametrize("resolution", [32, 64, 128, 256])
def test_config_is_read_off_the_shapes(resolution):
    config = replace(TINY, resolution=resolution, num_classes=3, mapping_layers=3, channel_base=512, channel_max=16)
    inferred = official_names.generator_config(Generator(config).state_dict())
    with_extra = replace(config, extra_layers_from=inferred.extra_layers_from)  # unknowable where no stage has one
    assert inferred == with_extra
    assert Generator(inferred).state_dict().keys() == Generator(config).state_dict().keys()


@pytest.mark.parametrize("name", ["synthesis.b8.noise", "mapping.fc0.scale.x", "b4.conv.weight"])
def test_unknown_official_name(name):
    with pytest.raises(ValueError, match="official"):
        official_names.generator_name(name)
