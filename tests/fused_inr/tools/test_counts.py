"""Counts of work, against the operations and sines that PyTorch runs, the tensors of ops, and numbers by hand."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import fused_inr as fi
from fused_inr import composed, reference
from fused_inr.tools import counts
from fused_inr.tools.counts import Counts

GRID = fi.Grid(4, 6)
INRS = {
    "scales1,2": {},
    "scales2,6": {"scales": (2, 6)},
    "one-stage": {"scales": (1,)},
    "N1-T1": {"n": 1, "t": 1},
    "shared": {"shared": True},
    "biasNTO": {"bias": "NTO"},
    "sines-only": {"parts": "sin"},
    "sine": {"activation": "sine"},
    "linear": {"activation": "linear"},
    "no-rgb": {"rgb": False},
    "no-rgb-sine": {"rgb": False, "activation": "sine"},
}


class SineCounter(TorchDispatchMode):
    """Count the values that sin and cos return, including those of a backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        if op in (torch.ops.aten.sin.default, torch.ops.aten.cos.default):
            self.values += result.numel()
        return result


def run(call: Callable[[], object]) -> tuple[int, int]:
    """Return the operations of matrix products and the sines of a call."""
    with FlopCounterMode(display=False) as flops, SineCounter() as sines:
        call()
    return flops.get_total_flops(), sines.values


def default_inr(clips: int, frames: int) -> fi.INR:
    """Return DIGAN's published generator for 128x128: 512 channels up to 64x64, then 256, on a base grid of 32x32."""

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    stages, channels = [], 0
    for scale, width, read_outs in ((1, 512, (0, 2, 4, 6)), (2, 512, (1,)), (4, 256, (2,))):
        inputs = [channels + 256] + [width] * read_outs[-1]
        layers = [
            fi.Layer(
                empty(clips, width, inputs[i]),
                empty(width),
                to_rgb=(empty(clips, 3, width), empty(3)) if i in read_outs else None,
            )
            for i in range(read_outs[-1] + 1)
        ]
        stages.append(fi.Stage(scale, layers, fi.Fourier(empty(clips, 128, 2), empty(clips, frames, 128))))
        channels = width
    return fi.INR(stages)


def test_one_frame_of_the_default_generator():
    inr, grid = default_inr(2, 3), fi.Grid(32, 32)
    naive, least = counts.naive_flops(inr, grid), counts.render(inr, grid).flops
    assert naive / 6 == pytest.approx(2 * 9.8e9, rel=5e-3)
    assert least / 6 == pytest.approx(2 * 7.4e9, rel=5e-3)
    assert run(lambda: reference.render(inr, grid))[0] == naive
    assert run(lambda: composed.render(inr, grid, torch.float32))[0] == least


@pytest.mark.parametrize("case", INRS)
def test_operations_and_sines_of_render(make_inr, case):
    inr = make_inr(**INRS[case])
    actual = counts.render(inr, GRID)
    assert run(lambda: composed.render(inr, GRID, torch.float64)) == (actual.flops, actual.sines)
    assert run(lambda: reference.render(inr, GRID))[0] == counts.naive_flops(inr, GRID)


@pytest.mark.parametrize("case", INRS)
def test_operations_of_the_gradients_of_render(make_inr, case):
    inr = make_inr(**INRS[case]).mapped(lambda tensor: tensor.requires_grad_())
    frames = composed.render(inr, GRID, torch.float64)
    gradient = torch.ones_like(frames)
    flops, _ = run(lambda: torch.autograd.grad(frames, list(inr.tensors()), gradient, allow_unused=True))
    assert counts.render(inr, GRID, backward=True).flops == flops


@pytest.mark.parametrize("case", INRS)
def test_render_moves_each_tensor_once(make_inr, case):
    inr = make_inr(**INRS[case])
    tensors, frames = sum(t.nbytes for t in inr.tensors()), fi.render(inr, GRID).nbytes
    assert counts.render(inr, GRID).bytes == tensors + frames
    assert counts.render(inr, GRID, backward=True).bytes == 2 * tensors + frames


@pytest.mark.parametrize("stored", [False, True], ids=["recomputed", "stored"])
@pytest.mark.parametrize("fused", [(), (1,), (0, 1)], ids=["layers", "one-stage-fused", "stages"])
@pytest.mark.parametrize("case", [case for case in INRS if case != "one-stage"])
def test_steps_of_render_are_at_least_the_minimum(make_inr, case, fused, stored):
    inr = make_inr(**INRS[case])
    forward = counts.total(counts.render_steps(inr, GRID, fused=fused, stored=stored))
    backward = counts.total(counts.render_steps(inr, GRID, fused=fused, stored=stored, backward=True))
    call, call_backward = counts.render(inr, GRID), counts.render(inr, GRID, backward=True)
    assert (forward.flops, forward.sines) == (call.flops, call.sines)
    assert backward.flops == call_backward.flops + (0 if stored else call.flops)
    assert forward.bytes > call.bytes
    assert backward.bytes > call_backward.bytes


def two_stages() -> fi.INR:
    """Return an INR, N = 2, T = 3, D = 1: 4 channels at scale 1 and, at scale 2, two layers of 5; float32."""

    def layer(outputs: int, inputs: int, read_out: bool) -> fi.Layer:
        to_rgb = (torch.zeros(2, 3, outputs), torch.zeros(3)) if read_out else None
        return fi.Layer(torch.zeros(2, outputs, inputs), torch.zeros(outputs), to_rgb=to_rgb)

    fourier = fi.Fourier(torch.zeros(2, 1, 2), torch.zeros(2, 3, 1))
    return fi.INR(
        [
            fi.Stage(1, [layer(4, 2, True)], fourier),
            fi.Stage(2, [layer(5, 6, False), layer(5, 5, True)], fourier),
        ]
    )


# Bytes of two_stages on 4x6 pixels. T: tables of a stage, 2 D values of 4 bytes for each row of a frame and column of a
# clip. X, Y: outputs of the layers of 4 and of 5 channels, in bfloat16. P: the product of stage 1 at the pixels of
# stage 0. I0, I1: the images.
T0, T1 = 2 * 4 * (6 * 4 + 2 * 6), 2 * 4 * (6 * 8 + 2 * 12)
X, P, Y = 6 * 24 * 4 * 2, 6 * 24 * 5 * 2, 6 * 96 * 5 * 2
I0, I1 = 6 * 24 * 3 * 4, 6 * 96 * 3 * 4
FOURIER = (2 * 2 + 2 * 3) * 4
RGB4, RGB5 = (2 * 3 * 4 + 3) * 4, (2 * 3 * 5 + 3) * 4
FIRST = (2 * 4 * 2 + 4) * 4 + RGB4
PARENT, INNER, SECOND = 2 * 5 * 4 * 4, (2 * 5 * 2 + 5) * 4, (2 * 5 * 5 + 5) * 4 + RGB5
BIASES = {"first": (4 + 3) * 4, "inner": 5 * 4, "second": (5 + 3) * 4}


def bytes_of(steps: list[counts.Step]) -> dict[str, int]:
    return {step.name: step.counts.bytes for step in steps}


def test_bytes_of_a_kernel_for_each_layer():
    steps = counts.render_steps(two_stages(), GRID, dtype=torch.bfloat16)
    assert bytes_of(steps) == {
        "stage 0 tables": FOURIER + T0,
        "stage 0 layer 0": T0 + FIRST + X + I0,
        "stage 1 tables": FOURIER + T1,
        "stage 1 parent": X + PARENT + P,
        "stage 1 layer 0": T1 + P + INNER + Y,
        "stage 1 layer 1": Y + SECOND + I0 + I1,
    }


def test_bytes_of_a_kernel_for_each_stage():
    actual = bytes_of(counts.render_steps(two_stages(), GRID, dtype=torch.bfloat16, fused=(0, 1)))
    assert actual["stage 0"] == T0 + FIRST + X + I0
    assert actual["stage 1"] == T1 + X + PARENT + INNER + SECOND + I0 + I1
    assert set(actual) == {"stage 0 tables", "stage 0", "stage 1 tables", "stage 1"}
    stored = bytes_of(counts.render_steps(two_stages(), GRID, dtype=torch.bfloat16, fused=(0, 1), stored=True))
    assert stored["stage 1"] == actual["stage 1"] + 2 * Y


def test_bytes_of_gradients_from_stored_activations():
    steps = counts.render_steps(two_stages(), GRID, dtype=torch.bfloat16, backward=True, stored=True)
    assert bytes_of(steps) == {
        "stage 1 tables": FOURIER + T1,
        "stage 1 layer 1 backward": Y + I1 + Y + SECOND - BIASES["second"] + SECOND + Y + I0,
        "stage 1 layer 0 backward": Y + Y + T1 + INNER - BIASES["inner"] + INNER + FOURIER + P,
        "stage 1 parent backward": P + X + PARENT + PARENT + X,
        "stage 0 tables": FOURIER + T0,
        "stage 0 layer 0 backward": X + X + I0 + T0 + FIRST - BIASES["first"] + FIRST + FOURIER,
    }


def test_bytes_of_gradients_with_recomputation_in_one_kernel_per_stage():
    steps = counts.render_steps(two_stages(), GRID, dtype=torch.bfloat16, backward=True, fused=(0, 1))
    actual = bytes_of(steps)
    # Inputs of the forward pass, the gradient of the image, and gradients of tensors, of X and of the previous image.
    tensors = PARENT + INNER + SECOND
    assert actual["stage 1 backward"] == (X + T1 + tensors + I0) + I1 + (tensors + FOURIER + X + I0)


def test_an_image_that_the_last_stage_does_not_change_is_upsampled():
    first, second = two_stages().stages
    layers = [fi.Layer(layer.weight, layer.bias) for layer in second.layers]
    inr = fi.INR([first, fi.Stage(2, layers, second.fourier)])
    assert bytes_of(counts.render_steps(inr, GRID))["image"] == I0 + I1
    assert bytes_of(counts.render_steps(inr, GRID, backward=True))["image backward"] == I0 + I1


def siren(n: int | None, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, list, list]:
    """Return a SIREN 2 -> 5 -> 4 -> 3 at 7 points; weights and biases of n networks, or of one without that axis."""
    lead, sizes = () if n is None else (n,), [2, 5, 4, 3]
    weights = [torch.ones(*lead, o, i, dtype=dtype) for i, o in itertools.pairwise(sizes)]
    return torch.ones(7, 2, dtype=dtype), weights, [torch.ones(*lead, o, dtype=dtype) for o in sizes[1:]]


@pytest.mark.parametrize("final", ["linear", "sine"])
@pytest.mark.parametrize("n", [None, 1, 6], ids=["N-", "N1", "N6"])
def test_operations_and_sines_of_siren(n, final):
    coords, weights, biases = siren(n)
    actual = counts.siren(coords, weights, biases, final=final)
    values = fi.siren(coords, weights, biases, final=final, backend="reference")
    flops, sines = run(lambda: fi.siren(coords, weights, biases, final=final, backend="reference"))
    assert (actual.flops, actual.sines) == (flops, sines)
    assert actual.bytes == sum(t.nbytes for t in (coords, *weights, *biases, values))


@pytest.mark.parametrize("coords_gradient", [False, True], ids=["parameters", "parameters-and-coords"])
def test_operations_and_sines_of_the_gradients_of_siren(coords_gradient):
    coords, weights, biases = siren(6)
    leaves = [t.requires_grad_() for t in (*weights, *biases, *([coords] if coords_gradient else []))]
    values = fi.siren(coords, weights, biases, final="sine", backend="reference")
    actual = counts.siren(coords, weights, biases, final="sine", backward=True, coords_gradient=coords_gradient)
    flops, sines = run(lambda: torch.autograd.grad(values.sum(), leaves))
    assert (actual.flops, actual.sines) == (flops, sines)
    assert actual.bytes == sum(t.nbytes for t in (coords, *weights, *biases, values, *leaves))


ACTIVATIONS = ["finer", "gelu", "sine"]


def skipping(n: int) -> tuple[torch.Tensor, list, list]:
    """Return a network 2 -> 5 -> 4 -> 3 whose last layer sees the coordinates again, as `siren` does."""
    coords, weights, biases = siren(n)
    return coords, [*weights[:2], torch.ones(n, 3, 4 + 2, dtype=torch.float64)], biases


def test_operations_and_sines_of_mlp():
    coords, weights, biases = skipping(6)
    options = {"activations": ACTIVATIONS, "skips": [2]}
    actual = counts.mlp(coords, weights, biases, **options)
    values = fi.mlp(coords, weights, biases, **options, backend="reference")
    flops, sines = run(lambda: fi.mlp(coords, weights, biases, **options, backend="reference"))
    assert (actual.flops, actual.sines) == (flops, sines)
    assert actual.bytes == sum(t.nbytes for t in (coords, *weights, *biases, values))


@pytest.mark.parametrize("coords_gradient", [False, True], ids=["parameters", "parameters-and-coords"])
def test_operations_and_sines_of_the_gradients_of_mlp(coords_gradient):
    coords, weights, biases = skipping(6)
    options = {"activations": ACTIVATIONS, "skips": [2]}
    leaves = [t.requires_grad_() for t in (*weights, *biases, *([coords] if coords_gradient else []))]
    values = fi.mlp(coords, weights, biases, **options, backend="reference")
    actual = counts.mlp(coords, weights, biases, **options, backward=True, coords_gradient=coords_gradient)
    flops, sines = run(lambda: torch.autograd.grad(values.sum(), leaves))
    assert (actual.flops, actual.sines) == (flops, sines)
    assert actual.bytes == sum(t.nbytes for t in (coords, *weights, *biases, values, *leaves))


def test_steps_of_siren():
    coords, weights, biases = siren(6, torch.float32)
    (whole,) = counts.siren_steps(coords, weights, biases, dtype=torch.bfloat16)
    assert whole.counts == counts.siren(coords, weights, biases, dtype=torch.bfloat16)
    layers = counts.siren_steps(coords, weights, biases, dtype=torch.bfloat16, fused=False)
    assert bytes_of(layers)["layer 1"] == 6 * (7 * (5 + 4) * 2 + (4 * 5 + 4) * 4)
    (again,) = counts.siren_steps(coords, weights, biases, backward=True)
    least = counts.siren(coords, weights, biases, backward=True)
    assert again.counts == Counts(least.flops + whole.counts.flops, least.bytes, 2 * least.sines)


# Options of mlp_jet, and the rows of a point with K = 2: those needed, and those that the reference multiplies.
JETS = {
    "order-1": ({"order": 1}, 3, 3),
    "laplacian": ({}, 4, 4),
    "hessian": ({"hessian": True}, 6, 7),
}


@pytest.mark.parametrize(("options", "rows", "all_rows"), JETS.values(), ids=JETS)
@pytest.mark.parametrize("coords_gradient", [False, True], ids=["parameters", "parameters-and-coords"])
def test_operations_and_bytes_of_mlp_jet(options, rows, all_rows, coords_gradient):
    coords, weights, biases = siren(6)
    weights[1] = torch.ones(6, 4, 7, dtype=coords.dtype)  # sees the coordinates again
    leaves = [t.requires_grad_() for t in (*weights, *biases, *([coords] if coords_gradient else []))]
    results: list[tuple[torch.Tensor, ...]] = []
    arguments = {"activations": ["sine"] * 3, "skips": [1], "backend": "reference", **options}
    flops, _ = run(lambda: results.append(fi.mlp_jet(coords, weights, biases, **arguments)))
    forward = counts.mlp_jet(coords, weights, biases, skips=[1], **options)
    points, of_coords = 6 * 7, 2 * (5 + 4)  # columns of the weights for coordinates, times rows
    others = sum(weight[0].numel() for weight in weights) - of_coords
    assert flops == 2 * points * all_rows * (others + of_coords)  # the reference multiplies unit vectors and zeros too
    assert forward.flops == 2 * points * (rows * others + of_coords)
    assert forward.bytes == sum(t.nbytes for t in (coords, *weights, *biases, *results[0]))
    options = {**options, "skips": [1], "backward": True, "coords_gradient": coords_gradient}
    backward = counts.mlp_jet(coords, weights, biases, **options)
    assert backward.flops == forward.flops + 2 * points * (rows * others + of_coords * coords_gradient)
    assert backward.bytes == forward.bytes + sum(leaf.nbytes for leaf in leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_bytes_of_the_ops_of_a_discriminator(dtype):
    x, bias = torch.randn(4, 6, 9, 7).to(dtype), torch.randn(6).to(dtype)
    y = fi.bias_act(x, bias, act="lrelu")
    assert counts.bias_act(x, bias).bytes == x.nbytes + bias.nbytes + y.nbytes
    assert counts.bias_act(x, residual=True).bytes == 2 * x.nbytes + y.nbytes
    assert counts.bias_act(x, bias, backward=True).bytes == 3 * x.nbytes + bias.nbytes
    assert counts.bias_act(x, act="linear", backward=True).bytes == 2 * x.nbytes
    assert counts.bias_act(x, act="linear", clamp=1.0, backward=True).bytes == 3 * x.nbytes
    for taps in (torch.ones(4), torch.ones(4, 3)):
        for options in ({"down": 2, "padding": 1}, {"up": 2, "padding": (2, 1)}, {"padding": (1, 2, 3, 0)}):
            y = fi.upfirdn2d(x, taps, **options)
            assert counts.upfirdn2d(x, taps, **options).bytes == x.nbytes + taps.nbytes + y.nbytes
    y = fi.minibatch_stddev(x, channels=2)
    assert counts.minibatch_stddev(x, 2).bytes == x.nbytes + y.nbytes
    assert counts.minibatch_stddev(x, 2, backward=True).bytes == 2 * x.nbytes + y.nbytes


def test_expanded_tensors_count_once():
    coords, weights, biases = torch.zeros(5, 2), [torch.zeros(1, 3, 2).expand(4, -1, -1)], [torch.zeros(4, 3)]
    assert counts.siren(coords, weights, biases).bytes == 4 * (10 + 6 + 12 + 4 * 5 * 3)
