"""SIRENs on the CUDA kernels, as ops that torch.compile can trace."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_inr._backends.cuda import layout, native
from fused_inr._backends.splits import splits_to_fill
from fused_inr.primitives.memory_format import batch_stride
from fused_inr.primitives.mlp import as_siren, gradients_like, register, values_like
from fused_inr.primitives.transforms import may_need_gradients

PREFERRED = {torch.bfloat16: 128, torch.float16: 128, torch.float32: 0}
"""Widest hidden layer, by compute type, up to which these kernels take precedence over those of Triton.

In half precision the activations stay in the registers of the matrix instructions, which Triton cannot express. In
float32 the three TF32 products for each float32 product dominate, and Triton uses the same. Neither has been measured.
"""


class Limits(NamedTuple):
    """The hardware limits of a device."""

    capability: tuple[int, int]
    shared: int  # bytes of shared memory available to a block
    processors: int


HOST = Limits((9, 0), 227 * 1024, 3)
"""Limits when the library runs on the CPU, as in tests: the shared memory of an H100, and few processors."""


def limits(device: int | None) -> Limits:
    """Return the limits of a CUDA device; None is the current device, -1 the CPU that tests run the library on."""
    if device == -1:
        return HOST
    properties = torch.cuda.get_device_properties(torch.cuda.current_device() if device is None else device)
    shared = getattr(properties, "shared_memory_per_block_optin", 0)  # only GPUs of other vendors lack it
    return Limits((properties.major, properties.minor), shared, properties.multi_processor_count)


def mark_constant(function: Callable) -> None:
    """Let torch.compile treat the results of a function as constants.

    This is what torch.compiler.assume_constant_result does, without importing the compiler, which takes a second.
    """
    vars(function)["_dynamo_marked_constant"] = True


mark_constant(limits)


class _Call:
    """The arguments of one call of the library, and the tensors that keep its pointers valid."""

    def __init__(
        self,
        coords: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        activations: Sequence[str],
        omegas: Sequence[float],
        skips: Sequence[bool],
        dtype: torch.dtype,
    ) -> None:
        self.library = native.load()[0]
        on_host = bool(self.library and self.library.fused_inr_runs_on_host())
        if self.library is None or coords.is_cuda == on_host:
            where = "the CPU" if on_host else "CUDA devices"
            reason = native.load()[1] if self.library is None else f"this library runs on {where}"
            raise RuntimeError(f"The CUDA kernels take no tensors on {coords.device}: {reason}.")
        self.device = -1 if on_host else coords.device.index
        self.shape = layout.shape_of(weights, dtype.itemsize)
        self._kept: list[Tensor] = []
        coords = self.kept(coords if coords.stride()[1:] == (coords.shape[2], 1) else coords.contiguous())
        layers = []
        for weight, bias, activation, omega in zip(weights, biases, activations, omegas, strict=True):
            weight, bias = self.kept(weight), self.kept(bias)
            layers.append(
                native.LayerStruct(
                    weight=weight.data_ptr(),
                    weight_sample=batch_stride(weight),
                    weight_row=weight.stride(1),
                    weight_column=weight.stride(2),
                    bias=bias.data_ptr(),
                    bias_sample=batch_stride(bias),
                    bias_row=bias.stride(1),
                    inputs=weight.shape[2],
                    outputs=weight.shape[1],
                    omega=omega,
                    sine=activation == "sine",
                )
            )
        shared = all(layer.weight_sample == layer.bias_sample == 0 for layer in layers)
        self.siren = native.SirenStruct(
            layers=(native.LayerStruct * native.MAX_LAYERS)(*layers),
            num_layers=len(layers),
            width=self.shape.width,
            type=native.TYPES[dtype],
            samples=coords.shape[0],
            packed_samples=1 if shared else coords.shape[0],
            points=coords.shape[1],
            coords=coords.data_ptr(),
            coords_sample=batch_stride(coords),
            device=max(0, self.device),
        )
        packed = coords.new_empty(self.siren.packed_samples * self.shape.packed, dtype=torch.uint8)
        self.siren.packed = self.kept(packed).data_ptr()

    def kept(self, tensor: Tensor) -> Tensor:
        """Keep a tensor alive as long as the call, and return it."""
        self._kept.append(tensor)
        return tensor

    def run(self, name: str) -> None:
        """Call an entry point of the library on the current stream of the device."""
        function = getattr(self.library, name)
        if self.device < 0:
            return native.run(function, self.siren, 0)
        with torch.cuda.device(self.device):
            native.run(function, self.siren, torch.cuda.current_stream().cuda_stream)

    def forward(self, out: Tensor) -> None:
        """Write the values to `out`."""
        device, shape, siren = limits(self.device), self.shape, self.siren
        siren.warps = shape.forward_warps(device.shared)
        tiles = -(-siren.points // (shape.rows * siren.warps))
        blocks_per_processor = min(shape.max_blocks, device.shared // shape.forward_shared(siren.warps))
        siren.blocks = splits_to_fill(blocks_per_processor * device.processors, siren.samples, tiles)
        siren.out = out.data_ptr()
        self.run("fused_inr_siren_forward")

    def backward(self, gradient: Tensor, gradients: Sequence[Tensor], with_coords: bool) -> None:
        """Write the gradients of the coordinates (if `with_coords`), the weights and the biases to `gradients`."""
        device, shape, siren = limits(self.device), self.shape, self.siren
        warps = shape.backward_warps(device.shared)
        if warps is None:
            raise RuntimeError(
                f"The gradients of this network take {shape.backward_shared(1)} bytes of shared memory, and the device "
                f"has {device.shared} for a block: compute them in half precision, or on another backend."
            )
        siren.warps = warps
        tiles = -(-siren.points // (16 * warps))
        concurrent_blocks = device.shared // shape.backward_shared(warps) * device.processors
        siren.blocks = splits_to_fill(concurrent_blocks, siren.samples, tiles)
        sums = self.library.fused_inr_siren_partials(siren)
        siren.partials = self.kept(gradient.new_empty(siren.samples * siren.blocks * sums)).data_ptr()
        siren.gradient = self.kept(gradient.contiguous()).data_ptr()
        siren.coords_gradient = gradients[0].data_ptr() if with_coords else None
        for index in range(siren.num_layers):
            siren.layers[index].weight_gradient = gradients[1 + index].data_ptr()
            siren.layers[index].bias_gradient = gradients[1 + siren.num_layers + index].data_ptr()
        self.run("fused_inr_siren_backward")


def _values(coords: Tensor, weights: list[Tensor], *others: Any) -> Tensor:
    out = values_like(coords, weights)
    _Call(coords, weights, *others).forward(out)
    return out


def _gradients(
    gradient: Tensor, coords: Tensor, weights: list[Tensor], biases: list[Tensor], *arguments: Any
) -> list[Tensor]:
    *options, with_coords = arguments
    gradients = gradients_like(coords, weights, biases, with_coords)
    _Call(coords, weights, biases, *options).backward(gradient, gradients, with_coords)
    return gradients


mlp = register("cuda", _values, _gradients)


def supports(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activations: list[str],
    omegas: list[float],
    skips: list[bool],
    dtype: torch.dtype,
) -> tuple[bool, str]:
    """Return whether the kernels support a call, and if not, why; arguments as in `reference.mlp`."""
    if as_siren(activations, omegas, skips) is None:
        return False, "it evaluates only sines and a linear last layer"
    if coords.dtype != torch.float32:
        return False, f"it computes in float32, bfloat16 or float16, not in {coords.dtype}"
    needs_gradients = may_need_gradients((coords, *weights, *biases))
    shared = limits(coords.device.index if coords.is_cuda else -1).shared
    reason = layout.refusal(weights, dtype.itemsize, shared, needs_gradients)
    return reason is None, reason or ""


def preferred(coords: Tensor, weights: list[Tensor], *options: Any) -> bool:
    """Return whether the kernels take precedence over those of Triton for a call that they support."""
    return max(weight.shape[1] for weight in weights[:-1]) <= PREFERRED[options[-1]]
