"""The table of what a distance responds to: on clips of plain numbers, and that of rfvd on the Sky clips."""

import pytest
import torch

from digan.data import Clips, ClipWindows, load_index
from digan.metrics import MetricError
from digan.metrics.sensitivity import as_table, blurred, changes, frozen, main, noisy, sensitivity, shuffled


@pytest.fixture
def clips() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (12, 6, 3, 9, 8), generator=generator, dtype=torch.uint8)


class MeanFrames:
    """The mean colour of the first two frames."""

    name, dim = "mean-frames", 6

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        return clips[:, :2].float().mean((3, 4)).flatten(1)


def test_changes_keep_shape_and_depend_on_nothing_else(clips):
    before = clips.clone()
    for name, change in changes(6).items():
        changed = change(clips)
        assert (changed.shape, changed.dtype) == (clips.shape, torch.uint8), name
        assert not torch.equal(changed, clips), name
        assert torch.equal(changed[3:5], change(clips)[3:5]), name
    assert torch.equal(clips, before)


def test_blur_and_noise_are_of_their_strength():
    grey = torch.full((1, 2, 3, 64, 64), 128, dtype=torch.uint8)
    assert torch.equal(blurred(grey, 2), grey)
    assert noisy(grey, 8).float().std() == pytest.approx(8, rel=0.05)
    point = torch.zeros(1, 1, 3, 65, 65, dtype=torch.uint8)
    point[..., 32, 32] = 255
    # A Gaussian of deviation 2 has the peak 1 / (8 pi).
    assert blurred(point, 2)[0, 0, 1, 32, 32].item() == pytest.approx(255 / (8 * torch.pi), abs=1)


def test_orders_of_frames():
    numbers = torch.arange(7, dtype=torch.uint8).view(1, 7, 1, 1, 1)
    assert frozen(numbers, 3).flatten().tolist() == [0, 0, 0, 3, 3, 3, 6]
    order = shuffled(numbers, 3).flatten().tolist()
    assert sorted(order[:3]) == [0, 1, 2] != order[:3]
    assert sorted(order[3:6]) == [3, 4, 5] != order[3:6]
    assert order[6] == 6


def test_halves_share_no_video(clips):
    """Clips of one video are equal here, so that halves with a video in common would be near each other."""
    videos = torch.arange(12) // 3
    equal = clips[videos * 3]
    asked = []

    class Watched(MeanFrames):
        def __call__(self, part):
            asked.append(len(part))
            return super().__call__(part)

    responses = sensitivity(equal, videos, extractor=Watched(), changed={"same": lambda c: c}, splits=3, batch=5)
    assert [(r.change, r.ratio, r.paired) for r in responses] == [("none", 1, 0), ("same", 1, 0)]
    assert asked == [5, 5, 2] * 2
    by_hand = sensitivity(clips[:4], extractor=MeanFrames(), changed={}, splits=3)
    assert responses[0].distance != pytest.approx(by_hand[0].distance)


def test_responses_are_of_the_halves(clips):
    """A shift of the mean by 50 adds its square for each of 6 features; the covariance stays."""
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


def test_rfvd_responds_to_spoiled_sky_clips(real_data, tmp_path):
    """Every change is further away than other real clips are, in every split; more of it is further."""
    index = load_index(real_data / "sky", tmp_path, split=None)
    windows = ClipWindows(index, frames=16)
    some = range(0, len(windows), 2)  # one of the two clips of each video
    responses = sensitivity(Clips(windows, 64).batch(some), [windows[i][0] for i in some])
    print(as_table(responses))
    found = {r.change: r for r in responses[1:]}
    assert {name for name, r in found.items() if r.lowest <= 1} == set()
    # Time runs both ways in clouds that drift to either side; measured: 1.63 and 1.06.
    assert found["reversed"].ratio > 1.4
    assert min(r.paired for r in responses[1:]) > 0.9
    names = list(found)
    for kind in (names[0:3], names[3:6], names[6:9], names[9:12]):
        weak, middle, strong = (found[name].distance for name in kind)
        assert weak < middle < strong, kind


def test_the_table_of_a_folder_is_one_command(real_data, capsys):
    assert main([str(real_data / "ucf101"), "--frames", "8"]) == 2  # one video
    assert "at least 4 videos" in capsys.readouterr().err
    assert main([str(real_data / "sky"), "--split", "val", "--frames", "2", "--resolution", "16"]) == 0
    assert capsys.readouterr().out.count("\n") == len(changes(2)) + 3
