"""The lowered form: the split of `lower`, and the identity behind it."""

import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr.lowering import lower


def with_bare_stage(inr: fi.INR, scale: int) -> fi.INR:
    """Return the INR followed by a stage without Fourier features."""
    generator = torch.Generator().manual_seed(1)
    weight, bias, *read_out = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((1, 4, 5), (4,), (1, 3, 4), (3,))
    )
    return fi.INR([*inr.stages, fi.Stage(scale, [fi.Layer(weight, bias, to_rgb=tuple(read_out))])])


def test_lower_splits_the_first_layer_of_each_stage(make_inr):
    inr, grid = with_bare_stage(make_inr(scales=(2, 6)), 12), fi.Grid(3, 5, x=(-1.0, 0.5))
    first, second, bare = lower(inr, grid)
    assert [plan.scale for plan in (first, second, bare)] == [2, 6, 12]
    assert [plan.ratio for plan in (first, second, bare)] == [1, 3, 2]
    assert [plan.grid for plan in (first, second, bare)] == [grid.scaled(2), grid.scaled(6), grid.scaled(12)]
    for plan, stage in zip((first, second, bare), inr.stages, strict=True):
        assert plan.fourier is stage.fourier
        assert tuple(plan.layers) == tuple(stage.layers)
    assert first.parent is None
    assert first.inner.shape == (2, 5, 4)
    assert torch.equal(first.inner, inr.stages[0].layers[0].weight)
    weight = inr.stages[1].layers[0].weight
    assert (second.parent.shape, second.inner.shape) == ((2, 5, 5), (2, 5, 4))
    assert torch.equal(torch.cat([second.parent, second.inner], dim=2), weight)
    assert (bare.parent.shape, bare.inner.shape) == ((1, 4, 5), (1, 4, 0))
    for view in (second.parent, second.inner):
        assert view.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()  # nothing is copied


def test_identity_of_the_split(make_inr, assert_close):
    inr, grid = make_inr(1, 1), fi.Grid(2, 3)
    _, plan = lower(inr, grid)
    x = torch.randn(1, 5, 2, 3, dtype=torch.float64)  # output of the previous stage
    e = reference.fourier_features(plan.fourier, plan.grid, 1, torch.float64)
    whole = inr.stages[1].layers[0].weight
    naive = reference.product(whole, torch.cat([reference.upsample(x, plan.ratio), e], dim=1), 1, 1, torch.float64)
    up = reference.upsample(reference.product(plan.parent, x, 1, 1, torch.float64), plan.ratio)
    inner = reference.product(plan.inner, e, 1, 1, torch.float64)
    assert_close("W concat(up(x), e)", naive, up + inner, 1e-14)
