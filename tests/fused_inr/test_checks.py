"""Every public function refuses every bad argument on every backend: one sentence that names the argument."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

import fused_inr as fi

IMAGE, FIR = torch.ones(2, 3, 4, 4), torch.ones(3, 3)
CLIPS, AMOUNTS, PLACES = torch.ones(2, 2, 3, 4, 4), torch.ones(2), torch.zeros(2, 2, dtype=torch.long)
COORDS, WEIGHT, BIAS = torch.ones(5, 2), torch.ones(3, 2), torch.ones(3)
KERNEL = torch.ones(2, 3, 3, 3)
FACTORS = torch.ones(4, 3), torch.ones(2, 4, 2), torch.ones(2, 2, 3)
FOURIER = fi.Fourier(torch.ones(2, 4, 2), torch.ones(2, 3, 4))
LAYER = fi.Layer(torch.ones(2, 5, 8), torch.ones(5))
INR = fi.INR([fi.Stage(1, [LAYER], FOURIER)])
GRID = fi.Grid(4, 4)
NOT_A_TENSOR = ([1.0], "text", 1.0, None)
NOT_FLOATING = (IMAGE.long(), IMAGE.bool(), IMAGE.to(torch.complex64), IMAGE.to(torch.float8_e5m2), IMAGE.to_sparse())
NOT_A_COUNT = (0, -1, 1.5, math.nan, math.inf, "2", None, 2**32, 2**63, 2**70, torch.ones(2))
NOT_A_NUMBER = (math.nan, math.inf, -math.inf, "1", torch.ones(2), [1.0], 1j)


def elsewhere(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to("meta")


class Case(NamedTuple):
    """A function and valid arguments, and values that each argument must not have."""

    function: Callable
    arguments: dict[str, Any]
    bad: dict[str, tuple]
    by_backend: bool = True  # whether it runs kernels, so that each backend is tried


RESAMPLING = {
    "x": (*NOT_A_TENSOR, *NOT_FLOATING, torch.tensor(1.0), IMAGE[0]),
    "filter": (
        [1.0],
        "text",
        torch.tensor(1.0),
        torch.ones(0),
        torch.ones(1, 1, 1),
        FIR.to(torch.complex64),
        FIR.bool(),
        FIR.to_sparse(),
        elsewhere(FIR),
    ),
    "padding": (1.5, "1", None, 2**32, -(2**32), 2**63, [1, 2, 3], [1.5, 1], math.nan, 2**31 - 1, -9),
    "flip_filter": ("yes", 2, None, torch.ones(2)),
    "gain": (*NOT_A_NUMBER, None),
}
STEPS = (*NOT_A_COUNT, [1, 2, 3], [2, 0], [2, 2**32], [2, 1.5])
DTYPES = ("float32", 32, torch.int64, torch.float64, torch.ones(2))
BACKENDS = ("gpu", "", 1, [])

_NETWORK = {  # bad values of the arguments that networks have in common
    "coords": (*NOT_A_TENSOR, COORDS.long(), COORDS[0], COORDS[:, :1], COORDS.to_sparse(), elsewhere(COORDS)),
    "weights": (WEIGHT, "w", None, [], [WEIGHT] * 2, [[1.0]], [WEIGHT.long()], [WEIGHT[0]], [elsewhere(WEIGHT)]),
    "biases": (BIAS, "b", None, [], [BIAS] * 2, [1.0], [BIAS.long()], [BIAS[:2]], [elsewhere(BIAS)]),
    "dtype": DTYPES,
    "backend": BACKENDS,
}
_LAYERS = {
    "activations": ("sine", None, [], ["sine", "relu"], ["sin"], [None], [1]),
    "omegas": (*NOT_A_NUMBER[:4], [1.0, 1.0], ["1"], [math.nan], torch.ones(2)),
    "skips": (1, "1", None, [0], [1], [-1], [1.5], [None]),
}
_ONE_LAYER = {"coords": COORDS, "weights": [WEIGHT], "biases": [BIAS]}
CASES = {
    "augment": Case(
        fi.augment,
        {
            "x": CLIPS,
            "brightness": AMOUNTS,
            "saturation": AMOUNTS,
            "contrast": AMOUNTS,
            "translation": PLACES,
            "cutout": PLACES,
            "cutout_size": (2, 2),
            "color_last": False,
        },
        {
            "x": (*NOT_A_TENSOR, *NOT_FLOATING, CLIPS[0], torch.tensor(1.0)),
            **{
                name: (
                    [1.0, 1.0],
                    1.0,
                    PLACES,
                    AMOUNTS.long(),
                    AMOUNTS[:1],
                    AMOUNTS.to_sparse(),
                    torch.tensor(1.0),
                    elsewhere(AMOUNTS),
                )
                for name in ("brightness", "saturation", "contrast")
            },
            **{
                name: ([[0, 0]], 1, AMOUNTS, PLACES.double(), PLACES.bool(), PLACES[:1], elsewhere(PLACES))
                for name in ("translation", "cutout")
            },
            "cutout_size": (None, 2, (2,), (2, -1), (1.5, 2), (2, 2**63), "22", (2, 2, 2)),
            "color_last": ("yes", None, 2),
        },
    ),
    "bias_act": Case(
        fi.bias_act,
        {
            "x": IMAGE,
            "bias": BIAS,
            "act": "lrelu",
            "alpha": 0.2,
            "gain": 1.0,
            "clamp": 1.0,
            "dim": 1,
            "residual": IMAGE,
        },
        {
            "x": (*NOT_A_TENSOR, *NOT_FLOATING),
            "bias": ([1.0], 1.0, BIAS.long(), BIAS[:2], torch.tensor(1.0), BIAS[None], elsewhere(BIAS)),
            "act": ("gelu", None, 1, ["relu"], torch.ones(2)),
            "alpha": NOT_A_NUMBER,
            "gain": NOT_A_NUMBER,
            "clamp": (-1.0, math.nan, -math.inf, "1", torch.ones(2), [1.0]),
            "dim": (4, -5, 1.5, None, "1", 2**32, 2**63, torch.ones(2)),
            "residual": ([1.0], 1.0, IMAGE[0], IMAGE.double(), IMAGE.long(), elsewhere(IMAGE)),
        },
    ),
    "conv2d": Case(
        fi.conv2d,
        {"x": IMAGE, "weight": KERNEL, "stride": 1, "padding": 0},
        {
            "x": (*NOT_A_TENSOR, *NOT_FLOATING, IMAGE[0], IMAGE[:, :2], IMAGE.double(), IMAGE[..., :2]),
            "weight": (
                *NOT_A_TENSOR,
                KERNEL.long(),
                KERNEL[0],
                KERNEL[..., :0],
                KERNEL[:0],
                torch.ones(2, 3, 9, 9),
                elsewhere(KERNEL),
            ),
            "stride": (*NOT_A_COUNT, (1, 1)),
            "padding": (-1, 1.5, None, "1", (1, 1), 2**32, 2**63, 2**31 - 1, math.nan),
        },
    ),
    "fmm_weight": Case(
        fi.fmm_weight,
        dict(zip(("weight", "left", "right"), FACTORS, strict=True)),
        {
            **{
                name: (*NOT_A_TENSOR, factor.long(), factor[0], factor.to_sparse(), factor[..., :1], elsewhere(factor))
                for name, factor in zip(("weight", "left", "right"), FACTORS, strict=True)
            },
            "demodulate": ("yes", None, 2),
        },
    ),
    "minibatch_stddev": Case(
        fi.minibatch_stddev,
        {"x": IMAGE, "group_size": 2, "channels": 3},
        {
            "x": (*NOT_A_TENSOR, *NOT_FLOATING, IMAGE[0]),
            "group_size": NOT_A_COUNT,
            "channels": (*NOT_A_COUNT, 2, 2**31 - 1),
        },
    ),
    "siren": Case(
        fi.siren,
        _ONE_LAYER | {"omega": 1.0, "first_omega": 1.0, "final": "linear"},
        _NETWORK | {"omega": (*NOT_A_NUMBER, None), "first_omega": NOT_A_NUMBER, "final": ("relu", None, 1)},
    ),
    "mlp": Case(fi.mlp, _ONE_LAYER | {"activations": ["sine"], "omegas": 2.0}, _NETWORK | _LAYERS),
    "mlp_jet": Case(
        fi.mlp_jet,
        _ONE_LAYER | {"activations": ["sine"], "omegas": [2.0]},
        _NETWORK | _LAYERS | {"order": (0, 3, 1.5, "2", None), "hessian": (2, "yes", None)},
    ),
    "render": Case(
        fi.render,
        {"inr": INR, "grid": GRID},
        {
            "inr": (None, "inr", LAYER, [INR], IMAGE),
            "grid": (None, (4, 4), 4, IMAGE, fi.Grid(2**31 - 1, 2**31 - 1)),
            "dtype": DTYPES,
            "backend": BACKENDS,
        },
    ),
    "render_chunks": Case(
        fi.render_chunks,
        {"inr": INR, "grid": GRID, "memory": 1 << 20},
        {
            "inr": (None, "inr", LAYER, IMAGE),
            "grid": (None, (4, 4), IMAGE, fi.Grid(2**31 - 1, 2**31 - 1)),
            "memory": (0, -1, 1.5, None, "1", math.nan, 2**64),
            "dtype": DTYPES,
            "backend": BACKENDS,
        },
    ),
    "upfirdn2d": Case(
        fi.upfirdn2d,
        {"x": IMAGE, "filter": FIR, "up": 1, "down": 1, "padding": 0, "flip_filter": False, "gain": 1.0},
        RESAMPLING | {"up": (*STEPS, 2**31 - 1), "down": STEPS},
    ),
    "downsample2d": Case(
        fi.downsample2d,
        {"x": IMAGE, "filter": FIR, "down": 2, "padding": 0, "flip_filter": False, "gain": 1.0},
        RESAMPLING | {"down": STEPS},
    ),
    "upsample2d": Case(
        fi.upsample2d,
        {"x": IMAGE, "filter": FIR, "up": 2, "padding": 0, "flip_filter": False, "gain": 1.0},
        RESAMPLING | {"up": (*STEPS, 2**31 - 1)},
    ),
    "Grid": Case(
        fi.Grid,
        {"height": 4, "width": 4, "x": (-1.0, 1.0), "y": (-1.0, 1.0)},
        {
            "height": NOT_A_COUNT,
            "width": NOT_A_COUNT,
            **dict.fromkeys("xy", (None, 1.0, (1.0,), (0, math.inf), (0, math.nan), ("0", "1"), "ab", (0, 10**400))),
        },
        by_backend=False,
    ),
    "Fourier": Case(
        fi.Fourier,
        {"frequency": FOURIER.frequency, "phase": FOURIER.phase, "parts": "sincos"},
        {
            "frequency": (*NOT_A_TENSOR, *NOT_FLOATING, FOURIER.phase, FOURIER.frequency[0]),
            "phase": (*NOT_A_TENSOR, *NOT_FLOATING, FOURIER.frequency[:, :0], FOURIER.phase[0]),
            "parts": ("cos", None, 1, ["sin"]),
        },
        by_backend=False,
    ),
    "Layer": Case(
        fi.Layer,
        {
            "weight": LAYER.weight,
            "bias": LAYER.bias,
            "activation": "sine",
            "gain": 1.0,
            "omega": 1.0,
            "to_rgb": (torch.ones(2, 3, 5), torch.ones(3)),
        },
        {
            "weight": (*NOT_A_TENSOR, *NOT_FLOATING, LAYER.weight[0]),
            "bias": (*NOT_A_TENSOR, *NOT_FLOATING, torch.tensor(1.0), LAYER.bias[:3], IMAGE),
            "activation": ("tanh", None, 1, ["sine"]),
            "gain": (*NOT_A_NUMBER, None),
            "omega": (*NOT_A_NUMBER, None),
            "to_rgb": (1, "rgb", (IMAGE,), (None, None), (torch.ones(2, 3, 4), BIAS), (torch.ones(2, 3, 5), BIAS[:2])),
        },
        by_backend=False,
    ),
    "Stage": Case(
        fi.Stage,
        {"scale": 1, "layers": [LAYER], "fourier": FOURIER},
        {
            "scale": NOT_A_COUNT,
            "layers": (None, 1, LAYER, [], [None], [FOURIER], [LAYER, LAYER], "layers"),
            "fourier": (1, LAYER, "sin", IMAGE),
        },
        by_backend=False,
    ),
    "INR": Case(
        fi.INR,
        {"stages": INR.stages},
        {"stages": (None, 1, [], [LAYER], INR, [fi.Stage(1, [LAYER])], INR.stages * 2)},
        by_backend=False,
    ),
    "backend": Case(fi.backend, {"name": "reference"}, {"name": (*BACKENDS, None)}, by_backend=False),
}
WITHOUT_ARGUMENTS = {"backends", "no_weight_gradients", "store_activations"}
# What the sentence says in place of the argument's name.
OTHER_WORDS = {
    ("conv2d", "x"): "x|image",
    ("conv2d", "weight"): "weight|kernel",
    **{(name, "coords"): "coords|weights" for name in ("siren", "mlp", "mlp_jet")},
    **{(name, "weights"): "bias per weight|weights|activations" for name in ("siren", "mlp", "mlp_jet")},
    **{(name, "biases"): "bias per weight|biases" for name in ("siren", "mlp", "mlp_jet")},
    ("Fourier", "phase"): "phase|frequency",
    ("backend", "name"): "backend",
    ("INR", "stages"): "stage|Stage",
    ("Stage", "layers"): "layer|Layer",
}


def test_every_public_function_has_rows():
    functions = {name for name in fi.__all__ if callable(getattr(fi, name))}
    assert functions - WITHOUT_ARGUMENTS == set(CASES)
    for name, case in CASES.items():
        assert set(case.arguments) <= set(case.bad) | ({"dtype", "backend"}), f"{name}: an argument has no bad value"


def rows() -> list:
    backends = [name for name, state in fi.backends().items() if state == "ready"]
    return [
        pytest.param(name, argument, backend, id=f"{name}-{argument}" + (f"-{backend}" if backend else ""))
        for name, case in CASES.items()
        for argument in case.bad
        for backend in (backends if case.by_backend else [None])
    ]


def attempt(function: Callable, arguments: dict[str, Any], backend: str | None) -> None:
    if function is fi.backend:
        with function(**arguments):
            return
    if backend is None:
        function(**arguments)
        return
    with fi.backend(backend):
        function(**arguments)


@pytest.mark.parametrize(("name", "argument", "backend"), rows())
def test_bad_arguments_are_refused_in_one_sentence(name, argument, backend):
    case = CASES[name]
    if backend != "cpu" or name != "fmm_weight":  # which has no kernel
        attempt(case.function, case.arguments, backend)
    for value in case.bad[argument]:
        with pytest.raises((ValueError, RuntimeError)) as caught:
            attempt(case.function, case.arguments | {argument: value}, backend)
        assert re.fullmatch(r"[^\n]{,400}\.", str(caught.value)), f"{argument}={value!r}: {caught.value}"
        assert caught.traceback[-1].path.is_relative_to(fi.__path__[0]), f"{argument}={value!r} is refused elsewhere"
        words = OTHER_WORDS.get((name, argument), argument)
        caught.match(rf"\b({words})")
