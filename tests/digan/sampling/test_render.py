"""Samples depend on their seed and index alone, and rendering stays within its memory."""

import pytest
import torch

from digan import Generator
from digan.config import GeneratorConfig
from digan.randomness import Phase, stream
from digan.sampling.clip_plan import ClipPlan, videos
from digan.sampling.latents import Latents, clip_times, paced_times, seeded_latents
from digan.sampling.render import GeneratedClips, Sampler, clip_frames, sample_clips


@pytest.fixture
def generator():
    torch.manual_seed(0)
    sizes = dict(z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=256, channel_max=8, resolution=64)
    return Generator(GeneratorConfig(num_classes=3, **sizes)).eval()


def test_stream_is_a_function_of_its_arguments():
    draws = {
        (seed, i, phase): torch.rand(1, generator=stream(seed, i, phase)).item()
        for seed in (0, 1)
        for i in (0, 1)
        for phase in Phase
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[1, 1, Phase.R1] == torch.rand(1, generator=stream(1, 1, Phase.R1)).item()


def test_latents_do_not_depend_on_other_samples():
    together = seeded_latents(8, 3, range(5))
    alone = seeded_latents(8, 3, [4])
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a[4:], b)
    assert not torch.equal(together[0], together[1])
    assert seeded_latents(8, 3, [])[0].shape == (0, 8)


def test_times_include_both_ends():
    assert clip_times(3).tolist() == [0, 0.5, 1]
    assert clip_times(1, 0.3, 2).tolist() == pytest.approx([0.3])
    assert clip_times(2, 1, 2).tolist() == [1, 2]


def test_clips_are_those_of_the_generator(generator):
    z_content, z_motion = seeded_latents(8, 0, range(2))
    times, labels = clip_times(3), torch.tensor([0, 2])
    clips = sample_clips(generator, z_content, z_motion, times, labels, psi=0.7)
    with torch.no_grad():
        frames = generator(z_content, z_motion, times, labels, psi=0.7)  # [2,3,3,64,64]
    expected = (frames * 127.5 + 127.5).round().clamp(0, 255)
    assert clips.shape == (2, 3, 3, 64, 64)
    assert clips.dtype == torch.uint8
    assert (clips.float() - expected).abs().max() <= 1  # a value may round the other way


def test_clips_may_be_rendered_larger_and_in_little_memory(generator):
    z_content, z_motion = seeded_latents(8, 0, [1])
    labels = torch.tensor([1])
    large = sample_clips(generator, z_content, z_motion, clip_times(2), labels, resolution=128)
    little = sample_clips(generator, z_content, z_motion, clip_times(2), labels, resolution=128, memory=2 << 20)
    assert large.shape == (1, 2, 3, 128, 128)
    assert (large.int() - little.int()).abs().max() <= 1
    assert sample_clips(generator, z_content[:0], z_motion[:0], clip_times(2), labels[:0]).shape == (0, 2, 3, 64, 64)


def test_fakes_are_the_same_in_any_batches(generator):
    fakes = GeneratedClips(generator, count=4, times=clip_times(2), seed=1, labels=torch.tensor([0, 1]))
    together = fakes.batch([0, 1, 2, 3])
    assert len(fakes) == 4
    assert torch.equal(together[2:3], fakes.batch([2]))
    assert not torch.equal(together[0], together[1])


def test_fakes_render_only_the_selected_frames(generator):
    labels = torch.tensor([2])
    times = paced_times(5, span=3)
    assert times.tolist() == [0, 0.5, 1, 1.5, 2]
    whole = GeneratedClips(generator, 2, times, 0, labels).batch([1])
    selected = GeneratedClips(generator, 2, times, 0, labels, frame_indices=range(0, 5, 2)).batch([1])
    assert torch.equal(selected, whole[:, ::2])


def test_labels_cover_all_classes(generator):
    labels = torch.tensor([0] * 50 + [1] * 50 + [2] * 50)  # sorted, as those of a data set are
    shuffled = GeneratedClips(generator, 20, clip_times(1), 0, labels).labels
    assert set(shuffled[:20].tolist()) == {0, 1, 2}
    assert sorted(shuffled.tolist()) == labels.tolist()
    assert not torch.equal(shuffled, GeneratedClips(generator, 20, clip_times(1), 1, labels).labels)


def test_products_may_use_lower_precision(generator):
    latents, labels = seeded_latents(8, 1, [1]), torch.tensor([2])
    full = sample_clips(generator, *latents, clip_times(2), labels)
    half = sample_clips(generator, *latents, clip_times(2), labels, dtype=torch.bfloat16)
    assert not torch.equal(full, half)
    # Measured: at most 4 levels of 255.
    assert (full.int() - half.int()).abs().max() <= 8


def test_frames_are_rendered_lazily_but_errors_raised_at_once(generator):
    z_content, z_motion = seeded_latents(8, 0, range(2))
    labels, times = torch.tensor([0, 1]), clip_times(2)
    with torch.no_grad():
        one = generator.inr(z_content[:1], z_motion[:1], times, labels[:1])
        two = generator.inr(z_content, z_motion, times, labels)
    frames = clip_frames(one, generator.grid())
    clip = sample_clips(generator, z_content[:1], z_motion[:1], times, labels[:1])[0]  # [2,3,64,64]
    assert torch.equal(next(frames), clip[0].permute(1, 2, 0))
    assert torch.equal(next(frames), clip[1].permute(1, 2, 0))
    with pytest.raises(ValueError, match="one clip, not 2"):
        clip_frames(two, generator.grid())
    with pytest.raises(ValueError, match="memory=1000 bytes"):
        clip_frames(one, generator.grid(), memory=1000)


@torch.no_grad()
def test_samples_may_be_given_latents(generator):
    z_content, z_motion = seeded_latents(8, 0, range(2))
    labels, times = torch.tensor([0, 2]), clip_times(2)
    slots = generator.broadcast(generator.mapping(z_content, labels))
    latents = [Latents(slots[i], z_motion[i], times, int(labels[i])) for i in range(2)]
    given = Sampler(generator, times, generator.grid(), latents=latents)
    seeded = Sampler(generator, times, generator.grid(), seed=0, classes=[0, 2])
    assert [given.label(i) for i in range(2)] == [0, 2]
    for plan in [*videos([0, 1]).clips, ClipPlan("mixed", (0, 1), (0.75, 0.25), 1)]:
        for a, b in zip(given.inr(plan).tensors(), seeded.inr(plan).tensors(), strict=True):
            torch.testing.assert_close(a, b)


@torch.no_grad()
def test_latents_are_truncated_like_samples(generator):
    torch.nn.init.normal_(generator.mapping.w_avg)
    z_content, z_motion = seeded_latents(8, 0, [0])
    slots, times = generator.broadcast(generator.mapping(z_content, torch.tensor([1]))), clip_times(2)
    latents = Latents(slots[0], z_motion[0], times, 1)
    plan = videos([0]).clips[0]
    given = Sampler(generator, times, generator.grid(), latents=[latents], psi=0.3).inr(plan)
    seeded = Sampler(generator, times, generator.grid(), classes=[1], psi=0.3).inr(plan)
    for a, b in zip(given.tensors(), seeded.tensors(), strict=True):
        torch.testing.assert_close(a, b)
