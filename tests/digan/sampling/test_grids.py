"""Video grids, contact sheets and x-t slices."""

import numpy as np
import pytest
import torch

from digan.sampling import grids, media


@pytest.mark.parametrize(("columns", "shape"), [(None, (1, 5)), (5, (1, 5)), (2, (3, 2))], ids=["auto", "C5", "C2"])
def test_video_grid_places_every_clip(columns, shape):
    clips = torch.randint(0, 256, (5, 4, 3, 6, 8), dtype=torch.uint8)
    grid = np.stack(list(grids.video_grid(clips, columns)))
    rows, columns = shape
    assert grid.shape == (4, rows * 6, columns * 8, 3)
    for cell in range(rows * columns):
        row, column = divmod(cell, columns)
        actual = grid[:, row * 6 : row * 6 + 6, column * 8 : column * 8 + 8]
        expected = clips[cell].permute(0, 2, 3, 1).numpy() if cell < 5 else np.zeros_like(actual)
        assert np.array_equal(actual, expected)


@pytest.mark.parametrize(
    ("count", "full"),
    [(1, (1, 1)), (2, (2, 2)), (6, (6, 3)), (7, (6, 3)), (12, (12, 4)), (13, (12, 4)), (16, (16, 4)), (97, (96, 12))],
)
def test_grids_have_no_empty_cells(count, full):
    assert grids.full_grid(count) == full
    clips = torch.full((count, 1, 3, 2, 2), 255, dtype=torch.uint8)
    assert (grids.video_grid(clips)[0] == 255).all()


def test_grids_of_wide_frames_have_few_columns():
    assert [grids.full_grid(6, widest) for widest in (1, 2, 3, 4)] == [(6, 1), (6, 2), (6, 3), (6, 3)]
    assert grids.full_grid(7, 2) == (6, 2)


def test_grid_reads_a_frame_at_a_time():
    read = []

    class Recorded:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, t: int) -> np.ndarray:
            if t >= 3:
                raise IndexError
            read.append(t)
            return np.zeros((2, 2, 3), np.uint8)

    grid = grids.VideoGrid([Recorded(), Recorded()], columns=2)
    assert len(grid) == 3
    assert read == []
    assert grid[1].shape == (2, 4, 3)
    assert read == [1, 1]
    assert len(list(grid)) == 3


def test_grid_converts_floats():
    clips = torch.linspace(-1, 1, 2 * 2 * 3 * 4 * 4).view(2, 2, 3, 4, 4)
    assert np.array_equal(grids.video_grid(clips)[1], grids.video_grid(media.to_uint8(clips))[1])


def test_contact_sheet_places_frames():
    clips = torch.randint(0, 255, (2, 9, 3, 6, 8), dtype=torch.uint8)
    sheet = grids.contact_sheet(clips, columns=3, separator=2)
    assert sheet.shape == (6 + 2 + 6, 8 + 2 + 8 + 2 + 8, 3)
    for row in range(2):
        for column, frame in enumerate([0, 4, 8]):
            cell = sheet[row * 8 : row * 8 + 6, column * 10 : column * 10 + 8]
            assert np.array_equal(cell, clips[row, frame].permute(1, 2, 0).numpy())
    assert (sheet[6:8] == 255).all()
    assert (sheet[:, 8:10] == 255).all()


def test_contact_sheet_shows_short_clips_whole():
    assert grids.contact_sheet(torch.zeros(1, 2, 3, 4, 4), separator=0).shape == (4, 8, 3)


def test_time_slice_is_one_row_over_time():
    clip = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
    assert np.array_equal(grids.time_slice(clip, 4), clip[:, 4])


@pytest.mark.parametrize("arrange", [grids.video_grid, grids.contact_sheet])
def test_arranging_refuses_other_shapes(arrange):
    with pytest.raises(ValueError, match=r"\[N,T,3,H,W\]"):
        arrange(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="columns"):
        arrange(torch.zeros(1, 1, 3, 8, 8), columns=0)
