"""SIRENs layer by layer, for networks that are too wide for one kernel: products with a sine or its slope applied.

The backward pass recomputes the network from the coordinates and stores the output and the slope
omega cos(omega (W x + b)) of every layer in the type of the products: 2 N P O numbers per layer.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.splits import equal_splits
from fused_inr._backends.triton.kernels import configs
from fused_inr._backends.triton.kernels.launch import Launch, cdiv, run
from fused_inr._backends.triton.kernels.sines import sine, sine_cosine
from fused_inr._backends.triton.kernels.siren_forward import MAX_INPUTS, dense, is_shared, product
from fused_inr.primitives.memory_format import batch_stride

SUMMING_PROGRAMS = 528  # of the weight gradient kernel: 4 for each of an H100's 132 multiprocessors


@triton.jit
def siren_layer_kernel(
    x,
    weight,
    bias,
    slopes,
    out,
    points,
    inputs,
    outputs,
    x_sample,
    weight_sample,
    weight_row,
    weight_column,
    bias_sample,
    omega,
    EPILOGUE: tl.constexpr,
    FEW_INPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write a tile of out [N, points, outputs] = W x for x [N, points, inputs] and a strided W [N, outputs, inputs].

    EPILOGUE is "linear": add b; "sine": sin(omega (W x + b)), whose slope goes to `slopes` unless that is None; or
    "slope": multiply by `slopes`. With FEW_INPUTS, inputs are multiplied and added in float32 one by one.
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
    if bias is not None:
        sums += tl.load(bias + sample * bias_sample + unit, valid, 0.0)[None, :]
    to = (sample * points + point)[:, None] * outputs + unit[None, :]
    written = inside[:, None] & valid[None, :]
    if EPILOGUE == "sine":
        if slopes is None:
            y = sine(omega * sums)
        else:
            y, slope = sine_cosine(omega * sums)
            tl.store(slopes + to, (omega * slope).to(slopes.dtype.element_ty), written)
    elif EPILOGUE == "slope":
        y = sums * tl.load(slopes + to, written, 0.0).to(tl.float32)
    else:
        tl.static_assert(EPILOGUE == "linear")
        y = sums
    tl.store(out + to, y.to(out.dtype.element_ty), written)


@triton.jit
def siren_weight_gradient_kernel(
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
    alone go to bias_sums [N, splits, outputs]. `share` is a multiple of BLOCK_K.
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
    tl.store(bias_sums + part * outputs + row, total, rows & (program % column_tiles == 0))


def layer(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    epilogue: str,
    *,
    bias: Tensor | None = None,
    slopes: Tensor | None = None,
    omega: float = 1.0,
) -> Launch:
    """Return the launch that fills out [N, P, O] from x [N, P, I] (see `dense`) and weight [N, O, I], I >= 1."""
    blocks, options = configs.options("siren_layer", weight.dtype, weight.shape[1], out.device)
    batch, points, outputs = out.shape
    arguments = {
        "x": x,
        "weight": weight,
        "bias": bias,
        "slopes": slopes,
        "out": out,
        "points": points,
        "inputs": x.shape[2],
        "outputs": outputs,
        "x_sample": batch_stride(x),
        "weight_sample": batch_stride(weight),
        "weight_row": weight.stride(1),
        "weight_column": weight.stride(2),
        "bias_sample": 0 if bias is None else batch_stride(bias),
        "omega": omega,
        "EPILOGUE": epilogue,
        "FEW_INPUTS": x.dtype == torch.float32 and x.shape[2] <= MAX_INPUTS,
        "PRECISION": configs.input_precision(weight.dtype),
    }
    programs = batch * cdiv(points, blocks["BLOCK_M"]) * cdiv(outputs, blocks["BLOCK_N"])
    return Launch(siren_layer_kernel, programs, arguments | blocks, **options)


def weight_gradient(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Launch]:
    """Return partial sums over S spans of points: of gradient^T x [N, S, O, I] and of the gradient [N, S, O]."""
    batch, points, outputs = gradient.shape
    inputs = x.shape[2]
    blocks, options = configs.options("siren_weight_gradient", gradient.dtype, outputs, gradient.device)
    tiles = cdiv(outputs, blocks["BLOCK_M"]) * max(1, cdiv(inputs, blocks["BLOCK_N"]))
    splits, share = equal_splits(points, max(1, SUMMING_PROGRAMS // max(1, batch * tiles)), blocks["BLOCK_K"])
    weight_sums = gradient.new_empty(batch, splits, outputs, inputs, dtype=torch.float32)
    bias_sums = gradient.new_empty(batch, splits, outputs, dtype=torch.float32)
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
    programs = batch * splits * tiles
    kernel = siren_weight_gradient_kernel
    launch = Launch(kernel, programs, arguments | blocks, **options)
    return weight_sums, bias_sums, launch


def _products(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return weights in the type of the products; a weight that samples share is converted once."""
    return [(tensor[:1] if is_shared([tensor]) else tensor).to(dtype) for tensor in tensors]


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
    omega: float,
    first_omega: float,
    final_sine: bool,
    dtype: torch.dtype,
    kept: list[tuple[Tensor, Tensor | None]] | None = None,
) -> Tensor:
    """Return values [N, P, C]; arguments as in fused_inr::triton_siren. Append layers' outputs and slopes to `kept`."""
    batch, points = coords.shape[:2]
    x = _input(coords, dtype)
    for index, (weight, bias) in enumerate(zip(_products(weights, dtype), biases, strict=True)):
        last = index + 1 == len(weights)
        sines = final_sine or not last
        out = coords.new_empty(batch, points, weight.shape[1], dtype=torch.float32 if last else dtype)
        slopes = torch.empty_like(out) if sines and kept is not None else None
        epilogue = "sine" if sines else "linear"
        frequency = omega if index else first_omega
        if index == 0 and x.dtype == torch.float32:
            weight = weights[0]  # neither few inputs nor their weights are rounded
        launch = layer(x, weight, out, epilogue, bias=dense(bias), slopes=slopes, omega=frequency)
        run([launch], coords.device)
        if kept is not None:
            kept.append((out, slopes))
        x = out
    return x


def backward(
    gradient: Tensor,
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    omega: float,
    first_omega: float,
    final_sine: bool,
    dtype: torch.dtype,
    with_coords: bool,
) -> list[Tensor | None]:
    """Return gradients of the coordinates (None unless `with_coords`), then of the weights, then of the biases."""
    kept: list[tuple[Tensor, Tensor | None]] = []
    forward(coords, weights, biases, omega, first_omega, final_sine, dtype, kept)
    slopes = kept[-1][1]
    gradient = gradient if slopes is None else gradient * slopes
    last_bias_gradient = gradient.sum(1)  # before the gradient is rounded
    gradient = gradient.to(dtype).contiguous()
    products = _products(weights, dtype)
    weight_gradients, bias_gradients = [], []
    coords_gradient = coords.new_empty(coords.shape) if with_coords else None
    for index in reversed(range(len(weights))):
        kept.pop()
        x = kept[-1][0] if index else _input(coords, dtype)
        weight_sums, bias_sums, launch = weight_gradient(gradient, x)
        run([launch], coords.device)
        weight_gradients.append(weight_sums.sum(1))
        bias_gradients.append(bias_sums.sum(1))
        if index:
            out = torch.empty_like(x)
            run([layer(gradient, products[index].mT, out, "slope", slopes=kept[-1][1])], coords.device)
            gradient = out
        elif coords_gradient is not None:
            run([layer(gradient, products[0].mT, coords_gradient, "linear")], coords.device)
    return [coords_gradient, *reversed(weight_gradients), *reversed(bias_gradients[1:]), last_bias_gradient]
