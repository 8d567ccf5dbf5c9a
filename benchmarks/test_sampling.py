"""From a network to frames: an mp4 in two resolutions, and the latency of one frame, as in `digan explore`.

The naive path renders on the reference backend. What torch.compile makes of rendering is measured with `render`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.device import device, pick
from benchmarks.harness import Case, on_reference, precisions
from benchmarks.limits import matrix_products
from benchmarks.sizes import scaled, tiny
from benchmarks.test_render import SMALL
from digan import Generator
from digan.config import GeneratorConfig
from digan.sampling.clip_plan import videos
from digan.sampling.media import to_uint8, write_video
from digan.sampling.render import Sampler
from fused_inr.tools import counts

# Pixels per side, and frames.
CLIPS = scaled(
    tiny=[(32, 2)], default=[(128, pick(cpu=8, cuda=64)), (512, pick(cpu=1, cuda=16))], full=[(128, 64), (512, 16)]
)
# Rounding to 8 bits is what differs most in float32.
TOLERANCE = {"float32": 1e-2, "bfloat16": 3e-2, "float16": 2e-2, "tf32": 2e-2}


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig(**(SMALL if tiny() else {}))).eval().to(device())


@precisions("float32")
@pytest.mark.parametrize(("side", "frames"), CLIPS)
def test_sample_to_mp4(compare, generator, tmp_path, side, frames, precision):
    times = torch.linspace(0, 1, frames)
    sampler = Sampler(generator, times, generator.grid(side), dtype=precision.dtype)
    (plan,) = videos([0]).clips
    work = counts.render(sampler.inr(plan), sampler.grid, dtype=precision.dtype)

    def path() -> Tensor:
        """Write the file, and return its frames."""
        rendered: list[Tensor] = []

        def passed_on():
            for frame in sampler.frames(plan):
                rendered.append(frame)
                yield frame

        write_video(tmp_path / "clip.mp4", passed_on())
        return torch.stack(rendered)

    compare(
        Case(
            name=f"sample to mp4, T{frames}-R{side}",
            dtype=precision.dtype,
            tf32=precision.tf32,
            paths={"naive": on_reference(path), "ours": path},
            flops=work.flops,
            limits=[matrix_products(work.flops, precision.dtype)],
            truth=None,
            tolerance=TOLERANCE[precision.name],
            amount=(frames, "frames"),
        )
    )


@precisions("float32")
def test_latency_of_a_frame(compare, generator, precision):
    """Measure the latency from z to a uint8 frame, including building the weights."""
    z_content, z_motion = torch.randn(2, 1, generator.config.z_dim, device=device())
    times = torch.tensor([0.37], device=device())

    def path(call: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return torch.no_grad()(lambda: to_uint8(call(z_content, z_motion, times)).cpu())

    def frame(*latents: Tensor) -> Tensor:
        return generator(*latents, dtype=precision.dtype)

    work = counts.render(generator.inr(z_content, z_motion, times), generator.grid(), dtype=precision.dtype)
    compare(
        Case(
            name=f"latency of a frame, R{generator.config.resolution}",
            dtype=precision.dtype,
            tf32=precision.tf32,
            paths={
                "naive": on_reference(path(frame)),
                "ours": path(frame),
            },
            flops=work.flops,
            limits=[matrix_products(work.flops, precision.dtype)],
            truth=on_reference(path(lambda *latents: generator(*latents))),
            tolerance=TOLERANCE[precision.name],
        )
    )
