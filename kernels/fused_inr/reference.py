"""The reference implementation, and with it the specification, of every op: plain PyTorch, as written by hand.

Every function is a composition of differentiable PyTorch calls, so autograd provides gradients of any order. The public
functions in `fused_inr.ops` document and check the arguments; nothing is checked here. This module imports nothing from
the library: an INR and a grid may be any objects with the attributes of `INR`, `Stage`, `Layer`, `Fourier` and `Grid`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LRELU_SLOPE = 0.2
"""Slope of the leaky ReLU for negative inputs in layers; the default in `bias_act`."""


def coordinates(grid, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return X `[W]` of the columns and Y `[H]` of the rows of a grid."""
    (x0, x1), (y0, y1) = grid.x, grid.y
    column = torch.arange(grid.width, dtype=dtype, device=device)
    row = torch.arange(grid.height, dtype=dtype, device=device)
    return x0 + column * ((x1 - x0) / grid.width), y0 + (grid.height - 1 - row) * ((y1 - y0) / grid.height)


def fourier_features(fourier, grid, batch: int, dtype: torch.dtype) -> Tensor:
    """Return sin(a), then cos(a), with a = frequency . (X, Y) + phase, of every frame and pixel: `[N T, F, H, W]`."""
    x, y = coordinates(grid, dtype, fourier.phase.device)
    frequency = fourier.frequency.to(dtype)[:, None, :, :, None, None]  # [N, 1, D, 2, 1, 1]
    phase = fourier.phase.to(dtype)[:, :, :, None, None]  # [N, T, D, 1, 1]
    angle = frequency[:, :, :, 0] * x + frequency[:, :, :, 1] * y[:, None] + phase  # [N, T, D, H, W]
    angle = angle.expand(batch, -1, -1, -1, -1).flatten(0, 1)  # [N T, D, H, W]
    if fourier.parts == "sin":
        return torch.sin(angle)
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)  # [N T, 2 D, H, W]


def upsample(x: Tensor, factor: int) -> Tensor:
    """Upsample `[B, C, H, W]` by an integer factor with nearest-neighbor interpolation."""
    if factor == 1:
        return x
    n, c, h, w = x.shape
    # Unlike F.interpolate, these calls have batching rules, and no rounding of coordinates can shift a pixel.
    return x[:, :, :, None, :, None].expand(-1, -1, -1, factor, -1, factor).reshape(n, c, h * factor, w * factor)


def product(weight: Tensor, x: Tensor, batch: int, times: int, dtype: torch.dtype) -> Tensor:
    """Multiply a weight `[N, O, I]` or `[1, O, I]`, copied to every frame, by x `[N T, I, H, W]`: `[N T, O, H, W]`."""
    weight = weight[:, None].expand(batch, times, -1, -1).flatten(0, 1)  # [N T, O, I]
    y = torch.bmm(weight.to(dtype), x.flatten(2).to(dtype))  # [N T, O, H W]
    return y.unflatten(2, x.shape[2:])


def frame_bias(bias: Tensor, batch: int, times: int, dtype: torch.dtype) -> Tensor:
    """Copy a bias `[O]`, `[N, O]` or `[N, T, O]` to every frame: `[N T, O, 1, 1]`."""
    if bias.ndim < 3:
        bias = bias.unsqueeze(-2)  # [1, O] or [N, 1, O]
    return bias.to(dtype).expand(batch, times, -1).flatten(0, 1)[:, :, None, None]


def activation(x: Tensor, name: str, omega: float) -> Tensor:
    """Apply the activation of a layer, without its gain; `omega` is the frequency or scale of those that have one."""
    if name == "lrelu":
        return F.leaky_relu(x, LRELU_SLOPE)
    if name == "relu":
        return F.relu(x)
    if name == "gelu":
        return F.gelu(x)
    if name == "silu":
        return x * torch.sigmoid(x)  # F.silu has no second derivatives in forward mode
    if name == "tanh":
        return torch.tanh(x)
    if name == "sine":
        return torch.sin(omega * x)
    if name == "gauss":
        return torch.exp(-(omega * x).square())
    if name == "finer":
        return torch.sin(omega * (x.abs() + 1) * x)
    return x


def render(inr, grid, dtype: torch.dtype | None = None) -> Tensor:
    """Render the frames `[N, T, C, H, W]` of an INR stage by stage, each frame independently."""
    n, t, wide = inr.batch, inr.times, inr.dtype
    dtype = dtype or wide
    x = image = None  # [N T, C, H, W] at the scale of the previous stage
    scale = 1
    for stage in inr.stages:
        if x is not None:
            x = upsample(x, stage.scale // scale)
        if image is not None:
            image = upsample(image, stage.scale // scale)
        scale = stage.scale
        if stage.fourier is not None:
            features = fourier_features(stage.fourier, grid.scaled(scale), n, wide)
            x = features if x is None else torch.cat([x, features], dim=1)
            del features
        for layer in stage.layers:
            x = product(layer.weight, x, n, t, dtype)
            x = x + frame_bias(layer.bias, n, t, wide)  # a half-precision product is widened here
            x = activation(x, layer.activation, layer.omega)
            if layer.gain != 1:
                x = x * layer.gain
            if layer.to_rgb is not None:
                rgb = product(layer.to_rgb[0], x, n, t, dtype)
                rgb = rgb + frame_bias(layer.to_rgb[1], n, t, wide)
                image = rgb if image is None else image + rgb
                del rgb
    return (x if image is None else image).unflatten(0, (n, t))


def mlp(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activations: list[str],
    omegas: list[float],
    skips: list[bool],
    dtype: torch.dtype,
) -> Tensor:
    """Evaluate layers with weights `[N, O, I]` and biases `[N, O]` at coordinates `[N, P, K]`: `[N, P, C]`."""
    x = coords
    for weight, bias, name, omega, skip in zip(weights, biases, activations, omegas, skips, strict=True):
        if skip:
            x = torch.cat([x, coords], dim=2)
        x = torch.bmm(x.to(dtype), weight.to(dtype).mT)  # [N, P, O]
        x = activation(x + bias.to(coords.dtype)[:, None], name, omega)
    return x


def siren(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    omega: float,
    first_omega: float,
    final: str,
    dtype: torch.dtype,
) -> Tensor:
    """Evaluate sine layers, the first with its own frequency and the last with activation `final`: `[N, P, C]`."""
    count = len(weights)
    activations = [*["sine"] * (count - 1), final]
    return mlp(coords, weights, biases, activations, [first_omega, *[omega] * (count - 1)], [False] * count, dtype)


def activation_jet(x: Tensor, name: str, omega: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the value and the first two derivatives of an activation."""
    y = activation(x, name, omega)
    zero = torch.zeros_like(x)
    if name == "relu":
        return y, torch.where(x <= 0, zero, torch.ones_like(x)), zero  # 1 at NaN, as autograd has it
    if name == "lrelu":
        return y, torch.where(x > 0, torch.ones_like(x), LRELU_SLOPE), zero
    if name == "gelu":
        density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
        return y, torch.special.ndtr(x) + x * density, density * (2 - x.square())
    if name == "silu":
        s = torch.sigmoid(x)
        return y, s * (1 + x * (1 - s)), s * (1 - s) * (2 + x * (1 - 2 * s))
    if name == "tanh":
        return y, 1 - y.square(), -2 * y * (1 - y.square())
    if name == "sine":
        return y, omega * torch.cos(omega * x), -(omega**2) * y
    if name == "gauss":
        return y, -2 * omega**2 * x * y, (4 * omega**4 * x.square() - 2 * omega**2) * y
    if name == "finer":
        cosine = torch.cos(omega * (x.abs() + 1) * x)
        rate = omega * (2 * x.abs() + 1)
        return y, cosine * rate, 2 * omega * x.sign() * cosine - rate.square() * y
    return y, torch.ones_like(x), zero


def mlp_jet(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activations: list[str],
    omegas: list[float],
    skips: list[bool],
    dtype: torch.dtype,
    order: int,
    hessian: bool,
) -> list[Tensor]:
    """Return values `[N, P, C]`, Jacobians `[N, P, C, K]`, and for order 2 Laplacians `[N, P, C]` of an `mlp`.

    With `hessian`, Hessians `[N, P, C, K, K]` follow. Derivatives are those by the coordinates.
    """
    n, points, k = coords.shape
    identity = torch.eye(k, dtype=coords.dtype, device=coords.device).expand(n, points, k, k)
    # Directional derivatives of the layer's input: first ones along each axis; second ones along each pair of axes,
    # or their sum over equal pairs.
    x, first = coords, identity  # [N, P, I], [N, P, K, I]
    second = coords.new_zeros(n, points, (k * k if hessian else 1) if order == 2 else 0, k)  # [N, P, S, I]
    for weight, bias, name, omega, skip in zip(weights, biases, activations, omegas, skips, strict=True):
        if skip:
            zeros = second.new_zeros(*second.shape[:3], k)
            x, first = torch.cat([x, coords], dim=2), torch.cat([first, identity], dim=3)
            second = torch.cat([second, zeros], dim=3)
        rows = torch.cat([x[:, :, None], first, second], dim=2)  # [N, P, 1 + K + S, I]
        product = torch.bmm(rows.flatten(1, 2).to(dtype), weight.to(dtype).mT)  # [N, P (1 + K + S), O]
        product = product.to(coords.dtype).unflatten(1, rows.shape[1:3])
        z = product[:, :, 0] + bias.to(coords.dtype)[:, None]
        x, slope, curvature = activation_jet(z, name, omega)
        dz, d2z = product[:, :, 1 : 1 + k], product[:, :, 1 + k :]
        first, second = slope[:, :, None] * dz, slope[:, :, None] * d2z
        if order == 2:
            pairs = (dz[:, :, :, None] * dz[:, :, None]).flatten(2, 3) if hessian else dz.square().sum(2, keepdim=True)
            second = second + curvature[:, :, None] * pairs
    results = [x, first.mT]
    if order == 2:
        matrix = second.unflatten(2, (k, k)).movedim(4, 2) if hessian else None  # [N, P, C, K, K]
        results += [second[:, :, 0]] if matrix is None else [matrix.diagonal(dim1=3, dim2=4).sum(3), matrix]
    return results


def fmm_weight(weight: Tensor, left: Tensor, right: Tensor, demodulate: bool) -> Tensor:
    """Return weight * (1 + L R / sqrt(rank)), with rows divided by (2-norm + 1e-8) to demodulate: `[N, O, I]`."""
    modulated = weight * (1 + torch.bmm(left, right) / math.sqrt(left.shape[2]))  # [N, O, I]
    if demodulate:
        modulated = modulated / (modulated.norm(dim=2, keepdim=True) + 1e-8)
    return modulated


BIAS_ACTIVATIONS = {
    "linear": lambda x, alpha: x,
    "relu": lambda x, alpha: F.relu(x),
    "lrelu": lambda x, alpha: F.leaky_relu(x, alpha),
    "tanh": lambda x, alpha: torch.tanh(x),
    "sigmoid": lambda x, alpha: torch.sigmoid(x),
    "elu": lambda x, alpha: F.elu(x),
    "selu": lambda x, alpha: F.selu(x),
    "softplus": lambda x, alpha: F.softplus(x),
    "swish": lambda x, alpha: torch.sigmoid(x) * x,
}


def bias_act(
    x: Tensor,
    bias: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    dim: int,
    residual: Tensor | None = None,
) -> Tensor:
    """Return residual + clamp(act(x + bias along dim) * gain, -clamp, clamp)."""
    if bias is not None:
        x = x + bias.to(x.dtype).reshape([len(bias) if axis == dim else 1 for axis in range(x.ndim)])
    x = BIAS_ACTIVATIONS[act](x, alpha)
    if gain != 1:
        x = x * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return x if residual is None else residual + x


def conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Cross-correlate `[N, I, H, W]` with `[O, I, kh, kw]`."""
    return F.conv2d(x, weight, stride=stride, padding=padding)


def upfirdn2d(
    x: Tensor,
    filter: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """Insert zeros, pad or crop by (x0, x1, y0, y1), filter with taps `[h, w]` or separable `[n]`, and downsample."""
    n, c, h, w = x.shape
    if up != (1, 1):
        x = x.reshape(n, c, h, 1, w, 1)
        x = F.pad(x, [0, up[0] - 1, 0, 0, 0, up[1] - 1])
        x = x.reshape(n, c, h * up[1], w * up[0])
    if any(padding):  # before negative numbers crop, which may be by more than x has
        x = F.pad(F.pad(x, [max(size, 0) for size in padding]), [min(size, 0) for size in padding])
    filter = filter.to(x.dtype)
    taps = filter * gain if filter.ndim == 2 else filter
    if not flip_filter:
        taps = taps.flip(list(range(taps.ndim)))  # conv2d correlates; convolution flips the filter
    if not c:  # conv2d refuses zero groups
        taps = taps if taps.ndim == 2 else torch.outer(taps, taps)
        rows, columns = (x.shape[2] - taps.shape[0]) // down[1] + 1, (x.shape[3] - taps.shape[1]) // down[0] + 1
        return x[:, :, :1, :1].expand(n, c, rows, columns)
    if taps.ndim == 2:
        return F.conv2d(x, taps.expand(c, 1, -1, -1), stride=(down[1], down[0]), groups=c)
    x = F.conv2d(x, (taps * gain).expand(c, 1, 1, -1), stride=(1, down[0]), groups=c)
    return F.conv2d(x, taps[:, None].expand(c, 1, -1, -1), stride=(down[1], 1), groups=c)


def minibatch_stddev(x: Tensor, group: int, channels: int) -> Tensor:
    """Append `channels` planes: the standard deviation over a group, averaged over a run of channels and all pixels."""
    n, c, h, w = x.shape
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    y = y.reshape(group, n // group, channels, c // channels, h, w)  # [G, N/G, channels, C/channels, H, W]
    y = y - y.mean(dim=0)
    y = (y.square().mean(dim=0) + 1e-8).sqrt()  # [N/G, channels, C/channels, H, W]
    y = y.mean(dim=[2, 3, 4])[:, :, None, None]  # [N/G, channels, 1, 1]
    y = y.repeat(group, 1, h, w)  # [N, channels, H, W]
    return torch.cat([x, y.to(x.dtype)], dim=1)


def change_color(x: Tensor, brightness: Tensor | None, saturation: Tensor | None, contrast: Tensor | None) -> Tensor:
    """Change the brightness, saturation and contrast of clips `[N, T, C, H, W]` by amounts `[N]` per clip."""
    if brightness is not None:
        x = x + brightness.to(x.dtype)[:, None, None, None, None]
    if saturation is not None:
        mean = x.mean(dim=2, keepdim=True)  # [N, T, 1, H, W]
        x = (x - mean) * saturation.to(x.dtype)[:, None, None, None, None] + mean
    if contrast is not None:
        mean = x.mean(dim=(2, 3, 4), keepdim=True)  # [N, T, 1, 1, 1]
        x = (x - mean) * contrast.to(x.dtype)[:, None, None, None, None] + mean
    return x


def _far(positions: Tensor) -> Tensor:
    """Return integers of any type as int64 with which sums and differences do not overflow."""
    return positions.long().clamp(-(2**62), 2**62)


def translate(x: Tensor, offset: Tensor) -> Tensor:
    """Shift clips `[N, T, C, H, W]` by rows and columns `[N, 2]` per clip, and fill with zeros."""
    n, t, c, height, width = x.shape
    offset = _far(offset)
    rows = torch.arange(height, device=x.device) - offset[:, :1]  # [N, H], the source of each row
    columns = torch.arange(width, device=x.device) - offset[:, 1:]  # [N, W]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]  # [N, H, W]
    source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]  # [N, H, W]
    moved = x.reshape(n, t * c, height * width).gather(2, source.flatten(1)[:, None].expand(-1, t * c, -1))
    return moved.view(x.shape).masked_fill(~inside[:, None, None], 0.0)


def cut_out(x: Tensor, hole: Tensor, size: tuple[int, int]) -> Tensor:
    """Set a rectangle of each clip `[N, T, C, H, W]` to zero; `hole` is its first row and column, `[N, 2]`."""
    first = _far(hole)[:, :, None]  # [N, 2, 1]
    row, column = (torch.arange(length, device=x.device) for length in x.shape[3:])
    rows = (row >= first[:, 0]) & (row - first[:, 0] < size[0])  # [N, H]
    columns = (column >= first[:, 1]) & (column - first[:, 1] < size[1])  # [N, W]
    return x.masked_fill((rows[:, :, None] & columns[:, None])[:, None, None], 0.0)


def augment(
    x: Tensor,
    brightness: Tensor | None,
    saturation: Tensor | None,
    contrast: Tensor | None,
    offset: Tensor | None,
    hole: Tensor | None,
    hole_size: tuple[int, int],
    color_last: bool,
) -> Tensor:
    """Apply color, translation and cutout to clips, in this order or with color last, in at least float32."""
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    if not color_last:
        y = change_color(y, brightness, saturation, contrast)
    if offset is not None:
        y = translate(y, offset)
    if hole is not None:
        y = cut_out(y, hole, hole_size)
    if color_last:
        y = change_color(y, brightness, saturation, contrast)
    return y.to(x.dtype)
