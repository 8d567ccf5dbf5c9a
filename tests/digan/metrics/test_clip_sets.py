"""The clips of one side: what a trial draws, how they are read, and which are refused."""

import pytest
import torch

from digan.metrics.clip_sets import ClipSet
from digan.metrics.protocol import MetricProtocol

RFVD = MetricProtocol.parse("rfvd4_6f")
EVERY_THIRD = MetricProtocol.parse("rfvd4_6f_subsample3f")


def numbered(count, frames=6):
    """Clips whose pixels are 10 times the clip's number plus the frame's."""
    numbers = 10 * torch.arange(count).view(-1, 1) + torch.arange(frames)
    return numbers.view(count, frames, 1, 1, 1).expand(-1, -1, 3, 2, 2).to(torch.uint8)


class Source:
    """A source that reads batches; it may say which frames of a clip it gives."""

    def __init__(self, clips, frame_indices=None):
        self.clips = clips
        if frame_indices is not None:
            self.frame_indices = frame_indices

    def __len__(self):
        return len(self.clips)

    def batch(self, indices):
        return self.clips[list(indices)]


class TestDraw:
    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_a_set_that_is_not_larger_is_used_whole(self, count):
        clips = ClipSet("real", numbered(count), RFVD)
        assert not clips.larger
        assert clips.draw(0) == clips.draw(1) == list(range(count))

    def test_a_larger_set_gives_a_random_subset(self):
        clips = ClipSet("real", numbered(5), RFVD)
        assert clips.larger
        draws = [clips.draw(seed) for seed in range(40)]
        assert draws == [clips.draw(seed) for seed in range(40)]
        for drawn in draws:
            assert drawn == sorted(set(drawn))
            assert len(drawn) == RFVD.count
            assert set(drawn) <= set(range(5))
        assert {missing for drawn in draws for missing in set(range(5)) - set(drawn)} == set(range(5))

    @pytest.mark.parametrize(("count", "refused"), [(0, True), (1, True), (2, False)])
    def test_a_distribution_has_two_clips(self, count, refused):
        if not refused:
            assert ClipSet("fake", numbered(count), RFVD).draw(0) == [0, 1]
            return
        with pytest.raises(ValueError, match=f"rfvd4_6f needs at least 2 fake clips, there are {count}"):
            ClipSet("fake", numbered(count), RFVD)


class TestBatch:
    @pytest.mark.parametrize(
        "make", [Source, lambda clips: clips, list, lambda clips: [clip.numpy() for clip in clips]], ids="sTln"
    )
    @pytest.mark.parametrize(("protocol", "step"), [(RFVD, 1), (EVERY_THIRD, 3)], ids=["all", "every third"])
    def test_clips_in_the_order_asked_for(self, make, protocol, step):
        clips = ClipSet("real", make(numbered(4)), protocol)
        assert torch.equal(clips.batch([2, 0]), numbered(4)[[2, 0], ::step])

    def test_a_source_that_reads_only_the_frames_of_the_protocol(self):
        frames = EVERY_THIRD.frame_indices
        clips = ClipSet("real", Source(numbered(4)[:, list(frames)], frames), EVERY_THIRD)
        assert torch.equal(clips.batch([1, 3]), numbered(4)[[1, 3], ::3])

    def test_a_source_that_reads_other_frames_is_refused(self):
        clips = ClipSet("real", Source(numbered(4)[:, :2], range(0, 6, 2)), EVERY_THIRD)
        with pytest.raises(ValueError, match=r"real clips as uint8 \[1, 6, 3, 'H', 'W'\]"):
            clips.batch([0])

    @pytest.mark.parametrize(
        ("clips", "found"),
        [
            (numbered(4, frames=5), r"torch.uint8 \[2, 5, 3, 2, 2\]"),
            (numbered(4).float(), r"torch.float32 \[2, 6, 3, 2, 2\]"),
            (numbered(4)[:, :, :1], r"torch.uint8 \[2, 6, 1, 2, 2\]"),
            (numbered(4)[..., 0], r"torch.uint8 \[2, 6, 3, 2\]"),
        ],
        ids=["frames", "type", "channels", "dimensions"],
    )
    def test_other_shapes_and_types_are_refused(self, clips, found):
        message = rf"rfvd4_6f needs fake clips as uint8 \[2, 6, 3, 'H', 'W'\], not .*{found}"
        with pytest.raises(ValueError, match=message):
            ClipSet("fake", clips, RFVD).batch([0, 1])

    def test_fewer_clips_than_asked_for_are_refused(self):
        class Short(Source):
            def batch(self, indices):
                return super().batch(indices)[:-1]

        with pytest.raises(ValueError, match=r"as uint8 \[3, 6, 3"):
            ClipSet("real", Short(numbered(4)), RFVD).batch([0, 1, 2])
