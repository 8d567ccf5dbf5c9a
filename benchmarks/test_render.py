"""The renderer on DIGAN's default generator: 128x128, 512 channels, against what one writes by hand."""

import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.harness import DTYPES, Case
from digan import Generator
from digan.config import GeneratorConfig

# Multiply-accumulates of a 128x128 frame after a layer's large half was moved below the upsampling: 7.4 G.
FLOPS_OF_A_FRAME = 14.8e9
# Against float64. bfloat16 keeps 8 bits of every activation, through twelve layers.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
# A pre-activation that rounds to the other side of zero changes the slope by 5x: gradients differ more than frames do.
GRADIENT_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.3}


def default_inr(clips: int, frames: int) -> tuple[fi.INR, fi.Grid]:
    torch.manual_seed(0)
    g = Generator(GeneratorConfig())
    with torch.no_grad():
        inr = g.inr(torch.randn(clips, 512), torch.randn(clips, 512), torch.linspace(0, 1, frames))
    return inr, g.grid()


def in_type(inr: fi.INR, dtype: torch.dtype) -> fi.INR:
    return inr.mapped(lambda tensor: tensor.to(dtype))


@DTYPES
def test_render_16_frames(compare, dtype):
    inr, grid = default_inr(1, 16)
    compiled = torch.compile(lambda: fi.render(inr, grid, dtype=dtype, backend="reference"))

    def no_grad(path):
        def run() -> Tensor:
            with torch.no_grad():
                return path()

        return run

    paths = {
        "naive": lambda: fi.render(inr, grid, dtype=dtype, backend="reference"),
        "compiled": compiled,
        "ours": lambda: fi.render(inr, grid, dtype=dtype),
    }
    compare(
        Case(
            name="render N1-T16-R128",
            dtype=dtype,
            paths={name: no_grad(path) for name, path in paths.items()},
            flops=16 * FLOPS_OF_A_FRAME,
            truth=no_grad(lambda: fi.render(in_type(inr.at_times(slice(5, 6)), torch.float64), grid)),
            part=lambda frames: frames[:, 5:6],
            tolerance=TOLERANCE[dtype],
        )
    )


@DTYPES
def test_render_forward_and_backward(compare, dtype):
    inr, grid = default_inr(4, 2)
    weights = torch.randn(4, 2, 3, 128, 128)

    def gradients(inr: fi.INR, render) -> tuple[Tensor, ...]:
        inr = inr.mapped(lambda tensor: tensor.detach().requires_grad_())
        frames = render(inr)
        tensors = list(inr.tensors())
        return torch.autograd.grad((frames * weights.to(frames.dtype)[: len(frames)]).sum(), tensors)

    def naive(inr: fi.INR) -> Tensor:
        return fi.render(inr, grid, dtype=dtype, backend="reference")

    def ours() -> tuple[Tensor, ...]:
        return gradients(inr, lambda i: fi.render(i, grid, dtype=dtype))

    def stored() -> tuple[Tensor, ...]:
        with fi.store_activations():
            return ours()

    compiled = torch.compile(naive)
    first = inr.at_clips(slice(0, 1))
    alone = [index for index, tensor in enumerate(inr.tensors()) if tensor.shape[0] == 4]
    compare(
        Case(
            name="forward + backward N4-T2-R128",
            dtype=dtype,
            paths={
                "naive": lambda: gradients(inr, naive),
                "compiled": lambda: gradients(inr, compiled),
                "ours, stored": stored,
                "ours": ours,
            },
            flops=3 * 8 * FLOPS_OF_A_FRAME,
            truth=lambda: tuple(
                gradients(in_type(first, torch.float64), lambda i: fi.render(i, grid, backend="reference"))[index]
                for index in alone
            ),
            part=lambda found: tuple(found[index][:1] for index in alone),
            tolerance=GRADIENT_TOLERANCE[dtype],
            rounds=3,
        )
    )
