"""`render` of the Triton backend without a GPU: the calls it declines, shapes and memory."""

import pytest
import torch

import fused_inr as fi
from fused_inr import flattening
from fused_inr._backends.triton import render


def test_supports(make_layered_inr):
    inr, grid = make_layered_inr(1, 1, scales=(1,)), fi.Grid(2, 2)
    assert render.supports(inr, grid, torch.bfloat16) == (True, "")
    wide = inr.mapped(torch.Tensor.double)
    reason = "it computes in float32, bfloat16 or float16, not in torch.float64"
    assert render.supports(wide, grid, torch.float64) == (False, reason)
    layer = fi.Layer(torch.randn(1, 5, 12), torch.randn(5), to_rgb=(torch.randn(1, 65, 5), torch.randn(65)))
    colours = fi.INR([fi.Stage(1, [layer], inr.stages[0].fourier)])
    assert render.supports(colours, grid, torch.float32) == (False, "it reads out at most 64 colours, not 65")


def test_shapes_on_meta_tensors(make_layered_inr):
    inr, grid = make_layered_inr(2, 3, scales=(1, 2)).mapped(lambda tensor: tensor.to("meta")), fi.Grid(3, 5)
    frames = render.render(inr, grid, torch.bfloat16)
    assert (list(frames.shape), frames.dtype) == ([2, 3, 3, 6, 10], torch.float32)
    arguments = (*flattening.flatten(inr), list(frames.shape), [*grid.x, *grid.y], torch.bfloat16)
    gradients = torch.ops.fused_inr.triton_render_backward(frames, *arguments, [])
    assert [tensor.shape for tensor in gradients] == [tensor.shape for tensor in inr.tensors()]


def test_memory_of_one_layer(make_layered_inr):
    pytest.importorskip("triton")
    n, t, d, outputs, height, width = 2, 3, 6, 20, 5, 7
    inr = make_layered_inr(n, t, scales=(1,), widths=(outputs,), features=d, rgb=False)
    tables = n * t * height * 2 * d + n * width * 2 * d
    assert render.memory(inr, fi.Grid(height, width), torch.float32) == 4 * (tables + n * t * outputs * height * width)
    # In half precision the tables take 2 bytes a number, and so does a copy of the weight [N, O, 2 D].
    half = 2 * tables + 2 * n * outputs * 2 * d + 4 * n * t * outputs * height * width
    assert render.memory(inr, fi.Grid(height, width), torch.bfloat16) == half
