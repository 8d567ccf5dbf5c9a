"""INRs as lists of tensors, integers and floats, which ops can take, and back."""

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


def unflatten(tensors: Sequence[Tensor], structure: Sequence[int], numbers: Sequence[float]) -> INR:
    """Rebuild the INR from the lists of `flatten`."""
    rest, codes, values = iter(tensors), iter(structure), iter(numbers)
    stages = []
    for scale in codes:
        count, parts = next(codes), next(codes)
        fourier = Fourier(next(rest), next(rest), FEATURE_PARTS[parts]) if parts >= 0 else None
        layers = []
        for _ in range(count):
            activation, has_rgb, gain, omega = ACTIVATIONS[next(codes)], next(codes), next(values), next(values)
            weight, bias = next(rest), next(rest)
            layers.append(Layer(weight, bias, activation, gain, omega, (next(rest), next(rest)) if has_rgb else None))
        stages.append(Stage(scale, layers, fourier))
    return INR(stages)


def frames_shape(inr: INR, grid: Grid) -> list[int]:
    """Return the shape [N, T, C, H, W] of the frames of an INR on a base grid."""
    scale = inr.stages[-1].scale
    return [inr.batch, inr.times, inr.channels, grid.height * scale, grid.width * scale]


def grid_of(inr: INR, shape: Sequence[int], window: Sequence[float]) -> Grid:
    """Return the base grid of frames of a given shape; `window` is its x, then its y."""
    scale = inr.stages[-1].scale
    return Grid(shape[3] // scale, shape[4] // scale, tuple(window[:2]), tuple(window[2:]))
