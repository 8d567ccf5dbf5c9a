"""The compiled CUDA library: finding it, checking it against its sources and the device, and calling it by ctypes.

The library has a C interface and does not depend on PyTorch. It contains its own CUDA runtime, which needs a driver
only when a kernel is first launched: it can be loaded without a GPU.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from fused_inr._backends import native_library
from fused_inr._backends.cuda import nvcc
from fused_inr._backends.cuda.layout import MAX_LAYERS

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # FusedInrType
_FOLDER = Path(__file__).parent
_SOURCES = Path(__file__).parents[4] / "csrc" / "cuda"  # present in a checkout only
_i32, _i64, _f32, _ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class LayerStruct(ctypes.Structure):
    """The struct FusedInrSirenLayer of csrc/cuda/abi.h."""

    _fields_ = (
        ("weight", _ptr),
        ("weight_sample", _i64),
        ("weight_row", _i64),
        ("weight_column", _i64),
        ("bias", _ptr),
        ("bias_sample", _i64),
        ("bias_row", _i64),
        ("weight_gradient", _ptr),
        ("bias_gradient", _ptr),
        ("inputs", _i32),
        ("outputs", _i32),
        ("omega", _f32),
        ("sine", _i32),
    )


class SirenStruct(ctypes.Structure):
    """The struct FusedInrSiren of csrc/cuda/abi.h."""

    _fields_ = (
        ("layers", LayerStruct * MAX_LAYERS),
        ("num_layers", _i32),
        ("width", _i32),
        ("type", _i32),
        ("warps", _i32),
        ("samples", _i64),
        ("packed_samples", _i64),
        ("points", _i64),
        ("blocks", _i64),
        ("coords", _ptr),
        ("coords_sample", _i64),
        ("out", _ptr),
        ("gradient", _ptr),
        ("coords_gradient", _ptr),
        ("packed", _ptr),
        ("partials", _ptr),
        ("device", _i32),
    )


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the argument and result types of the library's functions."""
    siren = ctypes.POINTER(SirenStruct)
    for name, result, arguments in (
        ("siren_packed", _i64, (siren,)),
        ("siren_shared", _i64, (siren, _i32)),
        ("siren_partials", _i64, (siren,)),
        ("siren_forward", _i32, (siren, _ptr)),
        ("siren_backward", _i32, (siren, _ptr)),
        ("check", _i32, (_i32,)),
        ("error", ctypes.c_char_p, (_i32,)),
        ("architectures", ctypes.c_char_p, ()),
        ("runs_on_host", _i32, ()),
    ):
        function = getattr(library, f"fused_inr_{name}")
        function.restype, function.argtypes = result, arguments
    return library


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """Return (library, "ready") or (None, reason). Needs no device; cached."""
    missing = "not built: reinstall with nvcc available (FUSED_INR_CUDA=1 makes a missing nvcc an error)"
    library, state = native_library.opened(_FOLDER, _SOURCES, nvcc.SOURCE_NAMES, "the CUDA library", missing)
    return (None, state) if library is None else (declare(library), state)


def architectures() -> list[str]:
    """Return the architectures that the library was built for, such as ["8.0", "9.0+PTX"]."""
    library = load()[0]
    return [] if library is None else library.fused_inr_architectures().decode().split()


def runs_on(built: Sequence[str], capability: tuple[int, int]) -> bool:
    """Return whether code built for these architectures runs on a device.

    Machine code runs on devices of the same major version whose minor version is not lower; the driver compiles PTX for
    any device that is not older. Architecture-specific code ("9.0a") runs on that architecture only, also as PTX.
    """
    for name in built:
        number, _, ptx = name.partition("+")
        major, minor = (int(part) for part in number.rstrip("af").split("."))
        if number[-1] in "af":
            if (major, minor) == capability:
                return True
        elif (major == capability[0] and minor <= capability[1]) or (ptx and (major, minor) <= capability):
            return True
    return False


def run(function: Callable, siren: SirenStruct, stream: int) -> None:
    """Call an entry point.

    Raises:
        RuntimeError: the kernel could not be launched.
    """
    error = function(ctypes.byref(siren), stream)
    if error:
        reason = load()[0].fused_inr_error(error).decode()
        raise RuntimeError(f"The CUDA kernels could not be launched: {reason} (error {error}).")
