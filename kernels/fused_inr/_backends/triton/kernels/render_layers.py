"""The layers of an INR one by one, each in a kernel of its own, preceded by the kernels that compute its inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr._backends.triton.kernels import fourier_features, launch, layers
from fused_inr._backends.triton.kernels.launch import Launch
from fused_inr._backends.triton.kernels.layers import Input, Tables, rows_dense
from fused_inr._backends.triton.kernels.to_rgb import Canvas
from fused_inr.inr import INR
from fused_inr.lowering import StagePlan

Run = Callable[[Sequence[Launch], torch.device], None]


class Forward:
    """Compute the outputs of layers one after the other.

    Args:
        inr: supplies N, T and the device of all plans.
        dtype: type of the products and of activations.
        run: called with the launches to run; a caller with tensors on "meta" may collect them instead.
    """

    def __init__(self, inr: INR, dtype: torch.dtype, run: Run = launch.run) -> None:
        self._clips, self._times, self._device = inr.batch, inr.times, inr.device
        self._dtype, self._run = dtype, run

    def launched(self, result: tuple[Any, Sequence[Launch]]) -> Any:
        """Run the launches of a (result, launches) pair and return the result."""
        self._run(result[1], self._device)
        return result[0]

    def tables(self, plan: StagePlan) -> Tables | None:
        """Return the tables of a stage's Fourier features, or None if it has none."""
        if plan.fourier is None:
            return None
        rows, columns, launches = fourier_features.tables(plan.fourier, plan.grid, self._dtype)
        self._run(launches, self._device)
        return Tables(rows, columns, plan.fourier.parts == "sincos")

    def read(self, plan: StagePlan, number: int, x: Tensor | None, tables: Tables | None) -> tuple[Tensor, Input]:
        """Return the weight and the input of a layer.

        If the previous stage has a lower resolution, its output is multiplied here, at that resolution, to give
        `Input.parent`; otherwise that product is part of the layer's own.

        Args:
            plan: the stage.
            number: index of the layer in the stage.
            x: output of the previous layer; for a first layer, of the previous stage, or None.
            tables: tables of the stage's Fourier features; only a first layer reads them.
        """
        weight = rows_dense(plan.layers[number].weight, self._dtype)
        size = self._clips, self._times, plan.grid.height, plan.grid.width
        if number:
            return weight, Input(size, plan.scale, x)
        if x is None or plan.ratio == 1:
            return weight, Input(size, plan.scale, x, tables)
        channels = x.shape[-1]
        above = Input(tuple(x.shape[:4]), plan.scale // plan.ratio, x)
        parent = self.launched(layers.linear(weight[:, :, :channels], above, None, self._dtype))
        return weight[:, :, channels:], Input(size, plan.scale, None, tables, parent)

    def layer(
        self,
        plan: StagePlan,
        number: int,
        x: Tensor | None,
        tables: Tables | None,
        *,
        store: bool = True,
        planes: bool = False,
        canvas: Canvas | None = None,
    ) -> Tensor | None:
        """Return the output of layer `number` of a stage; x as in `read`, options as in `layers.layer`."""
        weight, source = self.read(plan, number, x, tables)
        return self.launched(
            layers.layer(plan.layers[number], weight, source, store=store, planes=planes, canvas=canvas)
        )

    def before_activation(self, plan: StagePlan, number: int, x: Tensor | None, tables: Tables | None) -> Tensor:
        """Return W x + b of layer `number` of a stage, [N, T, H, W, O] float32; x as in `read`."""
        weight, source = self.read(plan, number, x, tables)
        return self.launched(layers.linear(weight, source, plan.layers[number].bias, torch.float32))
