"""The random features: which changes they respond to, and what they are independent of."""

import pytest
import torch

from digan.metrics import RandomFeatures, frechet_distance
from digan.metrics.sensitivity import blurred, frozen, noisy, reversed_in_time, shuffled

pytestmark = pytest.mark.filterwarnings("ignore:the Fréchet distance")


def moving_discs(count: int = 24, frames: int = 6, size: int = 32) -> torch.Tensor:
    """Return coloured discs in straight motion on coloured grounds, uint8 [count, frames, 3, size, size]."""
    generator = torch.Generator().manual_seed(5)
    colours = torch.rand(count, 2, 3, 1, 1, 1, generator=generator)
    start, speed = torch.rand(2, count, 2, 1, generator=generator)
    time = torch.linspace(0, 1, frames)
    centre = 2 * (start - 0.5) + (speed - 0.5) * time  # [N,2,T]
    axis = torch.linspace(-1, 1, size)
    x = axis.view(1, 1, 1, size) - centre[:, 0, :, None, None]
    y = axis.view(1, 1, size, 1) - centre[:, 1, :, None, None]
    inside = ((x.square() + y.square()) < 0.2).float().unsqueeze(1)  # [N,1,T,H,W]
    clips = colours[:, 0] * inside + colours[:, 1] * (1 - inside)
    return (clips * 255).round().to(torch.uint8).transpose(1, 2).contiguous()


@pytest.fixture(scope="module")
def clips():
    return moving_discs()


@pytest.fixture(scope="module")
def distance(clips):
    """Fréchet distance between changed clips and the original ones."""
    network = RandomFeatures()
    reference = network(clips)

    def from_clips(changed: torch.Tensor) -> float:
        return frechet_distance(reference, network(changed))

    return from_clips


def test_random_features_are_pinned():
    """Pin the values for a synthetic clip: a change that alters them must also rename the network."""
    assert RandomFeatures.name == "random3d-v2"
    clip = (torch.arange(4 * 3 * 64 * 64) * 7919 // 1000 % 256).to(torch.uint8).view(1, 4, 3, 64, 64)
    features = RandomFeatures()(clip)[0]
    expected = torch.tensor([0.230858, -1.114712, 0.037518, -0.027533, 0.301367, -0.432551, -0.115981, -4.330234])
    assert torch.allclose(features[::18], expected, atol=1e-4)
    assert features.norm().item() == pytest.approx(22.699453, rel=1e-5)


def test_random_features_of_a_clip_do_not_depend_on_its_batch(clips):
    network = RandomFeatures()
    together = network(clips[:3])
    assert (together.shape, together.dtype) == ((3, network.dim), torch.float32)
    assert torch.equal(together, RandomFeatures()(clips[:3]))
    alone = torch.cat([network(clip[None]) for clip in clips[:3]])
    # Measured: 5e-7; convolutions sum in another order for another batch size.
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_random_features_ignore_the_training_precision(clips, precision):
    """Callers may train under autocast and reduced precision; both settings are restored."""
    plain = RandomFeatures()(clips[:2])
    cudnn, mkldnn = torch.backends.cudnn.conv, torch.backends.mkldnn.conv
    before = cudnn.fp32_precision, mkldnn.fp32_precision
    try:
        cudnn.fp32_precision = mkldnn.fp32_precision = precision
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(RandomFeatures()(clips[:2]), plain)
            assert torch.is_autocast_enabled("cpu")
        assert (cudnn.fp32_precision, mkldnn.fp32_precision) == (precision, precision)
    finally:
        cudnn.fp32_precision, mkldnn.fp32_precision = before


@pytest.mark.parametrize(
    ("weaker", "stronger"),
    [
        (lambda c: blurred(c, 1), lambda c: blurred(c, 3)),
        (lambda c: noisy(c, 4), lambda c: noisy(c, 16)),
        (lambda c: frozen(c, 2), lambda c: frozen(c, 6)),
        (lambda c: c[:, [1, 0, 2, 3, 4, 5]], lambda c: shuffled(c, 6)),
        (lambda c: c, reversed_in_time),
        (lambda c: c[:12].repeat(2, 1, 1, 1, 1), lambda c: c[:1].expand_as(c)),
    ],
    ids=["blur", "noise", "frozen", "shuffled", "reversed", "collapse"],
)
def test_random_features_order_degradations(clips, distance, weaker, stronger):
    # Measured: the ratios to the weaker change are 2.9 (shuffled) and more.
    assert distance(stronger(clips)) > 2 * distance(weaker(clips)) + 1e-3


def test_only_direction_changes_sign_when_time_is_reversed(clips):
    network = RandomFeatures()
    forwards, backwards = (network(c)[:, -36:].view(-1, 3, 12) for c in (clips, reversed_in_time(clips)))
    assert torch.allclose(backwards[:, :2], forwards[:, :2], atol=1e-4)
    assert torch.allclose(backwards[:, 2], -forwards[:, 2], atol=1e-4)
    assert forwards[:, 2].std() > 1


def test_still_clips_have_no_direction_and_are_the_least_steady(clips):
    moving, still = (RandomFeatures()(c)[:, -24:].view(-1, 2, 12) for c in (clips, frozen(clips, 6)))
    assert still[:, 1].abs().max() < 1e-3
    assert still[:, 0].min() > moving[:, 0].max()


def test_random_features_compare_resolutions(clips):
    """The same content at 64, 128 and 192 pixels is the same clip."""
    network = RandomFeatures()
    small = clips[:2].repeat_interleave(2, 3).repeat_interleave(2, 4)  # 64x64
    features = network(small)
    for factor in (2, 3):
        larger = small.repeat_interleave(factor, 3).repeat_interleave(factor, 4)
        assert torch.allclose(network(larger), features, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 3, 64, 64), (2, 5, 3, 7, 100), (0, 4, 3, 16, 16)], ids=str)
def test_random_features_of_odd_sizes(shape):
    features = RandomFeatures()(torch.zeros(shape, dtype=torch.uint8))
    assert features.shape == (shape[0], RandomFeatures.dim)
    assert features.isfinite().all()
