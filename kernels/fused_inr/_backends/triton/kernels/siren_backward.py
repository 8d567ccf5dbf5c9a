"""Gradients of whole SIRENs in one kernel; see `siren_forward` for the values.

A program loops over tiles of points of one sample. For each tile it recomputes the layers from the first to the last,
then the gradients back to the first. Only the phases of the sines are stored in between, reduced to -pi ... pi, in a
buffer per program that the next tile reuses: with few programs it is small enough to stay in the cache. With 16-bit
products a phase also takes 16 bits, as a fixed-point number with an error of 5e-5, below the rounding of its sine;
otherwise it is float32.

Each program likewise accumulates the sums over its tiles in a buffer of its own. PyTorch adds the sums of a sample's
programs, bit for bit the same every time.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.triton.kernels import configs, siren_forward
from fused_inr._backends.triton.kernels.launch import Launch, cdiv
from fused_inr._backends.triton.kernels.sines import cosine, reduced, sine
from fused_inr._backends.triton.kernels.siren_forward import Network, computed_once, first_sums, product

# Adding this to a number below 64 makes the last 16 bits of the float32 result count multiples of 2^-16.
_FIXED = tl.constexpr(192.0)
_FIXED_BITS = tl.constexpr(0x43400000)


@triton.jit
def stored_phase(phase, dtype: tl.constexpr):
    """Return a phase in -pi ... pi as int16, in units of 2^-16 turns, or as float32."""
    if dtype == tl.int16:
        turns = phase * 0.15915494309189535 + _FIXED
        return turns.to(tl.int32, bitcast=True).to(tl.int16)
    else:
        return phase


@triton.jit
def loaded_phase(stored):
    """Return the phase of a value of `stored_phase`."""
    if stored.dtype == tl.int16:
        turns = (stored.to(tl.int32) + _FIXED_BITS).to(tl.float32, bitcast=True)
        return (turns - _FIXED) * 6.283185307179586
    else:
        return stored


@triton.jit
def add_to(pointers, sums, began):
    """Add `sums` to those that the program stored for earlier tiles, if it `began` before this tile."""
    tl.store(pointers, sums + tl.load(pointers, began, 0.0))


@triton.jit
def back_through(d, x, weight, of_weight, began, W: tl.constexpr, PRECISION: tl.constexpr):
    """Add d^T x to of_weight [W, W] and return d W, for the tiles d and x [M, W]."""
    place = tl.arange(0, W)[:, None] * W + tl.arange(0, W)[None, :]
    sums = tl.load(of_weight + place, began, 0.0)
    tl.store(of_weight + place, product(tl.trans(d), computed_once(x), sums, PRECISION))
    return product(d, tl.load(weight + place), tl.zeros(d.shape, tl.float32), PRECISION)


@triton.jit
def siren_backward_kernel(
    gradient,
    coords,
    rows,
    hidden,
    phases,
    of_coords,
    of_rows,
    points,
    inputs,
    layers,
    channels,
    splits,
    coords_sample,
    rows_sample,
    hidden_sample,
    omega,
    first_omega,
    FINAL_SINE: tl.constexpr,
    PRECISION: tl.constexpr,
    W: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Compute gradients for every `splits`-th tile of BLOCK_M points of a sample; inputs as in `siren_forward.Network`.

    of_coords [N, points, inputs] may be None; otherwise it receives its final values. of_rows [N, splits, R + layers W,
    W] receives the sums over a program's tiles: for the R rows, then for `hidden`. phases is [N, splits, layers + 1,
    BLOCK_M, W].
    """
    dtype = hidden.dtype.element_ty
    split = tl.program_id(0) % splits
    program = tl.program_id(0).to(tl.int64)
    sample = program // splits
    unit, row = tl.arange(0, W), tl.arange(0, BLOCK_M)
    last_row = inputs + layers + 1
    rows += sample * rows_sample
    hidden += sample * hidden_sample
    coords += sample * coords_sample
    of_rows += program * (last_row + channels + 1 + layers * W) * W
    of_hidden = of_rows + (last_row + channels + 1) * W
    phases += program * (layers + 1) * (BLOCK_M * W)
    cell = row[:, None] * W + unit[None, :]

    for turn in tl.range(0, tl.cdiv(tl.cdiv(points, BLOCK_M) - split, splits), disable_licm=True):
        began = turn > 0
        point = (split + turn * splits).to(tl.int64) * BLOCK_M  # the first point of the tile
        inside = row < points - point
        coordinates = coords + point * inputs + row * inputs
        phase = reduced(first_omega * first_sums(coordinates, inside, rows, inputs, BLOCK_M, W))
        tl.store(phases + cell, stored_phase(phase, phases.dtype.element_ty))
        for layer in tl.range(0, layers, disable_licm=True):
            w = tl.load(hidden + layer * (W * W) + unit[:, None] + unit[None, :] * W)  # transposed: [inputs, outputs]
            bias = tl.load(rows + (inputs + layer + 1) * W + unit)
            sums = product(sine(phase).to(dtype), w, tl.zeros([BLOCK_M, W], tl.float32) + bias[None, :], PRECISION)
            phase = reduced(omega * sums)
            tl.store(phases + (layer + 1) * (BLOCK_M * W) + cell, stored_phase(phase, phases.dtype.element_ty))

        x = sine(phase)
        d = 0.0 * phase  # zeros, with the thread layout of the values added to them
        from_ = gradient + (sample * points + point) * channels + row * channels
        for channel in tl.range(0, channels, disable_licm=True):
            of_output = computed_once(tl.load(from_ + channel, inside, 0.0))
            place = (last_row + channel) * W + unit
            w = tl.load(rows + place)[None, :]
            if FINAL_SINE:
                output = tl.sum(x * w, 1) + tl.load(rows + (last_row + channels) * W + channel)
                of_output *= omega * cosine(omega * output)
            add_to(of_rows + (last_row + channels) * W + channel, tl.sum(of_output, 0), began)
            add_to(of_rows + place, tl.sum(of_output[:, None] * x, 0), began)
            d += of_output[:, None] * w

        # Threads of the program read what other threads have stored.
        tl.debug_barrier()
        for back in tl.range(0, layers, disable_licm=True):
            layer = layers - 1 - back
            # The phase is reloaded rather than kept: the products in between need the registers.
            d *= omega * cosine(loaded_phase(tl.load(phases + (layer + 1) * (BLOCK_M * W) + cell)))
            add_to(of_rows + (inputs + layer + 1) * W + unit, tl.sum(d, 0), began)
            before = loaded_phase(tl.load(phases + layer * (BLOCK_M * W) + cell))
            square = layer * (W * W)
            d = back_through(
                d.to(dtype), sine(before).to(dtype), hidden + square, of_hidden + square, began, W, PRECISION
            )

        d *= first_omega * cosine(loaded_phase(tl.load(phases + cell)))
        add_to(of_rows + inputs * W + unit, tl.sum(d, 0), began)
        for axis in tl.range(0, inputs, disable_licm=True):
            coordinate = computed_once(tl.load(coordinates + axis, inside, 0.0))
            add_to(of_rows + axis * W + unit, tl.sum(d * coordinate[:, None], 0), began)
            if of_coords is not None:
                w = tl.load(rows + axis * W + unit)
                to = of_coords + (sample * points + point) * inputs + axis + row * inputs
                tl.store(to, tl.sum(d * w[None, :], 1), inside)
        tl.debug_barrier()


def fits(coords: Tensor, weights: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Return whether the kernel supports a network; others run layer by layer (`siren_layers`)."""
    return siren_forward.fits(coords, weights, dtype) and siren_forward.has_room(
        "siren_backward", coords, weights, dtype
    )


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
) -> tuple[Tensor | None, Tensor, list[Launch]]:
    """Return gradients [N, P, K] of the coordinates or None, and sums [N, S, R + L W, W] for `unpacked`.

    The launches fill both. Arguments as in fused_inr::triton_siren_backward, for a network that `siren_forward.fits`;
    N and P are at least 1.
    """
    batch, points, inputs = coords.shape
    network = Network.of(coords, weights, biases, dtype)
    width, layers = network.width, network.layers
    constants, options = configs.options("siren_backward", dtype, width, coords.device)
    block = constants["BLOCK_M"]
    splits = min(max(1, constants["programs"] // batch), cdiv(points, block))
    coords_gradient = gradient.new_empty(batch, points, inputs) if with_coords else None
    row_gradients = gradient.new_empty(batch, splits, network.rows.shape[1] + layers * width, width)
    stored = torch.float32 if dtype == torch.float32 else torch.int16
    arguments = network.arguments() | {
        "gradient": gradient.contiguous(),
        "phases": gradient.new_empty(batch, splits, layers + 1, block, width, dtype=stored),
        "of_coords": coords_gradient,
        "of_rows": row_gradients,
        "splits": splits,
        "omega": omega,
        "first_omega": first_omega,
        "FINAL_SINE": final_sine,
        "PRECISION": configs.input_precision(dtype),
        "W": width,
        "BLOCK_M": block,
    }
    launch = Launch(siren_backward_kernel, batch * splits, arguments, **options)
    return coords_gradient, row_gradients, [launch]


def unpacked(row_gradients: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Return gradients of the weights, then of the biases, from the sums that `backward` returned."""
    summed = row_gradients.sum(1)
    inputs, channels, width = weights[0].shape[2], weights[-1].shape[1], summed.shape[2]
    layers = len(weights) - 2
    sizes = [inputs, layers + 1, channels, 1, layers * width]
    first, other_biases, last, last_bias, hidden = summed.split(sizes, 1)
    padded_weights = [first.mT, *hidden.unflatten(1, (layers, width)).unbind(1), last]
    padded_biases = [*other_biases.unbind(1), last_bias[:, 0]]
    gradients = [
        padded[:, : weight.shape[1], : weight.shape[2]] for padded, weight in zip(padded_weights, weights, strict=True)
    ]
    gradients += [padded[:, : bias.shape[1]] for padded, bias in zip(padded_biases, biases, strict=True)]
    # Copies, because no two results of an op may share memory.
    return [gradient.clone(memory_format=torch.contiguous_format) for gradient in gradients]
