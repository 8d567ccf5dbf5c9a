"""Networks layer by layer: products with an activation or its slope applied.

This serves networks that are too wide for one kernel or whose layers are not uniform. A layer with a skip connection
multiplies the output of the layer before and the coordinates by their columns of the weight, and adds both products on
chip. At most `MAX_INPUTS` coordinates are multiplied in float32; more of them are rounded to the type of the products.

The backward pass recomputes the network from the coordinates and stores the output and the slope of every layer in the
type of the products: 2 N P O numbers per layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.splits import equal_splits
from fused_inr._backends.triton.kernels import configs
from fused_inr._backends.triton.kernels.launch import Launch, cdiv, run
from fused_inr._backends.triton.kernels.network_activations import activation, activation_and_slope
from fused_inr._backends.triton.kernels.network_forward import MAX_INPUTS, dense, is_shared, product
from fused_inr.primitives.memory_format import batch_stride

SUMMING_PROGRAMS = 528  # of the weight gradient kernel: 4 for each of an H100's 132 multiprocessors


@triton.jit
def add_product(
    sums,
    x,
    weight,
    inputs,
    weight_column,
    inside,
    valid,
    FEW_INPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Return sums [M, N] + W x for pointers to points x [M], of which some are `inside`, and to rows [N] of W.

    With FEW_INPUTS, inputs are multiplied and added in float32 one by one.
    """
    if FEW_INPUTS:
        for k in range(inputs):
            a = tl.load(x + k, inside, 0.0).to(tl.float32)
            sums += a[:, None] * tl.load(weight + k * weight_column, valid, 0.0).to(tl.float32)[None, :]
    else:
        k = tl.arange(0, BLOCK_K)
        for first in range(0, inputs, BLOCK_K):
            left = first + k < inputs
            a = tl.load(x[:, None] + (first + k)[None, :], inside[:, None] & left[None, :], 0.0)
            place = (first + k).to(tl.int64) * weight_column
            b = tl.load(weight[None, :] + place[:, None], left[:, None] & valid[None, :], 0.0)
            sums = product(a.to(b.dtype), b, sums, PRECISION)
    return sums


@triton.jit
def network_layer_kernel(
    x,
    weight,
    coords,
    coords_weight,
    bias,
    slopes,
    out,
    points,
    inputs,
    axes,
    outputs,
    x_sample,
    weight_sample,
    weight_row,
    weight_column,
    coords_sample,
    coords_weight_sample,
    coords_weight_row,
    coords_weight_column,
    bias_sample,
    omega,
    EPILOGUE: tl.constexpr,
    FEW_INPUTS: tl.constexpr,
    FEW_AXES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write a tile of out [N, points, outputs] = W x for x [N, points, inputs] and a strided W [N, outputs, inputs].

    The product of coords [N, points, axes] and a strided coords_weight [N, outputs, axes] is added unless they are
    None. EPILOGUE is an activation of the sum with b, whose slope goes to `slopes` unless that is None, or "slope":
    multiply by `slopes`.
    """
    column_tiles = tl.cdiv(outputs, BLOCK_N)
    tiles = tl.cdiv(points, BLOCK_M) * column_tiles
    program = tl.program_id(0)
    sample = (program // tiles).to(tl.int64)
    tile = program % tiles
    point = (tile // column_tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    unit = tile % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    inside, valid = point < points, unit < outputs
    x += sample * x_sample + point * inputs
    weight += sample * weight_sample + unit.to(tl.int64) * weight_row
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    sums = add_product(sums, x, weight, inputs, weight_column, inside, valid, FEW_INPUTS, PRECISION, BLOCK_K)
    if coords is not None:
        coords += sample * coords_sample + point * axes
        columns = coords_weight + sample * coords_weight_sample + unit.to(tl.int64) * coords_weight_row
        sums = add_product(
            sums, coords, columns, axes, coords_weight_column, inside, valid, FEW_AXES, PRECISION, BLOCK_K
        )
    if bias is not None:
        sums += tl.load(bias + sample * bias_sample + unit, valid, 0.0)[None, :]
    to = (sample * points + point)[:, None] * outputs + unit[None, :]
    written = inside[:, None] & valid[None, :]
    if EPILOGUE == "slope":
        y = sums * tl.load(slopes + to, written, 0.0).to(tl.float32)
    elif slopes is None:
        y = activation(sums, omega, EPILOGUE)
    else:
        y, slope = activation_and_slope(sums, omega, EPILOGUE)
        tl.store(slopes + to, slope.to(slopes.dtype.element_ty), written)
    tl.store(out + to, y.to(out.dtype.element_ty), written)


@triton.jit
def network_weight_gradient_kernel(
    gradient,
    x,
    weight_sums,
    bias_sums,
    points,
    inputs,
    outputs,
    splits,
    share,
    x_sample,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Sum the products of gradient [N, points, outputs] and x [N, points, inputs] over `share` points.

    A program writes a tile of BLOCK_M x BLOCK_N sums to weight_sums [N, splits, outputs, inputs]; sums of the gradient
    alone go to bias_sums [N, splits, outputs] unless that is None. `share` is a multiple of BLOCK_K.
    """
    column_tiles = tl.maximum(tl.cdiv(inputs, BLOCK_N), 1)
    tiles = tl.cdiv(outputs, BLOCK_M) * column_tiles
    program = tl.program_id(0)
    part = (program // tiles).to(tl.int64)  # index over samples, then splits
    sample, split = part // splits, part % splits
    row = program % tiles // column_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    column = program % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    rows, columns = row < outputs, column < inputs
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    first = split * share
    for step in range(0, tl.minimum(share, points - first), BLOCK_K):
        point = first + step + tl.arange(0, BLOCK_K)
        inside = point < points
        a = tl.load(
            gradient + (sample * points + point)[None, :] * outputs + row[:, None], rows[:, None] & inside[None, :], 0.0
        )
        b = tl.load(
            x + sample * x_sample + point[:, None] * inputs + column[None, :], inside[:, None] & columns[None, :], 0.0
        )
        total += tl.sum(a.to(tl.float32), 1)
        sums = product(a, b.to(a.dtype), sums, PRECISION)
    to = weight_sums + (part * outputs + row)[:, None] * inputs + column[None, :]
    tl.store(to, sums, rows[:, None] & columns[None, :])
    if bias_sums is not None:
        tl.store(bias_sums + part * outputs + row, total, rows & (program % column_tiles == 0))


@dataclass(frozen=True)
class Operand:
    """Inputs of a layer and their columns of its weight.

    Attributes:
        x: [N, P, I] (see `dense`).
        weight: [N, O, I] with any strides.
    """

    x: Tensor
    weight: Tensor

    def arguments(self, x: str, weight: str, inputs: str, few: str) -> dict[str, Any]:
        """Return arguments of the kernel under these names."""
        return {
            x: self.x,
            weight: self.weight,
            inputs: self.x.shape[2],
            f"{x}_sample": batch_stride(self.x),
            f"{weight}_sample": batch_stride(self.weight),
            f"{weight}_row": self.weight.stride(1),
            f"{weight}_column": self.weight.stride(2),
            few: self.x.dtype == torch.float32 and self.x.shape[2] <= MAX_INPUTS,
        }


_NO_SKIP = {
    "coords": None,
    "coords_weight": None,
    "axes": 0,
    "coords_sample": 0,
    "coords_weight_sample": 0,
    "coords_weight_row": 0,
    "coords_weight_column": 0,
    "FEW_AXES": False,
}


def layer(
    operand: Operand,
    out: Tensor,
    epilogue: str,
    *,
    skip: Operand | None = None,
    bias: Tensor | None = None,
    slopes: Tensor | None = None,
    omega: float = 1.0,
) -> Launch:
    """Return the launch that fills out [N, P, O]; `skip` is the operand of a skip connection."""
    dtype = operand.weight.dtype
    blocks, options = configs.options("network_layer", dtype, out.shape[2], out.device)
    batch, points, outputs = out.shape
    arguments = {
        "bias": bias,
        "slopes": slopes,
        "out": out,
        "points": points,
        "outputs": outputs,
        "bias_sample": 0 if bias is None else batch_stride(bias),
        "omega": omega,
        "EPILOGUE": epilogue,
        "PRECISION": configs.input_precision(dtype),
    }
    arguments |= operand.arguments("x", "weight", "inputs", "FEW_INPUTS")
    arguments |= _NO_SKIP if skip is None else skip.arguments("coords", "coords_weight", "axes", "FEW_AXES")
    programs = batch * cdiv(points, blocks["BLOCK_M"]) * cdiv(outputs, blocks["BLOCK_N"])
    return Launch(network_layer_kernel, programs, arguments | blocks, **options)


def weight_gradient(gradient: Tensor, x: Tensor, *, with_bias: bool = True) -> tuple[Tensor, Tensor | None, Launch]:
    """Return partial sums over S spans of points: of gradient^T x [N, S, O, I] and of the gradient [N, S, O]."""
    batch, points, outputs = gradient.shape
    inputs = x.shape[2]
    blocks, options = configs.options("network_weight_gradient", gradient.dtype, outputs, gradient.device)
    tiles = cdiv(outputs, blocks["BLOCK_M"]) * max(1, cdiv(inputs, blocks["BLOCK_N"]))
    splits, share = equal_splits(points, max(1, SUMMING_PROGRAMS // max(1, batch * tiles)), blocks["BLOCK_K"])
    weight_sums = gradient.new_empty(batch, splits, outputs, inputs, dtype=torch.float32)
    bias_sums = gradient.new_empty(batch, splits, outputs, dtype=torch.float32) if with_bias else None
    arguments = {
        "gradient": gradient,
        "x": x,
        "weight_sums": weight_sums,
        "bias_sums": bias_sums,
        "points": points,
        "inputs": inputs,
        "outputs": outputs,
        "splits": splits,
        "share": share,
        "x_sample": batch_stride(x),
        "PRECISION": configs.input_precision(gradient.dtype),
    }
    launch = Launch(network_weight_gradient_kernel, batch * splits * tiles, arguments | blocks, **options)
    return weight_sums, bias_sums, launch


def _parts(weight: Tensor, skip: bool, axes: int) -> list[Tensor]:
    """Return a weight, or with a skip connection its columns for the layer before and for the `axes` coordinates.

    A weight that samples share is returned once, with N = 1.
    """
    weight = weight[:1] if is_shared([weight]) else weight
    if not skip:
        return [weight]
    inputs = weight.shape[2] - axes
    # In rows of a wider tensor, addresses would not be aligned for wide loads.
    return [weight[:, :, :inputs].contiguous(), weight[:, :, inputs:]]


def _input(coords: Tensor, dtype: torch.dtype) -> Tensor:
    """Return coordinates as the kernels take them: float32 if there are at most `MAX_INPUTS`, else in `dtype`."""
    coords = dense(coords)
    if coords.shape[2] <= MAX_INPUTS:
        return coords
    return (coords[:1] if is_shared([coords]) else coords).to(dtype)


def forward(
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: Sequence[str],
    omegas: Sequence[float],
    skips: Sequence[bool],
    dtype: torch.dtype,
    kept: list[tuple[Tensor, Tensor | None]] | None = None,
) -> Tensor:
    """Return values [N, P, C]; arguments as in `reference.mlp`.

    Append the output of every layer, and its slopes unless it is linear, to `kept`.
    """
    batch, points, axes = coords.shape
    x = inputs = _input(coords, dtype)
    for index, weight in enumerate(weights):
        last = index + 1 == len(weights)
        out = coords.new_empty(batch, points, weight.shape[1], dtype=torch.float32 if last else dtype)
        slopes = torch.empty_like(out) if kept is not None and activations[index] != "linear" else None
        columns, *skipped = _parts(weight, skips[index], axes)
        launch = layer(
            Operand(x, columns.to(x.dtype)),  # neither few coordinates nor their weights are rounded
            out,
            activations[index],
            skip=Operand(inputs, skipped[0].to(inputs.dtype)) if skipped else None,
            bias=dense(biases[index]),
            slopes=slopes,
            omega=omegas[index],
        )
        run([launch], coords.device)
        if kept is not None:
            kept.append((out, slopes))
        x = out
    return x


def _parameter_gradients(gradient: Tensor, x: Tensor, skipped: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the gradients of a weight [N, O, I], whose columns multiply x, then `skipped`, and of the bias [N, O]."""
    weight_sums, bias_sums, launch = weight_gradient(gradient, x)
    run([launch], gradient.device)
    parts = [weight_sums.sum(1)]
    for other in skipped:
        weight_sums, _, launch = weight_gradient(gradient, other, with_bias=False)
        run([launch], gradient.device)
        parts.append(weight_sums.sum(1))
    return torch.cat(parts, 2) if skipped else parts[0], bias_sums.sum(1)


def backward(
    gradient: Tensor,
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: Sequence[str],
    omegas: Sequence[float],
    skips: Sequence[bool],
    dtype: torch.dtype,
    with_coords: bool,
) -> list[Tensor | None]:
    """Return gradients of the coordinates (None unless `with_coords`), then of the weights, then of the biases."""
    kept: list[tuple[Tensor, Tensor | None]] = []
    forward(coords, weights, biases, activations, omegas, skips, dtype, kept)
    slopes = kept[-1][1]
    gradient = gradient if slopes is None else gradient * slopes
    last_bias_gradient = gradient.sum(1)  # before the gradient is rounded
    gradient = gradient.to(dtype).contiguous()
    inputs = _input(coords, dtype)
    weight_gradients, bias_gradients = [], []
    coords_gradient = None
    for index in reversed(range(len(weights))):
        kept.pop()
        x, slopes = kept[-1] if index else (inputs, None)
        of_weight, of_bias = _parameter_gradients(gradient, x, [inputs] if skips[index] else [])
        weight_gradients.append(of_weight)
        bias_gradients.append(of_bias)
        parts = [part.to(dtype).mT for part in _parts(weights[index], skips[index], coords.shape[2])]
        if with_coords and (index == 0 or skips[index]):
            share = coords.new_empty(coords.shape)
            run([layer(Operand(gradient, parts[-1]), share, "linear")], coords.device)
            coords_gradient = share if coords_gradient is None else coords_gradient.add_(share)
        if index:
            out = torch.empty_like(x)
            epilogue = "linear" if slopes is None else "slope"
            run([layer(Operand(gradient, parts[0]), out, epilogue, slopes=slopes)], coords.device)
            gradient = out
    return [coords_gradient, *reversed(weight_gradients), *reversed(bias_gradients[1:]), last_bias_gradient]
