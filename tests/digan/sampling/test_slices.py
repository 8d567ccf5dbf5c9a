"""x-t slices: a horizontal line gives rows of the frames, and any line what the function is on it."""

from dataclasses import replace

import pytest
import torch

import fused_inr as fi
from digan import Generator
from digan.config import GeneratorConfig
from digan.sampling.media import to_uint8
from digan.sampling.slices import along, line_slice, slice_rows

CONFIG = GeneratorConfig(
    z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=512, channel_max=8, resolution=64, base_resolution=32
)


@pytest.fixture
def inr(request):
    g = Generator(replace(CONFIG, resolution=getattr(request, "param", 64)))
    with torch.no_grad():
        return g.inr(torch.randn(1, 8), torch.randn(1, 8), torch.linspace(0, 2, 5))


def test_a_horizontal_line_is_a_row_of_the_frames(inr):
    grid = fi.Grid(32, 32, x=(-0.5, 1.0), y=(-1.0, 1.0))
    frames = fi.render(inr, grid)[0]  # [T, 3, 64, 64]
    row = 21  # the lower one of its two rows of the base grid
    y = -1 + 2 * (63 - row) / 64
    result = line_slice(inr, (-0.5, y, 1.0, y), 64)
    # float32 phases of another origin; 2e-6 was measured
    torch.testing.assert_close(result, frames[:, :, row], rtol=0, atol=3e-5)


def test_the_reverse_line_is_mirrored(inr):
    points = 64
    forth = line_slice(inr, (-1.0, -0.5, 1.0, 0.75), points)
    back = line_slice(inr, (1.0, 0.75, -1.0, -0.5), points)
    # Only the first layers' pixels are grouped otherwise: compare where both are points of the base grid.
    torch.testing.assert_close(back[..., 2::2], forth[..., 2::2].flip(-1), rtol=0, atol=3e-5)


def test_turning_the_coordinates_keeps_the_function(inr):
    line = (0.3, -0.2, -0.4, 0.9)
    turned = along(inr, line)
    for before, after in zip(inr.stages, turned.stages, strict=True):
        for share in (0.0, 0.37, 1.0):
            point = torch.tensor([line[0] + share * (line[2] - line[0]), line[1] + share * (line[3] - line[1])])
            angle = before.fourier.frequency @ point + before.fourier.phase[:, 2]
            same = after.fourier.frequency @ torch.tensor([share, 0.0]) + after.fourier.phase[:, 2]
            torch.testing.assert_close(same, angle, rtol=0, atol=1e-4)  # angles of up to 30 in float32


@pytest.mark.parametrize("inr", [64, 128], indirect=True)
def test_rows_are_those_of_the_slice_whatever_is_rendered_at_once(inr, monkeypatch):
    line = (0.0, -1.0, 0.5, 1.0)
    expected = to_uint8(line_slice(inr, line, 64)).transpose(1, 2)
    times = []

    def recorded(part, *arguments, **options):
        times.append(part.times)
        return line_slice(part, *arguments, **options)

    monkeypatch.setattr("digan.sampling.slices.line_slice", recorded)
    scale = inr.stages[-1].scale  # the rows that are rendered for each one that is kept
    for pixels, at_once in ((1, [1] * 5), (2 * 64 * scale, [2, 2, 1]), (1 << 20, [5])):
        monkeypatch.setattr("digan.sampling.slices._PIXELS", pixels)
        times.clear()
        rows = list(slice_rows(inr, line, 64))
        assert [row.shape for row in rows] == [(1, 64, 3)] * 5
        assert torch.equal(torch.cat(rows), expected)
        assert times == at_once


@pytest.mark.parametrize("width", [0, 1, 33])
def test_a_width_that_cannot_be_rendered_is_refused(inr, width):
    with pytest.raises(ValueError, match=f"a multiple of 2 pixels, not {width}"):
        line_slice(inr, (0, 0, 1, 0), width)
