"""Conversion between INRs and the lists of tensors, integers and floats that PyTorch ops accept."""

from collections.abc import Sequence

from torch import Tensor

from fused_inr.inr import ACTIVATIONS, FEATURE_PARTS, INR, Fourier, Grid, Layer, Stage


def flatten(inr: INR) -> tuple[list[Tensor], list[int], list[float]]:
    """Return an INR as lists of tensors, integers (structure) and floats (gain and omega of every layer)."""
    tensors: list[Tensor] = []
    structure: list[int] = []
    numbers: list[float] = []
    for stage in inr.stages:
        structure += [stage.scale, len(stage.layers)]
        structure.append(-1 if stage.fourier is None else FEATURE_PARTS.index(stage.fourier.parts))
        if stage.fourier is not None:
            tensors += [stage.fourier.frequency, stage.fourier.phase]
        for layer in stage.layers:
            structure += [ACTIVATIONS.index(layer.activation), int(layer.to_rgb is not None)]
            numbers += [layer.gain, layer.omega]
            tensors += [layer.weight, layer.bias, *(layer.to_rgb or ())]
    return tensors, structure, numbers


def roles(structure: Sequence[int]) -> list[str]:
    """Return what each tensor of a flattened INR is: a "frequency", "phase", "weight", "bias", "to_rgb_weight" ..."""
    codes, result = iter(structure), []
    for _ in codes:  # a stage's scale
        count, parts = next(codes), next(codes)
        result += ["frequency", "phase"] if parts >= 0 else []
        for _ in range(count):
            _, has_rgb = next(codes), next(codes)
            result += ["weight", "bias", *(["to_rgb_weight", "to_rgb_bias"] if has_rgb else [])]
    return result


def unflatten(tensors: Sequence[Tensor], structure: Sequence[int], numbers: Sequence[float]) -> INR:
    """Rebuild an INR from the lists that `flatten` returns."""
    remaining, codes, values = iter(tensors), iter(structure), iter(numbers)
    stages = []
    for scale in codes:
        count, parts = next(codes), next(codes)
        fourier = Fourier(next(remaining), next(remaining), FEATURE_PARTS[parts]) if parts >= 0 else None
        layers = []
        for _ in range(count):
            activation, has_rgb, gain, omega = ACTIVATIONS[next(codes)], next(codes), next(values), next(values)
            weight, bias = next(remaining), next(remaining)
            to_rgb = (next(remaining), next(remaining)) if has_rgb else None
            layers.append(Layer(weight, bias, activation, gain, omega, to_rgb))
        stages.append(Stage(scale, layers, fourier))
    return INR(stages)


def frames_shape(inr: INR, grid: Grid) -> list[int]:
    """Return the shape `[N, T, C, H, W]` of the frames of an INR on a base grid."""
    scale = inr.stages[-1].scale
    return [inr.batch, inr.times, inr.channels, grid.height * scale, grid.width * scale]


def grid_of(inr: INR, shape: Sequence[int], window: Sequence[float]) -> Grid:
    """Return the base grid of frames of shape `[N, T, C, H, W]`; `window` is (x0, x1, y0, y1)."""
    scale = inr.stages[-1].scale
    x0, x1, y0, y1 = window
    return Grid(shape[3] // scale, shape[4] // scale, (x0, x1), (y0, y1))
