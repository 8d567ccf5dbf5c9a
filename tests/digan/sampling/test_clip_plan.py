"""Which clips each mode of sampling makes, in the order of its grid."""

from digan.sampling.clip_plan import interpolation, motion_grid, videos


def test_videos_have_their_own_content_and_motion():
    plan = videos([4, 2])
    assert [(c.name, c.contents, c.mix, c.motion) for c in plan.clips] == [
        ("video-0004", (4, 4), 0.0, 4),
        ("video-0002", (2, 2), 0.0, 2),
    ]
    assert plan.columns is None


def test_a_row_of_the_motion_grid_shares_its_content():
    plan = motion_grid([1, 2], [5, 6, 7])
    assert [(c.contents[0], c.motion) for c in plan.clips] == [(1, 5), (1, 6), (1, 7), (2, 5), (2, 6), (2, 7)]
    assert plan.columns == 3


def test_a_row_of_the_interpolation_leads_from_one_content_to_the_next():
    plan = interpolation([1, 2, 3], motion=9, steps=3)
    assert [(c.contents, c.mix) for c in plan.clips] == [
        (pair, mix) for pair in ((1, 2), (2, 3)) for mix in (0, 0.5, 1)
    ]
    assert {c.motion for c in plan.clips} == {9}
    assert len({c.name for c in plan.clips}) == 6
    assert plan.columns == 3
