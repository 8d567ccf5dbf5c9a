"""The networks of official snapshots: other variants, hostile ones, and the discriminators' file."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from digan import Discriminator, Generator, GeneratorConfig
from digan.errors import NetworkError
from digan.official.snapshot import OfficialSnapshot, load_discriminators

SMALL = GeneratorConfig(
    resolution=128, z_dim=16, w_dim=16, fourier_dim=8, fmm_rank=4, channel_base=1024, channel_max=16
)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.999])
def test_truncated(share, genuine, tmp_path):
    data = genuine.read_bytes()
    path = tmp_path / "cut.pkl"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(NetworkError, match="damaged"):
        OfficialSnapshot(path)


class TestOtherSnapshots:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_conditional(self, protocol, dump, tmp_path, tree, official_tensors):
        generator = Generator(replace(SMALL, num_classes=3))
        more = ["mapping.embed.weight", "mapping.embed.bias"]
        path = dump(protocol, G_ema=tree("Generator", official_tensors(generator, more), c_dim=3))
        again = OfficialSnapshot(path).generator()
        assert again.config == generator.config
        for name, x in generator.state_dict().items():
            assert torch.equal(again.state_dict()[name], x), name

    def test_half_precision_becomes_float32(self, dump, tree, official_tensors):
        generator = Generator(SMALL).half()
        again = OfficialSnapshot(dump(G_ema=tree("Generator", official_tensors(generator)))).generator()
        assert {x.dtype for x in again.state_dict().values()} == {torch.float32}

    def test_constants(self, dump, tree, official_tensors):
        net = tree("Generator", official_tensors(Generator(SMALL)), img_resolution=128)
        net.state["_modules"]["mapping"].state["w_avg_beta"] = 0.998
        fuser = net.state["_modules"]["synthesis"].state["_modules"]["b64"].state["_modules"]["coord_fuser"]
        fuser.state |= {"motion_sigma": 0.5, "fourier_scale": 4}
        config = OfficialSnapshot(dump(G=net)).generator("G").config
        assert config == replace(SMALL, w_avg_beta=0.998, time_frequency=0.5, space_frequency=4)
        fuser.state["use_cosine"] = False
        with pytest.raises(NetworkError, match="use_cosine is False in it: a variant"):
            OfficialSnapshot(dump(G=net)).generator("G")

    @pytest.mark.parametrize("content", [{}, {"G_ema": None}, {"G_ema": {"a": 1}}, {"a": [1, 2]}])
    def test_no_networks(self, content, dump):
        with pytest.raises(NetworkError, match="without networks"):
            OfficialSnapshot(dump(**content))

    def test_a_stylegan(self, dump, tree):
        net = tree("Generator", {"mapping.w_avg": torch.zeros(4), "synthesis.b4.const": torch.zeros(4, 4)})
        with pytest.raises(NetworkError, match=r"synthesis\.b4\.const is not a parameter of the official DIGAN"):
            OfficialSnapshot(dump(G_ema=net)).generator()

    def test_another_discriminator(self, dump, tree):
        with pytest.raises(NetworkError, match="has a D that cannot be converted"):
            OfficialSnapshot(
                dump(D=tree("Discriminator", {"imageD.b4.conv.weight": torch.zeros(2, 3)}))
            ).discriminators()


class TestHostileNetworks:
    """Files with nothing but tensors and modules, which would fill the memory or take forever."""

    def convert(self, path, match):
        with pytest.raises(NetworkError, match=match) as error:
            OfficialSnapshot(path).generator()
        assert "\n" not in str(error.value)

    def test_inconsistent_sizes(self, dump, tree, official_tensors):
        tensors = official_tensors(Generator(SMALL)) | {"mapping.w_avg": torch.zeros(100_000)}
        self.convert(dump(G_ema=tree("Generator", tensors)), "cannot be converted")

    def test_huge_resolution(self, dump, tree, official_tensors):
        tensors = official_tensors(Generator(SMALL))
        for digits in (5, 150):
            name = f"synthesis.b{10**digits}.conv0.weight"
            self.convert(dump(G_ema=tree("Generator", tensors | {name: torch.ones(1, 1, 1, 1)})), "cannot be converted")

    def test_one_storage_under_many_names(self, dump, module, old_tensor):
        tensor = old_tensor(torch.zeros(10_000))
        net = module("Generator", parameters={f"p{i}": tensor for i in range(1000)})
        self.convert(dump(G_ema=net), "larger than the file")

    def test_modules_that_contain_themselves(self, dump, module):
        net = module("Generator")
        net.state["_modules"]["again"] = net
        self.convert(dump(protocol=4, G_ema=net), "modules contain each other")

    def test_modules_that_fork_60_times(self, dump, module, old_tensor):
        net = module("Leaf", parameters={"weight": old_tensor(torch.zeros(1))})
        for _ in range(60):
            net = module("Fork", modules={"left": net, "right": net})
        self.convert(dump(G_ema=net), "modules contain each other")

    def test_one_large_module_in_many_places(self, dump, module):
        net = module("Leaf", **{f"a{i}": None for i in range(20_000)})
        net = module("Generator", modules={f"m{i}": net for i in range(5_000)})
        started = time.process_time()
        self.convert(dump(G_ema=net), "modules contain each other")
        assert time.process_time() - started < 5  # seconds; measured: below 0.5

    @pytest.mark.parametrize("state", [None, {}, {"_parameters": 1, "_buffers": {}, "_modules": {}}])
    def test_no_modules(self, state, dump, module):
        net = module("Generator")
        net.meta["state"] = state
        self.convert(dump(G_ema=net), "a part of it")


def test_load_discriminators_of_another_file(converted, tmp_path):
    for path in (converted[0], tmp_path / "absent", Path(__file__)):
        with pytest.raises(NetworkError, match="holds no discriminators"):
            load_discriminators(path)


def test_discriminators_are_ready_for_training(converted):
    networks = load_discriminators(converted[1])
    assert all(isinstance(network, Discriminator) for network in networks.values())
    assert {name: network.channels_in for name, network in networks.items()} == {"d_image": 3, "d_motion": 7}
    assert all(buffer.device.type == "cpu" for network in networks.values() for buffer in network.buffers())
