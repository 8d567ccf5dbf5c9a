"""The sensitivity table on synthetic clips, and that of rfvd on the Sky clips."""

import pytest
import torch

from digan.data import Clips, ClipWindows, load_index
from digan.metrics import MetricError
from digan.metrics.sensitivity import as_table, blurred, changes, frozen, main, noisy, saturated, sensitivity, shuffled


@pytest.fixture
def clips() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (12, 6, 3, 9, 8), generator=generator, dtype=torch.uint8)


class MeanFrames:
    """The mean colour of the first two frames."""

    name, dim = "mean-frames", 6

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        return clips[:, :2].float().mean((3, 4)).flatten(1)


def test_changes_keep_shape_and_treat_clips_independently(clips):
    before = clips.clone()
    for name, change in changes(6).items():
        changed = change(clips)
        assert (changed.shape, changed.dtype) == (clips.shape, torch.uint8), name
        assert not torch.equal(changed, clips), name
        assert torch.equal(changed[3:5], change(clips)[3:5]), name
    assert torch.equal(clips, before)


def test_blur_and_noise_have_the_stated_strength():
    grey = torch.full((1, 2, 3, 64, 64), 128, dtype=torch.uint8)
    assert torch.equal(blurred(grey, 2), grey)
    assert noisy(grey, 8).float().std() == pytest.approx(8, rel=0.05)
    clips = torch.randint(0, 256, (4, 2, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(noisy(clips, 8), torch.cat([noisy(part, 8) for part in clips.split(1)]))
    noise = noisy(clips, 8).int() - clips.int()
    assert not torch.equal(noise[0], noise[1])
    point = torch.zeros(1, 1, 3, 65, 65, dtype=torch.uint8)
    point[..., 32, 32] = 255
    # A Gaussian with standard deviation 2 peaks at 1 / (8 pi).
    assert blurred(point, 2)[0, 0, 1, 32, 32].item() == pytest.approx(255 / (8 * torch.pi), abs=1)


def test_saturation_keeps_the_grey_level():
    pixel = torch.tensor([100, 120, 140], dtype=torch.uint8).view(1, 1, 3, 1, 1)
    assert saturated(pixel, 2).flatten().tolist() == [80, 120, 160]
    assert saturated(pixel, 8).flatten().tolist() == [0, 120, 255]


def test_orders_of_frames():
    numbers = torch.arange(7, dtype=torch.uint8).view(1, 7, 1, 1, 1)
    assert frozen(numbers, 3).flatten().tolist() == [0, 0, 0, 3, 3, 3, 6]
    order = shuffled(numbers, 3).flatten().tolist()
    assert sorted(order[:3]) == [0, 1, 2] != order[:3]
    assert sorted(order[3:6]) == [3, 4, 5] != order[3:6]
    assert order[6] == 6


def test_halves_share_no_video(clips):
    """Clips of one video are equal here, so halves that share a video would be close to each other."""
    videos = torch.arange(12) // 3
    equal = clips[videos * 3]
    batch_sizes = []

    class RecordingFrames(MeanFrames):
        def __call__(self, part):
            batch_sizes.append(len(part))
            return super().__call__(part)

    same = {"same": lambda c: c}
    responses = sensitivity(equal, videos, extractor=RecordingFrames(), changed=same, splits=3, batch=5)
    assert [(r.change, r.ratio, r.paired) for r in responses] == [("none", 1, 0), ("same", 1, 0)]
    assert batch_sizes == [5, 5, 2] * 2
    by_hand = sensitivity(clips[:4], extractor=MeanFrames(), changed={}, splits=3)
    assert responses[0].distance != pytest.approx(by_hand[0].distance)


def test_responses_measure_distances_between_halves(clips):
    """A shift of the mean by 50 adds its square for each of 6 features; the covariance does not change."""
    dark = clips // 2
    none, shifted = sensitivity(dark, extractor=MeanFrames(), changed={"brighter": lambda c: c + 50}, splits=20)
    assert shifted.paired * none.distance == pytest.approx(6 * 50**2, rel=1e-5)
    assert shifted.distance == pytest.approx(6 * 50**2, rel=0.2)
    assert shifted.ratio > shifted.lowest > 10


def test_table(clips):
    lines = as_table(sensitivity(clips, extractor=MeanFrames(), splits=2)).splitlines()
    assert len(lines) == 2 + 1 + len(changes(6))
    assert {line.count("|") for line in lines} == {6}


def test_few_videos_are_refused(clips):
    with pytest.raises(MetricError, match="at least 4 videos, there are 3"):
        sensitivity(clips, torch.arange(12) % 3)


def test_rfvd_responds_to_degraded_sky_clips(real_data, tmp_path):
    """In every split, changed clips are further away than other real clips, and stronger changes are further."""
    index = load_index(real_data / "sky", tmp_path, split=None)
    windows = ClipWindows(index, frames=16)
    first_clips = range(0, len(windows), 2)  # one of the two clips of each video
    responses = sensitivity(Clips(windows, 64).batch(first_clips), [windows[i][0] for i in first_clips])
    print(as_table(responses))
    by_change = {r.change: r for r in responses[1:]}
    # A known weakness: twice the saturation is as close as other real clips are; measured: 1.27, paired 0.21.
    doubled = by_change.pop("saturation, 2 times")
    assert {name for name, r in by_change.items() if r.lowest <= 1} == set()
    assert doubled.distance < by_change["saturation, 4 times"].distance < by_change["saturation, 8 times"].distance
    del by_change["saturation, 4 times"], by_change["saturation, 8 times"]
    # Clouds drift in both directions, so reversed time is less conspicuous; measured: 1.63 and 1.06.
    assert by_change["reversed"].ratio > 1.4
    assert min(r.paired for r in responses[1:] if r is not doubled) > 0.9
    names = list(by_change)
    for kind in (names[0:3], names[3:6], names[6:9], names[9:12]):
        weak, middle, strong = (by_change[name].distance for name in kind)
        assert weak < middle < strong, kind


def test_command_prints_the_table_of_a_folder(real_data, capsys):
    assert main([str(real_data / "ucf101"), "--frames", "8"]) == 2  # one video
    assert "at least 4 videos" in capsys.readouterr().err
    assert main([str(real_data / "sky"), "--split", "val", "--frames", "2", "--resolution", "16"]) == 0
    assert capsys.readouterr().out.count("\n") == len(changes(2)) + 3
