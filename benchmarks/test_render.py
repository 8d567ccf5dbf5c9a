"""The renderer on the default generator of DIGAN, 128x128 with 512 channels, compared with the naive path.

The scaling of its time and memory is measured on the same generator, with one size varied at a time.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.device import device, on_cuda, pick
from benchmarks.harness import Case, Precision, precisions
from benchmarks.memory import Path
from benchmarks.sizes import scaled, tiny
from digan import Generator
from digan.config import GeneratorConfig
from fused_inr.ops.render import render_memory
from fused_inr.tools import counts

SMALL = dict(resolution=32, z_dim=16, w_dim=16, fourier_dim=8, fmm_rank=2, channel_base=512, channel_max=16)
# Clips and frames.
SIZES = scaled(tiny=[(1, 2)], default=pick(cpu=[(1, 16)], cuda=[(8, 16)]), full=pick(cpu=[(1, 16)], cuda=[(32, 16)]))
TRAINING = scaled(tiny=[(2, 2)], default=pick(cpu=[(2, 2)], cuda=[(16, 2)]), full=pick(cpu=[(4, 2)], cuda=[(16, 2)]))
# Relative to float64. bfloat16 keeps 8 bits of every activation, through twelve layers; float16 and tf32 keep 11.
TOLERANCE = {"float32": 2e-6, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1e-2}
# A pre-activation that rounds across zero changes the slope by a factor of 5: gradients differ more than frames.
GRADIENT_TOLERANCE = {"float32": 1e-2, "tf32": 0.1, "float16": 0.1, "bfloat16": 0.3}


def names(size: tuple[int, int]) -> str:
    return f"N{size[0]}-T{size[1]}"


def default_inr(clips: int, frames: int, resolution: int | None = None, **options: int) -> tuple[fi.INR, fi.Grid]:
    """Return clips of a generator that is the default one but for `options`, and the grid of a resolution."""
    torch.manual_seed(0)
    g = Generator(GeneratorConfig(**(SMALL if tiny() else {}) | options))
    with torch.no_grad():
        z_content, z_motion = torch.randn(2, clips, g.config.z_dim)
        inr = g.inr(z_content, z_motion, torch.linspace(0, 1, frames))
    return inr.mapped(lambda tensor: tensor.to(device())), g.grid(resolution)


def pixels(inr: fi.INR, grid: fi.Grid) -> int:
    """Return the pixels per side of the frames."""
    return grid.height * inr.stages[-1].scale


def in_type(inr: fi.INR, dtype: torch.dtype) -> fi.INR:
    return inr.mapped(lambda tensor: tensor.to(dtype))


def rivals(naive, wrap, precision: Precision) -> dict[str, Path]:
    """Return the naive paths; `naive(inr, dtype)` renders, and `wrap` turns a render function into a path.

    On a GPU, only bfloat16 is compiled: that is the practical alternative.
    """
    paths = {"naive": wrap(lambda inr: naive(inr, precision.dtype))}
    if on_cuda() and precision.name != "bfloat16":
        return paths
    return paths | {"compiled": wrap(torch.compile(lambda inr: naive(inr, precision.dtype)))}


@precisions("float32", "bfloat16")
@pytest.mark.parametrize("size", SIZES, ids=names)
def test_render(compare, size, precision):
    inr, grid = default_inr(*size)

    def path(render) -> Path:
        def run() -> Tensor:
            with torch.no_grad():
                return render(inr)

        return run

    def naive(inr: fi.INR, dtype: torch.dtype) -> Tensor:
        return fi.render(inr, grid, dtype=dtype, backend="reference")

    frame = in_type(inr.at_clips(slice(0, 1)).at_times(slice(1, 2)), torch.float64)
    work = counts.render(inr, grid, dtype=precision.dtype)
    compare(
        Case(
            name=f"render {names(size)}-R{pixels(inr, grid)}",
            dtype=precision.dtype,
            tf32=precision.tf32,
            paths={
                **rivals(naive, path, precision),
                "ours": path(lambda inr: fi.render(inr, grid, dtype=precision.dtype)),
            },
            flops=work.flops,
            work=work,
            truth=lambda: fi.render(frame, grid, backend="reference"),
            part=lambda frames: frames[:1, 1:2],
            tolerance=TOLERANCE[precision.name],
        )
    )


@precisions("bfloat16")
@pytest.mark.parametrize("size", TRAINING, ids=names)
def test_render_forward_and_backward(compare, size, precision):
    inr, grid = default_inr(*size)
    side = pixels(inr, grid)
    weights = torch.randn(*size, 3, side, side).to(device())

    def gradients(inr: fi.INR, render) -> tuple[Tensor, ...]:
        inr = inr.mapped(lambda tensor: tensor.detach().requires_grad_())
        frames = render(inr)
        tensors = list(inr.tensors())
        return torch.autograd.grad((frames * weights.to(frames.dtype)[: len(frames)]).sum(), tensors)

    def naive(inr: fi.INR, dtype: torch.dtype | None) -> Tensor:
        return fi.render(inr, grid, dtype=dtype, backend="reference")

    def ours() -> tuple[Tensor, ...]:
        return gradients(inr, lambda i: fi.render(i, grid, dtype=precision.dtype))

    def stored() -> tuple[Tensor, ...]:
        with fi.store_activations():
            return ours()

    first = inr.at_clips(slice(0, 1))
    alone = [index for index, tensor in enumerate(inr.tensors()) if tensor.shape[0] == size[0]]
    work = counts.render(inr, grid, dtype=precision.dtype)
    work += counts.render(inr, grid, dtype=precision.dtype, backward=True)
    compare(
        Case(
            name=f"render forward + backward {names(size)}-R{pixels(inr, grid)}",
            dtype=precision.dtype,
            tf32=precision.tf32,
            paths={
                **rivals(naive, lambda render: lambda: gradients(inr, render), precision),
                "ours, stored": stored,
                "ours": ours,
            },
            flops=work.flops,
            work=work,
            truth=lambda: tuple(
                gradients(in_type(first, torch.float64), lambda i: naive(i, None))[index] for index in alone
            ),
            part=lambda gradients: tuple(gradients[index][:1] for index in alone),
            tolerance=GRADIENT_TOLERANCE[precision.name],
        )
    )


# Values of each size that is varied, and the arguments of `default_inr` at a value.
SERIES = {
    "frames": (
        scaled(tiny=(1, 2), default=(1, 4, 16), full=(1, 4, 16, 64)),
        lambda value: dict(clips=1, frames=value),
    ),
    "clips": (scaled(tiny=(1, 2), default=(1, 2, 4), full=(1, 4, 16)), lambda value: dict(clips=value, frames=1)),
    "resolution": (
        scaled(tiny=(32, 64), default=(64, 128, 256), full=(64, 128, 256, 512)),
        lambda value: dict(clips=1, frames=1, resolution=value),
    ),
    "width": (
        scaled(tiny=(8, 16), default=(64, 128, 256, 512)),
        lambda value: dict(clips=1, frames=2, channel_max=value),
    ),
}
# Pixels of all frames up to which the naive path runs too.
NAIVE_PIXELS = scaled(default=4 * 128**2, full=16 * 128**2)
# Frames that fit into the memory of a stream: few of those measured, so that the others come in several pieces.
STREAM_PIECE = scaled(tiny=1, default=4)


@pytest.mark.parametrize("axis", SERIES)
def test_scaling(compare, axis):
    values, arguments = SERIES[axis]
    compare(*(scaling_case(axis, value, **arguments(value)) for value in values))


def test_scaling_of_a_stream(compare):
    """`render_chunks` gives one frame after the other: its memory grows up to the bound, not with their number."""
    values, arguments = SERIES["frames"]
    compare(*(stream_case(value, **arguments(value)) for value in (*values, 2 * values[-1])))


def scaling_case(axis: str, value: int, **arguments: int) -> Case:
    inr, grid = default_inr(**arguments)
    work = counts.render(inr, grid, dtype=torch.bfloat16)

    def path(backend: str | None) -> Path:
        return torch.no_grad()(lambda: fi.render(inr, grid, dtype=torch.bfloat16, backend=backend))

    few = inr.batch * inr.times * pixels(inr, grid) ** 2 <= NAIVE_PIXELS
    return Case(
        name=f"render, {axis} {value}",
        dtype=torch.bfloat16,
        paths={**({"naive": path("reference")} if few else {}), "ours": path(None)},
        flops=work.flops,
        work=work,
        truth=first_frame(inr, grid),
        part=lambda frames: frames[:1, :1],
        tolerance=TOLERANCE["bfloat16"],
        scaling=(axis, value),
    )


def first_frame(inr: fi.INR, grid: fi.Grid) -> Path:
    """Return a function that renders the first frame in float32, on the reference backend."""
    frame = inr.at_clips(slice(0, 1)).at_times(slice(0, 1))
    return torch.no_grad()(lambda: fi.render(frame, grid, backend="reference"))


def stream_case(value: int, **arguments: int) -> Case:
    inr, grid = default_inr(**arguments)
    work = counts.render(inr, grid, dtype=torch.bfloat16)
    memory = render_memory(inr.at_times(slice(0, STREAM_PIECE)), grid, dtype=torch.bfloat16)

    @torch.no_grad()
    def stream() -> Tensor:
        """Return the first frame, and drop the others."""
        first, *_ = (
            frame if index == 0 else None
            for index, frame in enumerate(fi.render_chunks(inr, grid, dtype=torch.bfloat16, memory=memory))
        )
        return first

    return Case(
        name=f"render_chunks, frames {value}",
        dtype=torch.bfloat16,
        paths={"ours": stream},
        flops=work.flops,
        work=work,
        truth=first_frame(inr, grid),
        part=lambda frame: frame[:1, None],
        tolerance=TOLERANCE["bfloat16"],
        scaling=("frames of a stream", value),
    )
