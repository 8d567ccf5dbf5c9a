"""Gradients of every tensor of an INR from the gradient of its frames: the kernels of `layers_backward`, in order.

Stages are processed from last to first, and layers within a stage likewise. Only the dz of one or two layers, the
gradient of the running image and the outputs of one stage's layers need be in memory at once.

Outputs of layers are either stored by the forward pass or recomputed by the forward kernels: first all stages but the
last, keeping only their final outputs, then each stage from the output of the previous one. W x + b of a sine is always
recomputed, in float32 and one layer at a time, because the slope does not follow from the output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fused_inr._backends.triton.kernels import launch
from fused_inr._backends.triton.kernels.fourier_features_backward import feature_weight_gradient, phase_gradient
from fused_inr._backends.triton.kernels.layers import Tables, rows_dense
from fused_inr._backends.triton.kernels.layers_backward import Following, children_sum, output_gradient, weight_gradient
from fused_inr._backends.triton.kernels.render_layers import Forward, Run
from fused_inr.inr import INR, Grid, Layer
from fused_inr.lowering import StagePlan, lower


@dataclass
class _Upstream:
    """The gradients that reach the current layer from those after it."""

    following: Following | None = None
    direct: Tensor | None = None
    """[N, T, H, W, O] float32: the gradient of the frames, if they are the last layer's output."""
    image: Tensor | None = None
    """[N, T, H, W, C] float32: the gradient of the image at the layer's resolution, if frames are read-outs."""
    colours: Tensor | None = None
    """[C] float32: the sum of `image`, which upsampling does not change."""


def _summed(partial: Tensor, like: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return partial sums added along `axes` and along the axes that `like` shares, in the type and shape of `like`."""
    return partial.sum(axes).sum_to_size(like.shape).to(like.dtype).contiguous()


def _zeros(tensor: Tensor) -> Tensor:
    """Return the contiguous gradient of a tensor that has no effect."""
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format)


class _Backward:
    """The gradients of one call, computed from the last tensor to the first."""

    def __init__(self, gradient: Tensor, shown: bool, dtype: torch.dtype, launched: Callable[[tuple], Any]) -> None:
        """Start from the gradient [N, T, C, H, W] of the running image if `shown`, else of the last outputs."""
        self._dtype, self._launched = dtype, launched
        self.gradients: list[Tensor] = []
        rows = gradient.detach().to(torch.float32).movedim(2, -1).contiguous()
        self._upstream = _Upstream(image=rows, colours=rows.sum((0, 1, 2, 3))) if shown else _Upstream(direct=rows)

    def output(self, layer: Layer, saved: Tensor) -> Tensor | None:
        """Return dz of a layer, or None if no gradient reaches it; store the gradients of its read-out and bias.

        Args:
            layer: the current layer.
            saved: y, or W x + b for a sine.
        """
        upstream, to_rgb = self._upstream, layer.to_rgb or ()
        if upstream.following is None and upstream.direct is None and not to_rgb:
            self.gradients.append(_zeros(layer.bias))
            return None
        colours = upstream.image if to_rgb else None
        following, direct = upstream.following, upstream.direct
        result = self._launched(output_gradient(layer, saved, self._dtype, following, direct, colours))
        upstream.following = upstream.direct = None
        if to_rgb:
            self.gradients += [upstream.colours.to(to_rgb[1].dtype, copy=True), _summed(result.rgb, to_rgb[0], (1, 2))]
        self.gradients.append(_summed(result.bias, layer.bias, ((0, 1, 2), (1, 2), (2,))[layer.bias.ndim - 1]))
        return result.dz

    def inner_layer(self, layer: Layer, dz: Tensor | None, x: Tensor) -> None:
        """Compute the gradient of the weight of a layer whose input is x, the output of the previous layer."""
        if dz is None:
            self.gradients.append(_zeros(layer.weight))
            return
        self.gradients.append(self._stored_weight(dz, x, layer.weight))
        self._upstream.following = Following(dz, rows_dense(layer.weight, self._dtype))

    def first_layer(self, plan: StagePlan, dz: Tensor | None, before: Tensor | None, tables: Tables | None) -> None:
        """Compute the gradients of a stage's first weight, phases and frequencies, and move to the previous stage.

        Args:
            plan: the stage.
            dz: dz of its first layer, or None.
            before: output of the previous stage, or None.
            tables: tables of the stage's Fourier features, or None.
        """
        weight, upstream = plan.layers[0].weight, self._upstream
        if upstream.image is not None:
            upstream.image = self._launched(children_sum(upstream.image, plan.ratio))
        if dz is None:
            features = () if plan.fourier is None else (plan.fourier.phase, plan.fourier.frequency)
            self.gradients += [_zeros(tensor) for tensor in (weight, *features)]
            return
        narrow, parts = rows_dense(weight, self._dtype), []
        if before is not None:
            summed = self._launched(children_sum(dz, plan.ratio))
            parts.append(self._stored_weight(summed, before, plan.parent))
            upstream.following = Following(summed, narrow[:, :, : before.shape[-1]])
        if tables is not None:
            partial = self._launched(feature_weight_gradient(dz, tables))
            parts.append(_summed(partial, plan.inner, (1,)))
        self.gradients.append(torch.cat(parts, dim=2) if len(parts) > 1 else parts[0])
        if tables is not None:
            self._fourier(plan, dz, narrow[:, :, weight.shape[2] - plan.inner.shape[2] :], tables)

    def _stored_weight(self, dz: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return _summed(self._launched(weight_gradient(dz, x, len(weight) == 1)), weight, (1,))

    def _fourier(self, plan: StagePlan, dz: Tensor, weight: Tensor, tables: Tables) -> None:
        partial = self._launched(phase_gradient(dz, weight, tables, plan.grid))  # [N, T, tiles, 3, D]
        fourier = plan.fourier
        self.gradients.append(_summed(partial[:, :, :, 0], fourier.phase, (2,)))
        self.gradients.append(_summed(partial[:, :, :, 1:].mT, fourier.frequency, (1, 2)))


class _Outputs:
    """The outputs of all layers: stored, or recomputed one stage at a time."""

    def __init__(self, plans: Sequence[StagePlan], kept: Sequence[Tensor] | None, forward: Forward) -> None:
        self._plans, self._forward = plans, forward
        self.tables = [forward.tables(plan) for plan in plans]
        self._stored: list[list[Tensor]] | None = None
        if kept is not None:
            rest = iter(kept)
            self._stored = [[next(rest) for _ in plan.layers] for plan in plans]
            return
        self._last: list[Tensor] = []  # outputs of every stage but the last
        for index in range(len(plans) - 1):
            self._last.append(self._computed(index, len(plans[index].layers))[-1])

    def _computed(self, index: int, count: int) -> list[Tensor]:
        """Return the outputs of the first `count` layers of a stage."""
        before, outputs = self.before(index), []
        for number in range(count):
            outputs.append(
                self._forward.layer(self._plans[index], number, outputs[-1] if outputs else before, self.tables[index])
            )
        return outputs

    def before(self, index: int) -> Tensor | None:
        """Return the output of the previous stage, or None for the first."""
        if index == 0:
            return None
        return self._last[index - 1] if self._stored is None else self._stored[index - 1][-1]

    def stage(self, index: int) -> list[Tensor]:
        """Return the outputs of a stage's layers as a list to pop from; call from the last stage to the first."""
        if self._stored is not None:
            return self._stored[index]
        count = len(self._plans[index].layers)
        if index < len(self._last):
            return [*self._computed(index, count - 1), self._last.pop()]
        return self._computed(index, count)


def backward(
    inr: INR,
    grid: Grid,
    gradient: Tensor,
    dtype: torch.dtype,
    kept: Sequence[Tensor] | None = None,
    run: Run = launch.run,
) -> list[Tensor]:
    """Return the gradients of every tensor of an INR, in the order of `INR.tensors` and in their types.

    Args:
        inr: an INR on a device, without float64 tensors.
        grid: the base grid.
        gradient: [N, T, C, H, W], gradient of the frames.
        dtype: type of the matrix products and of stored activations.
        kept: outputs [N, T, H, W, O] of all layers in `dtype`, if the forward pass stored them.
        run: called with the launches to run; a caller with tensors on "meta" may collect them instead.
    """
    if not gradient.numel():
        return [_zeros(tensor) for tensor in inr.tensors()]
    plans = lower(inr, grid)
    shown = any(layer.to_rgb is not None for plan in plans for layer in plan.layers)
    forward = Forward(inr, dtype, run)
    outputs = _Outputs(plans, kept, forward)
    chain = _Backward(gradient, shown, dtype, forward.launched)
    for index in reversed(range(len(plans))):
        stage_outputs = outputs.stage(index)
        for number in reversed(range(len(plans[index].layers))):
            saved = stage_outputs.pop()  # freed once the layer is done
            x = stage_outputs[-1] if stage_outputs else outputs.before(index)
            _differentiate(chain, forward, plans[index], number, saved, x, outputs.tables[index])
    return chain.gradients[::-1]


def _differentiate(
    chain: _Backward,
    forward: Forward,
    plan: StagePlan,
    number: int,
    saved: Tensor,
    x: Tensor | None,
    tables: Tables | None,
) -> None:
    """Compute the gradients of a layer with input x, and of the features if the layer is the first of its stage."""
    layer = plan.layers[number]
    if layer.activation == "sine":
        saved = forward.before_activation(plan, number, x, tables)
    dz = chain.output(layer, saved)
    if number:
        chain.inner_layer(layer, dz, x)
    else:
        chain.first_layer(plan, dz, x, tables)
