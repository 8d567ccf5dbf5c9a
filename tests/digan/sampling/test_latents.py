"""Latents of a seed, and the times of frames."""

import pytest
import torch

from digan.sampling.latents import clip_times, paced_times, seeded_latents


def test_a_sample_does_not_depend_on_the_others():
    z_content, z_motion = seeded_latents(6, 3, range(4))
    assert z_content.shape == z_motion.shape == (4, 6)
    for i in (3, 0):
        one_content, one_motion = seeded_latents(6, 3, [i])
        assert torch.equal(one_content[0], z_content[i])
        assert torch.equal(one_motion[0], z_motion[i])
    assert not torch.equal(z_content, z_motion)
    assert not torch.equal(z_content, seeded_latents(6, 4, range(4))[0])


def test_no_samples_have_shape():
    assert seeded_latents(6, 0, [])[0].shape == (0, 6)


@pytest.mark.parametrize(("frames", "expected"), [(1, [0.5]), (3, [0.5, 1.25, 2.0])])
def test_clip_times_include_both_ends(frames, expected):
    assert clip_times(frames, 0.5, 2.0).tolist() == expected


def test_paced_times_extrapolate_beyond_the_span():
    assert paced_times(7, 5).tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert paced_times(2, 1).tolist() == [0, 1]
