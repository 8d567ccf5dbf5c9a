"""Damaged videos: what a read returns follows from the file and the item alone, and no damage ends a run.

A trial writes one small video with damage chosen by the seed beside a sound one, indexes both, and reads items and
frames repeatedly: in two orders, with and without a store, continuing earlier reads and not, and with fresh readers.
"""

import contextlib
import functools
import io
import pathlib
import tempfile
import warnings
import zipfile

import av
import numpy as np
from PIL import Image

from digan.data import Clips, ClipWindows, FramePairs, FrameStore, UnreadableVideo, load_index
from digan.data.decode import FrameReader
from digan.errors import DataError

FRAMES, SIDE, RESOLUTION, CLIP = 24, 32, 16, 4

ENCODINGS = {  # suffix and variant: codec, pixel format, keyframe distance, options
    "mp4": ("libx264", "yuv420p", 8, {"x264-params": "bframes=2:scenecut=0"}),
    "mp4-open-gop": ("libx264", "yuv420p", 8, {"x264-params": "open-gop=1:bframes=3:scenecut=0"}),
    "mp4-one-keyframe": ("libx264", "yuv420p", 250, {"x264-params": "bframes=0:scenecut=0"}),
    "mp4-start": ("libx264", "yuv420p", 12, {"movflags": "faststart"}),
    "mov": ("mpeg4", "yuv420p", 8, {}),
    "mkv": ("libx264", "yuv420p", 8, {}),
    "mkv-ffv1": ("ffv1", "yuv420p", 1, {"slicecrc": "0"}),
    "webm": ("libvpx-vp9", "yuv420p", 8, {"deadline": "realtime", "cpu-used": "8"}),
    "webm-vp8": ("libvpx", "yuv420p", 8, {"deadline": "realtime", "cpu-used": "8"}),
    "avi": ("mpeg4", "yuv420p", 8, {}),
    "avi-b-frames": ("mpeg4", "yuv420p", 8, {"bf": "2"}),
    "avi-mjpeg": ("mjpeg", "yuvj420p", 1, {}),
    "ts": ("libx264", "yuv420p", 8, {}),
    "mpg": ("mpeg2video", "yuv420p", 8, {}),
    "gif": ("gif", "rgb8", 1, {}),
}
PICTURES = {"png": {}, "jpg": {}, "bmp": {}, "webp": {}}
KINDS = [*ENCODINGS, *PICTURES, "animated-webp", "animated-png", "zip-stored", "zip-deflated"]


@functools.cache
def pictures() -> list[np.ndarray]:
    """Return a moving texture, in which any effect of damage on a frame shows: uint8 `[SIDE, SIDE, 3]` each."""
    texture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    return [np.ascontiguousarray(np.roll(texture, (t, 2 * t), (0, 1))[:SIDE, :SIDE]) for t in range(FRAMES)]


@functools.cache
def encoded(name: str) -> bytes:
    """Return a sound video file of the texture."""
    codec, pix_fmt, gop, options = ENCODINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"a.{suffix_of(name)}"
        container_options = {k: v for k, v in options.items() if k == "movflags"}
        with av.open(str(path), "w", options=container_options) as container:
            stream = container.add_stream(codec, rate=25, options={k: v for k, v in options.items() if k != "movflags"})
            stream.width = stream.height = SIDE
            stream.pix_fmt = pix_fmt
            stream.codec_context.gop_size, stream.codec_context.thread_count = gop, 1
            for picture in pictures():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        return path.read_bytes()


@functools.cache
def drawn(suffix: str, number: int) -> bytes:
    """Return a sound picture file: one frame of the texture."""
    buffer = io.BytesIO()
    Image.fromarray(pictures()[number]).save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    return buffer.getvalue()


@functools.cache
def animated(suffix: str) -> bytes:
    """Return an animated picture file of the texture."""
    first, *others = map(Image.fromarray, pictures()[:8])
    buffer = io.BytesIO()
    first.save(buffer, suffix, save_all=True, append_images=others, duration=40)
    return buffer.getvalue()


@functools.cache
def archived(compression: int) -> bytes:
    """Return a zip of two videos and a folder of pictures."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("a.mp4", encoded("mp4"))
        archive.writestr("b.avi", encoded("avi"))
        for number in range(6):
            archive.writestr(f"clip/{number}.png", drawn("png", number))
    return buffer.getvalue()


def suffix_of(name: str) -> str:
    return name.partition("-")[0]


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file once or several times; `other` lends it its first bytes in one of the ways."""
    content = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        size = len(content)
        start = int(rng.integers(0, max(size, 1)))
        span = int(rng.integers(1, 2 + size // int(rng.choice([4, 20, 200]))))
        match int(rng.integers(0, 8)):
            case 0 | 1:  # change single bytes
                for place in rng.integers(0, max(size, 1), int(rng.choice([1, 4, 40]))) if size else ():
                    content[place] ^= int(rng.integers(1, 256))
            case 2:  # replace a span
                content[start : start + span] = rng.integers(0, 256, span).astype(np.uint8).tobytes()
            case 3:  # zeros, as a download that was not finished
                content[start : start + span] = bytes(len(content[start : start + span]))
            case 4:
                del content[start : start + span]
            case 5:
                del content[start:]
            case 6:  # repeat a span
                content[start:start] = content[start : start + span]
            case 7:  # another file's header
                content[: min(span, 512)] = other[: min(span, 512)]
    return bytes(content)


def write(kind: str, folder: pathlib.Path, rng: np.random.Generator) -> pathlib.Path:
    """Write a damaged video of a kind, with a sound one beside it, and return the value of --data."""
    other = encoded(str(rng.choice(list(ENCODINGS))))
    if kind.startswith("zip"):
        compression = zipfile.ZIP_STORED if kind == "zip-stored" else zipfile.ZIP_DEFLATED
        (folder / "a.zip").write_bytes(mutated(archived(compression), other, rng))
        return folder / "a.zip"
    data = folder / "data"
    (data / "clip").mkdir(parents=True)
    (data / "good.mp4").write_bytes(encoded("mp4"))
    if kind in PICTURES:
        bad = set(rng.integers(0, 8, 2).tolist())
        for number in range(8):
            content = drawn(kind, number)
            content = mutated(content, other, rng) if number in bad else content
            (data / "clip" / f"{number}.{kind}").write_bytes(content)
    elif kind.startswith("animated"):
        suffix = kind.partition("-")[2]
        (data / "clip" / f"a.{suffix}").write_bytes(mutated(animated(suffix), other, rng))
    else:
        (data / f"bad.{suffix_of(kind)}").write_bytes(mutated(encoded(kind), other, rng))
    return data


def trial(seed: int, folder: pathlib.Path) -> str:
    """Read one damaged video in many ways; return what the index made of it."""
    rng = np.random.default_rng((seed, 11))
    path = write(KINDS[seed % len(KINDS)], folder, rng)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            index = load_index(path, None)
            windows = ClipWindows(index, CLIP)
        except DataError:
            return "refused"
        check_items(windows, rng)
        check_frames(windows, rng)
        check_clips(windows, rng)
    if any(video.damage for video in index.videos):
        return "known damaged"
    return "skipped" if index.problems else "taken as sound"


def check_items(windows: ClipWindows, rng: np.random.Generator) -> None:
    """Check that training items do not depend on those read before."""
    positions = rng.permutation(2 * len(windows))[:5].tolist()
    expected = items(windows, positions)
    assert items(windows, positions[::-1]) == expected, "items depend on their order"
    assert items(windows, positions[:1]) == {k: expected[k] for k in positions[:1]}, "an item depends on earlier ones"


def items(windows: ClipWindows, positions: list[int]) -> dict[int, bytes | str]:
    pairs = quiet(FramePairs(windows, RESOLUTION, seed=0))
    contents: dict[int, bytes | str] = {}
    for k in positions:
        try:
            contents[k] = pairs[k]["frames"].numpy().tobytes()
        except UnreadableVideo as error:
            contents[k] = str(error)
    close(pairs.reader)
    return contents


def check_frames(windows: ClipWindows, rng: np.random.Generator) -> None:
    """Check that frames do not depend on those requested before or with them, nor on whether they are stored."""
    index = windows.index
    video = min(index.videos, key=lambda video: video.name == "good.mp4")
    indices = rng.integers(0, video.num_frames, 4).tolist()
    alone = frames(FrameReader(index, RESOLUTION), video, [[i] for i in indices])
    expected = dict(zip(indices, (content for (content,) in alone), strict=True))
    readers = {
        "the order": (FrameReader(index, RESOLUTION), [[i] for i in sorted(indices, reverse=True)]),
        "the frames read with it": (FrameReader(index, RESOLUTION), [indices[:2], indices[2:]]),
        "the store": (FrameReader(index, RESOLUTION, store=FrameStore(index, RESOLUTION)), [indices[2:], indices[:2]]),
        "reading onward": (FrameReader(index, RESOLUTION, onward=True), [sorted(indices)]),
    }
    for what, (reader, requests) in readers.items():
        for request, contents in zip(requests, frames(reader, video, requests), strict=True):
            # A frame that cannot be read fails the whole request.
            errors = [expected[i] for i in request if isinstance(expected[i], str)]
            for i, content in zip(request, contents, strict=True):
                sound = content in errors if errors else content == expected[i]
                assert sound, f"frame {i} of {video.name} depends on {what}"


def frames(reader: FrameReader, video, requests: list[list[int]]) -> list[list[bytes | str]]:
    """Return what becomes of the frames of each request: bytes, or the error of the request."""
    contents: list[list[bytes | str]] = []
    for request in requests:
        try:
            contents.append([frame.tobytes() for frame in quiet_reader(reader).read(video, request)])
        except UnreadableVideo as error:
            contents.append([str(error)] * len(request))
    close(reader)
    return contents


def check_clips(windows: ClipWindows, rng: np.random.Generator) -> None:
    """Check that the clips of metrics do not depend on those read before."""
    numbers = rng.permutation(len(windows))[:3].tolist()
    assert clips(windows, numbers) == clips(windows, numbers[::-1]), "clips depend on their order"


def clips(windows: ClipWindows, numbers: list[int]) -> dict[int, bytes | str]:
    whole = quiet(Clips(windows, RESOLUTION))
    contents: dict[int, bytes | str] = {}
    for number in numbers:
        try:
            contents[number] = whole[number][0].numpy().tobytes()
        except UnreadableVideo as error:
            contents[number] = str(error)
    close(whole.reader)
    return contents


def quiet(data):
    quiet_reader(data.reader)
    return data


def quiet_reader(reader: FrameReader) -> FrameReader:
    reader.report = lambda sentence: None
    return reader


def close(reader: FrameReader) -> None:
    reader.close()
    if reader.store is not None:
        reader.store.close()
