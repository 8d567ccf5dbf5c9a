"""Write a small demonstration data set: mp4 files of one bright shape moving over a dark background."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import av
import numpy as np

from digan.files import atomic_path, parse_json
from digan.wording import counted

SHAPES = ("disc", "square", "triangle")
_COLOURS = {"disc": (80, 130, 245), "square": (245, 200, 60), "triangle": (235, 70, 60)}  # blue, yellow and red
_BACKGROUND = (20, 20, 30)
_MANIFEST = "manifest.json"
_NAME = re.compile(rf"(train|val)/({'|'.join(SHAPES)})/\d{{4,}}\.mp4")
_FORMAT = 3
_FPS = 16

# In half picture widths.
_REACH = 0.35  # largest distance of a shape's centre from the middle along each axis
_TRAVEL = (0.2, 0.6)  # shortest and longest path of a shape in a video


def make_demo_videos(
    folder: str | os.PathLike[str], videos: int = 512, frames: int = 16, resolution: int = 64, seed: int = 0
) -> Path:
    """Write square videos of `frames` frames below `folder/{train,val}/{disc,square,triangle}`.

    One video in eight goes to val. The same arguments give the same files. Does nothing if the files are complete
    according to the manifest, which is written last.

    The defaults give 449 training clips of 16 frames, more than the 256 that the usual metric compares.

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
    """Render one antialiased shape that moves on a straight line at constant speed: uint8 `[frames, R, R, 3]`."""
    colour = np.array(_COLOURS[shape], np.float64)
    background = np.array(_BACKGROUND, np.float64)
    path = _draw_path(rng)
    axis = (np.arange(resolution) + 0.5) / resolution * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")  # [R, R]
    pictures = []
    for share in np.linspace(0, 1, frames):
        centre = path[0] + share * (path[1] - path[0])
        distance = _DISTANCES[shape](x - centre[0], y - centre[1])
        cover = np.clip(0.5 - distance * resolution / 2, 0, 1)[..., None]  # an edge one pixel wide
        pictures.append(np.round(background + cover * (colour - background)).astype(np.uint8))
    return np.stack(pictures)


def _draw_path(rng: np.random.Generator) -> np.ndarray:
    """Draw the first and the last centre of a shape, `[2, 2]`, between which it stays in the picture."""
    while True:
        path = rng.uniform(-_REACH, _REACH, (2, 2))
        if _TRAVEL[0] <= np.linalg.norm(path[1] - path[0]) <= _TRAVEL[1]:
            return path


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 0.42


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.38


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # Equilateral, with the base below; (0, 0) is the middle of its height.
    inradius = 0.3
    sides = [np.cos(a) * u + np.sin(a) * (v - inradius / 2) for a in np.deg2rad([90, 210, 330])]
    return np.maximum.reduce(sides) - inradius


# Signed distance of (u, v) to the edge of a shape around (0, 0), negative inside, in half picture widths.
_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
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
    """Return the settings and the files that a manifest holds; nothing if it is absent or damaged."""
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        return {}
    # Files of other names are not this module's, and must not be removed.
    sound = "settings" in content and all(map(_NAME.fullmatch, content["files"]))
    return content if sound else {}


def _complete(root: Path, files: dict[str, int]) -> bool:
    return all((root / name).is_file() and (root / name).stat().st_size == size for name, size in files.items())
