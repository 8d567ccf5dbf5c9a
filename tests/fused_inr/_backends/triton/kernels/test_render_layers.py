"""The layers of an INR one by one: the resolution at which weights are multiplied, and pre-activations."""

import pytest
import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr._backends.triton.kernels import layers
from fused_inr._backends.triton.kernels.render_layers import Forward
from fused_inr.lowering import lower


@pytest.fixture
def two_stages(make_layered_inr, device):
    def make(ratio: int, **options) -> tuple[fi.INR, fi.Grid, list]:
        inr, grid = make_layered_inr(n=2, t=1, scales=(1, ratio), widths=(9, 7), **options), fi.Grid(3, 2)
        return inr, grid, lower(inr.mapped(lambda tensor: tensor.to(device)), grid)

    return make


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("bare", [None, 1], ids=["features", "without-features"])
def test_before_activation(bare, ratio, two_stages, assert_close, device):
    """Compare W x + b of the first layer of the second stage with the reference."""
    inr, grid, plans = two_stages(ratio, bare=bare)
    forward = Forward(inr.mapped(lambda tensor: tensor.to(device)), torch.float32)
    x = torch.randn(2, 1, 3, 2, 7)
    actual = forward.before_activation(plans[1], 0, x.to(device), forward.tables(plans[1]))
    stage = inr.stages[1]
    inputs = [reference.upsample(x.double()[:, 0].movedim(-1, 1), ratio)]
    if bare is None:
        inputs.append(reference.fourier_features(stage.fourier, grid.scaled(ratio), 2, torch.float64))
    exact = reference.product(stage.layers[0].weight, torch.cat(inputs, 1), 2, 1, torch.float64)
    exact = exact + reference.frame_bias(stage.layers[0].bias, 2, 1, torch.float64)
    assert actual.dtype == torch.float32
    assert_close("W x + b", exact.movedim(1, -1)[:, None], actual.cpu().double(), 2e-6)  # measured: 1.5e-7


@pytest.mark.parametrize("ratio", [1, 3])
def test_the_output_of_the_previous_stage_is_multiplied_at_its_resolution(ratio, two_stages, device):
    inr, grid, _ = two_stages(ratio)
    launches = []
    meta = inr.mapped(lambda tensor: tensor.to("meta"))
    forward = Forward(meta, torch.bfloat16, lambda some, device: launches.extend(some))
    plan, x = lower(meta, grid)[1], torch.empty(2, 1, 3, 2, 7, dtype=torch.bfloat16, device="meta")
    weight, source = forward.read(plan, 0, x, forward.tables(plan))
    assert weight.dtype == torch.bfloat16
    assert source.size == (2, 1, 3 * ratio, 2 * ratio)
    products = [launch for launch in launches if launch.kernel is layers.layer_kernel]
    if ratio == 1:
        assert (source.x is x, source.parent, products) == (True, None, [])
        assert weight.shape == (2, 9, 7 + 12)
    else:
        assert (source.x, source.parent.shape) == (None, (2, 1, 3, 2, 9))
        assert [(p.arguments["height"], p.arguments["width"]) for p in products] == [(3, 2)]
        assert weight.shape == (2, 9, 12)  # the columns of the features
