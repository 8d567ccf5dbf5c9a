"""Lowering of an INR to the matrix products that every fast path computes.

Two identities are applied here, so that backends need not implement them (DIGAN, ICLR 2022, evaluates the naive form):

- The frames of a clip share its weights, which are never copied per frame.
- A pointwise layer commutes with nearest upsampling: W concat(up(x), e) = up(W_x x) + W_e e. The first layer of a stage
  is split into `parent`, which multiplies the output of the previous stage at that stage's resolution, and `inner`,
  which multiplies the stage's own Fourier features. The concatenation is never formed.

The grid is separable and time enters only as a phase. The sines and cosines of all pixels therefore follow from one
table for the rows, which includes the phase, and one for the columns, which does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fused_inr.inr import INR, Fourier, Grid, Layer


@dataclass(frozen=True, eq=False)
class StagePlan:
    """The products of one stage.

    Attributes:
        grid: grid of the stage.
        scale: pixels per side, relative to the base grid.
        ratio: pixels per side, relative to the previous stage; 1 in the first stage.
        parent: weight `[N, O, I]` of the output of the previous stage; None in the first stage.
        inner: weight `[N, O, F]` of the Fourier features; F = 0 if the stage has none.
        fourier: the Fourier features, or None.
        layers: all layers; the weight of the first one is split into `parent` and `inner`.
    """

    grid: Grid
    scale: int
    ratio: int
    parent: Tensor | None
    inner: Tensor
    fourier: Fourier | None
    layers: Sequence[Layer]


def lower(inr: INR, grid: Grid) -> list[StagePlan]:
    """Return the products of every stage, in order, for a base grid. All tensors are views."""
    plans: list[StagePlan] = []
    channels, scale = 0, 1
    for stage in inr.stages:
        weight = stage.layers[0].weight  # [N, O, channels + F]
        plans.append(
            StagePlan(
                grid=grid.scaled(stage.scale),
                scale=stage.scale,
                ratio=stage.scale // scale if plans else 1,
                parent=weight[:, :, :channels] if plans else None,
                inner=weight[:, :, channels:],
                fourier=stage.fourier,
                layers=stage.layers,
            )
        )
        channels, scale = stage.layers[-1].outputs, stage.scale
    return plans
