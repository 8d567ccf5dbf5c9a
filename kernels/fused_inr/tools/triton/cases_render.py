"""The cases of `render`: all kernels that DIGAN's generator at 128x128 launches, and those of smaller INRs."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from fused_inr._backends.triton.kernels import fourier_features, render_forward, to_rgb
from fused_inr._backends.triton.kernels.launch import Launch
from fused_inr.inr import INR, Grid
from fused_inr.tools.triton.ahead_of_time import TARGETS
from fused_inr.tools.triton.case import Case, differing, products_in
from fused_inr.tools.triton.cases_render_backward import WIDTHS, inr_of

_SUMS = (fourier_features.table_kernel, to_rgb.image_kernel)
"""Kernels that multiply no matrices."""


def _generator() -> INR:
    """Return DIGAN's generator; in its last stage only the last layer has a read-out."""
    *stages, last = inr_of(WIDTHS, "lrelu").stages
    layers = [*(replace(layer, to_rgb=None) for layer in last.layers[:-1]), last.layers[-1]]
    return INR([*stages, replace(last, layers=layers)])


def _launches(inr: INR, kind: str, keep: bool, multiplies: bool, side: int = 32) -> list[Launch]:
    collected: list[Launch] = []
    with products_in(kind) as dtype:
        render_forward.evaluate(
            inr, Grid(side, side), dtype, keep=keep, run=lambda launches, device: collected.extend(launches)
        )
    return differing(launch for launch in collected if (launch.kernel not in _SUMS) == multiplies)


def _cases() -> Iterator[Case]:
    generator, every = _generator(), tuple(TARGETS)
    wide = inr_of(((1, 512, 1), (2, 256, 2)), "lrelu")
    for kind in ("tf32", "float32"):  # layer by layer; these include every kind of layer of width 512
        targets = ("gfx942",) if kind == "float32" else every
        yield Case(f"render-wide-{kind}", partial(_launches, wide, kind, False, True), targets)
    yield Case("render-generator-bfloat16", lambda: _launches(generator, "bfloat16", False, True), every)
    yield Case("render-generator-bfloat16-sums", lambda: _launches(generator, "bfloat16", False, False))
    yield Case("render-wide-bfloat16-stored", lambda: _launches(wide, "bfloat16", True, True), every)
    small = inr_of(((1, 128, 3), (2, 64, 2)), "sine")
    yield Case("render-small-sine-float16", lambda: _launches(small, "float16", False, True), every)
    # Integers of 1 are constants of a kernel, which have no methods.
    single = inr_of(((1, 64, 2),), "lrelu")
    yield Case("render-one-pixel-bfloat16", lambda: _launches(single, "bfloat16", False, True, side=1), every)
    parts = inr_of(((1, 512, 1),), "lrelu")
    yield Case("render-one-pixel-bfloat16-sums", lambda: _launches(parts, "bfloat16", False, False, side=1))


CASES: list[Case] = [*_cases()]
