"""Plain data that describes a batch of implicit neural representations and the grid they are evaluated on.

An `INR` is N videos at T times, each with its own weights. Shapes and dtypes are checked here, when an object is
made, and nowhere else: every evaluation may rely on them. Everywhere a leading N is written, 1 is also accepted and
means "shared by all videos".
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

ACTIVATIONS = ("linear", "relu", "lrelu", "sine")
FEATURE_PARTS = ("sincos", "sin")


@dataclass(frozen=True)
class Grid:
    """Pixels of an image and the coordinates they sit at.

    Pixel (i, j) of row i and column j sits at X = x0 + (x1 - x0) * j / width and
    Y = y0 + (y1 - y0) * (height - 1 - i) / height: half open, the top row has the largest Y (DIGAN, ICLR 2022).
    Ranges larger than the trained one, (-1, 1), extrapolate; smaller ones zoom in.

    Args:
        height, width: pixels, each >= 1.
        x, y: pairs (x0, x1) and (y0, y1) of finite coordinates.
    """

    height: int
    width: int
    x: tuple[float, float] = (-1.0, 1.0)
    y: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Grid {name} must be an integer of at least 1, not {value!r}.")
        for name in ("x", "y"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not all(-math.inf < bound < math.inf for bound in bounds):
                raise ValueError(f"Grid {name} must be two finite numbers (start, end), not {bounds!r}.")
            object.__setattr__(self, name, (float(bounds[0]), float(bounds[1])))

    def scaled(self, factor: int) -> "Grid":
        """Return the same region with `factor` times the pixels per side."""
        return Grid(self.height * factor, self.width * factor, self.x, self.y)

    def rows(self, start: int, stop: int) -> "Grid":
        """Return the pixel rows start <= i < stop as a grid of their own: its pixels keep their X and Y."""
        if not 0 <= start < stop <= self.height:
            raise ValueError(f"Grid rows must satisfy 0 <= start < stop <= {self.height}, not {start} and {stop}.")
        y0, y1 = self.y
        low = y0 + (y1 - y0) * (self.height - stop) / self.height
        high = y0 + (y1 - y0) * (self.height - start) / self.height
        return Grid(stop - start, self.width, self.x, (low, high))


def _check_floating(owner: str, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            actual = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{owner} {name} must be a floating-point tensor, not {actual}.")


def _check_shape(owner: str, name: str, tensor: Tensor, letters: str, **sizes: int) -> None:
    """Check that `tensor` has one axis per letter, and the sizes that are given by letter."""
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
        frequency: [N, D, 2] radians per unit of (X, Y).
        phase: [N, T, D] radians. Everything that depends on time is here.
        parts: "sincos" gives 2 D features, "sin" only the D sines.
    """

    frequency: Tensor
    phase: Tensor
    parts: str = "sincos"

    def __post_init__(self) -> None:
        _check_floating("Fourier", frequency=self.frequency, phase=self.phase)
        _check_shape("Fourier", "phase", self.phase, "NTD")
        _check_shape("Fourier", "frequency", self.frequency, "NDK", D=self.phase.shape[2], K=2)
        if self.parts not in FEATURE_PARTS:
            raise ValueError(f"Fourier parts must be one of {', '.join(FEATURE_PARTS)}, not {self.parts!r}.")

    @property
    def features(self) -> int:
        """Number of features of a pixel."""
        return self.frequency.shape[1] * (2 if self.parts == "sincos" else 1)


@dataclass(frozen=True, eq=False)
class Layer:
    """A pointwise layer y = gain * act(W x + b), the same for every pixel of a frame.

    Args:
        weight: [N, O, I].
        bias: [O], [N, O] or [N, T, O].
        activation: "linear", "relu", "lrelu" (slope 0.2) or "sine" (sin(omega * (W x + b)), SIREN, NeurIPS 2020).
        gain: factor of the activation's output.
        omega: frequency of "sine"; the other activations do not use it.
        to_rgb: (weight [N, C, O], bias [C]), a linear read-out of this layer's output that is added to the running
            image, or None.
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
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"Layer activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}.")
        if self.to_rgb is not None:
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
    """Layers that share a grid of `scale` times the pixels of the base grid per side.

    The first layer reads concat([nearest-upsampled output of the stage before, Fourier features]), or whichever of the
    two exists; the running image is upsampled the same way.

    Args:
        scale: integer >= 1.
        layers: at least one `Layer`, each reading what the one before it puts out.
        fourier: features of this stage's grid, or None.
    """

    scale: int
    layers: Sequence[Layer]
    fourier: Fourier | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.scale, int) or self.scale < 1:
            raise ValueError(f"Stage scale must be an integer of at least 1, not {self.scale!r}.")
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("Stage layers must hold at least one Layer.")
        for index in range(1, len(self.layers)):
            inputs, outputs = self.layers[index].inputs, self.layers[index - 1].outputs
            if inputs != outputs:
                raise ValueError(
                    f"Stage layer {index} reads {inputs} channels but layer {index - 1} puts out {outputs}; "
                    f"give its weight the shape [N, O, {outputs}]."
                )


@dataclass(frozen=True, eq=False)
class INR:
    """One sequence of stages = a batch of N videos at T times.

    The first stage needs Fourier features; each scale is a positive integer multiple of the one before. N and T must
    agree in all tensors (N may be 1 where a tensor is shared), and all tensors are on one device.
    """

    stages: Sequence[Stage]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise ValueError("INR stages must hold at least one Stage.")
        self._check_connections()
        self._check_sizes()

    def _check_connections(self) -> None:
        scale, channels = 1, 0
        for index, stage in enumerate(self.stages):
            if index == 0 and stage.fourier is None:
                raise ValueError("The first Stage of an INR needs Fourier features, because nothing comes before it.")
            if stage.scale % scale:
                raise ValueError(
                    f"Stage {index} has scale {stage.scale}, which must be a multiple of the scale before it, {scale}."
                )
            features = stage.fourier.features if stage.fourier is not None else 0
            if stage.layers[0].inputs != channels + features:
                raise ValueError(
                    f"Stage {index}: its first layer reads {stage.layers[0].inputs} channels but is given "
                    f"{channels} of the stage before and {features} Fourier features."
                )
            scale, channels = stage.scale, stage.layers[-1].outputs

    def _check_sizes(self) -> None:
        batches, times, colours, devices = set(), set(), set(), set()
        for stage in self.stages:
            if stage.fourier is not None:
                times.add(stage.fourier.phase.shape[1])
            for layer in stage.layers:
                if layer.bias.ndim == 3:
                    times.add(layer.bias.shape[1])
                if layer.to_rgb is not None:
                    colours.add(layer.to_rgb[0].shape[1])
        for tensor, per_video in self._tensors():
            devices.add(tensor.device)
            if per_video:
                batches.add(tensor.shape[0])
        if len(batches - {1}) > 1:
            raise ValueError(f"The tensors of an INR must agree in N (or be shared, 1), not have {sorted(batches)}.")
        if len(times) > 1:
            raise ValueError(f"The phases and biases of an INR must agree in T, not have {sorted(times)}.")
        if len(colours) > 1:
            raise ValueError(f"The to_rgb layers of an INR must agree in C, not have {sorted(colours)}.")
        if len(devices) > 1:
            raise ValueError(f"The tensors of an INR must be on one device, not {sorted(map(str, devices))}.")

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
        """C of the rendered frames: that of the to_rgb layers, or of the last layer where there are none."""
        for stage in self.stages:
            for layer in stage.layers:
                if layer.to_rgb is not None:
                    return layer.to_rgb[0].shape[1]
        return self.stages[-1].layers[-1].outputs

    @property
    def dtype(self) -> torch.dtype:
        """Type of angles, accumulation and output: float64 if any tensor is float64, else float32."""
        wide = any(tensor.dtype == torch.float64 for tensor, _ in self._tensors())
        return torch.float64 if wide else torch.float32

    @property
    def device(self) -> torch.device:
        """Where all tensors are."""
        return self.stages[0].fourier.phase.device

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "INR":
        """Return the same INR with `function` applied to every tensor, such as a change of type or device."""
        return self._rebuilt(lambda tensor, axes: function(tensor))

    def at_times(self, times: slice) -> "INR":
        """Return the same videos at a slice of their times; the tensors are views."""
        return self._rebuilt(lambda tensor, axes: tensor[:, times] if axes == "NT" else tensor)

    def at_clips(self, clips: slice) -> "INR":
        """Return a slice of the videos; shared tensors stay shared, the others are views."""
        alone = self.batch == 1
        if alone:
            clips = slice(0, len(range(1)[clips]))

        def cut(tensor: Tensor, axes: str) -> Tensor:
            return tensor[clips] if axes and (alone or tensor.shape[0] != 1) else tensor

        return self._rebuilt(cut)

    def _rebuilt(self, change: Callable[[Tensor, str], Tensor]) -> "INR":
        """Apply `change` to every tensor and the names of its leading axes: "NT", "N" or "" for none."""

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
