"""Write a small demonstration data set: mp4 files of one bright shape moving over a dark background."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import av
import numpy as np

from digan.files import atomic_path, parse_json
from digan.wording import counted

SHAPES = ("disc", "square", "triangle")
_COLOURS = {
    "red": (235, 70, 60),
    "green": (80, 205, 90),
    "blue": (80, 130, 245),
    "yellow": (245, 210, 70),
}
_BACKGROUND = (20, 20, 30)
_MANIFEST = "manifest.json"
_FORMAT = 2
_FPS = 16


def make_demo_videos(
    folder: str | os.PathLike[str], videos: int = 160, frames: int = 32, resolution: int = 64, seed: int = 0
) -> Path:
    """Write square videos of `frames` frames below `folder/{train,val}/{disc,square,triangle}`.

    One video in eight goes to val. The same arguments give the same files. Does nothing if the files are complete
    according to the manifest, which is written last.

    The defaults give 284 training clips of 16 frames, more than the 256 that the usual metric compares.

    Returns:
        The folder.

    Raises:
        ValueError: the resolution is odd or below 16 (yuv420p), or there are no videos or no frames.
    """
    if resolution < 16 or resolution % 2:
        raise ValueError(f"the resolution of the demo videos must be even and at least 16, not {resolution}.")
    if videos < 1 or frames < 1:
        raise ValueError(
            f"the demo needs at least one video of one frame, not {counted(videos, 'video')} of "
            f"{counted(frames, 'frame')}."
        )
    root = Path(folder)
    settings = {"format": _FORMAT, "videos": videos, "frames": frames, "resolution": resolution, "seed": seed}
    manifest = root / _MANIFEST
    previous = _read_manifest(manifest)
    if previous.get("settings") == settings and _complete(root, previous["files"]):
        return root
    for name in previous.get("files", {}):
        (root / name).unlink(missing_ok=True)
    manifest.unlink(missing_ok=True)
    files = {}
    for number in range(videos):
        shape = SHAPES[number % len(SHAPES)]
        split = "val" if number // len(SHAPES) % 8 == 7 else "train"
        name = f"{split}/{shape}/{number:04d}.mp4"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        _write(root / name, render_demo_video(shape, frames, resolution, np.random.default_rng((seed, number))))
        files[name] = (root / name).stat().st_size
    with atomic_path(manifest) as draft:
        draft.write_text(json.dumps({"settings": settings, "files": files}, indent=1))
    return root


def render_demo_video(shape: str, frames: int, resolution: int, rng: np.random.Generator) -> np.ndarray:
    """Render one antialiased shape that drifts, bounces off the border and rotates: uint8 `[frames, R, R, 3]`."""
    colour = np.array(list(_COLOURS.values())[rng.integers(len(_COLOURS))], np.float64)
    background = np.array(_BACKGROUND, np.float64)
    size = rng.uniform(0.42, 0.55)  # in half picture widths
    start, velocity = rng.uniform(-1, 1, 2), rng.uniform(0.03, 0.07, 2) * rng.choice([-1, 1], 2)
    angle, spin = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.09) * rng.choice([-1, 1])
    axis = (np.arange(resolution) + 0.5) / resolution * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")  # [R, R]
    pictures = []
    for frame in range(frames):
        centre = _bounce(start + velocity * frame, 1 - size)
        cos, sin = np.cos(angle + spin * frame), np.sin(angle + spin * frame)
        u, v = x - centre[0], y - centre[1]
        distance = _DISTANCES[shape](cos * u + sin * v, cos * v - sin * u, size)
        cover = np.clip(0.5 - distance * resolution / 2, 0, 1)[..., None]  # an edge one pixel wide
        pictures.append(np.round(background + cover * (colour - background)).astype(np.uint8))
    return np.stack(pictures)


def _bounce(position: np.ndarray, limit: float) -> np.ndarray:
    """Fold a position on an infinite line into [-limit, limit]: a triangle wave."""
    return np.abs((position - limit) % (4 * limit) - 2 * limit) - limit


def _disc(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    return np.hypot(u, v) - size


def _square(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - size * 0.76


def _triangle(u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    sides = [np.cos(a) * u + np.sin(a) * v for a in np.deg2rad([90, 210, 330])]
    return np.maximum.reduce(sides) - size * 0.55


# Signed distance of (u, v) to the edge of a shape of the given size, negative inside, in half picture widths.
_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
}


def _write(path: Path, pictures: np.ndarray) -> None:
    codec: Literal["libx264", "mpeg4"] = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=_FPS)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # These settings make the output depend on the pictures alone: threads divide the work differently from run to
        # run, and x264's macroblock tree gave different bytes in about 3 % of runs on pictures as small as these.
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 16
        stream.options = {"crf": "16", "x264-params": "mbtree=0"} if codec == "libx264" else {"qscale": "2"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _read_manifest(file: Path) -> dict:
    try:
        return parse_json(file.read_bytes())
    except (OSError, ValueError):
        return {}


def _complete(root: Path, files: dict[str, int]) -> bool:
    return all((root / name).is_file() and (root / name).stat().st_size == size for name, size in files.items())
