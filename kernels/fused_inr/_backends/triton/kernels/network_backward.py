"""Gradients of whole networks in one kernel; see `network_forward` for the values.

A program loops over tiles of points of one sample. For each tile it recomputes the layers from the first to the last,
then the gradients back to the first. Only what the activations and their slopes follow from is stored in between, in a
buffer per program that the next tile reuses: with few programs it is small enough to stay in the cache. This state is
float32 with float32 products. With 16-bit products it also takes 16 bits:

- of a sine, its phase reduced to -pi ... pi, as a fixed-point number with an error of 5e-5, below the rounding of its
  sine;
- of other activations, z = W x + b in the type of the products, to which the naive path rounds W x as well;
- of finer, z in float32, because the angle grows with the square of z.

Each program likewise accumulates the sums over its tiles in a buffer of its own. PyTorch adds the sums of a sample's
programs, bit for bit the same every time.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.triton.kernels import configs, network_forward
from fused_inr._backends.triton.kernels.launch import Launch, cdiv
from fused_inr._backends.triton.kernels.network_activations import activation, slope
from fused_inr._backends.triton.kernels.network_forward import (
    Network,
    computed_once,
    first_sums,
    product,
    uniform_arguments,
)
from fused_inr._backends.triton.kernels.sines import cosine, reduced, sine
from fused_inr.primitives.mlp import UniformLayers

# Adding this to a number below 64 makes the last 16 bits of the float32 result count multiples of 2^-16.
_FIXED = tl.constexpr(192.0)
_FIXED_BITS = tl.constexpr(0x43400000)


@triton.jit
def state_of(z, omega, ACTIVATION: tl.constexpr):
    """Return the reduced phase of a sine, or z itself for other activations."""
    if ACTIVATION == "sine":
        return reduced(omega * z)
    else:
        return z


@triton.jit
def value_of_state(state, omega, ACTIVATION: tl.constexpr):
    """Return the activation from a result of `state_of`."""
    if ACTIVATION == "sine":
        return sine(state)
    else:
        return activation(state, omega, ACTIVATION)


@triton.jit
def slope_of_state(state, omega, ACTIVATION: tl.constexpr):
    """Return the derivative of the activation with respect to z from a result of `state_of`."""
    if ACTIVATION == "sine":
        return omega * cosine(state)
    else:
        return slope(state, omega, ACTIVATION)


@triton.jit
def stored_state(state, dtype: tl.constexpr):
    """Convert a state to `dtype`; int16 holds a phase in -pi ... pi, in units of 2^-16 turns."""
    if dtype == tl.int16:
        turns = state * 0.15915494309189535 + _FIXED
        return turns.to(tl.int32, bitcast=True).to(tl.int16)
    else:
        return state.to(dtype)


@triton.jit
def loaded_state(stored):
    """Convert a result of `stored_state` back to a float32 state."""
    if stored.dtype == tl.int16:
        turns = (stored.to(tl.int32) + _FIXED_BITS).to(tl.float32, bitcast=True)
        return (turns - _FIXED) * 6.283185307179586
    else:
        return stored.to(tl.float32)


@triton.jit
def omega_of(layer, omega, first_omega):
    """Return the frequency of a layer."""
    return tl.where(layer == 0, first_omega, omega)


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
def network_backward_kernel(
    gradient,
    coords,
    rows,
    hidden,
    states,
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
    ACTIVATION: tl.constexpr,
    FINAL: tl.constexpr,
    PRECISION: tl.constexpr,
    W: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Compute gradients for every `splits`-th tile of BLOCK_M points of a sample; inputs are those of a `Network`.

    of_coords [N, points, inputs] may be None; otherwise it receives its final values. of_rows [N, splits, R + layers W,
    W] receives the sums over a program's tiles: for the R rows, then for `hidden`. states is [N, splits, layers + 1,
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
    states += program * (layers + 1) * (BLOCK_M * W)
    cell = row[:, None] * W + unit[None, :]

    for turn in tl.range(0, tl.cdiv(tl.cdiv(points, BLOCK_M) - split, splits), disable_licm=True):
        began = turn > 0
        point = (split + turn * splits).to(tl.int64) * BLOCK_M  # the first point of the tile
        inside = row < points - point
        coordinates = coords + point * inputs + row * inputs
        state = state_of(first_sums(coordinates, inside, rows, inputs, BLOCK_M, W), first_omega, ACTIVATION)
        tl.store(states + cell, stored_state(state, states.dtype.element_ty))
        for layer in tl.range(0, layers, disable_licm=True):
            w = tl.load(hidden + layer * (W * W) + unit[:, None] + unit[None, :] * W)  # transposed: [inputs, outputs]
            bias = tl.load(rows + (inputs + layer + 1) * W + unit)
            x = value_of_state(state, omega_of(layer, omega, first_omega), ACTIVATION).to(dtype)
            sums = product(x, w, tl.zeros([BLOCK_M, W], tl.float32) + bias[None, :], PRECISION)
            state = state_of(sums, omega, ACTIVATION)
            tl.store(states + (layer + 1) * (BLOCK_M * W) + cell, stored_state(state, states.dtype.element_ty))

        x = value_of_state(state, omega_of(layers, omega, first_omega), ACTIVATION)
        d = 0.0 * x  # zeros, with the thread layout of the values added to them
        from_ = gradient + (sample * points + point) * channels + row * channels
        for channel in tl.range(0, channels, disable_licm=True):
            of_output = computed_once(tl.load(from_ + channel, inside, 0.0))
            place = (last_row + channel) * W + unit
            w = tl.load(rows + place)[None, :]
            if FINAL:
                output = tl.sum(x * w, 1) + tl.load(rows + (last_row + channels) * W + channel)
                of_output *= slope(output, omega, ACTIVATION)
            add_to(of_rows + (last_row + channels) * W + channel, tl.sum(of_output, 0), began)
            add_to(of_rows + place, tl.sum(of_output[:, None] * x, 0), began)
            d += of_output[:, None] * w

        # Threads of the program read what other threads have stored.
        tl.debug_barrier()
        for back in tl.range(0, layers, disable_licm=True):
            layer = layers - 1 - back
            # The state is reloaded rather than kept: the products in between need the registers.
            state = loaded_state(tl.load(states + (layer + 1) * (BLOCK_M * W) + cell))
            d *= slope_of_state(state, omega, ACTIVATION)
            add_to(of_rows + (inputs + layer + 1) * W + unit, tl.sum(d, 0), began)
            before = loaded_state(tl.load(states + layer * (BLOCK_M * W) + cell))
            before = value_of_state(before, omega_of(layer, omega, first_omega), ACTIVATION).to(dtype)
            square = layer * (W * W)
            d = back_through(d.to(dtype), before, hidden + square, of_hidden + square, began, W, PRECISION)

        d *= slope_of_state(loaded_state(tl.load(states + cell)), first_omega, ACTIVATION)
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
    """Return whether the kernel supports a network of these sizes; others run layer by layer (`network_layers`)."""
    return network_forward.fits(coords, weights, dtype) and network_forward.has_room(
        "network_backward", coords, weights, dtype
    )


def state_type(activation: str, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which states are stored, for products of a type."""
    if activation == "sine":
        return torch.float32 if dtype == torch.float32 else torch.int16
    return torch.float32 if activation == "finer" else dtype


def backward(
    gradient: Tensor,
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    uniform: UniformLayers,
    dtype: torch.dtype,
    with_coords: bool,
) -> tuple[Tensor | None, Tensor, list[Launch]]:
    """Return gradients [N, P, K] of the coordinates or None, and sums [N, S, R + L W, W] for `unpacked`.

    The launches fill both. Tensors as in fused_inr::triton_mlp_backward, for a network that `fits`; N and P are at
    least 1.
    """
    batch, points, inputs = coords.shape
    network = Network.of(coords, weights, biases, dtype)
    width, layers = network.width, network.layers
    constants, options = configs.options("network_backward", dtype, width, coords.device)
    block = constants["BLOCK_M"]
    splits = min(max(1, constants["programs"] // batch), cdiv(points, block))
    coords_gradient = gradient.new_empty(batch, points, inputs) if with_coords else None
    row_gradients = gradient.new_empty(batch, splits, network.rows.shape[1] + layers * width, width)
    stored = state_type(uniform.activation, dtype)
    arguments = network.arguments() | uniform_arguments(uniform)
    arguments |= {
        "gradient": gradient.contiguous(),
        "states": gradient.new_empty(batch, splits, layers + 1, block, width, dtype=stored),
        "of_coords": coords_gradient,
        "of_rows": row_gradients,
        "splits": splits,
        "PRECISION": configs.input_precision(dtype),
        "W": width,
        "BLOCK_M": block,
    }
    launch = Launch(network_backward_kernel, batch * splits, arguments, **options)
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
