"""The compiled library and its functions, opened with ctypes.

The library has a C interface and does not depend on PyTorch. It still runs on PyTorch's threads: every call is passed
libtorch's own parallel_for, which has been part of its stable C interface since 2.10.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import torch

from fused_inr._backends import native_library

MAX_LAYERS, MAX_STAGES = 64, 16  # of an INR whose gradients the kernels compute
SOURCE_NAMES = ("*.cpp", "*.h")
ISAS = ("base", "avx2", "avx512", "avx512_bf16")
_FOLDER = Path(__file__).parent
_SOURCES = Path(__file__).parents[4] / "csrc" / "cpu"  # present in a checkout only
_Range = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_ParallelFor = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, _Range, ctypes.c_void_p)
_i32, _i64, _f32, _f64, _ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_double, ctypes.c_void_p


class LayerStruct(ctypes.Structure):
    """FusedInrLayer of csrc/cpu/abi.h, like all following structures."""

    _fields_ = (
        ("weight", _ptr),
        ("weight_clip", _i64),
        ("weight_row", _i64),
        ("bias", _ptr),
        ("bias_clip", _i64),
        ("bias_time", _i64),
        ("inputs", _i32),
        ("outputs", _i32),
        ("activation", _i32),
        ("slope", _f32),
        ("omega", _f32),
        ("gain", _f32),
        ("rgb_weight", _ptr),
        ("rgb_clip", _i64),
        ("rgb_bias", _ptr),
    )


class StageStruct(ctypes.Structure):
    """FusedInrStage."""

    _fields_ = (
        ("scale", _i32),
        ("layers", _i32),
        ("parent", _ptr),
        ("parent_clip", _i64),
        ("parent_row", _i64),
        ("features", _i32),
        ("cosines", _i32),
        ("frequency", _ptr),
        ("frequency_clip", _i64),
        ("phase", _ptr),
        ("phase_clip", _i64),
        ("phase_time", _i64),
    )


class ProgramStruct(ctypes.Structure):
    """FusedInrProgram."""

    _fields_ = (
        ("stages", ctypes.POINTER(StageStruct)),
        ("layers", ctypes.POINTER(LayerStruct)),
        ("num_stages", _i32),
        ("num_layers", _i32),
        ("clips", _i64),
        ("times", _i64),
        ("height", _i64),
        ("width", _i64),
        ("x0", _f64),
        ("x1", _f64),
        ("y0", _f64),
        ("y1", _f64),
        ("channels", _i32),
        ("has_rgb", _i32),
        ("bfloat16", _i32),
        ("out", _ptr),
        ("kept", _ptr),
    )


class LayerGradStruct(ctypes.Structure):
    """FusedInrLayerGrad."""

    _fields_ = (
        ("weight", _ptr),
        ("weight_clip", _i64),
        ("weight_row", _i64),
        ("bias", _ptr),
        ("rgb_weight", _ptr),
        ("rgb_bias", _ptr),
    )


class StageGradStruct(ctypes.Structure):
    """FusedInrStageGrad."""

    _fields_ = (
        ("parent", _ptr),
        ("parent_clip", _i64),
        ("parent_row", _i64),
        ("frequency", _ptr),
        ("phase", _ptr),
    )


class GradientsStruct(ctypes.Structure):
    """FusedInrGradients."""

    _fields_ = (
        ("layers", ctypes.POINTER(LayerGradStruct)),
        ("stages", ctypes.POINTER(StageGradStruct)),
        ("out", _ptr),
    )


class PointsStruct(ctypes.Structure):
    """FusedInrPoints."""

    _fields_ = (
        ("layers", ctypes.POINTER(LayerStruct)),
        ("skips", ctypes.POINTER(_i32)),
        ("num_layers", _i32),
        ("clips", _i64),
        ("points", _i64),
        ("coords", _ptr),
        ("coords_clip", _i64),
        ("bfloat16", _i32),
        ("order", _i32),
        ("with_hessian", _i32),
        ("out", _ptr),
        ("jacobian", _ptr),
        ("laplacian", _ptr),
        ("hessian", _ptr),
    )


class PointsGradientsStruct(ctypes.Structure):
    """FusedInrPointsGradients."""

    _fields_ = (
        ("weights", ctypes.POINTER(_ptr)),
        ("biases", ctypes.POINTER(_ptr)),
        ("coords", _ptr),
        ("out", _ptr),
        ("jacobian", _ptr),
        ("laplacian", _ptr),
        ("hessian", _ptr),
    )


class BiasActStruct(ctypes.Structure):
    """FusedInrBiasAct."""

    _fields_ = (
        ("outer", _i64),
        ("channels", _i64),
        ("inner", _i64),
        ("type", _i32),
        ("act", _i32),
        ("alpha", _f32),
        ("gain", _f32),
        ("clamp", _f32),
        ("x", _ptr),
        ("bias", _ptr),
        ("residual", _ptr),
        ("out", _ptr),
        ("from_output", _i32),
        ("gradient", _ptr),
        ("shift", _ptr),
        ("sums", _ptr),
    )


class UpfirdnStruct(ctypes.Structure):
    """FusedInrUpfirdn."""

    _fields_ = (
        ("batch", _i64),
        ("channels", _i64),
        ("height", _i64),
        ("width", _i64),
        ("out_height", _i64),
        ("out_width", _i64),
        ("channels_last", _i32),
        ("type", _i32),
        ("up_x", _i32),
        ("up_y", _i32),
        ("down_x", _i32),
        ("down_y", _i32),
        ("pad_x", _i64),
        ("pad_y", _i64),
        ("taps_x", _i32),
        ("taps_y", _i32),
        ("taps", _ptr),
        ("x", _ptr),
        ("out", _ptr),
    )


class StddevStruct(ctypes.Structure):
    """FusedInrStddev."""

    _fields_ = (
        ("batch", _i64),
        ("channels", _i64),
        ("pixels", _i64),
        ("group", _i64),
        ("planes", _i64),
        ("type", _i32),
        ("x", _ptr),
        ("out", _ptr),
        ("gradient", _ptr),
    )


class ConvolutionWeightStruct(ctypes.Structure):
    """FusedInrConvolutionWeight."""

    _fields_ = (
        ("batch", _i64),
        ("inputs", _i64),
        ("outputs", _i64),
        ("height", _i64),
        ("width", _i64),
        ("out_height", _i64),
        ("out_width", _i64),
        ("kernel_y", _i32),
        ("kernel_x", _i32),
        ("stride", _i32),
        ("padding", _i32),
        ("type", _i32),
        ("threads", _i32),
        ("x", _ptr),
        ("gradient", _ptr),
        ("out", _ptr),
    )


class AugmentStruct(ctypes.Structure):
    """FusedInrAugment."""

    _fields_ = (
        ("clips", _i64),
        ("times", _i64),
        ("channels", _i64),
        ("height", _i64),
        ("width", _i64),
        ("type", _i32),
        ("color_last", _i32),
        ("adjoint", _i32),
        ("brightness", _ptr),
        ("saturation", _ptr),
        ("contrast", _ptr),
        ("offset", _ptr),
        ("hole", _ptr),
        ("hole_height", _i64),
        ("hole_width", _i64),
        ("x", _ptr),
        ("out", _ptr),
    )


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """Return (library, "ready"), or (None, the reason why it cannot be used). Cached."""
    missing = "the native extension is not built: install a C++ compiler, then reinstall fused_inr"
    library, state = native_library.opened(_FOLDER, _SOURCES, SOURCE_NAMES, "the native extension", missing)
    if library is None:
        return None, state
    library.fused_inr_render_workspace.restype = ctypes.c_int64
    library.fused_inr_render_workspace.argtypes = (ctypes.POINTER(ProgramStruct), _i32, _i32)
    library.fused_inr_kept_bytes.restype = ctypes.c_int64
    library.fused_inr_kept_bytes.argtypes = (ctypes.POINTER(ProgramStruct), _i32)
    library.fused_inr_render.argtypes = (ctypes.POINTER(ProgramStruct), _ptr, _i32)
    library.fused_inr_backward.argtypes = (
        ctypes.POINTER(ProgramStruct),
        ctypes.POINTER(GradientsStruct),
        _ptr,
        _i32,
    )
    library.fused_inr_points.argtypes = (ctypes.POINTER(PointsStruct), _ptr, _i32)
    library.fused_inr_points_backward.argtypes = (
        ctypes.POINTER(PointsStruct),
        ctypes.POINTER(PointsGradientsStruct),
        _ptr,
        _i32,
    )
    for name, struct in (
        ("bias_act", BiasActStruct),
        ("bias_act_slope", BiasActStruct),
        ("upfirdn2d", UpfirdnStruct),
        ("minibatch_stddev", StddevStruct),
        ("convolution_weight", ConvolutionWeightStruct),
        ("augment", AugmentStruct),
    ):
        getattr(library, f"fused_inr_{name}").argtypes = (ctypes.POINTER(struct), _ptr, _i32)
    library.fused_inr_sincos.argtypes = (_ptr, _ptr, _ptr, _i64, _i32)
    library.fused_inr_sincos.restype = None
    library.fused_inr_activation.argtypes = (ctypes.POINTER(LayerStruct), _ptr, _ptr, _i64, _i32, _i32)
    library.fused_inr_activation.restype = None
    return library, "ready"


@functools.cache
def best_isa() -> int:
    """Return the index in `ISAS` of the best instruction set that this processor supports."""
    return load()[0].fused_inr_best_isa()


_isa: int | None = None


def isa() -> int:
    """Return the index in `ISAS` of the instruction set in use: the best one, unless `use_isa` selected another."""
    return best_isa() if _isa is None else _isa


def use_isa(name: str | None) -> None:
    """Select an instruction set of `ISAS` for later calls; None selects the best one. For tests.

    Raises:
        ValueError: this processor does not support the instruction set, or `ISAS` does not contain it.
    """
    global _isa
    if name is not None and ISAS.index(name) > best_isa():
        raise ValueError(f"this processor has no {name}; the best it has is {ISAS[best_isa()]}.")
    _isa = None if name is None else ISAS.index(name)


@functools.cache
def parallel_for() -> "ctypes._FuncPointer":  # a name of the type stubs only
    """Return libtorch's parallel_for, or a serial loop if this PyTorch does not export it."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / name).exists():
            try:
                return ctypes.CDLL(str(folder / name)).torch_parallel_for
            except (OSError, AttributeError):
                break

    def serial(begin: int, end: int, grain: int, body: Callable, context: int) -> int:
        body(begin, end, context)
        return 0

    return _ParallelFor(serial)


def run(function: Callable, *programs: ctypes.Structure) -> None:
    """Call an entry point of the library.

    Args:
        function: the entry point.
        programs: the structures that it takes, passed by reference.

    Raises:
        MemoryError: the workspace could not be allocated.
        RuntimeError: the call failed for another reason.
    """
    status = function(*map(ctypes.byref, programs), ctypes.cast(parallel_for(), _ptr), isa())
    if status == 1:
        raise MemoryError("The native kernels could not allocate their workspace: render fewer pixels at a time.")
    if status:
        raise RuntimeError(f"The native kernels failed with status {status}.")
