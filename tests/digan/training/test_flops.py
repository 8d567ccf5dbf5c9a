"""The arithmetic of a training step against what PyTorch is asked for, and the device's peak."""

from types import SimpleNamespace

import pytest
import torch

from digan import Discriminator, Generator
from digan.config import TrainConfig
from digan.models.discriminator import motion_input
from digan.training import flops, losses
from digan.training.flops import count_macs, counter, forward_macs, matmul_peak, naive_render_macs, step_flops
from fused_inr import composed, reference

CLIPS = 4


class Networks:
    """Those of a configuration, on tensors without memory."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        with torch.device("meta"):
            self.g = Generator(config.generator(0))
            self.d_image = Discriminator(config.discriminator(0), 3)
            self.d_motion = Discriminator(config.discriminator(0), 7)
            self.z = torch.empty(CLIPS, config.z_dim)
            self.times = torch.empty(CLIPS, 2)
            self.frames = torch.empty(CLIPS, 2, 3, config.resolution, config.resolution)

    def train_only(self, *trained):
        for net in (self.g, self.d_image, self.d_motion):
            net.requires_grad_(net in trained)

    def generate(self):
        return composed.render(self.g.inr(self.z, self.z, self.times), self.g.grid(), torch.float32)

    def judge(self, frames):
        return self.d_motion(motion_input(frames, self.times[:, 0])), self.d_image(frames.flatten(0, 1))

    def update_g(self):
        self.train_only(self.g)
        losses.generator_loss(*self.judge(self.generate())).backward()

    def update_d(self):
        self.train_only(self.d_image, self.d_motion)
        with torch.no_grad():
            fakes = self.generate()
        losses.fake_loss(*self.judge(fakes)).backward()
        losses.real_loss(*self.judge(self.frames)).backward()

    def update_r1(self):
        self.train_only(self.d_image, self.d_motion)
        clips = motion_input(self.frames, self.times[:, 0])
        for d, x in ((self.d_motion, clips), (self.d_image, self.frames.flatten(0, 1))):
            penalty = losses.r1(d, x, 1.0, transform=torch.clone)  # the counter's hooks refuse leaves
            torch.autograd.grad(penalty, list(d.parameters()), allow_unused=True)

    def update_path_length(self):
        self.train_only(self.g)
        slots = self.g.broadcast(self.g.mapping(self.z))
        frames = composed.render(self.g.inr_from_slots(slots, self.z, self.times), self.g.grid(), torch.float32)
        (gradient,) = torch.autograd.grad((frames * self.frames).sum(), slots, create_graph=True)
        gradient.square().sum().backward()


@pytest.fixture(scope="module")
def networks():
    return Networks(TrainConfig(data="unused"))


def test_published_model(networks):
    macs = forward_macs(networks.config)
    assert macs.discriminators == pytest.approx(94.3e9, rel=0.01)
    # 7.4 G for a frame, the heads and the mapping once.
    assert macs.generator == pytest.approx(2 * 7.4e9, rel=0.02)


@pytest.mark.parametrize("update", ["update_g", "update_d", "update_r1", "update_path_length"])
def test_updates(networks, update):
    with counter() as flops:
        getattr(networks, update)()
    needed = getattr(step_flops(forward_macs(networks.config)), update) * CLIPS
    # The first layers of G ask for no gradient of what they get, and biases of logits are products for PyTorch.
    assert flops.get_total_flops() == pytest.approx(needed, rel=0.01)


def test_updates_have_their_share_of_the_iterations(tiny):
    config = tiny(gamma=1.0, r1_interval=16)
    step = step_flops(forward_macs(config))
    assert step.weighted(config) == step.update_g + step.update_d + step.update_r1 / 16
    assert step.weighted(tiny(gamma=0.0)) == step.update_g + step.update_d
    with_lengths = tiny(gamma=0.0, pl_weight=2.0, pl_interval=4)
    assert step.weighted(with_lengths) == step.update_g + step.update_d + step.update_path_length / 4


def test_labels_change_little(tiny):
    plain, labelled = forward_macs(tiny()), forward_macs(tiny(), num_classes=3)
    assert plain.generator < labelled.generator < 1.1 * plain.generator
    assert plain.discriminators < labelled.discriminators < 1.1 * plain.discriminators


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_peak_is_that_of_the_fastest_product(dtype, monkeypatch):
    clock, sizes = SimpleNamespace(now=0.0), []

    def multiplied(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.dtype == b.dtype == (dtype or torch.float32)
        sizes.append(len(a))
        slowness = 1 + len(sizes) % 3  # as if other programs took some of the processor
        clock.now += slowness * 2 * len(a) ** 3 / 1e12
        return a

    monkeypatch.setattr(flops, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(torch, "mm", multiplied)
    assert matmul_peak(torch.device("cpu"), dtype, seconds=0.02) == pytest.approx(1e12)
    assert set(sizes) == {1024}
    assert 0.02 < clock.now < 0.04


def test_the_peak_is_the_fastest_product_that_takes_longer_than_its_launch(monkeypatch):
    sizes = []

    def timed(device, call):
        sizes.append(call().shape[0])
        slower = 2 if sizes.count(sizes[-1]) == 1 else 1  # the first of a size
        return slower * 0.001 * (sizes[-1] / 2048) ** 3

    monkeypatch.setattr(flops, "_timed", timed)
    assert flops.matmul_peak(torch.device("meta"), None, seconds=0.04) == pytest.approx(2 * 2048**3 / 0.001)
    assert sizes[:2] == [1024, 2048]  # 0.25 and 2 milliseconds, of which 1 is a fortieth
    assert set(sizes[2:]) == {2048}


def test_networks_are_unconditional_unless_classes_are_given(tiny):
    assert forward_macs(tiny()) == forward_macs(tiny(), 0)
    assert forward_macs(tiny()).generator < forward_macs(tiny(), 1).generator


def test_naive_rendering_is_counted_as_pytorch_computes_it(tiny):
    networks = Networks(tiny())
    inr = networks.g.inr(networks.z[:1], networks.z[:1], networks.times[:1, :1])
    grid = networks.g.grid()
    assert naive_render_macs(inr, grid) == count_macs(lambda: reference.render(inr, grid, None))


def test_filters_of_resampling_are_not_counted():
    one, many = torch.empty(2, 1, 8, 8, device="meta"), torch.empty(2, 4, 8, 8, device="meta")
    with counter() as flops:
        torch.conv2d(many, torch.empty(4, 1, 3, 3, device="meta"), groups=4)
    assert flops.get_total_flops() == 0
    with counter() as flops:
        torch.conv2d(one, torch.empty(5, 1, 3, 3, device="meta"), padding=1)  # of one channel, as of a grey image
    assert flops.get_total_flops() == 2 * (2 * 8 * 8) * 5 * 9
