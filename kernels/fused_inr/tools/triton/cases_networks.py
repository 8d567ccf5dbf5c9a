"""The cases of `mlp`: networks in one kernel, forward and backward, and the layers of those that do not fit."""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from fused_inr._backends.triton.kernels import network_backward, network_forward
from fused_inr._backends.triton.kernels.launch import Launch
from fused_inr._backends.triton.kernels.network_layers import Operand, layer, weight_gradient
from fused_inr.primitives.mlp import UniformLayers
from fused_inr.tools.triton.ahead_of_time import TARGETS
from fused_inr.tools.triton.case import Case, differing, products_in

_SAMPLES, _POINTS = 64, 256 * 256


def _numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _network(width: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the coordinates, weights and biases of networks of five layers."""
    sizes = [2, width, width, width, width, 3]
    coords = _numbers(1, _POINTS, 2).expand(_SAMPLES, -1, -1)
    weights = [_numbers(_SAMPLES, outputs, inputs) for inputs, outputs in pairwise(sizes)]
    return coords, weights, [_numbers(_SAMPLES, outputs) for outputs in sizes[1:]]


def _layers(width: int, activation: str, dtype: torch.dtype) -> list[Launch]:
    """Return the launches of a hidden layer, the last layer, their gradients and the gradient of the coordinates."""
    x, slopes = (_numbers(_SAMPLES, _POINTS, width, dtype=dtype) for _ in range(2))
    square, bias = _numbers(_SAMPLES, width, width, dtype=dtype), _numbers(_SAMPLES, width)
    last, out = _numbers(_SAMPLES, 3, width, dtype=dtype), _numbers(_SAMPLES, _POINTS, 3)
    hidden, final = Operand(x, square), Operand(x, last)
    launches = [
        layer(hidden, x, activation, bias=bias),
        layer(hidden, x, activation, bias=bias, slopes=slopes),
        layer(Operand(x, square.mT), x, "slope", slopes=slopes),
        layer(final, out, "linear", bias=_numbers(_SAMPLES, 3)),
        layer(final, out, "linear"),
        weight_gradient(x, x)[-1],
        weight_gradient(x, _numbers(_SAMPLES, _POINTS, 2))[-1],
    ]
    if dtype != torch.float32:  # in float32, few inputs do not use matrix instructions
        operand = Operand(_numbers(_SAMPLES, _POINTS, 3, dtype=dtype), last.mT)
        launches.append(layer(operand, x, "slope", slopes=slopes))
    return differing(launches)


def _launches(width: int, activation: str, kind: str, backward: bool) -> list[Launch]:
    """Return the launches of the values or of the gradients."""
    coords, weights, biases = _network(width)
    module = network_backward if backward else network_forward
    with products_in(kind) as dtype:
        if not module.fits(coords, weights, dtype):
            return _layers(width, activation, dtype)
        arguments = (coords, weights, biases, UniformLayers(activation, 30.0, 30.0, False), dtype)
        if not backward:
            return network_forward.forward(*arguments)[-1]
        return network_backward.backward(_numbers(_SAMPLES, _POINTS, 3), *arguments, True)[-1]


def _first_layer() -> list[Launch]:
    coords, weights, biases = _network(256)
    out, slopes = (_numbers(_SAMPLES, _POINTS, 256, dtype=torch.bfloat16) for _ in range(2))
    return [layer(Operand(coords, weights[0]), out, "sine", bias=biases[0], slopes=slopes)]


def _skip_layer(activation: str, kind: str, axes: int) -> list[Launch]:
    """Return the launches of a layer with a skip connection, without and with slopes, and of its weight's gradient."""
    with products_in(kind) as dtype:
        x, slopes = (_numbers(_SAMPLES, _POINTS, 256, dtype=dtype) for _ in range(2))
        coords = _numbers(_SAMPLES, _POINTS, axes)
        weight = _numbers(_SAMPLES, 256, 256 + axes)
        operand, bias = Operand(x, weight[:, :, :256].to(dtype).contiguous()), _numbers(_SAMPLES, 256)
        skip = Operand(coords, weight[:, :, 256:])
        return [
            layer(operand, x, activation, skip=skip, bias=bias),
            layer(operand, x, activation, skip=skip, bias=bias, slopes=slopes),
            weight_gradient(x, coords, with_bias=False)[-1],
        ]


def _cases() -> Iterator[Case]:
    widths = {"bfloat16": (16, 64, 128), "float16": (64,), "float32": (16, 64), "tf32": (64, 128)}
    calls = [("sine", width, kind, False) for kind in widths for width in (*widths[kind], 256)]
    calls += [("sine", width, kind, True) for kind in widths for width in widths[kind]]
    calls.remove(("sine", 128, "tf32", True))  # runs layer by layer, as the width of 256
    for name in ("relu", "gauss", "gelu", "finer"):
        calls += [(name, 64, kind, backward) for kind in ("bfloat16", "float32") for backward in (False, True)]
    for activation, width, kind, backward in calls:
        name = f"network{'_backward' if backward else ''}-{activation}-{kind}-W{width}"
        yield Case(name, partial(_launches, width, activation, kind, backward), tuple(TARGETS))
    for kind in ("bfloat16", "float32"):
        yield Case(f"network_layer-gelu-skip-{kind}", partial(_skip_layer, "gelu", kind, 3), tuple(TARGETS))
    yield Case("network_layer-first", _first_layer)


CASES: list[Case] = [*_cases()]
