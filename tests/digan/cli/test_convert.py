"""`digan convert` on a genuine file of the official format: parity, provenance, and files that do not fit."""

import hashlib
import io
import json
import lzma
import pickle
import sys
import time
import types
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from digan import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig, official
from digan.cli.convert import load_discriminators
from digan.cli.main import main
from digan.errors import NetworkError
from digan.official_snapshot import OfficialSnapshot

FIXTURES = Path(__file__).parents[2] / "fixtures"
FULL = Path(__file__).parents[4] / "shared" / "parity"  # every pixel, if it is there
PARITY = 1e-5  # relative difference in float32; measured: below 1e-6
SMALL = GeneratorConfig(
    resolution=128, z_dim=16, w_dim=16, fourier_dim=8, fmm_rank=4, channel_base=1024, channel_max=16
)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    """A snapshot that the official implementation wrote, with narrow networks."""
    path = tmp_path_factory.mktemp("official") / "network-snapshot-000400.pkl"
    path.write_bytes(lzma.decompress((FIXTURES / "official_snapshot_small.pkl.xz").read_bytes()))
    return path


@pytest.fixture(scope="module")
def converted(genuine):
    out = genuine.with_name("g.safetensors"), genuine.with_name("d.safetensors")
    assert main(["convert", str(genuine), str(out[0]), "--discriminators", str(out[1])]) == 0
    return out


class TestGenuine:
    @pytest.mark.parametrize("folder", [FIXTURES, FULL], ids=["fixture", "full"])
    def test_frames(self, folder, converted):
        file = folder / "generator_small.safetensors"
        if not file.exists():
            pytest.skip(f"no {file}")
        with safe_open(file, framework="pt") as reader:
            stride = int((reader.metadata() or {}).get("frames_stride", 1))
        reference = load_file(file)
        generator = Generator.from_pretrained(converted[0])
        assert generator.config == SMALL
        frames = generator(reference["in.z"], reference["in.z_motion"], reference["in.t"])
        assert relative(frames[..., ::stride, ::stride], reference["out.frames"]) <= PARITY
        truncated = generator.broadcast(generator.mapping(reference["in.z"], psi=0.7))
        assert relative(truncated, reference["out.ws_psi0.7"]) <= PARITY

    def test_logits(self, converted):
        reference = load_file(FIXTURES / "discriminator_small.safetensors")
        networks = load_discriminators(converted[1])
        assert networks["d_image"].config == DiscriminatorConfig(resolution=32, channel_base=256, channel_max=16)
        clip = reference["in.clip"]
        frames = clip[:, :6].unflatten(1, (2, 3)).flatten(0, 1)
        assert relative(networks["d_motion"](clip), reference["out.video_logits"]) <= PARITY
        assert relative(networks["d_image"](frames), reference["out.image_logits"]) <= PARITY

    def test_provenance(self, genuine, converted):
        source = Generator.from_pretrained(converted[0]).metadata["source"]
        assert source["file"] == genuine.name
        assert source["sha256"] == hashlib.sha256(genuine.read_bytes()).hexdigest()
        assert source["network"] == "G_ema"
        assert source["training_set"]["resolution"] == 128
        assert "omegaconf.dictconfig.DictConfig" in source["left_out"]

    def test_what_it_prints(self, genuine, tmp_path, capsys):
        out = tmp_path / "out.safetensors"
        assert main(["convert", str(genuine), str(out), "--network", "G"]) == 0
        printed = capsys.readouterr().out
        count = sum(p.numel() for p in Generator(SMALL).parameters())
        for text in ("G_ema ", f"{count:,} parameters", "128x128", "32x32", "torch.distributions.beta.Beta"):
            assert text in printed
        assert f"digan sample --network {out}" in printed
        assert Generator.from_pretrained(out).metadata["source"]["network"] == "G"
        assert [path.name for path in tmp_path.iterdir()] == [out.name]

    @pytest.mark.parametrize("share", [0.05, 0.5, 0.999])
    def test_cut_short(self, share, genuine, tmp_path):
        data = genuine.read_bytes()
        path = tmp_path / "cut.pkl"
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(NetworkError, match="damaged"):
            OfficialSnapshot(path)

    def test_with_a_call_put_in(self, genuine, tmp_path, capsys):
        marker, path, out = tmp_path / "marker", tmp_path / "evil.pkl", tmp_path / "out.safetensors"
        data = genuine.read_bytes()
        path.write_bytes(data[:2] + b"cos\nsystem\n(S'touch %s'\ntR0" % bytes(marker) + data[2:])
        with pytest.raises(ModuleNotFoundError, match="torch_utils"):  # Python's reader needs the official code too
            pickle.loads(path.read_bytes())
        assert marker.exists()
        marker.unlink()
        assert main(["convert", str(path), str(out)]) == 2
        assert "names os.system" in capsys.readouterr().err
        assert not marker.exists()
        assert not out.exists()


class Module:
    """Is pickled as the official implementation pickles its modules."""

    def __init__(self, kind, parameters=(), buffers=(), modules=(), **attributes):
        members = {"_parameters": dict(parameters), "_buffers": dict(buffers), "_modules": dict(modules)}
        self.state = members | attributes
        self.meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": kind}
        self.meta["state"] = self.state

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


class OldTensor:
    """Is pickled as PyTorch 1.7 pickled tensors."""

    def __init__(self, tensor):
        self.tensor = tensor.detach().contiguous()

    def __reduce__(self):
        x = self.tensor
        return torch._utils._rebuild_tensor_v2, (OldStorage(x), 0, tuple(x.shape), x.stride(), False, {})


class OldStorage:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        buffer = io.BytesIO()
        with warnings.catch_warnings(action="ignore"):
            torch.save(self.tensor.flatten().storage(), buffer, _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (buffer.getvalue(),)


def tree(kind, tensors, **attributes):
    """Nested modules that hold these tensors under their dotted names."""
    here = {name: OldTensor(x) for name, x in tensors.items() if "." not in name}
    below = {}
    for name, x in tensors.items():
        head, dot, tail = name.partition(".")
        if dot:
            below.setdefault(head, {})[tail] = x
    children = {name: tree(name, inner) for name, inner in below.items()}
    return Module(kind, parameters=here, modules=children, **attributes)


@pytest.fixture
def dump(monkeypatch, tmp_path):
    """Writes an official snapshot of the given networks."""
    loader = types.ModuleType("torch_utils.persistence")
    exec("def _reconstruct_persistent_obj(meta): raise SystemExit", loader.__dict__)
    loader._reconstruct_persistent_obj.__module__ = loader.__name__
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, loader.__name__, loader)

    def write(protocol=3, **content):
        path = tmp_path / "network-snapshot-000000.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
        return path

    return write


def official_tensors(generator, names):
    return {name: generator.state_dict()[official.generator_name(name)] for name in names}


@pytest.fixture(scope="module")
def names(genuine):
    """Official names of the generator's tensors."""
    return [name for name in OfficialSnapshot(genuine).stored("G_ema").tensors if not name.endswith("resample_filter")]


class TestOtherSnapshots:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_conditional(self, protocol, dump, names, tmp_path):
        generator = Generator(replace(SMALL, num_classes=3))
        more = ["mapping.embed.weight", "mapping.embed.bias"]
        path = dump(protocol, G_ema=tree("Generator", official_tensors(generator, names + more), c_dim=3))
        again = OfficialSnapshot(path).generator()
        assert again.config == generator.config
        for name, x in generator.state_dict().items():
            assert torch.equal(again.state_dict()[name], x), name

    def test_half_precision_becomes_float32(self, dump, names):
        generator = Generator(SMALL).half()
        again = OfficialSnapshot(dump(G_ema=tree("Generator", official_tensors(generator, names)))).generator()
        assert {x.dtype for x in again.state_dict().values()} == {torch.float32}

    def test_constants(self, dump, names):
        net = tree("Generator", official_tensors(Generator(SMALL), names), img_resolution=128)
        net.state["_modules"]["mapping"].state["w_avg_beta"] = 0.998
        fuser = net.state["_modules"]["synthesis"].state["_modules"]["b64"].state["_modules"]["coord_fuser"]
        fuser.state |= {"motion_sigma": 0.5, "fourier_scale": 4}
        config = OfficialSnapshot(dump(G=net)).generator("G").config
        assert config == replace(SMALL, w_avg_beta=0.998, time_frequency=0.5, space_frequency=4)
        fuser.state["use_cosine"] = False
        with pytest.raises(NetworkError, match="use_cosine is False in it: a variant"):
            OfficialSnapshot(dump(G=net)).generator("G")

    def test_only_the_other_generator(self, dump, names, capsys, tmp_path):
        path, out = dump(G=tree("Generator", official_tensors(Generator(SMALL), names)), G_ema=None), tmp_path / "o"
        assert main(["convert", str(path), str(out)]) == 2
        assert "holds no G_ema, only G: give --network G." in capsys.readouterr().err
        assert main(["convert", str(path), str(out), "--network", "G", "--discriminators", f"{out}-d"]) == 2
        assert "holds no D, only G." in capsys.readouterr().err
        assert main(["convert", str(path), str(out), "--network", "G"]) == 0

    @pytest.mark.parametrize("content", [{}, {"G_ema": None}, {"G_ema": {"a": 1}}, {"a": [1, 2]}])
    def test_no_networks(self, content, dump):
        with pytest.raises(NetworkError, match="without networks"):
            OfficialSnapshot(dump(**content))

    def test_a_stylegan(self, dump):
        net = tree("Generator", {"mapping.w_avg": torch.zeros(4), "synthesis.b4.const": torch.zeros(4, 4)})
        with pytest.raises(NetworkError, match=r"synthesis\.b4\.const is not a parameter of the official DIGAN"):
            OfficialSnapshot(dump(G_ema=net)).generator()

    def test_a_discriminator_of_its_own(self, dump):
        with pytest.raises(NetworkError, match="has a D that cannot be converted"):
            OfficialSnapshot(
                dump(D=tree("Discriminator", {"imageD.b4.conv.weight": torch.zeros(2, 3)}))
            ).discriminators()


class TestHostileNetworks:
    """Files that hold nothing but tensors and modules, in sizes that would fill the memory or never end."""

    def convert(self, path, match):
        with pytest.raises(NetworkError, match=match) as error:
            OfficialSnapshot(path).generator()
        assert "\n" not in str(error.value)

    def test_sizes_that_do_not_belong_together(self, dump, names):
        tensors = official_tensors(Generator(SMALL), names) | {"mapping.w_avg": torch.zeros(100_000)}
        self.convert(dump(G_ema=tree("Generator", tensors)), "cannot be converted")

    def test_resolution_without_bound(self, dump, names):
        tensors = official_tensors(Generator(SMALL), names)
        for digits in (5, 150):
            name = f"synthesis.b{10**digits}.conv0.weight"
            self.convert(dump(G_ema=tree("Generator", tensors | {name: torch.ones(1, 1, 1, 1)})), "cannot be converted")

    def test_one_memory_under_many_names(self, dump):
        memory = OldTensor(torch.zeros(10_000))
        net = Module("Generator", parameters={f"p{i}": memory for i in range(1000)})
        self.convert(dump(G_ema=net), "larger than the file")

    def test_modules_that_contain_themselves(self, dump):
        net = Module("Generator")
        net.state["_modules"]["again"] = net
        self.convert(dump(protocol=4, G_ema=net), "modules contain each other")

    def test_modules_that_fork_for_ever(self, dump):
        net = Module("Leaf", parameters={"weight": OldTensor(torch.zeros(1))})
        for _ in range(60):
            net = Module("Fork", modules={"left": net, "right": net})
        self.convert(dump(G_ema=net), "modules contain each other")

    def test_a_large_module_in_many_places(self, dump):
        net = Module("Leaf", **{f"a{i}": None for i in range(20_000)})
        net = Module("Generator", modules={f"m{i}": net for i in range(5_000)})
        started = time.process_time()
        self.convert(dump(G_ema=net), "modules contain each other")
        assert time.process_time() - started < 5  # seconds; measured: below 0.5

    @pytest.mark.parametrize("state", [None, {}, {"_parameters": 1, "_buffers": {}, "_modules": {}}])
    def test_no_modules(self, state, dump):
        net = Module("Generator")
        net.meta["state"] = state
        self.convert(dump(G_ema=net), "a part of it")

    def test_text_that_would_steer_the_terminal(self, dump, capsys, tmp_path):
        net = Module("\x1b[2JGenerator", parameters={"\x1b[31mred\n": OldTensor(torch.zeros(1))})
        assert main(["convert", str(dump(G_ema=net)), str(tmp_path / "out")]) == 2
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        assert captured.err.count("\n") == 1


class TestTargets:
    def test_folder(self, genuine, tmp_path, capsys):
        assert main(["convert", str(genuine), str(tmp_path)]) == 2
        assert "is a folder" in capsys.readouterr().err

    def test_the_snapshot_itself(self, genuine, capsys):
        before = genuine.read_bytes()
        assert main(["convert", str(genuine), str(genuine)]) == 2
        assert "is the snapshot itself" in capsys.readouterr().err
        assert genuine.read_bytes() == before

    def test_one_file_for_both(self, genuine, tmp_path, capsys):
        out = str(tmp_path / "out.safetensors")
        assert main(["convert", str(genuine), out, "--discriminators", out]) == 2
        assert "--discriminators" in capsys.readouterr().err

    def test_not_writable(self, genuine, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert main(["convert", str(genuine), str(tmp_path / "file" / "out.safetensors")]) == 2
        assert "cannot be written" in capsys.readouterr().err


def test_load_discriminators_of_another_file(converted, tmp_path):
    for path in (converted[0], tmp_path / "absent", Path(__file__)):
        with pytest.raises(NetworkError, match="holds no discriminators"):
            load_discriminators(path)


def test_discriminators_are_ready_for_training(converted):
    networks = load_discriminators(converted[1])
    assert all(isinstance(network, Discriminator) for network in networks.values())
    assert {name: network.channels_in for name, network in networks.items()} == {"d_image": 3, "d_motion": 7}
    assert all(buffer.device.type == "cpu" for network in networks.values() for buffer in network.buffers())


def test_configuration_in_the_files(converted):
    for path in converted:
        with safe_open(path, framework="pt") as file:
            assert {"config", "source"} <= set(file.metadata())
            assert isinstance(json.loads(file.metadata()["config"]), dict)
