"""`digan convert` on a genuine official snapshot: parity, provenance, output, and errors."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from digan import DiscriminatorConfig, Generator, GeneratorConfig
from digan.cli.device_options import DTYPES
from digan.cli.main import main
from digan.official.snapshot import load_discriminators

FIXTURES = Path(__file__).parents[2] / "fixtures"
FULL = Path(__file__).parents[4] / "shared" / "parity"  # every pixel, where available
PARITY = 1e-5  # relative difference in float32; measured: below 1e-6
SMALL = GeneratorConfig(
    resolution=128, z_dim=16, w_dim=16, fourier_dim=8, fmm_rank=4, channel_base=1024, channel_max=16
)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


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

    def test_output(self, genuine, tmp_path, capsys):
        out = tmp_path / "out.safetensors"
        assert main(["convert", str(genuine), str(out), "--network", "G"]) == 0
        printed = capsys.readouterr().out
        count = sum(p.numel() for p in Generator(SMALL).parameters())
        for text in ("G_ema ", f"{count:,} parameters", "128x128", "32x32", "torch.distributions.beta.Beta"):
            assert text in printed
        assert f"digan sample --network {out}" in printed
        assert Generator.from_pretrained(out).metadata["source"]["network"] == "G"
        assert [path.name for path in tmp_path.iterdir()] == [out.name]

    def test_inserted_call(self, genuine, tmp_path, capsys):
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

    def test_only_the_other_generator(self, dump, capsys, tmp_path, tree, official_tensors):
        path, out = dump(G=tree("Generator", official_tensors(Generator(SMALL))), G_ema=None), tmp_path / "o"
        assert main(["convert", str(path), str(out)]) == 2
        assert "holds no G_ema, only G: give --network G." in capsys.readouterr().err
        assert main(["convert", str(path), str(out), "--network", "G", "--discriminators", f"{out}-d"]) == 2
        assert "holds no D, only G." in capsys.readouterr().err
        assert main(["convert", str(path), str(out), "--network", "G"]) == 0

    def test_terminal_escape_codes(self, dump, capsys, tmp_path, module, old_tensor):
        net = module("\x1b[2JGenerator", parameters={"\x1b[31mred\n": old_tensor(torch.zeros(1))})
        assert main(["convert", str(dump(G_ema=net)), str(tmp_path / "out")]) == 2
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        assert captured.err.count("\n") == 1


class TestOwn:
    """A network of this project, stored in another type."""

    @pytest.fixture
    def network(self, tmp_path):
        torch.manual_seed(0)
        path = tmp_path / "network.safetensors"
        Generator(SMALL).save(path, clips_seen=3000, data={"frames": 16}, dtype="of another program", path="x")
        return path

    @pytest.mark.parametrize("dtype", ["fp16", "bf16"])
    def test_half_the_size(self, network, tmp_path, dtype, capsys):
        out = tmp_path / "half.safetensors"
        assert main(["convert", str(network), str(out), "--dtype", dtype]) == 0
        assert out.stat().st_size < 0.6 * network.stat().st_size
        assert f"Wrote {out} (0." in capsys.readouterr().out
        before, after = Generator.from_pretrained(network), Generator.from_pretrained(out)
        assert after.metadata == before.metadata
        kind = DTYPES[dtype]
        for name, tensor in before.state_dict().items():
            torch.testing.assert_close(after.state_dict()[name], tensor.to(kind).float(), rtol=0, atol=0)

    def test_a_weight_beyond_the_range(self, network, tmp_path, capsys):
        g = Generator.from_pretrained(network)
        g.mapping.w_avg[0] = 1e6
        g.save(network)
        assert main(["convert", str(network), str(tmp_path / "o"), "--dtype", "fp16"]) == 2
        assert "--dtype fp16: mapping.w_avg holds values beyond the range of float16" in capsys.readouterr().err
        assert not (tmp_path / "o").exists()

    @pytest.mark.parametrize("option", ["--network=G", "--discriminators=d"])
    def test_options_of_official_snapshots(self, network, tmp_path, capsys, option):
        assert main(["convert", str(network), str(tmp_path / "o"), option]) == 2
        assert "is for official snapshots" in capsys.readouterr().err

    def test_a_network_that_does_not_exist(self, tmp_path, capsys):
        assert main(["convert", str(tmp_path / "none"), str(tmp_path / "o")]) == 2
        assert "does not exist" in capsys.readouterr().err


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


def test_configuration_in_the_files(converted):
    for path in converted:
        with safe_open(path, framework="pt") as file:
            assert {"config", "source"} <= set(file.metadata())
            assert isinstance(json.loads(file.metadata()["config"]), dict)
