"""Which clips the options of `digan sample` select, and which combinations they refuse."""

import pytest

from digan.cli.clip_options import add_clips, class_numbers, selected_clips
from digan.cli.options import OptionParser
from digan.errors import ConfigError
from digan.sampling.clip_plan import interpolation, mixture, motion_grid, videos


def select(options: str):
    parser = OptionParser("test")
    add_clips(parser)
    return selected_clips(parser.parse(options.split()))


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ("", videos(list(range(16)))),
        ("--videos 2", videos([0, 1])),
        ("--indices 7,3-5", videos([7, 3, 4, 5])),
        ("--latents a b", videos([0, 1])),
        ("--mode motion-grid", motion_grid([0, 1, 2, 3], [0, 1, 2, 3])),
        ("--mode motion-grid --contents 2 --motion-indices 8", motion_grid([0, 1], [8])),
        ("--mode motion-grid --latents a b", motion_grid([0, 1], [0, 1])),
        ("--mode interpolate --indices 3,7 --steps 4", interpolation([3, 7], 3, 4)),
        ("--mode interpolate --motion-indices 5", interpolation([0, 1], 5, 8)),
        ("--mode mix --weights 0.5 0.25 0.25", mixture([0, 1, 2], [0.5, 0.25, 0.25], 0)),
        ("--mode mix --indices 3,7", mixture([3, 7], [0.5, 0.5], 3)),
    ],
)
def test_options_select_clips(options, plan):
    assert select(options) == plan


REFUSED = {
    "--steps 3": "--steps is for --mode interpolate",
    "--motion-indices 3": "--motion-indices is for --mode motion-grid or interpolate or mix",
    "--weights 1": "--weights is for --mode mix",
    "--mode mix --indices 1,2 --weights 1": "--weights has 1 values, but --indices 2",
    "--mode mix --weights 0 0": "--weights must not all be 0",
    "--mode mix --motion-indices 3,4": "--motion-indices must name one",
    "--mode interpolate --videos 3": "--videos is for --mode videos",
    "--mode interpolate --steps 1": "--steps 1 must be at least 2",
    "--mode interpolate --indices 3": "at least two samples",
    "--mode interpolate --motion-indices 3,4": "--motion-indices must name one",
    "--mode motion-grid --contents 2 --indices 3": "--contents and --indices both",
    "--indices 5-3": "'5-3' is not a list",
    "--indices 3,3": "twice",
    "--contents 3": "--contents is for --mode motion-grid, not videos",
    "--mode motion-grid --contents 2000 --motions 2000": "contents times motions is 4,000,000",
    "--motion a": "--motion replaces the motion of clips of --latents",
    "--latents a --seed 3": "--seed has no effect on clips of --latents",
    "--latents a --class 0": "--class has no effect on clips of --latents",
}


@pytest.mark.parametrize("options", REFUSED)
def test_combinations_without_effect_are_refused(options):
    with pytest.raises(ConfigError) as error:
        select(options)
    assert REFUSED[options] in str(error.value)


def test_a_seed_beside_given_clips_is_that_of_further_samples():
    assert select("--latents a --indices 0,7 --seed 3") == videos([0, 7])


def test_classes_by_number_and_by_name():
    names = ["sun", "moon", "star"]
    assert class_numbers(None, 3, names) == [0, 1, 2]
    assert class_numbers(["star", "0"], 3, names) == [2, 0]
    with pytest.raises(ConfigError, match="--class planet is not a class of this network: give 0 to 2, or one of sun"):
        class_numbers(["planet"], 3, names)
    with pytest.raises(ConfigError, match="trained without classes"):
        class_numbers(["0"], 0, [])
