"""What is printed of a run: the table of the networks counts what the speed counts."""

import pytest
from accelerate import Accelerator

from digan.training import summary
from digan.training.flops import forward_macs
from digan.training.trainer import Trainer


@pytest.mark.parametrize("classes", [0, 3])
def test_the_table_counts_what_the_speed_counts(tiny, classes):
    trainer = Trainer(tiny(resolution=64), Accelerator(cpu=True, mixed_precision="no"), num_classes=classes)
    macs = forward_macs(trainer.config, classes)
    mapping, heads, rendering, naive = (row.macs for row in summary.generator_rows(trainer.g))
    per_frame = (macs.generator - mapping - rendering * 2) / heads  # the motion heads run once for each of two frames
    assert 1 <= per_frame < 2
    assert naive > rendering
    frames, pair = (
        sum(row.macs for row in summary.discriminator_rows("", d, num_classes=classes))
        for d in (trainer.d_image, trainer.d_motion)
    )
    assert 2 * frames + pair == macs.discriminators


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5s"), (59.6, "1m 0s"), (65, "1m 5s"), (3600, "1h 0m"), (86400, "1d 0h"), (90061, "1d 1h")],
    ids=lambda v: str(v),
)
def test_a_duration_shows_its_two_largest_units(seconds, text):
    assert summary.clock(seconds) == text


def test_speed_of_an_older_record_is_clips_alone():
    assert summary.speed({"clips_per_second": 4.25}) == "4.25 clips/s"
