"""Files to download, and the `digan sample` command that writes the same ones."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fused_inr as fi
from digan.errors import ConfigError
from digan.explore.messages import FileRequest
from digan.explore.pictures import Painter
from digan.sampling.frame_spill import FrameSpill
from digan.sampling.latents import clip_times
from digan.sampling.slices import slice_rows
from digan.sampling.writers import Outputs

# Calls a function in the rendering thread and returns its result.
Call = Callable[[Callable[[], Any]], Any]


def write_file(painter: Painter, request: FileRequest, call: Call) -> bytes:
    """Render a file and return its bytes, those of `digan sample` with the options of `command`.

    Large frames are rendered in bands, whose coordinates round differently: rarely, a pixel differs by one level.

    Args:
        painter: renders the frames.
        request: the file.
        call: runs each rendering step, a few rows at a time; an exception from it ends the rendering of the file.

    Raises:
        ConfigError: the network does not render frames of this size.
    """
    width, height = (_checked(side, painter.scale) for side in request.size)
    times = clip_times(request.frames, *request.span)
    inr = call(lambda: painter.inr(request.content, request.motion, times))
    if request.line is not None:
        height = 1
        frames = _in_rendering_thread(call, slice_rows(inr, request.line, width, dtype=painter.dtype))
    else:
        frames = _frames(painter, inr, painter.grid(request.window, (width, height)), call)
    with tempfile.TemporaryDirectory(prefix="digan-explore-") as name:
        folder = Path(name)
        with FrameSpill(folder, len(times), height, width) as spill:
            clip = spill.write(0, frames)
            (file,) = Outputs(folder, [request.format], request.fps).write("clip", [clip])
        return file.read_bytes()


def _frames(painter: Painter, inr: fi.INR, grid: fi.Grid, call: Call) -> Iterator[torch.Tensor]:
    """Render the frames one by one, uint8 [H, W, 3], in steps that leave the rendering thread to others in between."""
    for t in range(inr.times):
        frame = inr.at_times(slice(t, t + 1))
        bands = [call(partial(painter.render, frame, grid.rows(*rows))) for rows in painter.row_steps(grid)]
        yield torch.cat(bands, dim=1)[0]


def _in_rendering_thread(call: Call, values: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Compute each value in the rendering thread."""
    return iter(lambda: call(lambda: next(values, None)), None)


def _checked(side: int, scale: int) -> int:
    if side % scale:
        raise ConfigError(f"size {side} is not a multiple of {scale}, as this network requires.")
    return side


def command(
    network: str, dtype: torch.dtype | None, request: FileRequest, num_classes: int, latents: Sequence[str] = ()
) -> str:
    """Return the `digan sample` command that writes the same file; `latents` are the files of given clips."""
    content = request.content
    plan = content.plan(request.motion)
    given = plan.within(len(latents))
    options: dict[str, list[Any]] = {
        "network": [network],
        "outdir": ["out"],
        "mode": ["mix"],
        "indices": [",".join(map(str, plan.contents))],
        "weights": list(plan.weights) if len(plan.contents) > 1 else [],
        "motion-indices": [request.motion],
        "latents": list(latents),
        "seed": [] if given else [content.seed],
        "class": [content.label] if num_classes and not given else [],
        "psi": [content.psi] if content.psi != 1 else [],
        "frames": [request.frames],
        "t0": [request.span[0]],
        "t1": [request.span[1]],
        "resolution": ["x".join(map(str, request.size))],
        "x": list(request.window.x),
        "y": list(request.window.y),
        "format": [request.format],
        "slice-line": list(request.line or ()),
        "fps": [request.fps] if request.format in ("mp4", "gif") else [],
        "dtype": ["bf16"] if dtype == torch.bfloat16 else ["fp16"] if dtype == torch.float16 else [],
    }
    words = ["digan", "sample"]
    for name, values in options.items():
        if values:
            words += [f"--{name}", *(_word(value) for value in values)]
    return shlex.join(words)


def _word(value: Any) -> str:
    """Return a number in the shortest form that gives the same number again."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
