"""Tables of rows and columns, and tiles of Fourier features, against the reference in float64."""

import pytest
import torch
import triton
import triton.language as tl

import fused_inr as fi
from fused_inr import reference
from fused_inr._backends.triton.kernels import fourier_features, launch
from fused_inr._backends.triton.kernels.fourier_features import patch_of_tile, pixels_of_tile, sines_of_patch
from fused_inr.primitives.memory_format import batch_stride


@triton.jit
def feature_kernel(
    rows,
    columns,
    out,
    height,
    width,
    features,
    tiles,
    rows_clip,
    columns_clip,
    times,
    BLOCK_M: tl.constexpr,
    PATCH_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write the features that a product would use to out [N T, H W, 2 D]."""
    tile = tl.program_id(0) % tiles
    frame = (tl.program_id(0) // tiles).to(tl.int64)
    y, x, inside = pixels_of_tile(tile, height, width, BLOCK_M, PATCH_W)
    py, px = patch_of_tile(tile, height, width, BLOCK_M, PATCH_W)
    row = rows + frame // times * rows_clip + ((frame % times) * height + py) * 2 * features
    column = columns + frame // times * columns_clip + px * 2 * features
    target = out + ((frame * height + y) * width + x) * 2 * features
    for first in range(0, features, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)[None, :]
        s, c = sines_of_patch(row, column, d, features)
        tl.store(target + d, s, inside & (d < features))
        tl.store(target + features + d, c, inside & (d < features))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


# Absolute, for features of at most 1. Measured in the interpreter: 4e-6 at angles of 40, whose spacing in float32 that
# is; 6.5e-4 with tables in float16.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-3}
GRIDS = {
    "H1-W1": fi.Grid(1, 1),
    "H3-W63": fi.Grid(3, 63, (-2.0, 3.0), (0.5, 0.75)),
    "H20-W5": fi.Grid(20, 5),
    "H1-W100": fi.Grid(1, 100),
}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shared", ["none", "frequency", "phase", "both"])
def test_features(grid, shared, dtype, device):
    n, t, d, grid = 2, 3, 5, GRIDS[grid]
    frequency = normal(1 if shared in ("frequency", "both") else n, d, 2) * 4
    phase = normal(1 if shared in ("phase", "both") else n, t, d)
    exact = reference.fourier_features(fi.Fourier(frequency, phase), grid, n, torch.float64)  # [N T, 2 D, H, W]
    fourier = fi.Fourier(frequency.to(device), phase.to(device))
    rows, columns, launches = fourier_features.tables(fourier, grid, dtype)
    launch.run(launches, rows.device)
    tiles, count = fourier_features.tiles_of(grid.height, grid.width, 64)
    out = torch.empty(n * t, grid.height * grid.width, 2 * d, device=device)
    strides = batch_stride(rows), batch_stride(columns)
    arguments = (rows, columns, out, grid.height, grid.width, d, count, *strides, t)
    feature_kernel[(n * t * count,)](*arguments, **tiles, BLOCK_D=4)
    actual = out.cpu().double().mT.unflatten(2, (grid.height, grid.width))
    assert (actual - exact.expand_as(actual)).abs().max() <= TOLERANCES[dtype]


def test_strides_and_types_of_inputs(device):
    frequency, phase = normal(2, 5, 2).double(), normal(2, 3, 5)
    dense = fi.Fourier(frequency.to(device), phase.to(device))
    strided = fi.Fourier(frequency.mT.contiguous().mT.to(device), phase.mT.contiguous().mT.to(device))
    assert not strided.phase.is_contiguous()
    actual = []
    for fourier in (dense, strided):
        rows, columns, launches = fourier_features.tables(fourier, fi.Grid(4, 3), torch.float32)
        launch.run(launches, rows.device)
        actual.append((rows, columns))
    assert all(torch.equal(a, b) for a, b in zip(*actual, strict=True))


@pytest.mark.parametrize(("n", "t", "d"), [(0, 2, 3), (2, 0, 3), (2, 2, 0)], ids=["N0", "T0", "D0"])
def test_nothing_to_do(n, t, d, device):
    fourier = fi.Fourier(normal(n, d, 2).to(device), normal(n, t, d).to(device))
    rows, columns, launches = fourier_features.tables(fourier, fi.Grid(2, 3), torch.float32)
    launch.run(launches, rows.device)
    assert rows.shape == (n, t, 2, 2, d)
    assert columns.shape == (n, 3, 2, d)


def test_tiles_cover_every_frame_once():
    for height, width, max_pixels in [
        (1, 1, 64),
        (128, 128, 128),
        (3, 500, 64),
        (500, 3, 64),
        (33, 17, 128),
        (1, 9, 128),
    ]:
        tiles, count = fourier_features.tiles_of(height, width, max_pixels)
        block, patch = tiles["BLOCK_M"], tiles["PATCH_W"]
        assert 16 <= block <= max_pixels
        assert block % patch == 0
        assert count * block >= height * width
