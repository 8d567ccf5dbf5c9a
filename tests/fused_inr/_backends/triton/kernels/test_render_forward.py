"""`render` on the Triton kernels against the reference in float64: layer by layer, and the registered ops."""

import pytest
import torch

import fused_inr as fi
from fused_inr import activation_storage, flattening, reference
from fused_inr._backends.triton import render
from fused_inr._backends.triton.kernels import configs, render_backward, render_forward

# Grid, then options of `make_layered_inr`.
CASES = {
    "N2-T2-H3-W5-scales1,2,4": ((3, 5), dict(t=2, widths=(20, 21))),
    "N1-T1-H1-W1-sine": ((1, 1), dict(n=1, t=1, scales=(1,), widths=(5, 3), activation="sine", gain=1.0)),
    "N2-T1-H63-W1-ratio4-relu-biasNO": ((63, 1), dict(t=1, scales=(1, 4), widths=(6, 7), activation="relu", bias="NO")),
    "N1-T3-H1-W100-sines-biasNTO": ((1, 100), dict(n=1, scales=(1,), widths=(9, 8), parts="sin", bias="NTO")),
    "N3-T1-H4-W6-ratio1-linear-shared": (
        (4, 6),
        dict(n=3, t=1, scales=(1, 1), activation="linear", bias="NTO", shared=True),
    ),
    "N2-T1-H3-W7-stage-without-features": ((3, 7), dict(t=1, scales=(1, 3), bare=1)),
    "N2-T1-H3-W7-frames-are-outputs": ((3, 7), dict(t=1, scales=(1, 2), rgb=False, bias="NO")),
    "N1-T1-H5-W6-negative-gain-many-blocks": ((5, 6), dict(n=1, t=1, scales=(2,), widths=(100, 140), gain=-1.3)),
}
# Measured in the interpreter: 3e-7, and 8e-7 for sine, in float32; 8e-4 in float16.
TOLERANCES = {torch.float32: 3e-6, torch.float16: 3e-3}


def on(inr: fi.INR, device: str) -> fi.INR:
    return inr.mapped(lambda tensor: tensor.to(device))


def exact_frames(inr: fi.INR, grid: fi.Grid) -> torch.Tensor:
    return reference.render(inr.mapped(torch.Tensor.double), grid)


@pytest.mark.parametrize("name", CASES)
def test_frames(name, make_layered_inr, assert_close, device):
    size, options = CASES[name]
    inr, grid = make_layered_inr(**options), fi.Grid(*size, x=(-1.0, 0.7), y=(-2.0, 1.0))
    actual = render.render(on(inr, device), grid, torch.float32)
    assert actual.is_contiguous()
    assert_close("frames", exact_frames(inr, grid), actual.cpu().double(), TOLERANCES[torch.float32])


def test_frames_in_half_precision(make_layered_inr, assert_close, device):
    inr, grid = make_layered_inr(t=1, scales=(1, 2)), fi.Grid(3, 5)
    actual = render.render(on(inr, device), grid, torch.float16)
    assert actual.dtype == torch.float32
    assert_close("frames", exact_frames(inr, grid), actual.cpu().double(), TOLERANCES[torch.float16])


def test_read_outs_only_before_the_last_stage(make_layered_inr, assert_close, device):
    first, last = make_layered_inr(1, 2, scales=(1, 3)).stages
    plain = [fi.Layer(layer.weight, layer.bias) for layer in last.layers]
    inr, grid = fi.INR([first, fi.Stage(3, plain, last.fourier)]), fi.Grid(3, 2)
    actual = render.render(on(inr, device), grid, torch.float32)
    assert_close("frames", exact_frames(inr, grid), actual.cpu().double(), TOLERANCES[torch.float32])


def test_no_features(make_layered_inr, assert_close, device):
    (base,) = make_layered_inr(1, 1, scales=(1,), widths=(9, 8)).stages
    none = fi.Fourier(torch.empty(1, 0, 2), torch.empty(1, 1, 0))
    read_out = torch.randn(1, 3, 5), torch.randn(3)
    top = fi.Stage(2, [fi.Layer(torch.randn(1, 5, 8), torch.randn(5), to_rgb=read_out)], none)
    inr, grid = fi.INR([base, top]), fi.Grid(3, 2)
    actual = render.render(on(inr, device), grid, torch.float32)
    assert_close("frames", exact_frames(inr, grid), actual.cpu().double(), TOLERANCES[torch.float32])


@pytest.mark.parametrize(("n", "t"), [(0, 2), (2, 0)], ids=["N0", "T0"])
def test_empty_batches(n, t, make_layered_inr, tensors_of, with_tensors, device):
    inr = on(make_layered_inr(n, t, scales=(1, 2)), device)
    leaves = [tensor.requires_grad_() for tensor in tensors_of(inr)]
    frames = render.render(with_tensors(inr, leaves), fi.Grid(3, 2), torch.float32)
    assert frames.shape == (n, t, 3, 6, 4)
    for leaf, gradient in zip(leaves, torch.autograd.grad(frames.sum(), leaves), strict=True):
        assert gradient.shape == leaf.shape
        assert not gradient.any()


def test_block_sizes_change_only_rounding(make_layered_inr, assert_close, device):
    inr, grid = on(make_layered_inr(1, 1, scales=(1, 2), widths=(20, 40)), device), fi.Grid(5, 7)
    expected = render.render(inr, grid, torch.float32)
    with configs.using(BLOCK_M=16, BLOCK_N=16, BLOCK_K=32):
        actual = render.render(inr, grid, torch.float32)
    assert_close("frames", expected, actual, 1e-6)  # measured in the interpreter: 2e-7


def gradients(inr: fi.INR, leaves: list[torch.Tensor], grid: fi.Grid, with_tensors, again: bool) -> list[torch.Tensor]:
    """Return the gradients of the mean square of the frames, or of the sum of squares of these if `again`."""
    own = [leaf.detach().requires_grad_() for leaf in leaves]
    frames = render.render(with_tensors(inr, own), grid, torch.float32)
    actual = torch.autograd.grad(frames.square().mean(), own, create_graph=again)
    if again:
        actual = torch.autograd.grad(sum(one.square().sum() for one in actual), own, materialize_grads=True)
    return list(actual)


def test_gradients_have_the_same_bits_where_outputs_are_stored(make_layered_inr, tensors_of, with_tensors, device):
    inr, grid = on(make_layered_inr(1, 2, scales=(1, 2), widths=(9, 8)), device), fi.Grid(3, 4)
    computed = gradients(inr, tensors_of(inr), grid, with_tensors, False)
    with activation_storage.store_activations():
        stored = gradients(inr, tensors_of(inr), grid, with_tensors, False)
    assert all(torch.equal(a, b) for a, b in zip(computed, stored, strict=True))
    assert any(one.any() for one in stored)


@pytest.mark.parametrize("again", [False, True], ids=["first-order", "second-order"])
def test_gradients(again, make_layered_inr, tensors_of, with_tensors, assert_close, device):
    inr, grid = make_layered_inr(1, 2, scales=(1, 2), widths=(9, 8)), fi.Grid(3, 4)
    own = [leaf.double().requires_grad_() for leaf in tensors_of(inr)]
    exact = torch.autograd.grad(reference.render(with_tensors(inr, own), grid).square().mean(), own, create_graph=again)
    if again:
        exact = torch.autograd.grad(sum(one.square().sum() for one in exact), own, materialize_grads=True)
    actual = gradients(on(inr, device), [leaf.to(device) for leaf in tensors_of(inr)], grid, with_tensors, again)
    for index, (a, b) in enumerate(zip(exact, actual, strict=True)):
        # Measured in the interpreter: 6e-7, second order 1.2e-6.
        assert_close(f"gradient {index}", a.detach(), b.cpu().double(), 1e-5)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_opcheck(make_layered_inr, device):
    inr, grid = on(make_layered_inr(1, 1, scales=(1,), widths=(5,), features=3, rgb=False), device), fi.Grid(2, 3)
    tensors, *structure = flattening.flatten(inr)
    options = (*structure, flattening.frames_shape(inr, grid), [*grid.x, *grid.y], torch.float32)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    torch.library.opcheck(torch.ops.fused_inr.triton_render.default, (leaves, *options))
    gradient = torch.randn(flattening.frames_shape(inr, grid), device=device)
    plain = [tensor.detach() for tensor in tensors]
    torch.library.opcheck(torch.ops.fused_inr.triton_render_backward.default, (gradient, plain, *options, []))


def test_memory_matches_the_allocations(make_layered_inr, device):
    inr, grid = on(make_layered_inr(1, 2, scales=(1, 4), widths=(40, 48)), device), fi.Grid(20, 30)
    frames = 4 * 2 * 3 * 80 * 120
    activations_of_last = 4 * 2 * 48 * 80 * 120
    peak = render.memory(inr, grid, torch.float32)
    # The inputs and outputs of a layer are live at once (the last output is not stored), as is the parent's product.
    assert frames + activations_of_last * 40 // 48 < peak < frames + 2.5 * activations_of_last
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        render_forward.evaluate(inr, grid, torch.float32)
        assert torch.cuda.max_memory_allocated() - before <= peak + 512 * 100  # every tensor is rounded up to 512 bytes


def test_the_outputs_of_all_layers_are_kept(make_layered_inr, device):
    inr, grid = on(make_layered_inr(1, 2, scales=(1, 2), widths=(9, 8)), device), fi.Grid(3, 4)
    frames, kept = render_forward.evaluate(inr, grid, torch.float32, keep=True)
    assert [tuple(one.shape) for one in kept] == [(1, 2, 3, 4, 9), (1, 2, 3, 4, 8), (1, 2, 6, 8, 9), (1, 2, 6, 8, 8)]
    assert torch.equal(frames, render.render(inr, grid, torch.float32))
    again = render_backward.backward(inr, grid, torch.ones_like(frames), torch.float32, kept)
    assert [one.shape for one in again] == [tensor.shape for tensor in inr.tensors()]
