"""The CUDA backend: whole SIRENs in one kernel, with the weights in shared memory and activations in registers.

`csrc/cuda` holds the kernels, built ahead of time by nvcc. `python -m fused_inr.tools.cuda` compiles them for GPUs
that need not be there and prints what each needs of one.
"""

import functools

import torch
from torch import Tensor

from fused_inr._backends.cuda import layout, native, nvcc, siren
from fused_inr._backends.implementation import Implementation

PREFERRED = {torch.bfloat16: 128, torch.float16: 128, torch.float32: 0}
"""Widest hidden layers of SIRENs that these kernels serve unasked, by compute type; Triton's serve the others.

In half precision the activations stay in the registers of the matrix instructions, which Triton cannot express. In
float32 the three products of each instruction decide, which Triton uses as well. Neither has been measured.
"""

# Found out once, here: torch.compile can read a constant but not open a library. It takes a few milliseconds.
_STATE = native.load()[1]
_BUILT_FOR = tuple(native.architectures())


def status() -> str:
    """Return "ready", or why the kernels cannot be used on the current device."""
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device"
    if _STATE != "ready":
        return _STATE
    return _state_of(torch.cuda.current_device())


def _state_of(device: int) -> str:
    return _remembered_state(device)


_state_of._dynamo_marked_constant = True  # as that of siren.limits


@functools.cache
def _remembered_state(device: int) -> str:
    major, minor = siren.limits(device).capability
    if not native.runs_on(_BUILT_FOR, (major, minor)):
        names = ", ".join(f"sm_{name.replace('.', '')}" for name in _BUILT_FOR)
        old = (major, minor) < nvcc.OLDEST
        remedy = ", and the kernels need sm_80" if old else f": build with TORCH_CUDA_ARCH_LIST={major}.{minor}"
        return f"built for {names}, this device is sm_{major}{minor}{remedy}"
    library = native.load()[0]
    error = library.fused_inr_check(device)
    return f"the device cannot run it: {library.fused_inr_error(error).decode()}" if error else "ready"


def _supports_siren(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    omega: float,
    first_omega: float,
    final: str,
    dtype: torch.dtype,
) -> tuple[bool, str]:
    if coords.dtype != torch.float32:
        return False, f"it computes in float32, bfloat16 or float16, not in {coords.dtype}"
    gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (coords, *weights, *biases))
    shared = siren.limits(coords.device.index if coords.is_cuda else -1).shared
    reason = layout.refusal(weights, dtype.itemsize, shared, gradients)
    return reason is None, reason or ""


def _prefers_siren(coords: Tensor, weights: list[Tensor], *options: list[Tensor] | float | str | torch.dtype) -> bool:
    return max(weight.shape[1] for weight in weights[:-1]) <= PREFERRED[options[-1]]


KERNELS = {"siren": Implementation(_supports_siren, siren.siren, preferred=_prefers_siren)}
