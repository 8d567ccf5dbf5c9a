"""The cases of the gradients of `render`: all kernels that those of DIGAN's generator at 128x128 launch."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from fused_inr._backends.triton.kernels import fourier_features_backward, layers_backward, render_backward
from fused_inr._backends.triton.kernels.launch import Launch
from fused_inr.inr import INR, Fourier, Grid, Layer, Stage
from fused_inr.tools.triton.ahead_of_time import TARGETS
from fused_inr.tools.triton.case import Case, differing, products_in

CLIPS, TIMES, COLOURS, FREQUENCIES = 16, 2, 3, 128
WIDTHS = ((1, 512, 7), (2, 512, 2), (4, 256, 3))  # scale, width and number of layers of each stage
_PRODUCTS = (
    layers_backward.output_gradient_kernel,
    layers_backward.weight_gradient_kernel,
    fourier_features_backward.phase_gradient_kernel,
    fourier_features_backward.feature_weight_kernel,
)


def _numbers(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def inr_of(stages: Sequence[tuple[int, int, int]], activation: str) -> INR:
    """Return an INR in which every other layer, counted from the last, has a read-out."""
    result: list[Stage] = []
    before = 0
    for scale, width, count in stages:
        fourier = Fourier(_numbers(CLIPS, FREQUENCIES, 2), _numbers(CLIPS, TIMES, FREQUENCIES))
        layers = []
        for number in range(count):
            to_rgb = (_numbers(CLIPS, COLOURS, width), _numbers(COLOURS)) if (count - number) % 2 else None
            inputs = width if number else before + fourier.features
            layers.append(Layer(_numbers(CLIPS, width, inputs), _numbers(width), activation, to_rgb=to_rgb))
        result.append(Stage(scale, layers, fourier))
        before = width
    return INR(result)


def _launches(inr: INR, kind: str, multiplies: bool) -> list[Launch]:
    """Return the launches of the backward kernels with matrix products, or of those without."""
    collected: list[Launch] = []
    grid = Grid(32, 32)
    size = (CLIPS, TIMES, COLOURS, 32 * inr.stages[-1].scale, 32 * inr.stages[-1].scale)
    with products_in(kind) as dtype:
        kept = [
            torch.empty(CLIPS, TIMES, 32 * stage.scale, 32 * stage.scale, layer.outputs, dtype=dtype, device="meta")
            for stage in inr.stages
            for layer in stage.layers
        ]
        render_backward.backward(
            inr, grid, _numbers(*size), dtype, kept, run=lambda launches, device: collected.extend(launches)
        )

    def is_selected(launch: Launch) -> bool:
        if launch.kernel not in (*_PRODUCTS, layers_backward.children_sum_kernel):
            return False  # part of the forward pass
        product = launch.kernel in _PRODUCTS and launch.arguments.get("following", launch) is not None
        return product == multiplies

    return differing(launch for launch in collected if is_selected(launch))


def _cases() -> Iterator[Case]:
    for kind in ("bfloat16", "float16", "tf32", "float32"):
        targets = ("gfx942",) if kind == "float32" else tuple(TARGETS)
        for name, stages, activation in (("lrelu", WIDTHS, "lrelu"), ("sine", WIDTHS[:1], "sine")):
            arguments = (inr_of(stages, activation), kind)
            yield Case(f"render_backward-{name}-{kind}", partial(_launches, *arguments, True), targets)
            yield Case(f"render_backward-{name}-{kind}-sums", partial(_launches, *arguments, False))


CASES: list[Case] = [*_cases()]
