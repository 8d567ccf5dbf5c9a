"""The CUDA backend: whole SIRENs in one kernel, with the weights in shared memory and activations in registers.

The kernels are in `csrc/cuda`; nvcc builds them ahead of time. `python -m fused_inr.tools.cuda` compiles them without a
GPU and prints the resources that each needs.
"""

import functools

import torch

from fused_inr._backends.cuda import native, networks, nvcc
from fused_inr._backends.implementation import Implementation

# Read once, at import, in milliseconds: torch.compile can trace a constant but not the loading of a library.
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
    return _cached_state(device)


networks.mark_constant(_state_of)


@functools.cache
def _cached_state(device: int) -> str:
    major, minor = networks.limits(device).capability
    if not native.runs_on(_BUILT_FOR, (major, minor)):
        names = ", ".join(f"sm_{name.replace('.', '')}" for name in _BUILT_FOR)
        old = (major, minor) < nvcc.OLDEST
        remedy = ", and the kernels need sm_80" if old else f": build with TORCH_CUDA_ARCH_LIST={major}.{minor}"
        return f"built for {names}, this device is sm_{major}{minor}{remedy}"
    library = native.load()[0]
    error = library.fused_inr_check(device)
    return f"the device cannot run it: {library.fused_inr_error(error).decode()}" if error else "ready"


KERNELS = {"mlp": Implementation(networks.supports, networks.mlp, preferred=networks.preferred)}
