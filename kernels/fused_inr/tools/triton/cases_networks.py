"""The cases of `siren`: networks in one kernel, forward and backward, and the layers of those that are too wide."""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from fused_inr._backends.triton.kernels import siren_backward, siren_forward
from fused_inr._backends.triton.kernels.launch import Launch
from fused_inr._backends.triton.kernels.siren_layers import layer, weight_gradient
from fused_inr.tools.triton.ahead_of_time import TARGETS
from fused_inr.tools.triton.case import Case, differing, products_in

_SAMPLES, _POINTS = 64, 256 * 256


def _numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _network(width: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the coordinates, weights and biases of SIRENs of five layers."""
    sizes = [2, width, width, width, width, 3]
    coords = _numbers(1, _POINTS, 2).expand(_SAMPLES, -1, -1)
    weights = [_numbers(_SAMPLES, outputs, inputs) for inputs, outputs in pairwise(sizes)]
    return coords, weights, [_numbers(_SAMPLES, outputs) for outputs in sizes[1:]]


def _layers(width: int, dtype: torch.dtype) -> list[Launch]:
    """Return the launches of a hidden layer, the last layer, their gradients and the gradient of the coordinates."""
    x, slopes = (_numbers(_SAMPLES, _POINTS, width, dtype=dtype) for _ in range(2))
    square, bias = _numbers(_SAMPLES, width, width, dtype=dtype), _numbers(_SAMPLES, width)
    last, out = _numbers(_SAMPLES, 3, width, dtype=dtype), _numbers(_SAMPLES, _POINTS, 3)
    launches = [
        layer(x, square, x, "sine", bias=bias),
        layer(x, square, x, "sine", bias=bias, slopes=slopes),
        layer(x, square.mT, x, "slope", slopes=slopes),
        layer(x, last, out, "linear", bias=_numbers(_SAMPLES, 3)),
        layer(x, last, out, "linear"),
        weight_gradient(x, x)[-1],
        weight_gradient(x, _numbers(_SAMPLES, _POINTS, 2))[-1],
    ]
    if dtype != torch.float32:  # in float32, few inputs do not use matrix instructions
        launches.append(layer(_numbers(_SAMPLES, _POINTS, 3, dtype=dtype), last.mT, x, "slope", slopes=slopes))
    return differing(launches)


def _launches(width: int, kind: str, backward: bool) -> list[Launch]:
    """Return the launches of the values or of the gradients."""
    coords, weights, biases = _network(width)
    module = siren_backward if backward else siren_forward
    with products_in(kind) as dtype:
        if not module.fits(coords, weights, dtype):
            return _layers(width, dtype)
        options = (coords, weights, biases, 30.0, 30.0, False, dtype)
        if not backward:
            return siren_forward.forward(*options)[-1]
        return siren_backward.backward(_numbers(_SAMPLES, _POINTS, 3), *options, True)[-1]


def _first_layer() -> list[Launch]:
    coords, weights, biases = _network(256)
    out, slopes = (_numbers(_SAMPLES, _POINTS, 256, dtype=torch.bfloat16) for _ in range(2))
    return [layer(coords, weights[0], out, "sine", bias=biases[0], slopes=slopes)]


def _cases() -> Iterator[Case]:
    widths = {"bfloat16": (16, 64, 128), "float16": (64,), "float32": (16, 64), "tf32": (64, 128)}
    calls = [(width, kind, False) for kind in widths for width in (*widths[kind], 256)]
    calls += [(width, kind, True) for kind in widths for width in widths[kind] if (width, kind) != (128, "tf32")]
    for width, kind, backward in calls:
        name = f"siren{'_backward' if backward else ''}-{kind}-W{width}"
        arguments = (width, kind, backward)
        yield Case(name, partial(_launches, *arguments), tuple(TARGETS))
    yield Case("siren_layer-first", _first_layer)


CASES: list[Case] = [*_cases()]
