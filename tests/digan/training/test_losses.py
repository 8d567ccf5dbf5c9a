"""The objective: losses by formula, penalties by hand-made derivatives, and the distributions of times and mixing."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fused_inr as fi
from digan import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from digan.models.discriminator import IMAGE_CHANNELS, MOTION_CHANNELS, motion_input
from digan.training import losses
from digan.training.augment import augment_motion_input, draw_augment

SMALL_G = GeneratorConfig(
    resolution=32, z_dim=6, w_dim=5, fourier_dim=3, fmm_rank=2, channel_base=256, channel_max=4, mapping_layers=1
)
SMALL_D = DiscriminatorConfig(resolution=16, channel_base=128, channel_max=8)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_gradient_by_differences(network, penalty):
    """Compare the gradient of penalty() along a random direction with a central difference, in float64."""
    penalty().backward()
    moved = [p for p in network.parameters() if p.grad is not None]
    along = [torch.randn(p.shape, generator=rng(1), dtype=p.dtype) for p in moved]
    slope = sum((p.grad * d).sum() for p, d in zip(moved, along, strict=True))
    step = 1e-8  # so small that no lrelu changes its side, where a penalty of gradients jumps
    values = []
    for move in (step, -2 * step):
        with torch.no_grad():
            torch._foreach_add_(moved, along, alpha=move)
        values.append(penalty().detach())
    torch.testing.assert_close((values[0] - values[1]) / (2 * step), slope, rtol=1e-4, atol=1e-8)


def test_adversarial_losses():
    motion, image = torch.randn(4, 1), torch.randn(8, 1)
    log = torch.log
    torch.testing.assert_close(
        losses.fake_loss(motion, image), log(1 + motion.exp()).mean() + log(1 + image.exp()).mean()
    )
    wanted = log(1 + (-motion).exp()).mean() + log(1 + (-image).exp()).mean()
    torch.testing.assert_close(losses.real_loss(motion, image), wanted)
    torch.testing.assert_close(losses.generator_loss(motion, image), wanted)


def test_losses_are_float32_and_do_not_overflow():
    logits = torch.full([2, 1], 3e4, dtype=torch.float16)
    loss = losses.generator_loss(-logits, logits)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(3e4, rel=1e-3)


class TestR1:
    @pytest.fixture
    def network(self):
        torch.manual_seed(0)
        return Discriminator(SMALL_D, 7).double()

    @pytest.fixture
    def clips(self):
        return torch.randn(4, 7, 16, 16, generator=rng(), dtype=torch.float64)

    def test_equals_finite_differences_of_the_network(self, network, clips):
        penalty = losses.r1(network, clips, gamma=3.0)
        x = clips.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(x).sum(), x)
        along = gradient / gradient.norm()
        step = 1e-5
        slope = (network(clips + step * along).sum() - network(clips - step * along).sum()) / (2 * step)
        torch.testing.assert_close(penalty, 3.0 / 2 * slope**2 / len(clips), rtol=1e-6, atol=0)

    def test_gradient_equals_finite_differences_of_the_penalty(self, network, clips):
        assert_gradient_by_differences(network, lambda: losses.r1(network, clips, gamma=1.0))

    def test_gradient_is_taken_before_the_transform(self, network, clips):
        draw = draw_augment("color,translation", len(clips), rng())
        penalty = losses.r1(network, clips, 1.0, transform=lambda x: augment_motion_input(x, draw))
        x = clips.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(augment_motion_input(x, draw)).sum(), x)
        torch.testing.assert_close(penalty, gradient.square().sum() / len(clips) / 2)
        assert not torch.allclose(penalty, losses.r1(network, augment_motion_input(clips, draw), 1.0), rtol=1e-3)

    def test_labels(self, clips):
        network = Discriminator(replace(SMALL_D, num_classes=3), 7).double()
        penalties = [losses.r1(network, clips, 1.0, torch.full([4], label)) for label in range(3)]
        assert len({round(p.item(), 12) for p in penalties}) == 3

    def test_no_weight_gradient_in_the_inner_pass(self, network, clips):
        """The gradient at the input needs the convolutions' input gradients alone."""
        masks = []

        class Record(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                if func is torch.ops.aten.convolution_backward.default:
                    masks.append(args[10])
                return func(*args, **(kwargs or {}))

        with Record():
            losses.r1(network, clips, gamma=1.0)
        assert masks
        assert all(mask == [True, False, False] for mask in masks)


class TestPathLength:
    @pytest.fixture
    def generator(self):
        torch.manual_seed(0)
        return Generator(SMALL_G).double()

    def sample(self, generator, n=2, times=2):
        g = rng(2)
        z = torch.randn(2, n, 6, generator=g, dtype=torch.float64)
        noise = torch.randn(n, times, 3, 32, 32, generator=g, dtype=torch.float64)
        slots = generator.broadcast(generator.mapping(z[0]))
        return slots, z[1], torch.rand(n, times, generator=g, dtype=torch.float64), noise

    def penalty(self, generator, mean=0.2, decay=0.01):
        return losses.path_length(generator, *self.sample(generator), torch.tensor(mean).double(), decay=decay)

    def test_length_is_that_of_the_jacobian(self, generator):
        slots, z_motion, times, noise = self.sample(generator, n=1)
        probe = torch.zeros_like(slots).requires_grad_()

        def frames(probe):
            return fi.render(generator.inr_from_slots(slots.detach() + probe, z_motion, times), generator.grid())

        gradient = torch.autograd.functional.vjp(frames, probe, noise)[1]
        length = gradient.square().sum(dim=2).mean(dim=1).sqrt().item() / math.sqrt(32 * 32)
        penalty, mean = losses.path_length(
            generator, slots, z_motion, times, noise, torch.tensor(0.5).double(), decay=0.25
        )
        assert mean.item() == pytest.approx(0.75 * 0.5 + 0.25 * length)
        assert penalty.item() == pytest.approx((length - 0.5) ** 2)

    def test_double_backward_equals_finite_differences(self, generator):
        # decay 0 keeps the running mean, through which no gradient flows, out of the difference.
        assert_gradient_by_differences(generator, lambda: self.penalty(generator, decay=0.0)[0])

    def test_reaches_every_modulation_with_finite_gradients(self, generator):
        penalty, mean = self.penalty(generator)
        assert not mean.requires_grad
        penalty.backward()
        for name, parameter in generator.named_parameters():
            # Biases that only shift the image are the ones that lengths do not depend on.
            if name.endswith("to_rgb.bias"):
                continue
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


class TestStyleMixing:
    def test_slots_below_the_cutoff_stay(self):
        slots, other = torch.zeros(3, 8, 4), torch.ones(3, 8, 4)
        mixed = losses.mix_styles(slots, other, torch.tensor([1, 5, 8]))
        assert mixed.sum(dim=(1, 2)).tolist() == [7 * 4, 3 * 4, 0]
        assert mixed[1, 4].sum() == 0
        assert mixed[1, 5].sum() == 4

    def test_probability(self):
        n, slots = 20000, 8
        cutoff = losses.draw_mixing_cutoff(n, slots, 0.25, rng())
        mixed = cutoff[cutoff < slots]
        assert len(mixed) / n == pytest.approx(0.25, abs=0.015)  # 5 standard deviations
        assert mixed.unique().tolist() == list(range(1, slots))
        assert (losses.draw_mixing_cutoff(100, slots, 0.0, rng()) == slots).all()

    def test_gradients_reach_both_styles(self):
        slots, other = torch.randn(2, 8, 4, requires_grad=True), torch.randn(2, 8, 4, requires_grad=True)
        losses.mix_styles(slots, other, torch.tensor([2, 6])).sum().backward()
        assert slots.grad[0].sum() == 2 * 4
        assert other.grad[0].sum() == 6 * 4


class TestTimes:
    times = losses.sample_times(50000, rng())

    def test_are_sorted_pairs(self):
        assert self.times.shape == (50000, 2)
        assert self.times.dtype == torch.float32
        assert (losses.delta_t(self.times) >= 0).all()
        assert self.times.min() >= 0
        assert self.times.max() <= 1

    def test_distribution(self):
        """a ~ Beta(2,1) has P(a <= x) = x^2, b ~ Beta(1,2) has P(b <= x) = 1 - (1 - x)^2."""
        x = torch.linspace(0.02, 0.98, 25)
        a, b = x**2, 1 - (1 - x) ** 2
        later, earlier = a * b, 1 - (1 - a) * (1 - b)
        empirical = (self.times[:, :, None] <= x).float().mean(dim=0)  # [2, 25]
        # 1.95 / sqrt(n) is the 0.1 % quantile of the Kolmogorov-Smirnov statistic.
        assert (empirical - torch.stack([earlier, later])).abs().max() < 1.95 / math.sqrt(50000)

    def test_delta_t(self):
        torch.testing.assert_close(losses.delta_t(torch.tensor([[0.25, 1.0], [0.5, 0.5]])), torch.tensor([0.75, 0.0]))

    def test_draws_depend_on_the_generator_alone(self):
        torch.manual_seed(5)
        assert torch.equal(losses.sample_times(10, rng(1)), losses.sample_times(10, rng(1)))
        assert not torch.equal(losses.sample_times(10, rng(1)), losses.sample_times(10, rng(2)))


def test_generator_follows_both_discriminators():
    """A small step against the gradient lowers the loss by step * |gradient|, to first order."""
    torch.manual_seed(0)
    g = Generator(SMALL_G).double()
    config = replace(SMALL_D, resolution=32, channel_base=256)
    image, motion = (Discriminator(config, channels).double() for channels in (IMAGE_CHANNELS, MOTION_CHANNELS))
    z = torch.randn(2, 4, 6, generator=rng(), dtype=torch.float64)
    times = losses.sample_times(4, rng())

    def logits():
        frames = g(z[0], z[1], times)
        return motion(motion_input(frames, losses.delta_t(times))), image(frames.flatten(0, 1))

    before = logits()
    gradients = torch.autograd.grad(losses.generator_loss(*before), list(g.parameters()))
    norm = torch.stack([x.square().sum() for x in gradients]).sum().sqrt().item()
    step = 1e-3
    with torch.no_grad():
        torch._foreach_add_(list(g.parameters()), gradients, alpha=-step / norm)
    fall = losses.generator_loss(*before) - losses.generator_loss(*logits())
    assert fall.item() == pytest.approx(step * norm, rel=0.1)
