"""Whole networks in one kernel: a program takes a tile of points of one sample from the first layer to the last.

A tile's activations never leave the chip. A program reads the parameters of one layer at a time; programs of the same
sample run side by side, so all but the first find the parameters in the cache. The first layer, which has few inputs,
and every activation are in float32; the other products are in the compute type, accumulated in float32.

The layers are uniform (`primitives.mlp.UniformLayers`): one activation, no skip connections, and at most the last one
linear. Other networks run layer by layer (`network_layers`).

Each call packs the weights of the hidden layers into one tensor [N, L, W, W] of the compute type, padded with rows and
columns of zeros to the width W of the kernel. Padding units are multiplied by 0, so results differ from those of the
unpadded network only if an activation is infinite: they then become NaN. Packing copies a sample's weights once,
whereas with pointers to the float32 weights every program would read twice the bytes.

Float32 products where PyTorch does not allow TF32: NVIDIA GPUs use three TF32 products of the high and low parts of
both operands, which run on matrix instructions instead of multiply-adds and leave an error of 2^-22 each; AMD GPUs have
matrix instructions with float32 operands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.language.target_info import is_cuda

from fused_inr._backends.triton.kernels import configs
from fused_inr._backends.triton.kernels.launch import Launch, cdiv, power_of_two
from fused_inr._backends.triton.kernels.network_activations import activation
from fused_inr._backends.triton.kernels.sines import INTERPRETED
from fused_inr.primitives.memory_format import batch_stride
from fused_inr.primitives.mlp import UniformLayers

MAX_CHANNELS = 16
"""Outputs of the kernel's last layer, the fewest columns of a matrix instruction."""
MAX_INPUTS = 16
"""Inputs of the kernel's first layer, which are multiplied and added one by one."""


@triton.jit
def product(a, b, sums, PRECISION: tl.constexpr):
    """Return sums + a b; float32 operands are multiplied in float32 precision ("ieee") or in TF32 ("tf32")."""
    if INTERPRETED:  # the interpreter multiplies the bit patterns of bfloat16 operands
        return tl.dot(a.to(tl.float32), b.to(tl.float32), sums)
    elif PRECISION == "ieee" and a.dtype == tl.float32 and is_cuda():
        return tl.dot(a, b, sums, input_precision="tf32x3")
    else:
        return tl.dot(a, b, sums, input_precision=PRECISION)


@triton.jit
def computed_once(x):
    """Return x through an opaque instruction, so that the compiler does not recompute it in every thread."""
    if not INTERPRETED:
        move: tl.constexpr = "mov.b32 $0, $1;" if is_cuda() else "v_mov_b32 $0, $1"
        constraints: tl.constexpr = "=r,r" if is_cuda() else "=v,v"
        x = tl.inline_asm_elementwise(
            move, constraints, [x], x.dtype, is_pure=False, pack=4 // (x.dtype.primitive_bitwidth // 8)
        )
    return x


@triton.jit
def first_sums(coordinates, inside, rows, inputs, M: tl.constexpr, W: tl.constexpr):
    """Return W x + b [M, W] of the first layer in float32; `coordinates` [M] are pointers to first coordinates."""
    unit = tl.arange(0, W)
    sums = tl.zeros([M, W], tl.float32) + tl.load(rows + inputs * W + unit)[None, :]
    for axis in tl.range(0, inputs, disable_licm=True):
        x = tl.load(coordinates + axis, inside, 0.0)
        sums += x[:, None] * tl.load(rows + axis * W + unit)[None, :]
    return sums


@triton.jit
def network_kernel(
    coords,
    rows,
    hidden,
    out,
    points,
    inputs,
    layers,
    channels,
    coords_sample,
    rows_sample,
    hidden_sample,
    omega,
    first_omega,
    ACTIVATION: tl.constexpr,
    FINAL: tl.constexpr,
    PRECISION: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Write out [N, points, channels] for a tile of BLOCK_M points; the other arguments are those of `Network`."""
    dtype = hidden.dtype.element_ty
    tiles = tl.cdiv(points, BLOCK_M)
    program = tl.program_id(0)
    sample = (program // tiles).to(tl.int64)
    point = (program % tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    unit = tl.arange(0, W)
    inside = point < points
    rows += sample * rows_sample
    coordinates = coords + sample * coords_sample + point * inputs
    sums = first_sums(coordinates, inside, rows, inputs, BLOCK_M, W)
    x = activation(sums, first_omega, ACTIVATION).to(dtype)
    bias = rows + inputs * W + unit
    weight = hidden + sample * hidden_sample + unit[:, None] + unit[None, :] * W  # transposed: [inputs, outputs]
    for _ in tl.range(0, layers, disable_licm=True):
        w = tl.load(weight)
        bias += W
        sums = product(x, w, tl.zeros([BLOCK_M, W], tl.float32) + tl.load(bias)[None, :], PRECISION)
        x = activation(sums, omega, ACTIVATION).to(dtype)
        weight += W * W
    last = rows + (inputs + layers + 1) * W
    channel = tl.arange(0, C)
    valid = channel < channels
    w = tl.load(last + unit[:, None] + channel[None, :] * W, valid[None, :], 0.0)
    sums = tl.zeros([BLOCK_M, C], tl.float32) + tl.load(last + channels * W + channel, valid, 0.0)[None, :]
    y = product(x, w.to(dtype), sums, PRECISION)
    if FINAL:
        y = activation(y, omega, ACTIVATION)
    to = out + (sample * points + point)[:, None] * channels + channel[None, :]
    tl.store(to, y, inside[:, None] & valid[None, :])


def is_shared(tensors: Sequence[Tensor]) -> bool:
    """Return whether N samples share each of these tensors [N, ...]."""
    return all(tensor.shape[0] == 1 or tensor.stride(0) == 0 for tensor in tensors)


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor [N, ...] with contiguous samples, copied only if necessary."""
    one = tensor[:1] if is_shared([tensor]) else tensor
    return tensor if tensor.shape[0] and tensor[0].is_contiguous() else one.contiguous()


def _padded(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """Return matrices [N, O, I] with rows and columns of zeros added."""
    if tensor.shape[1:] == (rows, columns):
        return tensor
    return F.pad(tensor, (0, columns - tensor.shape[2], 0, rows - tensor.shape[1]))


def _one_if_shared(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return tensors [N, ...], or the first sample of each if all samples share all of them."""
    return [tensor[:1] for tensor in tensors] if is_shared(tensors) else tensors


@dataclass(frozen=True)
class Network:
    """A batch of networks as the kernels take it; tensors that all samples share have N = 1.

    Attributes:
        coords: [N, P, K], possibly expanded over the samples.
        rows: [N, K + L + 1 + C + 1, W] float32: columns of the first weight, biases except the last, last weight, last
            bias.
        hidden: [N, L, W, W], weights of the layers in between, in the type of the products.
        channels: C, the outputs of the last layer.
    """

    coords: Tensor
    rows: Tensor
    hidden: Tensor
    channels: int

    @classmethod
    def of(cls, coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], dtype: torch.dtype) -> "Network":
        """Pack float32 coords [N, P, K], weights [N, O, I] and biases [N, O] of at least two layers."""
        width, inputs, channels = kernel_width(weights), weights[0].shape[2], weights[-1].shape[1]
        between = _one_if_shared(weights[1:-1])
        if between:
            hidden = torch.stack([_padded(weight, width, width) for weight in between], 1).to(dtype)
        else:
            hidden = coords.new_empty(1, 0, width, width, dtype=dtype)
        first, last, *others = _one_if_shared([weights[0], weights[-1], *biases])
        parts = [_padded(first.mT, inputs, width)]
        parts += [_padded(bias[:, None], 1, width) for bias in others[:-1]]
        parts += [_padded(last, channels, width), _padded(others[-1][:, None], 1, width)]
        return cls(dense(coords), torch.cat(parts, 1), hidden, channels)

    @property
    def layers(self) -> int:
        """Number of hidden layers after the first, L."""
        return self.hidden.shape[1]

    @property
    def width(self) -> int:
        """Width of the kernel, W."""
        return self.hidden.shape[2]

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the kernels for the network's tensors, sizes and strides."""
        points, inputs = self.coords.shape[1:]
        return {
            "coords": self.coords,
            "rows": self.rows,
            "hidden": self.hidden,
            "points": points,
            "inputs": inputs,
            "layers": self.layers,
            "channels": self.channels,
            "coords_sample": batch_stride(self.coords),
            "rows_sample": batch_stride(self.rows),
            "hidden_sample": batch_stride(self.hidden),
        }


def kernel_width(weights: Sequence[Tensor]) -> int:
    """Return the width W that the kernels pad every hidden layer to."""
    return max(16, power_of_two(max((weight.shape[1] for weight in weights[:-1]), default=0)))


def has_room(kernel: str, coords: Tensor, weights: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Return whether the table has an entry for a network's width; wider ones need too many registers."""
    return configs.fitting(kernel, dtype, kernel_width(weights), coords.device) is not None


def fits(coords: Tensor, weights: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Return whether the kernel supports a network of these sizes; others run layer by layer (`network_layers`)."""
    small = coords.shape[2] <= MAX_INPUTS and weights[-1].shape[1] <= MAX_CHANNELS
    return len(weights) > 1 and small and has_room("network", coords, weights, dtype)


def uniform_arguments(uniform: UniformLayers) -> dict[str, Any]:
    """Return the arguments of the kernels for the activation."""
    return {
        "omega": uniform.omega,
        "first_omega": uniform.first_omega,
        "ACTIVATION": uniform.activation,
        "FINAL": uniform.final,
    }


def forward(
    coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], uniform: UniformLayers, dtype: torch.dtype
) -> tuple[Tensor, list[Launch]]:
    """Return values [N, P, C] of a network that `fits`, filled by the launches; tensors as in the op."""
    batch, points = coords.shape[:2]
    out = coords.new_empty(batch, points, weights[-1].shape[1])
    if not out.numel():
        return out, []
    network = Network.of(coords, weights, biases, dtype)
    blocks, options = configs.options("network", dtype, network.width, coords.device)
    constants = {"PRECISION": configs.input_precision(dtype), "W": network.width, "C": MAX_CHANNELS}
    arguments = network.arguments() | uniform_arguments(uniform) | {"out": out} | constants | blocks
    programs = batch * cdiv(points, blocks["BLOCK_M"])
    return out, [Launch(network_kernel, programs, arguments, **options)]
