"""The lowered form of an INR in PyTorch calls: differentiable to any order, on any device.

Pixels are rows and channels are columns, so that all frames of a clip form one matrix, which is multiplied by the
clip's weight in a single product.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fused_inr import reference
from fused_inr.flattening import grid_of, unflatten
from fused_inr.inr import INR, Fourier, Grid, Layer
from fused_inr.lowering import StagePlan, lower


def render(inr: INR, grid: Grid, dtype: torch.dtype) -> Tensor:
    """Return frames `[N, T, C, H, W]` in `inr.dtype`; `dtype` is the compute dtype of the matrix products."""
    n, t, wide = inr.batch, inr.times, inr.dtype
    x = image = None  # [N, T, H, W, C] of the previous stage
    for plan in lower(inr, grid):
        if image is not None:
            image = _children(image, plan.ratio)
        for index, layer in enumerate(plan.layers):
            # lrelu and relu commute with a positive factor: fold it into the weight, which is smaller than the output.
            scale = layer.gain if layer.activation in ("lrelu", "relu") and layer.gain > 0 else 1.0
            if index == 0:
                x = _first_layer(plan, x, n, t, scale, dtype, wide)
            else:
                x = _product(x, _scaled(layer.weight, scale, wide), dtype)
            x = _finish(x, layer, scale, wide)
            if layer.to_rgb is not None:
                weight, bias = layer.to_rgb
                rgb = _product(x, weight, dtype).to(wide) + bias.to(wide)
                image = rgb if image is None else image + rgb
    return (x if image is None else image).movedim(-1, 2)


def _first_layer(
    plan: StagePlan, x: Tensor | None, n: int, t: int, scale: float, dtype: torch.dtype, wide: torch.dtype
) -> Tensor:
    """Return inner * features + upsampled (parent * x), `[N, T, H, W, O]`."""
    parent = None if x is None else _product(x, _scaled(plan.parent, scale, wide), dtype)  # [N, T, h, w, O]
    if plan.fourier is None:
        return _children(parent, plan.ratio)
    features = _features(plan.fourier, plan.grid, dtype, plan.inner.dtype)
    y = _product(features.expand(n, t, -1, -1, -1), _scaled(plan.inner, scale, wide), dtype)
    if parent is None:
        return y
    h, w = parent.shape[2:4]
    # Broadcasting over a view of the child pixels upsamples; its backward pass sums over the children of each parent.
    children = y.view(n, t, h, plan.ratio, w, plan.ratio, y.shape[-1])
    return (children + parent[:, :, :, None, :, None]).view(y.shape)


def _features(fourier: Fourier, grid: Grid, dtype: torch.dtype, wide: torch.dtype) -> Tensor:
    """Return sin(a), then cos(a), of every pixel from tables of rows and columns: `[N, T, H, W, F]` in `dtype`."""
    wide = torch.promote_types(wide, torch.float32)
    (x0, x1), (y0, y1) = grid.x, grid.y
    device = fourier.phase.device
    x = x0 + torch.arange(grid.width, dtype=wide, device=device) * ((x1 - x0) / grid.width)
    y = y0 + (grid.height - 1 - torch.arange(grid.height, dtype=wide, device=device)) * ((y1 - y0) / grid.height)
    frequency = fourier.frequency.to(wide)  # [N, D, 2]
    u = frequency[:, None, :, 1] * y[:, None]  # [N, H, D]
    u = (u[:, None] + fourier.phase.to(wide)[:, :, None])[:, :, :, None]  # [N, T, H, 1, D]
    v = (frequency[:, None, :, 0] * x[:, None])[:, None, None]  # [N, 1, 1, W, D]
    su, cu, sv, cv = u.sin().to(dtype), u.cos().to(dtype), v.sin().to(dtype), v.cos().to(dtype)
    if fourier.parts == "sin":
        return su * cv + cu * sv
    return torch.cat([su * cv + cu * sv, cu * cv - su * sv], dim=-1)


def _scaled(weight: Tensor, scale: float, wide: torch.dtype) -> Tensor:
    """Return a weight or bias times a factor, which its own type might round."""
    return weight if scale == 1 else weight.to(wide) * scale


def _product(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply x `[N, T, H, W, I]` by a weight `[N, O, I]` or `[1, O, I]`: `[N, T, H, W, O]` in `dtype`."""
    rows = x.to(dtype).flatten(1, 3)  # [N, T H W, I]
    return torch.bmm(rows, weight.to(dtype).mT.expand(len(x), -1, -1)).unflatten(1, x.shape[1:4])


def _finish(x: Tensor, layer: Layer, scale: float, wide: torch.dtype) -> Tensor:
    """Apply bias, activation and gain in `wide`; `scale` is the factor that the product already contains."""
    bias = _scaled(layer.bias, scale, wide)
    if bias.ndim > 1:
        bias = bias[:, None, None, None] if bias.ndim == 2 else bias[:, :, None, None]  # [N, 1 or T, 1, 1, O]
    x = x.to(wide) + bias.to(wide)
    if layer.activation in ("lrelu", "relu"):
        x = F.leaky_relu(x, reference.LRELU_SLOPE) if layer.activation == "lrelu" else F.relu(x)
        return x if scale == layer.gain else x * layer.gain
    if layer.activation == "sine":
        x = torch.sin(layer.omega * x)
    return x * layer.gain


def _children(x: Tensor, ratio: int) -> Tensor:
    """Upsample `[N, T, H, W, C]` by an integer factor with nearest-neighbor interpolation."""
    if ratio == 1:
        return x
    n, t, h, w, c = x.shape
    return x[:, :, :, None, :, None].expand(n, t, h, ratio, w, ratio, c).reshape(n, t, h * ratio, w * ratio, c)


def gradients(
    gradient: Tensor,
    tensors: Sequence[Tensor],
    structure: Sequence[int],
    numbers: Sequence[float],
    shape: Sequence[int],
    window: Sequence[float],
    dtype: torch.dtype,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Return differentiable gradients of the frames of an INR that `flatten` has flattened; None where not needed."""

    def frames(*values: Tensor) -> Tensor:
        inr = unflatten(values, structure, numbers)
        return render(inr, grid_of(inr, shape, window), dtype)

    return vjp(frames, tensors, gradient, needs)


def network_gradients(
    network: Callable[..., Any],
    gradients: Any,
    tensors: Sequence[Tensor],
    options: Sequence[Any],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Return differentiable gradients for the coordinates, weights and biases of a network; None where not needed.

    Args:
        network: `reference.mlp` or `reference.mlp_jet`.
        gradients: of its result, or a list with one of each result.
        tensors: coordinates, weights, biases.
        options: the other arguments of `network`.
        needs: whether the gradient of each tensor is needed.
    """
    layers = len(tensors) // 2

    def evaluate(coords: Tensor, *parameters: Tensor) -> Any:
        return network(coords, list(parameters[:layers]), list(parameters[layers:]), *options)

    return vjp(evaluate, tensors, gradients, needs)


def vjp(
    function: Callable[..., Any], tensors: Sequence[Tensor | None], cotangents: Any, needs: Sequence[bool]
) -> list[Tensor | None]:
    """Return the product of cotangents with the Jacobian of a composition of PyTorch calls.

    The result is itself differentiable, in the tensors and the cotangents, if gradients are enabled.

    Args:
        function: takes all of `tensors` and returns a tensor or a tuple of tensors.
        tensors: arguments of `function`; each counts as independent of the others.
        cotangents: one per result of `function`, with its dtype.
        needs: whether the result for each tensor is needed; it is None where not.
    """
    needed = [index for index, need in enumerate(needs) if need]

    def of_needed(*values: Tensor) -> Any:
        args = list(tensors)
        for index, value in zip(needed, values, strict=True):
            args[index] = value
        return function(*args)

    results: list[Tensor | None] = [None] * len(tensors)
    if needed:
        products = torch.func.vjp(of_needed, *(tensors[index] for index in needed))[1](cotangents)
        for index, product in zip(needed, products, strict=True):
            results[index] = product
    return results
