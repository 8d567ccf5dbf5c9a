"""The discriminators: parity with the official implementation, precision, labels, and sizes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from digan import Discriminator, DiscriminatorConfig
from digan.models.discriminator import IMAGE_CHANNELS, MOTION_CHANNELS, motion_input
from digan.models.layers import Conv2d
from digan.official import names as official_names
from digan.training.losses import squared_gradient

FIXTURE = Path(__file__).parents[2] / "fixtures" / "discriminator_small.safetensors"
PARITY = 1e-5  # relative difference in float32; measured: below 1e-6
TINY = DiscriminatorConfig(resolution=32, channel_base=256, channel_max=16)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module")
def official():
    return load_file(FIXTURE)


@pytest.fixture(scope="module")
def networks(official):
    """Discriminators with the official weights, {"imageD": D_I, "videoD": D_M}."""
    states = official_names.discriminator_states(
        {name.removeprefix("state."): x for name, x in official.items() if name.startswith("state.")}
    )
    networks = {}
    for name, channels, state in zip(["imageD", "videoD"], [IMAGE_CHANNELS, MOTION_CHANNELS], states, strict=True):
        networks[name] = Discriminator(official_names.discriminator_config(state), channels)
        networks[name].load_state_dict(state)
    return networks


@pytest.fixture(scope="module")
def evaluated(official, networks):
    """Inputs that require gradients, and their logits, by network."""
    clip = official["in.clip"].clone().requires_grad_()
    frames = official["in.clip"][:, :6].unflatten(1, (2, 3)).flatten(0, 1).requires_grad_()
    return {"videoD": (clip, networks["videoD"](clip)), "imageD": (frames, networks["imageD"](frames))}


def test_config_is_read_off_the_shapes(networks):
    for network in networks.values():
        assert network.config == TINY


@pytest.mark.parametrize(("network", "name"), [("videoD", "out.video_logits"), ("imageD", "out.image_logits")])
def test_logits_agree_with_official(official, evaluated, network, name):
    assert relative(evaluated[network][1], official[name]) <= PARITY


def test_r1_agrees_with_official(official, networks, evaluated):
    motion = squared_gradient(evaluated["videoD"][1], evaluated["videoD"][0])
    image = squared_gradient(evaluated["imageD"][1], evaluated["imageD"][0])
    assert relative(motion, official["out.r1_video"]) <= PARITY
    assert relative(image, official["out.r1_image"]) <= PARITY
    (0.5 * motion.mean() + 0.5 * image.mean()).backward()
    names = [name for name in official if name.startswith("r1grad.")]
    assert names
    for name in names:
        _, network, parameter = name.split(".", 2)
        gradient = networks[network].get_parameter(official_names.discriminator_name(parameter)).grad
        assert relative(gradient, official[name]) <= PARITY, name


def test_initial_values():
    torch.manual_seed(0)
    for name, parameter in Discriminator(replace(TINY, channel_base=4096, channel_max=256), 3).named_parameters():
        if name.endswith("bias"):
            assert parameter.eq(0).all(), name
        else:
            assert parameter.std().item() == pytest.approx(1, rel=0.2), name  # out has 256 values
            assert abs(parameter.mean().item()) < 0.2, name


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_convolutions_of_a_cpu_are_channels_last(dtype):
    d, formats = Discriminator(TINY, 3), []
    for conv in (d.from_rgb, d.blocks["32"].conv1, d.conv):
        conv.register_forward_pre_hook(
            lambda conv, args: formats.append(args[0].is_contiguous(memory_format=torch.channels_last))
        )
    d(torch.randn(2, 3, 32, 32), dtype=dtype)
    assert formats == [True, True, False]  # the last is too small to gain by it


def test_default_parameter_count():
    with torch.device("meta"):
        networks = [Discriminator(DiscriminatorConfig(), channels) for channels in (IMAGE_CHANNELS, MOTION_CHANNELS)]
    assert sum(p.numel() for d in networks for p in d.parameters()) == 56_779_266


@pytest.mark.parametrize("resolution", [8, 32, 64, 128, 256, 512])
def test_resolutions(resolution):
    d = Discriminator(DiscriminatorConfig(resolution=resolution, channel_base=1024, channel_max=4), 7)
    assert d(torch.randn(2, 7, resolution, resolution)).shape == (2, 1)


class TestHalfPrecision:
    """bfloat16 on the CPU; float16 needs a GPU."""

    def test_only_the_highest_resolutions_are_half(self):
        d = Discriminator(DiscriminatorConfig(resolution=64, channel_base=64, channel_max=8, half_resolutions=2), 3)
        seen = {}
        for name, block in d.blocks.items():
            block.register_forward_hook(lambda module, args, out, name=name: seen.update({name: out.dtype}))
        logits = d(torch.randn(2, 3, 64, 64), dtype=torch.bfloat16)
        assert seen == {"64": torch.bfloat16, "32": torch.bfloat16, "16": torch.float32, "8": torch.float32}
        assert logits.dtype == torch.float32

    def test_agrees_with_float32(self):
        torch.manual_seed(0)
        d = Discriminator(TINY, 3)
        x = torch.randn(8, 3, 32, 32)
        assert relative(d(x, dtype=torch.bfloat16), d(x)) < 0.05  # bfloat16 has 8 bits; measured: 0.01

    def test_gradients_are_float32_and_finite(self):
        d = Discriminator(TINY, 3)
        x = torch.randn(4, 3, 32, 32, requires_grad=True)
        d(x, dtype=torch.bfloat16).sum().backward()
        for tensor in (x, *d.parameters()):
            assert tensor.grad.dtype == torch.float32
            assert tensor.grad.isfinite().all()

    @pytest.mark.parametrize(
        ("half_resolutions", "options", "clamped"),
        [
            (1, {"dtype": torch.bfloat16}, True),
            (0, {"dtype": torch.bfloat16}, False),
            (1, {}, False),
            (1, {"clamped": True}, True),
            (1, {"dtype": torch.bfloat16, "clamped": False}, False),
        ],
        ids=str,
    )
    def test_one_half_resolution_clamps_all_but_the_skips(self, half_resolutions, options, clamped):
        torch.manual_seed(0)
        d = Discriminator(replace(TINY, half_resolutions=half_resolutions), 3)
        largest = {}
        for name, module in d.named_modules():
            if isinstance(module, Conv2d):
                module.weight.data *= 1e4
                module.register_forward_hook(
                    lambda module, args, out, name=name: largest.update({name: out.abs().max().item()})
                )
        d(torch.randn(2, 3, 32, 32), **options)
        skips = {name: largest.pop(name) for name in list(largest) if name.endswith("skip")}
        sums = {name: largest.pop(name) for name in list(largest) if name.endswith("conv1")}  # skip + clamped, below
        assert sorted(largest) == ["blocks.16.conv0", "blocks.32.conv0", "blocks.8.conv0", "conv", "from_rgb"]
        assert min(skips.values()) > 1e3
        assert min(sums.values()) > 1e3
        for name, value in largest.items():
            assert (value == 256) == clamped, name

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_clamp_follows_the_gain_and_the_skip_is_added_to_it(self, dtype):
        conv = Discriminator(TINY, 3).blocks["16"].conv1
        x = 1e6 * torch.randn(2, 16, 16, 16, dtype=dtype)
        assert conv(x, gain=0.5, clamped=True).abs().max() == 128
        assert conv(x, gain=0.5).abs().max() > 1e4
        residual = torch.full_like(conv(x), 1000.0)
        assert conv(x, gain=0.5, clamped=True, residual=residual).max() == 1128


class TestLabels:
    d = Discriminator(DiscriminatorConfig(resolution=32, channel_base=256, channel_max=16, num_classes=4), 7)

    def test_forward_and_backward(self):
        x = torch.randn(4, 7, 32, 32)
        logits = self.d(x, torch.tensor([0, 1, 2, 3]))
        assert logits.shape == (4, 1)
        logits.square().sum().backward()
        for name, parameter in self.d.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name

    def test_logit_is_the_projection_on_the_mapped_label(self):
        x, labels = torch.randn(4, 7, 32, 32), torch.tensor([2, 0, 1, 1])
        features = []
        handle = self.d.out.register_forward_hook(lambda module, args, out: features.append(out))
        logits = self.d(x, labels)
        handle.remove()
        direction = self.d.label_mapping(None, labels)
        expected = torch.stack([f @ m / 16**0.5 for f, m in zip(features[0], direction, strict=True)])
        torch.testing.assert_close(logits[:, 0], expected)

    def test_missing(self):
        with pytest.raises(ValueError, match="labels are missing"):
            self.d(torch.randn(2, 7, 32, 32))

    def test_unexpected(self):
        with pytest.raises(ValueError, match="unconditional"):
            Discriminator(TINY, 3)(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))


def test_minibatch_group_is_settable():
    torch.manual_seed(0)
    d = Discriminator(TINY, 3)
    x = torch.randn(4, 3, 32, 32)
    together = d(x)
    d.mbstd_group = 2
    pairs = torch.cat([d(x[0::2]), d(x[1::2])]).view(2, 2).T.reshape(4, 1)  # groups are strided: (0, 2) and (1, 3)
    torch.testing.assert_close(d(x), pairs)
    assert not torch.allclose(together, pairs)


def test_motion_input_layout():
    frames, delta_t = torch.randn(2, 2, 3, 4, 5), torch.tensor([0.25, 1.0])
    clip = motion_input(frames, delta_t)
    assert clip.shape == (2, 7, 4, 5)
    assert torch.equal(clip[:, :3], frames[:, 0])
    assert torch.equal(clip[:, 3:6], frames[:, 1])
    assert (clip[0, 6] == 0.25).all()
    assert (clip[1, 6] == 1.0).all()


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 7, 16, 16), (7, 32, 32)], ids=str)
def test_wrong_input(shape):
    with pytest.raises(ValueError, match=r"x must be \[N, 7, 32, 32\]"):
        Discriminator(TINY, 7)(torch.randn(shape))


@pytest.mark.parametrize("resolution", [4, 48])
def test_wrong_resolution(resolution):
    with pytest.raises(ValueError, match="power of two"):
        Discriminator(DiscriminatorConfig(resolution=resolution), 3)


def test_too_few_channels():
    with pytest.raises(ValueError, match="no channels at resolution 64"):
        Discriminator(DiscriminatorConfig(resolution=64, channel_base=32), 3)


@pytest.mark.parametrize("name", ["b16.conv2.weight", "b4.fc.scale", "synthesis.b4.conv1.weight"])
def test_unknown_official_name(name):
    with pytest.raises(ValueError, match="official"):
        official_names.discriminator_name(name)
