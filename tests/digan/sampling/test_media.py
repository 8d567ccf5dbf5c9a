"""Written videos, gifs and images are read back as expected."""

import contextlib
import ctypes

import av
import numpy as np
import pytest
import torch
from PIL import Image

from digan.sampling import media

COLOURS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40], [255, 255, 255]], dtype=torch.uint8)
# Measured: one step of yuv rounding plus x264 at crf 18 on flat colours differs by at most 2.
COLOUR_TOLERANCE = 4


def coloured_frames(height: int, width: int) -> torch.Tensor:
    return COLOURS[:, None, None].expand(-1, height, width, 3)


def read(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [(float(f.time), f.to_ndarray(format="rgb24")) for f in container.decode(stream)]
        return stream, frames


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (7, 5), (1, 1)], ids=lambda s: f"H{s[0]}-W{s[1]}")
def test_video_round_trip(tmp_path, size):
    path = tmp_path / "new" / "clip.mp4"
    media.write_video(path, coloured_frames(*size), fps=4)
    stream, frames = read(path)
    height, width = size
    assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert (stream.height, stream.width) == (height + height % 2, width + width % 2)
    assert [time for time, _ in frames] == [0.0, 0.25, 0.5, 0.75, 1.0]
    for (_, pixels), colour in zip(frames, COLOURS.numpy(), strict=True):
        # Compares the whole frame with its padding: edge replication continues the flat colour.
        assert np.abs(pixels.astype(int) - colour).max() <= COLOUR_TOLERANCE


def test_video_streams_and_starts_fast(tmp_path):
    written = []

    def frames():
        for index in range(40):
            written.append(index)
            yield np.full((32, 32, 3), index, dtype=np.uint8)

    path = tmp_path / "clip.mp4"
    media.write_video(path, frames(), fps=29.97)
    assert len(written) == 40
    stream, decoded = read(path)
    assert len(decoded) == 40
    assert float(stream.average_rate) == pytest.approx(29.97, abs=0.01)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_video_without_x264(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    media.write_video(tmp_path / "clip.mp4", coloured_frames(16, 16))
    stream, frames = read(tmp_path / "clip.mp4")
    assert stream.codec_context.name == "mpeg4"
    assert np.abs(frames[3][1].astype(int) - COLOURS[3].numpy()).max() <= COLOUR_TOLERANCE


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        (torch.zeros(0, 8, 8, 3, dtype=torch.uint8), {}, "no frames"),
        (torch.zeros(2, 8, 8, 3), {}, "uint8"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), {}, r"\[H,W,3\]"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 6, 3), np.uint8)], {}, "frame 1 is 8x6"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), {"fps": 0}, "frame rate"),
    ],
    ids=["empty", "float", "channels-first", "size-changes", "fps"],
)
def test_bad_video_keeps_the_old_file(tmp_path, frames, options, message):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        media.write_video(path, frames, **options)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"clip\.gif: the file is written as mp4; give it a name that ends in \.mp4$"):
        media.write_video(tmp_path / "clip.gif", coloured_frames(8, 8))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif"])
def test_same_frames_give_the_same_file(tmp_path, name):
    frames = smooth_noise(5, 72, 136)
    write = {".mp4": media.write_video, ".gif": media.write_gif}[(tmp_path / name).suffix]
    files = set()
    for junk in (0, 1, 85, 255):
        with memory_filled_with(junk):
            write(tmp_path / name, frames)
        files.add((tmp_path / name).read_bytes())
    assert len(files) == 1


@contextlib.contextmanager
def memory_filled_with(byte: int):
    """Fill allocated memory with this byte, so that reads of uninitialised memory change the result."""
    perturb = getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)  # glibc
    perturb(-6, byte)
    try:
        yield
    finally:
        perturb(-6, 0)


def smooth_noise(count: int, height: int, width: int) -> np.ndarray:
    """Return frames that are not trivial to encode, uint8 [count, H, W, 3]."""
    coarse = torch.rand(1, 3, count, 6, 9, generator=torch.Generator().manual_seed(0))
    frames = torch.nn.functional.interpolate(coarse, (count, height, width), mode="trilinear")[0]  # [3,count,H,W]
    return media.to_uint8(frames.permute(1, 2, 3, 0) * 2 - 1).numpy()


def moving_gradient(count: int, height: int, width: int) -> np.ndarray:
    """Return frames with many more than 256 colours, uint8 [count, H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    frames = [np.stack([x * 255 // width, y * 255 // height, (x + y + 9 * t) % 256], axis=2) for t in range(count)]
    return np.stack(frames).astype(np.uint8)


def read_gif(path):
    with Image.open(path) as image:
        frames, durations = [], []
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info.get("duration"))
        return np.stack(frames), durations, image.info.get("loop")


@pytest.mark.parametrize("size", [(48, 64), (7, 5), (1, 1)], ids=lambda s: f"H{s[0]}-W{s[1]}")
def test_gif_round_trip(tmp_path, size):
    frames = moving_gradient(5, *size)
    media.write_gif(tmp_path / "clip.gif", frames, fps=4)
    decoded, durations, loop = read_gif(tmp_path / "clip.gif")
    assert decoded.shape == frames.shape
    assert loop == 0
    assert durations == [250] * 5
    error = (decoded.astype(float) - frames) ** 2
    # Measured: 28.7 dB at 48x64, which requires the whole palette.
    assert 10 * np.log10(255**2 / max(error.mean(), 1e-9)) > 27


@pytest.mark.parametrize("count", [1, 40])
def test_the_colours_of_the_first_and_the_last_frame_of_a_gif_are_exact(tmp_path, count):
    frames = np.zeros((count, 16, 16, 3), np.uint8)
    frames[0], frames[-1] = [255, 0, 0], [0, 0, 255]
    media.write_gif(tmp_path / "clip.gif", frames, fps=10)
    decoded, _, _ = read_gif(tmp_path / "clip.gif")
    assert np.array_equal(decoded[-1], frames[-1])
    assert np.array_equal(decoded[0], frames[0])


def test_dithering_keeps_the_mean_of_any_flat_area():
    levels = np.round(np.arange(64) * 255 / 63)  # every grey of six bits
    palette = np.zeros((256, 4), np.uint8)
    palette[:64] = 255
    palette[:64, 1:] = levels[:, None]
    colours = media._Colours(palette)
    for value in range(256):
        shown = colours.nearest(np.full((8, 8, 3), value, np.uint8))  # [8, 8]: levels, 0..63
        assert abs(shown.mean() - value * 63 / 255) <= 1 / 32 + 1e-6  # half a step of a 4x4 pattern


@pytest.mark.parametrize(
    ("fps", "shown", "length"), [(8, 9, 1125), (30, 9, 300), (50, 9, 180), (100, 5, 100)], ids=["8", "30", "50", "100"]
)
def test_gif_keeps_the_pace(tmp_path, fps, shown, length):
    frames = np.arange(9 * 24 * 24 * 3, dtype=np.uint32).reshape(9, 24, 24, 3).astype(np.uint8)
    frames[:] += np.arange(0, 180, 20, dtype=np.uint8)[:, None, None, None]
    media.write_gif(tmp_path / "clip.gif", torch.from_numpy(frames), fps=fps)
    decoded, durations, _ = read_gif(tmp_path / "clip.gif")
    assert len(decoded) == shown
    assert min(durations) >= 20
    assert sum(durations) == pytest.approx(length, abs=20)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif"])
def test_gif_refuses(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.gif|no frames"):
        media.write_gif(tmp_path / name, np.zeros((0, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"frame 1 is 8x6"):
        media.write_gif(tmp_path / "clip.gif", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 6, 3), np.uint8)])
    assert not list(tmp_path.iterdir())


def test_to_uint8_inverts_the_data_scaling():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(media.to_uint8(levels.float() / 127.5 - 1), levels)
    extremes = torch.tensor([-3.0, 3.0, float("nan"), float("inf"), -float("inf")])
    assert media.to_uint8(extremes).tolist() == [0, 255, 0, 255, 0]
    with pytest.raises(ValueError, match="float"):
        media.to_uint8(levels)


def test_png_round_trip(tmp_path):
    image = torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8)
    media.write_png(tmp_path / "image.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "image.png")), image.numpy())
    with pytest.raises(ValueError, match="uint8"):
        media.write_png(tmp_path / "image.png", image.float())
