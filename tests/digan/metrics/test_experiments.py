"""Each row of an experiment has the clips that its name and the help describe, at the right times and sizes."""

import pytest
import torch

from digan import Generator
from digan.config import GeneratorConfig
from digan.errors import ConfigError
from digan.metrics import parse
from digan.metrics.experiments import EXPERIMENTS, PLAIN, Model, Resized, Retimed
from digan.sampling.latents import seeded_latents
from digan.sampling.render import sample_clips

SPAN, SEED = 3, 5


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = dict(z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8, resolution=32)
    sizes["time_frequency"] = 20.0
    return Model(Generator(GeneratorConfig(**sizes)).eval(), SPAN)


def rendered(model, times, resolution=32, index=1):
    """Return a clip with the latents of sample `index`, uint8 [T, 3, R, R]."""
    z = seeded_latents(8, SEED, [index])
    return sample_clips(model.g, *z, torch.tensor(times), resolution=resolution)[0]


def rows(model, experiment, metric, resolution=32):
    """Return the clip of sample 1 in every row, with the frames that the metric reads."""
    protocol = parse(metric)
    sources = {name: maker(SEED) for name, maker in experiment.rows(model, protocol, resolution).items()}
    assert all(len(source) == protocol.count for source in sources.values())
    return {name: source.batch([1])[0] for name, source in sources.items()}


class FixedClips:
    """A source of clips in memory."""

    def __init__(self, clips):
        self.clips, self.frame_indices = clips, range(clips.shape[1])

    def __len__(self):
        return len(self.clips)

    def batch(self, indices):
        return self.clips[indices]


def test_nearest_repeats_pixels():
    clips = torch.randint(0, 256, (2, 3, 3, 4, 4), dtype=torch.uint8)
    large = Resized(FixedClips(clips), 8, "nearest").batch([1, 0])
    assert torch.equal(large, clips[[1, 0]].repeat_interleave(2, 3).repeat_interleave(2, 4))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_smooth_resizing_keeps_constants_and_stays_in_range(mode):
    clips = torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8)
    clips[0, 0] = 77
    clips[0, 1, :, ::2] = 255  # bicubic overshoots at edges
    large = Resized(FixedClips(clips), 8, mode).batch([0])
    assert large.shape == (1, 2, 3, 8, 8)
    assert large.dtype == torch.uint8
    assert large[0, 0].eq(77).all()
    means = large[0, 1].float().mean((0, 2))  # [8]
    assert (means[:4] + means[4:].flip(0) - 255).abs().max() <= 1  # a wrapped value would break the symmetry


def test_retimed_frames_are_repeated_or_blended():
    clips = torch.tensor([0, 100, 40], dtype=torch.uint8).view(1, 3, 1, 1, 1).expand(2, 3, 3, 2, 2)
    values = [Retimed(FixedClips(clips), 5, blend=blend).batch([0])[0, :, 0, 0, 0].tolist() for blend in (True, False)]
    assert values[0] == [0, 50, 100, 70, 40]
    assert values[1][::2] == [0, 100, 40]
    assert set(values[1]) == {0, 100, 40}
    single = Retimed(FixedClips(clips[:, :1] + 9), 4, blend=True).batch([1])
    assert single.shape == (1, 4, 3, 2, 2)
    assert single.eq(9).all()


def test_plain_clips_are_at_the_pace_of_training(model):
    clip = rows(model, PLAIN, "rfvd4_5f")["generator"]
    assert torch.equal(clip, rendered(model, [0.0, 0.5, 1.0, 1.5, 2.0]))
    subsampled = rows(model, PLAIN, "rfvd4_5f_subsample2f")["generator"]
    assert torch.equal(subsampled, clip[::2])


def test_interpolation_fills_the_time_of_a_training_clip(model):
    clips = rows(model, EXPERIMENTS["interpolate"], "rfvd4_5f")
    few = rendered(model, [0.0, 0.5, 1.0])
    assert (few[0].float() - few[1].float()).abs().max() >= 4  # blended and repeated frames differ
    assert list(clips) == ["generator", "frames blended", "frames repeated"]
    for clip in clips.values():  # frames at the original times are the same in every row
        assert torch.equal(clip[::2], few)
    assert torch.equal(clips["generator"][1], rendered(model, [0.25])[0])
    blend = few[:2].float().mean(0)
    assert (clips["frames blended"][1].float() - blend).abs().max() <= 0.5
    for number, neighbours in ((1, few[:2]), (3, few[1:])):
        assert any(torch.equal(clips["frames repeated"][number], frame) for frame in neighbours)
    with pytest.raises(ConfigError, match="rfvd4_12f"):
        rows(model, EXPERIMENTS["interpolate"], "rfvd4_3f")


@pytest.mark.parametrize(("stride", "frames", "real"), [(4, 64, 1), (4, 32, 2), (1, 64, 1)], ids=str)
def test_reals_of_an_interpolation_use_the_nearest_stride(stride, frames, real):
    assert max(1, round(stride * EXPERIMENTS["interpolate"].pace(16, frames))) == real
    assert EXPERIMENTS["extrapolate"].pace(16, frames) == 1


def test_extrapolation_starts_where_training_clips_end(model):
    clips = rows(model, EXPERIMENTS["extrapolate"], "rfvd4_3f")
    assert torch.equal(clips["from time 0"], rendered(model, [0.0, 0.5, 1.0]))
    assert torch.equal(clips["after time 1"], rendered(model, [1.5, 2.0, 2.5]))


def test_upsampling_compares_a_denser_grid_with_resized_frames(model):
    clips = rows(model, EXPERIMENTS["upsample"], "rfvd4_2f", resolution=64)
    small = rendered(model, [0.0, 0.5])
    assert list(clips) == ["nearest", "bilinear", "bicubic", "generator"]
    assert torch.equal(clips["nearest"], small.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(clips["generator"], rendered(model, [0.0, 0.5], resolution=64))
    assert not torch.equal(clips["bilinear"], clips["bicubic"])
    with pytest.raises(ConfigError, match="--resolution"):
        rows(model, EXPERIMENTS["upsample"], "rfvd4_2f", resolution=32)


def test_truncation_and_labels_reach_the_generator():
    torch.manual_seed(0)
    sizes = dict(z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8, resolution=32)
    g = Generator(GeneratorConfig(num_classes=3, **sizes)).eval()
    for psi, same in ((0.0, True), (1.0, False)):
        source = Model(g, SPAN, torch.tensor([2]), psi).clips(parse("rfvd4_1f"), torch.zeros(1), 32)(SEED)
        assert torch.equal(source.batch([0]), source.batch([1])) is same  # time 0: no motion yet
        z = seeded_latents(8, SEED, [0])
        assert torch.equal(source.batch([0]), sample_clips(g, *z, torch.zeros(1), torch.tensor([2]), psi=psi))
