"""Calls of the public functions of `fused_inr` with odd arguments.

A call gives the result of the reference in float64, up to the rounding of its types, or raises one sentence that names
an argument; it never ends the process.
"""

import functools
import inspect
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fused_inr as fi
from fused_inr.primitives.mlp import ACTIVATIONS

SIZES = (0, 1, 1, 2, 3, 3, 5, 8, 16, 17)
FLOATS = (torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64)
SPECIALS = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-42, -1e-42, 1e-30)
# Relative to the largest value, or 1. Sums of a few hundred products, and a few roundings of the type.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2, torch.float64: 1e-9}


class Draw:
    """Random choices of one trial."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.special = self.random.random() < 0.2  # tensors hold NaN, infinities, zeros and denormal numbers
        self.gradients = self.random.random() < 0.5

    def choice(self, values: Any) -> Any:
        return self.random.choice(values)

    def size(self, least: int = 0) -> int:
        return max(least, self.choice(SIZES))

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        """Return a tensor of seeded normal numbers in some layout, which may require gradients."""
        x = (scale * torch.randn(shape)).to(dtype)
        if self.special and x.numel():
            for _ in range(self.random.randint(1, 3)):
                x.view(-1)[self.random.randrange(x.numel())] = self.choice(SPECIALS)
        x = self.laid_out(x)
        return x.requires_grad_() if self.gradients and self.random.random() < 0.7 else x

    def laid_out(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape with other strides; some layouts repeat or reverse its values."""
        layout = self.choice(("dense", "dense", "flipped", "strided", "transposed", "expanded", "far", "channels_last"))
        if layout == "channels_last" and x.ndim == 4:
            return x.contiguous(memory_format=torch.channels_last)
        if not x.numel() or not x.ndim:
            return x
        axis = self.random.randrange(x.ndim)
        if layout == "flipped":
            return x.flip(axis)
        if layout == "strided":
            return torch.stack([x, x + 1, x], -1)[..., 1]
        if layout == "transposed":
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        if layout == "expanded":
            return x.narrow(axis, 0, 1).expand_as(x)
        if layout == "far":
            padded = x.new_empty(*x.shape[:-1], x.shape[-1] + 1009)
            padded[..., : x.shape[-1]] = x
            return padded[..., : x.shape[-1]]
        return x


def bias_act(draw: Draw) -> dict:
    shape = [draw.size() for _ in range(draw.random.randint(1, 5))]
    dtype, dim = draw.choice(FLOATS), draw.random.randrange(len(shape))
    act = draw.choice(("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"))
    return {
        "x": draw.tensor(*shape, dtype=dtype),
        "bias": draw.choice((None, draw.tensor(shape[dim], dtype=draw.choice(FLOATS[:4])))),
        "act": act,
        "alpha": draw.choice((None, 0.0, 0.5)) if act == "lrelu" else None,
        "gain": draw.choice((None, 1.0, -2.0, 0.25)),
        "clamp": draw.choice((None, None, 0.7)),
        "dim": dim - draw.choice((0, len(shape))),
        "residual": draw.choice((None, None, draw.tensor(*shape, dtype=dtype))),
    }


def image(draw: Draw, channels: int | None = None) -> Tensor:
    shape = draw.size(), draw.size() if channels is None else channels, draw.size(), draw.size()
    return draw.tensor(*shape, dtype=draw.choice(FLOATS))


def resampling(draw: Draw) -> dict:
    taps = [draw.random.randint(1, 6) for _ in range(draw.choice((1, 2)))]
    return {
        "x": image(draw),
        # Finite taps: kernels do not multiply them by the zeros of the padding.
        "filter": draw.choice((None, torch.randn(taps), torch.ones(taps), torch.ones(taps, dtype=torch.long))),
        "padding": draw.choice((0, 2, -1, [3, 1], [0, 2, 5, 1], [4, 4, 4, 4])),
        "flip_filter": draw.choice((False, True)),
        "gain": draw.choice((1, 0.5, -3.0)),
    }


def upfirdn2d(draw: Draw) -> dict:
    return resampling(draw) | {"up": draw.choice((1, 2, [3, 1])), "down": draw.choice((1, 2, [1, 4]))}


def upsample2d(draw: Draw) -> dict:
    return resampling(draw) | {"up": draw.choice((1, 2, 3, [2, 1]))}


def downsample2d(draw: Draw) -> dict:
    return resampling(draw) | {"down": draw.choice((1, 2, 3, [2, 1]))}


def conv2d(draw: Draw) -> dict:
    x = image(draw)
    weight = draw.tensor(draw.size(), x.shape[1], draw.choice((1, 3)), draw.choice((1, 2, 3)), dtype=x.dtype)
    return {"x": x, "weight": weight, "stride": draw.choice((1, 2, 5)), "padding": draw.choice((0, 1, 4))}


def minibatch_stddev(draw: Draw) -> dict:
    return {"x": image(draw), "group_size": draw.choice((1, 2, 3, 4, 100)), "channels": draw.choice((1, 1, 2, 3))}


def augment(draw: Draw) -> dict:
    clips, side = draw.size(), draw.size()
    x = draw.tensor(clips, draw.size(), draw.size(), side, draw.size(), dtype=draw.choice(FLOATS))
    amounts = {name: draw.tensor(clips) for name in ("brightness", "saturation", "contrast")}
    far = 2**63 - 1 if draw.random.random() < 0.1 else 3 + side
    places = {name: torch.randint(-far, far, (clips, 2)) for name in ("translation", "cutout")}
    kept = {name: value for name, value in (amounts | places).items() if draw.random.random() < 0.6}
    return {"x": x, "cutout_size": (draw.size(), draw.size()), "color_last": draw.choice((False, True)), **kept}


def fmm_weight(draw: Draw) -> dict:
    clips, outputs, inputs, rank = draw.size(), draw.size(), draw.size(), draw.size(1)
    dtype = draw.choice(FLOATS)
    return {
        "weight": draw.tensor(outputs, inputs, dtype=dtype),
        "left": draw.tensor(clips, outputs, rank, dtype=dtype),
        "right": draw.tensor(clips, rank, inputs, dtype=dtype),
        "demodulate": draw.choice((True, False)),
    }


def network(draw: Draw, with_skips: bool) -> dict:
    clips, sizes = draw.size(), [draw.size() for _ in range(draw.random.randint(2, 4))]
    dtype = draw.choice(FLOATS)

    def batched(*shape: int, scale: float = 1.0) -> Tensor:
        return draw.tensor(*draw.choice(((), (1,), (clips,))), *shape, dtype=dtype, scale=scale)

    skips = [index for index in range(1, len(sizes) - 1) if with_skips and draw.random.random() < 0.3]
    inputs = [size + (sizes[0] if index in skips else 0) for index, size in enumerate(sizes[:-1])]
    weights = [batched(o, i, scale=0.3 / max(1, i) ** 0.5) for i, o in zip(inputs, sizes[1:], strict=True)]
    arguments = {
        "coords": batched(draw.size(), sizes[0]),
        "weights": weights,
        "biases": [batched(o) for o in sizes[1:]],
        "dtype": None if dtype == torch.float64 else draw.choice((None, None, torch.float32, torch.bfloat16)),
    }
    return arguments | ({"skips": skips} if with_skips else {})


def siren(draw: Draw) -> dict:
    return network(draw, with_skips=False) | {
        "omega": draw.choice((1.0, 3.0)),
        "first_omega": draw.choice((None, 5.0)),
        "final": draw.choice(("linear", "sine")),
    }


def mlp(draw: Draw) -> dict:
    arguments = network(draw, with_skips=True)
    names = [draw.choice(ACTIVATIONS) for _ in arguments["weights"]]
    return arguments | {"activations": names, "omegas": draw.choice((None, 1.0, 3.0))}


def mlp_jet(draw: Draw) -> dict:
    order = draw.choice((1, 2))
    return mlp(draw) | {"order": order, "hessian": order == 2 and draw.choice((False, True))}


def inr_and_grid(draw: Draw) -> dict:
    clips, times, channels = draw.size(), draw.size(), draw.size(1)
    dtype, activation = draw.choice(FLOATS), draw.choice(("linear", "relu", "lrelu", "sine"))
    stages, before, scale = [], 0, 1
    with_rgb = draw.choice((False, True))
    for index in range(draw.random.randint(1, 3)):
        fourier, features = None, 0
        if not index or draw.random.random() < 0.6:
            frequencies, parts = draw.size(), draw.choice(("sincos", "sin"))
            frequency = draw.tensor(draw.choice((1, clips)), frequencies, 2, dtype=dtype)
            fourier = fi.Fourier(frequency, draw.tensor(clips, times, frequencies, dtype=dtype), parts)
            features = fourier.features
        layers = []
        inputs = before + features
        for _ in range(draw.random.randint(1, 2)):
            outputs, lead = draw.size(), draw.choice((1, clips))
            bias = draw.tensor(*draw.choice(((), (lead,), (lead, times))), outputs, dtype=dtype)
            to_rgb = None
            if with_rgb and draw.random.random() < 0.7:
                to_rgb = (draw.tensor(lead, channels, outputs, dtype=dtype), draw.tensor(channels, dtype=dtype))
            weight = draw.tensor(lead, outputs, inputs, dtype=dtype, scale=max(1, inputs) ** -0.5)
            layers.append(fi.Layer(weight, bias, activation, draw.choice((1.0, 1.4)), draw.choice((1.0, 2.0)), to_rgb))
            inputs = outputs
        stages.append(fi.Stage(scale, layers, fourier))
        before, scale = inputs, scale * draw.choice((1, 2, 3))
    return {
        "inr": fi.INR(stages),
        "grid": fi.Grid(draw.size(1), draw.size(1), draw.choice(((-1.0, 1.0), (0.0, 3.0)))),
        "dtype": None if dtype == torch.float64 else draw.choice((None, None, torch.bfloat16)),
    }


def render_chunks(draw: Draw) -> dict:
    draw.gradients = False
    return inr_and_grid(draw) | {"memory": draw.choice((1 << 12, 1 << 16, 1 << 28))}


ARGUMENTS: dict[str, Callable[[Draw], dict]] = {
    "augment": augment,
    "bias_act": bias_act,
    "conv2d": conv2d,
    "downsample2d": downsample2d,
    "fmm_weight": fmm_weight,
    "minibatch_stddev": minibatch_stddev,
    "mlp": mlp,
    "mlp_jet": mlp_jet,
    "render": inr_and_grid,
    "render_chunks": render_chunks,
    "siren": siren,
    "upfirdn2d": upfirdn2d,
    "upsample2d": upsample2d,
}
WORDS = {
    name
    for function in (*(getattr(fi, name) for name in ARGUMENTS), fi.Layer, fi.Stage, fi.Fourier, fi.INR)
    for name in inspect.signature(function).parameters
}


def spoiled(draw: Draw, arguments: dict) -> dict:
    """Replace an argument by something of another type, shape, device or size."""
    name = draw.choice(sorted(arguments))
    value = arguments[name]
    others: list[Any] = [None, "text", [], [1.0], {}, object()]
    others += [-1, 0, 1.5, 2**31, 2**32, 2**63, 2**70, math.nan, math.inf]
    others += [torch.tensor(1.0), torch.ones(2, 3), torch.ones(2, 2, 2, 2, dtype=torch.complex64), torch.long]
    if isinstance(value, Tensor):
        others += [value.to("meta"), value.detach().long(), value[..., None], value.detach().to_sparse(), [value]]
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        others += [value[:-1], value[::-1], [*value[:-1], value[-1].to("meta")], value[0]]
    return arguments | {name: draw.choice(others)}


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return an argument with a function applied to its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, fi.INR):
        return value.mapped(function)
    return [mapped(entry, function) for entry in value] if isinstance(value, list) else value


def leaves(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(value, lambda tensor: found.append(tensor) or tensor)
    return [tensor for tensor in found if tensor.requires_grad]


def run(name: str, arguments: dict, backend: str | None) -> tuple[Tensor, list[Tensor | None]]:
    """Return a function's result and the gradients of the tensors that require them."""
    options = {key: value for key, value in arguments.items() if key != "inr" and key != "grid"}
    inputs = [value for key, value in arguments.items() if key in ("inr", "grid")]
    function = getattr(fi, name)
    if backend is None:
        result = function(*inputs, **options)
    else:
        with fi.backend(backend):
            result = function(*inputs, **options)
    if name == "render_chunks":
        frames = list(result)
        return torch.stack(frames, 1) if frames else torch.empty(0), []
    if name == "mlp_jet":
        result = torch.cat([part.flatten() for part in result])
    tensors = [tensor for value in arguments.values() for tensor in leaves(value)]
    if not (tensors and result.requires_grad):
        return result, []
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return result, list(torch.autograd.grad(result, tensors, upstream.to(result), allow_unused=True))


def check_sentence(error: Exception) -> None:
    """Check that an error is a sentence of ours that names an argument."""
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    origin = Path(trace.tb_frame.f_code.co_filename)
    text = str(error)
    inside = any(origin.is_relative_to(folder) for folder in fi.__path__)
    assert inside, f"{origin} raises {type(error).__name__}: {text}"
    assert re.fullmatch(r"[^\n]{,400}\.", text), f"no sentence: {text}"
    assert WORDS & set(re.findall(r"\w+", text)) or "stage" in text.lower(), f"no argument is named: {text}"


def check_close(what: str, actual: Tensor, exact: Tensor, tolerance: float) -> None:
    """Check a result against float64. What is not finite in one must not be finite in the other."""
    actual, exact = actual.detach().double(), exact.detach()
    finite = exact.isfinite()
    wrong = finite != actual.isfinite()
    assert not wrong.any(), f"{what}: {actual[wrong][0]}, not {exact[wrong][0]}"
    scale = max(1.0, exact[finite].abs().max().item()) if finite.any() else 1.0
    error = (actual - exact)[finite].abs().max().item() / scale if finite.any() else 0.0
    assert error <= tolerance, f"{what}: relative difference {error:.1e}"


def compare(name: str, arguments: dict, results: tuple, exact: tuple, draw: Draw) -> None:
    result, gradients = results
    assert result.shape == exact[0].shape, f"shape {list(result.shape)}, not {list(exact[0].shape)}"
    if result.is_meta or (draw.special and name == "conv2d"):  # PyTorch's own convolutions differ at infinity and NaN
        return
    compute = arguments.get("dtype") or result.dtype
    if "inr" in arguments and arguments.get("dtype") is None and result.dtype == torch.float32:
        weights = [layer.weight.dtype for stage in arguments["inr"].stages for layer in stage.layers]
        compute = functools.reduce(torch.promote_types, weights)
    inputs = [tensor.dtype for value in arguments.values() for tensor in all_tensors(value)]
    coarsest = max([compute, *inputs], key=lambda dtype: TOLERANCES.get(dtype, 0.0))
    if any(isinstance(value, (int, float)) and abs(value) > 1e4 for value in arguments.values()):
        return  # a number that overflows half precision, or angles whose rounding exceeds a turn
    tolerance = max(TOLERANCES[compute], TOLERANCES[result.dtype])
    if name in ("conv2d", "upfirdn2d", "upsample2d", "downsample2d", "augment", "minibatch_stddev", "bias_act"):
        tolerance = TOLERANCES[coarsest]
    elif compute in (torch.bfloat16, torch.float16):
        tolerance *= 12  # each sine multiplies the rounding of the products by its frequency
    check_close("result", result, exact[0].to(result.dtype).double(), tolerance)
    # In half precision a slope is that of the rounded value, and only bias_act specifies slopes at NaN and infinity.
    # PyTorch's own slopes of elu and selu at NaN depend on the position in a vector.
    specified = name == "bias_act" and arguments["act"] not in ("elu", "selu")
    if coarsest in (torch.bfloat16, torch.float16) or (draw.special and not specified):
        return
    for index, (gradient, of_exact) in enumerate(zip(gradients, exact[1], strict=True)):
        if gradient is not None and of_exact is not None:
            check_close(f"gradient {index}", gradient, of_exact.double(), 10 * TOLERANCES[gradient.dtype])


def all_tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(value, lambda tensor: found.append(tensor) or tensor)
    return [tensor for tensor in found if tensor.is_floating_point()]


def trial(seed: int, folder: Path) -> str:
    """Make one call; return the function's name and whether it gave a result, or was refused or declined."""
    torch.manual_seed(seed)
    draw = Draw(seed)
    name = draw.choice(sorted(ARGUMENTS))
    arguments = ARGUMENTS[name](draw)
    is_spoiled = draw.random.random() < 0.25
    if is_spoiled:
        arguments = spoiled(draw, arguments)
    backend = draw.choice((None, None, "cpu", "reference"))
    try:
        results = run(name, arguments, backend)
    except (ValueError, TypeError, RuntimeError) as error:
        if str(error).startswith("Backend 'cpu' was requested but cannot run"):
            return f"{name} declined"
        check_sentence(error)
        return f"{name} refused"
    wide = {key: mapped(value, widened) for key, value in arguments.items() if key not in ("dtype", "memory")}
    compare(name, arguments, results, run(name, wide, "reference"), draw)
    return f"{name} agrees"


def widened(tensor: Tensor) -> Tensor:
    """Return a floating-point tensor in float64, as a leaf if the tensor is one that requires gradients."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.detach().double().requires_grad_(tensor.requires_grad)
