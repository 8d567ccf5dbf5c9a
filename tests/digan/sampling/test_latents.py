"""Latents of a seed and of files, and the times of frames."""

import warnings
from dataclasses import replace

import pytest
import torch

from digan import Generator
from digan.config import GeneratorConfig
from digan.errors import LatentsError
from digan.sampling.latents import Latents, clip_times, paced_times, read_latents, seeded_latents, write_latents
from digan.tensor_files import read_tensors, write_tensors

SIZES = dict(z_dim=6, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8, resolution=32)


def generator(**options) -> Generator:
    return Generator(GeneratorConfig(**{**SIZES, **options}))


def some_latents(g: Generator) -> Latents:
    label = 1 if g.config.num_classes else None
    return Latents(torch.randn(g.num_slots, g.config.w_dim), torch.randn(g.config.z_dim), clip_times(3, 0.5, 2), label)


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


def test_a_clip_takes_the_times_of_training_by_default():
    assert clip_times(3).tolist() == [0, 0.5, 1]


def test_paced_times_extrapolate_beyond_the_span():
    assert paced_times(7, 5).tolist() == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
    assert paced_times(2, 1).tolist() == [0, 1]


@pytest.mark.parametrize("classes", [0, 3])
def test_latents_are_read_as_they_were_written(tmp_path, classes):
    g = generator(num_classes=classes)
    latents = some_latents(g)
    write_latents(tmp_path / "a.safetensors", latents, "abc", psnr=30.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_latents(tmp_path / "a.safetensors", g, "abc")
        assert read_latents(tmp_path / "a.safetensors", g).label == latents.label
    assert read.label == latents.label
    for name in ("w", "z_motion", "times"):
        assert torch.equal(getattr(read, name), getattr(latents, name))
    assert read_tensors(tmp_path / "a.safetensors")[1]["psnr"] == "30.5"


def test_latents_of_another_file_of_the_same_sizes_are_accepted_with_a_warning(tmp_path):
    g = generator()
    write_latents(tmp_path / "a.safetensors", some_latents(g), "abc")
    with pytest.warns(UserWarning, match=r"a\.safetensors was made with another network file"):
        read_latents(tmp_path / "a.safetensors", g, "def")


OTHERS = {
    "slots": (dict(resolution=64), "holds 8 slots of width 8, but this network has 10 slots of width 8"),
    "width": (dict(w_dim=16), "holds 8 slots of width 8, but this network has 8 slots of width 16"),
    "motion": (dict(z_dim=7), r"a motion vector of \[6\], but that of this network is \[7\]"),
    "classes": (dict(num_classes=2), "a clip of no class, but this network has 2 classes"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_latents_of_a_network_of_other_sizes_are_refused(tmp_path, case):
    options, message = OTHERS[case]
    write_latents(tmp_path / "a.safetensors", some_latents(generator()), "abc")
    with pytest.raises(LatentsError, match=f"{message}: give the network that it was made with"):
        read_latents(tmp_path / "a.safetensors", generator(**options))


def test_a_class_that_the_network_lacks_is_refused(tmp_path):
    write_latents(tmp_path / "a.safetensors", some_latents(generator(num_classes=3)), "abc")
    with pytest.raises(LatentsError, match="a clip of class 1, but this network has 1 classes"):
        read_latents(tmp_path / "a.safetensors", generator(num_classes=1))
    with pytest.raises(LatentsError, match="a clip of class 1, but this network has no classes"):
        read_latents(tmp_path / "a.safetensors", generator())


@pytest.mark.parametrize("name", ["w", "z_motion", "times"])
def test_values_that_are_not_finite_are_refused(tmp_path, name):
    g = generator()
    latents = some_latents(g)
    spoilt = getattr(latents, name).clone()
    spoilt[0] = torch.nan
    write_latents(tmp_path / "a.safetensors", replace(latents, **{name: spoilt}), "abc")
    with pytest.raises(LatentsError, match=f"values of {name} that are not finite"):
        read_latents(tmp_path / "a.safetensors", g)


@pytest.mark.parametrize("kind", ["missing", "text", "network", "lacking", "w", "times", "damaged"])
def test_other_files_are_refused(tmp_path, kind):
    g, file = generator(), tmp_path / "a.safetensors"
    if kind == "text":
        file.write_text("no such thing")
    elif kind == "network":
        g.save(file)
    elif kind == "lacking":
        write_tensors(file, {"w": torch.zeros(1)}, {"format": '"digan-latents-1"'})
    elif kind == "w":
        write_latents(file, replace(some_latents(g), w=torch.zeros(8)), "abc")
    elif kind == "times":
        write_latents(file, replace(some_latents(g), times=torch.zeros(0)), "abc")
    elif kind == "damaged":
        write_latents(file, some_latents(g), "abc")
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(LatentsError, match=r"a\.safetensors holds no latents of a clip, or is damaged \(.+\); give"):
        read_latents(file, g)
