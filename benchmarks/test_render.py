"""The renderer on the default generator of DIGAN, 128x128 with 512 channels, compared with the naive path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.device import device, on_cuda, pick
from benchmarks.harness import Case, Path, Precision, precisions
from digan import Generator
from digan.config import GeneratorConfig
from fused_inr.tools import counts

SIZES = pick(cpu=[(1, 16)], cuda=[(8, 16), (32, 16)])
TRAINING = pick(cpu=[(4, 2)], cuda=[(16, 2)])
# Relative to float64. bfloat16 keeps 8 bits of every activation, through twelve layers; float16 and tf32 keep 11.
TOLERANCE = {"float32": 2e-6, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1e-2}
# A pre-activation that rounds across zero changes the slope by a factor of 5: gradients differ more than frames.
GRADIENT_TOLERANCE = {"float32": 1e-2, "tf32": 0.1, "float16": 0.1, "bfloat16": 0.3}


def names(size: tuple[int, int]) -> str:
    return f"N{size[0]}-T{size[1]}"


def default_inr(clips: int, frames: int) -> tuple[fi.INR, fi.Grid]:
    torch.manual_seed(0)
    g = Generator(GeneratorConfig())
    with torch.no_grad():
        inr = g.inr(torch.randn(clips, 512), torch.randn(clips, 512), torch.linspace(0, 1, frames))
    return inr.mapped(lambda tensor: tensor.to(device())), g.grid()


def in_type(inr: fi.INR, dtype: torch.dtype) -> fi.INR:
    return inr.mapped(lambda tensor: tensor.to(dtype))


def rivals(naive, wrap, precision: Precision) -> dict[str, Path]:
    """Return the naive paths; `naive(inr, dtype)` renders, and `wrap` turns a render function into a path.

    On a GPU, only bfloat16 is compiled and compared with float32 too: these are the practical alternatives.
    """
    paths = {"naive": wrap(lambda inr: naive(inr, precision.dtype))}
    if on_cuda() and precision.name != "bfloat16":
        return paths
    if on_cuda():
        paths = {"naive, float32": wrap(lambda inr: naive(inr, torch.float32))} | paths
    return paths | {"compiled": wrap(torch.compile(lambda inr: naive(inr, precision.dtype)))}


@precisions()
@pytest.mark.parametrize("size", SIZES, ids=names)
def test_render_16_frames(compare, size, precision):
    inr, grid = default_inr(*size)

    def path(render) -> Path:
        def run() -> Tensor:
            with torch.no_grad():
                return render(inr)

        return run

    def naive(inr: fi.INR, dtype: torch.dtype) -> Tensor:
        return fi.render(inr, grid, dtype=dtype, backend="reference")

    frame = in_type(inr.at_clips(slice(0, 1)).at_times(slice(5, 6)), torch.float64)
    work = counts.render(inr, grid, dtype=precision.dtype)
    compare(
        Case(
            name=f"render {names(size)}-R128",
            dtype=precision.dtype,
            tf32=precision.tf32,
            paths={
                **rivals(naive, path, precision),
                "ours": path(lambda inr: fi.render(inr, grid, dtype=precision.dtype)),
            },
            rivals=["naive", "compiled"] if on_cuda() else (),
            flops=work.flops,
            work=work,
            truth=lambda: fi.render(frame, grid, backend="reference"),
            part=lambda frames: frames[:1, 5:6],
            tolerance=TOLERANCE[precision.name],
        )
    )


@precisions()
@pytest.mark.parametrize("size", TRAINING, ids=names)
def test_render_forward_and_backward(compare, size, precision):
    inr, grid = default_inr(*size)
    weights = torch.randn(*size, 3, 128, 128).to(device())

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
            name=f"forward + backward {names(size)}-R128",
            dtype=precision.dtype,
            tf32=precision.tf32,
            paths={
                **rivals(naive, lambda render: lambda: gradients(inr, render), precision),
                "ours, stored": stored,
                "ours": ours,
            },
            rivals=["naive", "compiled"] if on_cuda() else (),
            flops=work.flops,
            work=work,
            truth=lambda: tuple(
                gradients(in_type(first, torch.float64), lambda i: naive(i, None))[index] for index in alone
            ),
            part=lambda gradients: tuple(gradients[index][:1] for index in alone),
            tolerance=GRADIENT_TOLERANCE[precision.name],
            rounds=3,
        )
    )
