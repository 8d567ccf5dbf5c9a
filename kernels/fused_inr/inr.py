"""Plain data that describes a batch of implicit neural representations and the grid they are evaluated on.

An `INR` holds N videos at T times, each video with its own weights. Shapes and dtypes are checked once, when an object
is constructed, so that evaluation can rely on them. Wherever a shape starts with N, 1 is also accepted and means
"shared by all videos".
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fused_inr import checks

ACTIVATIONS = ("linear", "relu", "lrelu", "sine")
FEATURE_PARTS = ("sincos", "sin")


@dataclass(frozen=True)
class Grid:
    """A pixel grid and the coordinates of its pixels.

    The pixel in row i and column j has the coordinates X = x0 + (x1 - x0) * j / width and
    Y = y0 + (y1 - y0) * (height - 1 - i) / height. The intervals are half open (x1 and y1 are excluded), and the top
    row has the largest Y (DIGAN, ICLR 2022). A range larger than the training range, (-1, 1), extrapolates; a smaller
    one zooms in.

    Args:
        height, width: size in pixels, each >= 1.
        x, y: coordinate ranges (x0, x1) and (y0, y1); finite numbers.

    Raises:
        ValueError: the size is not an integer >= 1, or a range is not a pair of finite numbers.
    """

    height: int
    width: int
    x: tuple[float, float] = (-1.0, 1.0)
    y: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            object.__setattr__(self, name, checks.integer("Grid", name, getattr(self, name), 1))
        for name in ("x", "y"):
            bounds = getattr(self, name)
            if not isinstance(bounds, Sequence) or len(bounds) != 2:
                raise ValueError(
                    f"Grid {name} must be two finite numbers (start, end), not {checks.described(bounds)}."
                )
            start, end = (checks.number("Grid", name, bound) for bound in bounds)
            object.__setattr__(self, name, (start, end))

    def scaled(self, factor: int) -> "Grid":
        """Return the same region with `factor` times the pixels per side."""
        return Grid(self.height * factor, self.width * factor, self.x, self.y)

    def rows(self, start: int, stop: int) -> "Grid":
        """Return the grid of the pixel rows start <= i < stop, whose pixels keep their X and Y.

        Raises:
            ValueError: not 0 <= start < stop <= height.
        """
        if not 0 <= start < stop <= self.height:
            raise ValueError(f"Grid rows must satisfy 0 <= start < stop <= {self.height}, not {start} and {stop}.")
        y0, y1 = self.y
        low = y0 + (y1 - y0) * (self.height - stop) / self.height
        high = y0 + (y1 - y0) * (self.height - start) / self.height
        return Grid(stop - start, self.width, self.x, (low, high))


def _check_floating(owner: str, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        checks.floating(owner, name, tensor)


def _check_entries(owner: str, name: str, value: Any, kind: type) -> tuple:
    """Return a sequence of objects of one of the classes below as a tuple."""
    entries = tuple(value) if isinstance(value, Iterable) else (None,)
    for entry in entries:
        if not isinstance(entry, kind):
            given = checks.described(value if entry is None else entry)
            raise ValueError(f"{owner} {name} must be a list of fused_inr.{kind.__name__}, not {given}.")
    return entries


def _check_shape(owner: str, name: str, tensor: Tensor, letters: str, **sizes: int) -> None:
    """Check that `tensor` has one axis per letter, and that the axes named in `sizes` have those sizes."""
    shape = tuple(tensor.shape)
    if len(shape) != len(letters) or any(
        sizes.get(letter, size) != size for letter, size in zip(letters, shape, strict=True)
    ):
        expected = ", ".join(str(sizes.get(letter, letter)) for letter in letters)
        raise ValueError(f"{owner} {name} must have shape [{expected}], not {list(shape)}.")


@dataclass(frozen=True, eq=False)
class Fourier:
    """Fourier features of the coordinates: sin(a), then cos(a), with a = frequency . (X, Y) + phase.

    Args:
        frequency: `[N, D, 2]` floating point, in radians per unit of (X, Y).
        phase: `[N, T, D]` floating point, in radians. It is the only part of the features that depends on time.
        parts: "sincos" for 2 D features, the sines before the cosines; "sin" for the D sines only.

    Raises:
        ValueError: a tensor has the wrong shape or is not floating point, or `parts` is unknown.
    """

    frequency: Tensor
    phase: Tensor
    parts: str = "sincos"

    def __post_init__(self) -> None:
        _check_floating("Fourier", frequency=self.frequency, phase=self.phase)
        _check_shape("Fourier", "phase", self.phase, "NTD")
        _check_shape("Fourier", "frequency", self.frequency, "NDK", D=self.phase.shape[2], K=2)
        checks.choice("Fourier", "parts", self.parts, FEATURE_PARTS)

    @property
    def features(self) -> int:
        """Number of features per pixel: 2 D or D."""
        return self.frequency.shape[1] * (2 if self.parts == "sincos" else 1)


@dataclass(frozen=True, eq=False)
class Layer:
    """A pointwise layer y = gain * act(W x + b), the same for every pixel of a frame.

    Args:
        weight: `[N, O, I]` floating point.
        bias: `[O]`, `[N, O]` or `[N, T, O]` floating point.
        activation: "linear", "relu", "lrelu" (slope 0.2) or "sine" (sin(omega * (W x + b)), SIREN, NeurIPS 2020).
        gain: factor applied after the activation.
        omega: frequency of "sine"; ignored by the other activations.
        to_rgb: (weight `[N, C, O]`, bias `[C]`), a linear read-out of this layer's output that is added to the running
            image; None for no read-out.

    Raises:
        ValueError: a tensor has the wrong shape or is not floating point, the activation is unknown, or a number is not
            finite.
    """

    weight: Tensor
    bias: Tensor
    activation: str = "lrelu"
    gain: float = 2**0.5
    omega: float = 1.0
    to_rgb: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        _check_floating("Layer", weight=self.weight, bias=self.bias)
        _check_shape("Layer", "weight", self.weight, "NOI")
        if not 1 <= self.bias.ndim <= 3:
            raise ValueError(f"Layer bias must have shape [O], [N, O] or [N, T, O], not {list(self.bias.shape)}.")
        _check_shape("Layer", "bias", self.bias, ("O", "NO", "NTO")[self.bias.ndim - 1], O=self.outputs)
        checks.choice("Layer", "activation", self.activation, ACTIVATIONS)
        for name in ("gain", "omega"):
            object.__setattr__(self, name, checks.number("Layer", name, getattr(self, name)))
        if self.to_rgb is not None:
            if not isinstance(self.to_rgb, Sequence) or len(self.to_rgb) != 2:
                given = checks.described(self.to_rgb)
                raise ValueError(f"Layer to_rgb must be a pair (weight, bias) or None, not {given}.")
            weight, bias = self.to_rgb
            _check_floating("Layer to_rgb", weight=weight, bias=bias)
            _check_shape("Layer to_rgb", "weight", weight, "NCO", O=self.outputs)
            _check_shape("Layer to_rgb", "bias", bias, "C", C=weight.shape[1])
            object.__setattr__(self, "to_rgb", (weight, bias))

    @property
    def outputs(self) -> int:
        """O, the number of output channels."""
        return self.weight.shape[1]

    @property
    def inputs(self) -> int:
        """I, the number of input channels."""
        return self.weight.shape[2]


@dataclass(frozen=True, eq=False)
class Stage:
    """Layers evaluated on the same grid, which has `scale` times the pixels of the base grid per side.

    The input of the first layer is concat([nearest-upsampled output of the previous stage, Fourier features]), or
    whichever of the two exists. The running image is upsampled the same way.

    Args:
        scale: integer >= 1.
        layers: at least one `Layer`; each takes the output of the previous one.
        fourier: Fourier features of the coordinates of this stage's grid, or None.

    Raises:
        ValueError: `scale` is not an integer >= 1, there is no layer, or the channels of two layers do not match.
    """

    scale: int
    layers: Sequence[Layer]
    fourier: Fourier | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", checks.integer("Stage", "scale", self.scale, 1))
        object.__setattr__(self, "layers", _check_entries("Stage", "layers", self.layers, Layer))
        if not isinstance(self.fourier, Fourier | None):
            raise ValueError(
                f"Stage fourier must be a fused_inr.Fourier or None, not {checks.described(self.fourier)}."
            )
        if not self.layers:
            raise ValueError("Stage layers must hold at least one Layer.")
        for index in range(1, len(self.layers)):
            inputs, outputs = self.layers[index].inputs, self.layers[index - 1].outputs
            if inputs != outputs:
                raise ValueError(
                    f"Stage layer {index} takes {inputs} channels but layer {index - 1} outputs {outputs}; "
                    f"give its weight the shape [N, O, {outputs}]."
                )


@dataclass(frozen=True, eq=False)
class INR:
    """A batch of N videos at T times, as a sequence of stages.

    The first stage needs Fourier features, and each scale is a positive integer multiple of the previous one. All
    tensors must agree in N (or have N = 1, shared by all videos) and in T, and must be on the same device.

    Args:
        stages: at least one `Stage`.

    Raises:
        ValueError: there is no stage, the first one has no Fourier features, or the scales, channels, N, T, C or
            devices of the stages do not match.
    """

    stages: Sequence[Stage]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", _check_entries("INR", "stages", self.stages, Stage))
        if not self.stages:
            raise ValueError("INR stages must hold at least one Stage.")
        self._check_connections()
        self._check_sizes()

    def _check_connections(self) -> None:
        scale, channels = 1, 0
        for index, stage in enumerate(self.stages):
            if index == 0 and stage.fourier is None:
                raise ValueError("The first Stage of an INR needs Fourier features, because it has no other input.")
            if stage.scale % scale:
                raise ValueError(
                    f"Stage {index} has scale {stage.scale}, which must be a multiple of the previous scale, {scale}."
                )
            features = stage.fourier.features if stage.fourier is not None else 0
            if stage.layers[0].inputs != channels + features:
                raise ValueError(
                    f"Stage {index}: its first layer takes {stage.layers[0].inputs} channels but gets {channels} from "
                    f"the previous stage and {features} Fourier features."
                )
            scale, channels = stage.scale, stage.layers[-1].outputs

    def _check_sizes(self) -> None:
        layers = [layer for stage in self.stages for layer in stage.layers]
        times = [stage.fourier.phase.shape[1] for stage in self.stages if stage.fourier is not None]
        times += [layer.bias.shape[1] for layer in layers if layer.bias.ndim == 3]
        colors = [layer.to_rgb[0].shape[1] for layer in layers if layer.to_rgb is not None]
        checks.batch("The tensors of an INR", (tensor for tensor, per_video in self._tensors() if per_video))
        checks.agree("The phases and biases of an INR must agree in T, not have", times)
        checks.agree("The to_rgb layers of an INR must agree in C, not have", colors)
        checks.agree("The tensors of an INR must be on one device, not", (tensor.device for tensor in self.tensors()))

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor of the INR."""
        return (tensor for tensor, _ in self._tensors())

    def _tensors(self) -> Iterator[tuple[Tensor, bool]]:
        """Yield every tensor, and whether its first axis is N."""
        for stage in self.stages:
            if stage.fourier is not None:
                yield stage.fourier.frequency, True
                yield stage.fourier.phase, True
            for layer in stage.layers:
                yield layer.weight, True
                yield layer.bias, layer.bias.ndim > 1
                if layer.to_rgb is not None:
                    yield layer.to_rgb[0], True
                    yield layer.to_rgb[1], False

    @property
    def batch(self) -> int:
        """N, the number of videos."""
        for tensor, per_video in self._tensors():
            if per_video and tensor.shape[0] != 1:
                return tensor.shape[0]
        return 1

    @property
    def times(self) -> int:
        """T, the number of frames of each video."""
        return self.stages[0].fourier.phase.shape[1]

    @property
    def channels(self) -> int:
        """C, the channels of the rendered frames: those of the to_rgb layers, or else of the last layer."""
        for stage in self.stages:
            for layer in stage.layers:
                if layer.to_rgb is not None:
                    return layer.to_rgb[0].shape[1]
        return self.stages[-1].layers[-1].outputs

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of angles, accumulation and output: float64 if any tensor is float64, else float32."""
        wide = any(tensor.dtype == torch.float64 for tensor, _ in self._tensors())
        return torch.float64 if wide else torch.float32

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.stages[0].fourier.phase.device

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "INR":
        """Return the INR with `function` applied to every tensor, for example to change the dtype or the device."""
        return self._rebuilt(lambda tensor, axes: function(tensor))

    def at_times(self, times: slice) -> "INR":
        """Return the videos at a slice of their times; the tensors are views."""
        return self._rebuilt(lambda tensor, axes: tensor[:, times] if axes == "NT" else tensor)

    def at_clips(self, clips: slice) -> "INR":
        """Return a slice of the videos; shared tensors stay shared, the others are views."""
        single = self.batch == 1
        if single:
            clips = slice(0, len(range(1)[clips]))

        def cut(tensor: Tensor, axes: str) -> Tensor:
            return tensor[clips] if axes and (single or tensor.shape[0] != 1) else tensor

        return self._rebuilt(cut)

    def _rebuilt(self, change: Callable[[Tensor, str], Tensor]) -> "INR":
        """Return the INR with `change(tensor, axes)` for every tensor; `axes` names its leading axes: "NT", "N", ""."""

        def layer_of(layer: Layer) -> Layer:
            bias = change(layer.bias, ("", "N", "NT")[layer.bias.ndim - 1])
            to_rgb = layer.to_rgb
            if to_rgb is not None:
                to_rgb = (change(to_rgb[0], "N"), change(to_rgb[1], ""))
            return replace(layer, weight=change(layer.weight, "N"), bias=bias, to_rgb=to_rgb)

        def stage_of(stage: Stage) -> Stage:
            fourier = stage.fourier
            if fourier is not None:
                frequency, phase = change(fourier.frequency, "N"), change(fourier.phase, "NT")
                fourier = replace(fourier, frequency=frequency, phase=phase)
            return replace(stage, layers=[layer_of(layer) for layer in stage.layers], fourier=fourier)

        return INR([stage_of(stage) for stage in self.stages])
