"""What is written can be read back: videos, images and grids."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from digan import media

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
        # The whole picture, padding included: edge replication continues the flat colour.
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
    with pytest.raises(ValueError, match=r"\.mp4"):
        media.write_video(tmp_path / "clip.gif", coloured_frames(8, 8))


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


@pytest.mark.parametrize(("columns", "shape"), [(None, (2, 3)), (5, (1, 5)), (2, (3, 2))], ids=["auto", "C5", "C2"])
def test_video_grid_places_every_clip(columns, shape):
    clips = torch.randint(0, 256, (5, 4, 3, 6, 8), dtype=torch.uint8)
    grid = media.video_grid(clips, columns)
    rows, columns = shape
    assert grid.shape == (4, rows * 6, columns * 8, 3)
    for cell in range(rows * columns):
        row, column = divmod(cell, columns)
        found = grid[:, row * 6 : row * 6 + 6, column * 8 : column * 8 + 8]
        wanted = clips[cell].permute(0, 2, 3, 1) if cell < 5 else torch.zeros_like(found)
        assert torch.equal(found, wanted)


def test_grid_converts_floats():
    clips = torch.linspace(-1, 1, 2 * 2 * 3 * 4 * 4).view(2, 2, 3, 4, 4)
    assert torch.equal(media.video_grid(clips), media.video_grid(media.to_uint8(clips)))


def test_contact_sheet_places_frames():
    clips = torch.randint(0, 255, (2, 9, 3, 6, 8), dtype=torch.uint8)
    sheet = media.contact_sheet(clips, columns=3, separator=2)
    assert sheet.shape == (6 + 2 + 6, 8 + 2 + 8 + 2 + 8, 3)
    for row in range(2):
        for column, frame in enumerate([0, 4, 8]):
            found = sheet[row * 8 : row * 8 + 6, column * 10 : column * 10 + 8]
            assert torch.equal(found, clips[row, frame].permute(1, 2, 0))
    assert (sheet[6:8] == 255).all()
    assert (sheet[:, 8:10] == 255).all()


def test_contact_sheet_shows_short_clips_whole():
    assert media.contact_sheet(torch.zeros(1, 2, 3, 4, 4), separator=0).shape == (4, 8, 3)


@pytest.mark.parametrize("arrange", [media.video_grid, media.contact_sheet])
def test_arranging_refuses_other_shapes(arrange):
    with pytest.raises(ValueError, match=r"\[N,T,3,H,W\]"):
        arrange(torch.zeros(2, 3, 8, 8))
