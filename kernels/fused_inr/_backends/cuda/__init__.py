"""The CUDA backend: whole SIRENs in one kernel, with the weights in shared memory and activations in registers.

The kernels are in `csrc/cuda`; nvcc builds them ahead of time. `python -m fused_inr.tools.cuda` compiles them without a
GPU and prints the resources that each needs.
"""

import contextlib
import functools
from typing import Any

import torch
from torch import Tensor

from fused_inr._backends.cuda import native, networks, nvcc
from fused_inr._backends.implementation import Implementation

# Read once, at import, in milliseconds: torch.compile can trace a constant but not the loading of a library.
_STATE = native.load()[1]
_BUILT_FOR = tuple(native.architectures())


def status() -> str:
    """Return "ready", or why the kernels cannot be used on the current device.

    Nothing runs on the device, which may have no context yet: `_supports` asks the driver about the tensors' device.
    """
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device"
    if _STATE != "ready":
        return _STATE
    return _build_problem(torch.cuda.current_device()) or "ready"


def _build_problem(device: int) -> str:
    """Return why the library holds no code for a device; "" if it does."""
    major, minor = networks.limits(device).capability
    if native.runs_on(_BUILT_FOR, (major, minor)):
        return ""
    names = ", ".join(f"sm_{name.replace('.', '')}" for name in _BUILT_FOR)
    old = (major, minor) < nvcc.OLDEST
    remedy = ", and the kernels need sm_80" if old else f": build with TORCH_CUDA_ARCH_LIST={major}.{minor}"
    return f"built for {names}, this device is sm_{major}{minor}{remedy}"


networks.mark_constant(_build_problem)


def _state_of(device: int) -> str:
    """Return "ready", or why a device cannot run the kernels."""
    return _cached_state(device)


networks.mark_constant(_state_of)


@functools.cache
def _cached_state(device: int) -> str:
    if problem := _build_problem(device):
        return problem
    library = native.load()[0]
    with torch.cuda.device(device) if device >= 0 else contextlib.nullcontext():
        error = library.fused_inr_check(device)
    return f"the device cannot run it: {library.fused_inr_error(error).decode()}" if error else "ready"


def _supports(coords: Tensor, *others: Any) -> tuple[bool, str]:
    """Return whether the device of the tensors runs the kernels, and these support the call; if not, why."""
    state = _state_of(coords.device.index) if coords.is_cuda else "ready"
    return networks.supports(coords, *others) if state == "ready" else (False, state)


KERNELS = {"mlp": Implementation(_supports, networks.mlp, preferred=networks.preferred)}
