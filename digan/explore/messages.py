"""What the page asks for: checked requests, with bounds on everything that a message can set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from digan.config import FRACTION, SEED, Range
from digan.errors import ConfigError
from digan.sampling.clip_plan import ClipPlan, mixture
from digan.sampling.slices import Line

MAX_MESSAGE = 16384  # bytes
MAX_SIDE = 2048  # pixels per side of a picture on the page
MAX_TIMES = 8  # frames of one request
MAX_MOTIONS = 12
MAX_THUMBNAIL = 96  # pixels per side
MAX_FRAMES = 1000  # frames of a file
MAX_FILE_SIDE = 1024  # pixels per side of a file
MAX_FILE_PIXELS = 2**28  # of all its frames
FILES = ("mp4", "gif", "png", "slice")

_INDEX = Range(minimum=0)
_COUNTER = Range(minimum=0, maximum=2**53)
_TIME = Range(minimum=-1000, maximum=1000)
_POSITION = Range(minimum=-1000, maximum=1000)
_PSI = Range(minimum=-10, maximum=10)
_SIDE = Range(minimum=1, maximum=MAX_SIDE)
_DIGITS = 6  # decimals of a weight, for commands that can be read
_MIN_EXTENT = 1e-5  # of a window: the coordinates are float32


@dataclass(frozen=True)
class Content:
    """The content of a clip: four samples of a seed, mixed at a position of the pad.

    Args:
        seed: seed of the samples.
        contents: the samples at the corners of the pad: top left, top right, bottom left, bottom right.
        pad: position on the pad, from (0, 0) at the top left to (1, 1) at the bottom right.
        psi: truncation.
        label: class; None for an unconditional generator.
    """

    seed: int
    contents: tuple[int, int, int, int]
    pad: tuple[float, float]
    psi: float
    label: int | None

    def plan(self, motion: int) -> ClipPlan:
        """Return the clip with a motion: contents without weight are left out, equal ones are added up."""
        u, v = self.pad
        weights: dict[int, float] = {}
        corners = ((1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v)
        for content, weight in zip(self.contents, corners, strict=True):
            if rounded := round(weight, _DIGITS):
                weights[content] = round(weights.get(content, 0.0) + rounded, _DIGITS)
        return mixture(list(weights), list(weights.values()), motion).clips[0]


@dataclass(frozen=True)
class Window:
    """The visible part of the plane: X from left to right, Y from bottom to top."""

    x: tuple[float, float]
    y: tuple[float, float]


@dataclass(frozen=True)
class Request:
    """What all requests for pictures have in common.

    Args:
        generation: a number that grows whenever what the page shows changes.
        id: returned with each picture.
    """

    id: int
    generation: int
    content: Content
    motion: int


@dataclass(frozen=True)
class FramesRequest(Request):
    """Frames of a window: coarse ones at several times, or a single one in full resolution if `sharp`."""

    window: Window
    times: tuple[float, ...]
    size: tuple[int, int]
    sharp: bool


@dataclass(frozen=True)
class SliceRequest(Request):
    """The x-t slice along a line, with a row for each of size[1] times from t0 to t1."""

    line: Line
    span: tuple[float, float]
    size: tuple[int, int]


@dataclass(frozen=True)
class EnlargedRequest(Request):
    """The frame of the training resolution, enlarged into a window."""

    window: Window
    time: float
    size: tuple[int, int]


@dataclass(frozen=True)
class MotionsRequest(Request):
    """Small clips of the same content with other motions."""

    motions: tuple[int, ...]
    times: tuple[float, ...]
    side: int


@dataclass(frozen=True)
class FileRequest:
    """A file to download: what `digan sample` would write.

    Args:
        format: a key of `digan.sampling.writers.FORMATS`; a png shows a single frame.
        span: times of the first and of the last frame.
        size: width and height of a frame.
        line: the line of a slice; None for other formats.
    """

    format: str
    content: Content
    motion: int
    window: Window
    span: tuple[float, float]
    frames: int
    fps: float
    size: tuple[int, int]
    line: Line | None


class _Fields:
    """The fields of a message. Every method returns a checked value, or raises `ConfigError` with one sentence."""

    def __init__(self, message: Any) -> None:
        if not isinstance(message, dict):
            raise ConfigError("a message must be a JSON object.")
        self.message = message

    def number(self, name: str, kind: type, range: Range) -> Any:
        return _number(name, self.message.get(name), kind, range)

    def numbers(self, name: str, kind: type, range: Range, least: int, most: int | None = None) -> tuple:
        values = self.message.get(name)
        most = most or least
        if not isinstance(values, list) or not least <= len(values) <= most:
            count = f"{least}" if most == least else f"{least} to {most}"
            raise ConfigError(f"{name} must be a list of {count} numbers.")
        return tuple(_number(name, value, kind, range) for value in values)

    def choice(self, name: str, values: tuple[str, ...]) -> str:
        value = self.message.get(name)
        if value not in values:
            raise ConfigError(f"{name} must be one of {', '.join(values)}.")
        return str(value)

    def content(self, num_classes: int) -> Content:
        label = self.number("label", int, Range(minimum=0, maximum=num_classes - 1)) if num_classes else None
        return Content(
            self.number("seed", int, SEED),
            self.numbers("contents", int, _INDEX, 4),
            self.numbers("pad", float, FRACTION, 2),
            self.number("psi", float, _PSI),
            label,
        )

    def window(self) -> Window:
        x, y = (self._extent(name) for name in ("x", "y"))
        return Window(x, y)

    def _extent(self, name: str) -> tuple[float, float]:
        start, end = self.numbers(name, float, _POSITION, 2)
        if abs(end - start) < _MIN_EXTENT:
            raise ConfigError(f"{name} must extend over at least {_MIN_EXTENT:g}.")
        return start, end

    def line(self) -> Line:
        x0, y0, x1, y1 = self.numbers("line", float, _POSITION, 4)
        if abs(x1 - x0) + abs(y1 - y0) < _MIN_EXTENT:
            raise ConfigError("line must lead from one point to another.")
        return x0, y0, x1, y1


def _number(name: str, value: Any, kind: type, range: Range) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and isinstance(value, float)):
        raise ConfigError(f"{name} must be {'an integer' if kind is int else 'a number'}.")
    if problem := range.problem(value):
        raise ConfigError(f"{name} {value!r:.40} {problem}.")
    return kind(value)


def parse_request(text: str, num_classes: int) -> Request:
    """Return the request of a message.

    Raises:
        ConfigError: the message is not one of the page's.
    """
    fields = _Fields(_load(text))
    kind = fields.choice("kind", tuple(_KINDS))
    common = {
        "id": fields.number("id", int, _COUNTER),
        "generation": fields.number("generation", int, _COUNTER),
        "content": fields.content(num_classes),
        "motion": fields.number("motion", int, _INDEX),
    }
    return _KINDS[kind](fields, common)


def parse_file_request(text: str, num_classes: int) -> FileRequest:
    """Return the file that a message asks for.

    Raises:
        ConfigError: the message is not one of the page's, or the file would be too large.
    """
    fields = _Fields(_load(text))
    side = Range(minimum=1, maximum=MAX_FILE_SIDE)
    format = fields.choice("format", FILES)
    request = FileRequest(
        format,
        fields.content(num_classes),
        fields.number("motion", int, _INDEX),
        fields.window(),
        fields.numbers("span", float, _TIME, 2),
        fields.number("frames", int, Range(minimum=1, maximum=MAX_FRAMES)),
        fields.number("fps", float, Range(minimum=0.1, maximum=100)),
        fields.numbers("size", int, side, 2),
        fields.line() if format == "slice" else None,
    )
    width, height = request.size
    rows = 1 if format == "slice" else height  # each time is a row of a slice
    if request.frames * width * rows > MAX_FILE_PIXELS:
        raise ConfigError(f"{request.frames} frames of {width}x{height} pixels are too many; lower one of them.")
    return request


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError("a message must be JSON.") from None


def _frames(fields: _Fields, common: dict[str, Any]) -> Request:
    times = fields.numbers("times", float, _TIME, 1, MAX_TIMES)
    sharp = fields.message.get("sharp")
    if not isinstance(sharp, bool) or (sharp and len(times) > 1):
        raise ConfigError("sharp must be true or false, and is for a single time.")
    size = fields.numbers("size", int, _SIDE, 2)
    return FramesRequest(**common, window=fields.window(), times=times, size=size, sharp=sharp)


def _slice(fields: _Fields, common: dict[str, Any]) -> Request:
    span, size = fields.numbers("span", float, _TIME, 2), fields.numbers("size", int, _SIDE, 2)
    return SliceRequest(**common, line=fields.line(), span=span, size=size)


def _enlarged(fields: _Fields, common: dict[str, Any]) -> Request:
    time, size = fields.number("time", float, _TIME), fields.numbers("size", int, _SIDE, 2)
    return EnlargedRequest(**common, window=fields.window(), time=time, size=size)


def _motions(fields: _Fields, common: dict[str, Any]) -> Request:
    return MotionsRequest(
        **common,
        motions=fields.numbers("motions", int, _INDEX, 1, MAX_MOTIONS),
        times=fields.numbers("times", float, _TIME, 1, MAX_TIMES),
        side=fields.number("side", int, Range(minimum=1, maximum=MAX_THUMBNAIL)),
    )


_KINDS: dict[str, Callable[[_Fields, dict[str, Any]], Request]] = {
    "frames": _frames,
    "slice": _slice,
    "enlarged": _enlarged,
    "motions": _motions,
}
