"""Which clips each mode of sampling makes, in the order of its grid."""

from digan.sampling.clip_plan import ClipPlan, interpolation, mixture, motion_grid, videos


def test_videos_have_their_own_content_and_motion():
    plan = videos([4, 2])
    assert plan.clips == [
        ClipPlan("video-0004", (4,), (1.0,), 4),
        ClipPlan("video-0002", (2,), (1.0,), 2),
    ]
    assert plan.columns is None


def test_a_row_of_the_motion_grid_shares_its_content():
    plan = motion_grid([1, 2], [5, 6, 7])
    assert [(c.contents[0], c.motion) for c in plan.clips] == [(1, 5), (1, 6), (1, 7), (2, 5), (2, 6), (2, 7)]
    assert plan.columns == 3


def test_a_row_of_the_interpolation_leads_from_one_content_to_the_next():
    plan = interpolation([1, 2, 3], motion=9, steps=3)
    assert [(c.contents, c.weights) for c in plan.clips] == [
        (pair, weights) for pair in ((1, 2), (2, 3)) for weights in ((1, 0), (0.5, 0.5), (0, 1))
    ]
    assert {c.motion for c in plan.clips} == {9}
    assert len({c.name for c in plan.clips}) == 6
    assert plan.columns == 3


def test_a_mixture_is_one_clip():
    (clip,) = mixture([3, 1], [0.25, 0.75], motion=9).clips
    assert clip == ClipPlan("mix-0003-0001-motion-0009", (3, 1), (0.25, 0.75), 9)
