"""What is printed of a run: the table of the networks counts what the speed counts."""

import pytest
from accelerate import Accelerator

from digan.training import summary
from digan.training.flops import forward_macs, step_flops
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


def test_the_operations_of_an_iteration_are_those_of_the_speed(tiny):
    config = tiny(batch=8, gamma=1.0, r1_interval=16)
    flops = step_flops(forward_macs(config))
    text = summary.iteration(config)
    for value in (flops.weighted(config), flops.update_g, flops.update_d, flops.update_r1):
        assert f"{8 * value / 1e12:.3g}" in text
    assert "R1 (one iteration in 16)" in text
    assert "R1" not in summary.iteration(tiny(gamma=0.0))
    assert "path length" not in text
    assert "path length (one iteration in 4)" in summary.iteration(tiny(pl_weight=2.0))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5s"), (59.6, "1m 0s"), (65, "1m 5s"), (3600, "1h 0m"), (86400, "1d 0h"), (90061, "1d 1h")],
    ids=lambda v: str(v),
)
def test_a_duration_shows_its_two_largest_units(seconds, text):
    assert summary.clock(seconds) == text


def test_speed_of_an_older_record_is_clips_alone():
    assert summary.speed({"clips_per_second": 4.25}) == "4.25 clips/s"


def test_a_finished_run_resumes_for_twice_its_length(tiny):
    config = tiny(kimg=12.5)
    assert summary.resume_options("runs/00000-demo", config, 12_499) == "--resume runs/00000-demo"
    assert summary.resume_options("runs/00000-demo", config, 12_500) == "--resume runs/00000-demo --kimg 25"
    assert summary.resume_options("my runs/00000-demo", config, 0) == "--resume 'my runs/00000-demo'"


def test_one_line_says_what_is_trained(tiny):
    assert summary.task(tiny(kimg=12.5, frames=4)) == "DIGAN at 32x32, clips of 4 frames, 12.5 kimg in batches of 8"
    lines = summary.options(tiny(batch_gpu=4)).splitlines()
    assert "  --batch-gpu         4" in lines
    assert "  --resolution        32" in lines


def test_speed_names_the_share_of_the_peak():
    record = {"clips_per_second": 4.21, "tflops_per_second": 0.7123, "share_of_peak": 0.384}
    assert summary.speed(record) == "4.21 clips/s, 0.712 TFLOP/s (38% of peak)"


def test_the_table_has_one_line_for_each_part():
    rows = [summary.Row("G", "mapping", 1_234_567, 2_500_000), summary.Row("", "rendering a frame", 0, 1_234_000_000)]
    head, *lines = summary.table(rows).splitlines()
    assert head.split() == ["part", "parameters", "MMAC"]
    assert [line.split("  ")[-1].strip() for line in lines] == ["2.5", "1,234.0"]
    assert "1,234,567" in lines[0]
    assert len({len(line) for line in (head, *lines)}) == 1
