"""INRs as lists for PyTorch ops, and back."""

import pytest
import torch

import fused_inr as fi
from fused_inr import flattening

OPTIONS = {
    "NO": {},
    "one-stage": dict(scales=(1,)),
    "sines-only-biasNTO": dict(parts="sin", bias="NTO"),
    "no-rgb-sine-shared": dict(rgb=False, activation="sine", shared=True),
}


def with_bare_stage(inr: fi.INR) -> fi.INR:
    """Return the INR followed by a stage without Fourier features."""
    return fi.INR([*inr.stages, fi.Stage(6, [fi.Layer(torch.zeros(1, 4, 5), torch.zeros(4), "relu", gain=0.5)])])


@pytest.mark.parametrize("bare", [False, True], ids=["features", "last-stage-without-features"])
@pytest.mark.parametrize("name", OPTIONS)
def test_unflatten_inverts_flatten(name, bare, make_inr, tensors_of):
    inr = make_inr(dtype=torch.float32, **OPTIONS[name])
    inr = with_bare_stage(inr) if bare else inr
    again = flattening.unflatten(*flattening.flatten(inr))
    # The same tensors, not copies: an op's gradients belong to the tensors that it was called with.
    assert all(a is b for a, b in zip(tensors_of(again), tensors_of(inr), strict=True))

    def structure(inr: fi.INR) -> list[tuple]:
        return [
            (stage.scale, stage.fourier and stage.fourier.parts, layer.activation, layer.gain, layer.omega)
            for stage in inr.stages
            for layer in stage.layers
        ]

    assert structure(again) == structure(inr)
    assert [[layer.to_rgb is None for layer in stage.layers] for stage in again.stages] == [
        [layer.to_rgb is None for layer in stage.layers] for stage in inr.stages
    ]


def test_an_op_gets_every_tensor_of_the_inr_in_its_order(make_inr):
    inr = make_inr()
    tensors, structure, numbers = flattening.flatten(inr)
    assert all(a is b for a, b in zip(tensors, inr.tensors(), strict=True))
    assert all(type(code) is int for code in structure)
    assert numbers == [1.3, 2.0] * 3  # gain and omega of each layer


def test_the_shape_of_the_frames_determines_the_grid(make_inr):
    inr, grid = make_inr(2, 3, scales=(2, 6)), fi.Grid(5, 7, x=(-1.0, 0.7), y=(-2.0, 1.0))
    shape = flattening.frames_shape(inr, grid)
    assert shape == [2, 3, 3, 30, 42]
    assert shape == list(fi.render(inr, grid).shape)
    assert flattening.grid_of(inr, shape, [*grid.x, *grid.y]) == grid
