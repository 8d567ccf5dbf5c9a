"""What has to be multiplied with what: an INR, lowered to the products that every fast path executes.

Two identities are applied here, so that no backend has to know them (DIGAN, ICLR 2022, evaluates the naive form):

- Weights belong to the clip: they are never copied to its frames.
- A pointwise layer commutes with nearest upsampling: W concat(up(x), e) = up(W_x x) + W_e e. The first layer of a stage
  is split into `parent`, which multiplies the output of the stage before at the resolution of that stage, and `inner`,
  which multiplies the stage's own coordinate features. The concatenation never exists.

The grid is separable and time is a phase: sin(a) and cos(a) of all pixels follow from tables of rows and of columns, of
which only the rows' contain the phase.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fused_inr.inr import INR, Fourier, Grid, Layer


@dataclass(frozen=True, eq=False)
class StagePlan:
    """The products of one stage.

    Attributes:
        grid: the stage's own grid.
        scale: its pixels per side, in those of the base grid.
        ratio: pixels per side in one pixel of the stage before; 1 in the first stage.
        parent: [N, O, I] weight of the output of the stage before, or None in the first stage.
        inner: [N, O, F] weight of the Fourier features; F is 0 without them.
        fourier: the features, or None.
        layers: all layers; the first one's products are `parent` and `inner`.
    """

    grid: Grid
    scale: int
    ratio: int
    parent: Tensor | None
    inner: Tensor
    fourier: Fourier | None
    layers: Sequence[Layer]


def lower(inr: INR, grid: Grid) -> list[StagePlan]:
    """Return the products of every stage, in order; `grid` is the base grid. All tensors are views."""
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
