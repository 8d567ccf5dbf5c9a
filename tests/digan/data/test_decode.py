"""Random access returns the frames of sequential decoding, whatever the container does to times and order."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import weakref
import zipfile
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from digan.data.decode import FrameReader
from digan.data.image import centre_square, read_picture, to_square, upright
from digan.data.index import load_index
from digan.data.store import FrameStore
from digan.data.timing import open_indexed
from digan.errors import UnreadableVideo


def single(path):
    index = load_index(path, None)
    return index, index.videos[0]


def test_reading_onward_decodes_every_packet_once(tmp_path, video):
    path = video(tmp_path / "long.mp4", count=96, gop=96)
    index, entry = single(path)
    reader = FrameReader(index, 32, onward=True)
    for start in range(0, 96, 16):
        reader.read(entry, list(range(start, start + 16)))
    assert reader.reader(entry).packets_decoded <= 96 + 1  # plus the empty packet that ends the file


def test_frames_decoded_on_the_way_are_kept(tmp_path, video):
    index, entry = single(video(tmp_path / "a.mp4", count=60, gop=25, options={"x264-params": "scenecut=0:bframes=3"}))
    assert entry.timing.seek_frames.tolist() == [0, 25, 50]
    store = FrameStore(index, 32)
    reader = FrameReader(index, 32, store=store)
    first = reader.read(entry, [5, 40])
    assert sorted(set(range(60)) - set(store.absent(entry).tolist())) == [*range(6), *range(25, 41)]
    cost = reader.reader(entry).packets_decoded
    again = reader.read(entry, [40, 30, 5, 0])
    assert reader.reader(entry).packets_decoded == cost
    np.testing.assert_array_equal(again[[2, 0]], first)
    np.testing.assert_array_equal(again, FrameReader(index, 32).read(entry, [40, 30, 5, 0]))
    reader.read(entry, [41])
    assert store.absent(entry)[0] == 6
    assert reader.reader(entry).packets_decoded > cost


def test_frames_needed_soon_are_decoded_with_the_requested_ones(tmp_path, video):
    index, entry = single(video(tmp_path / "a.mp4", count=60, gop=40, options={"x264-params": "scenecut=0:bframes=3"}))
    assert entry.timing.seek_frames.tolist() == [0, 40]
    store = FrameStore(index, 32)
    reader = FrameReader(index, 32, store=store)
    requests = []

    def soon(frames):
        requests.append(frames)
        return np.array([9, 20, 33, 45])

    first = reader.read(entry, [12, 20], soon)
    cost = reader.reader(entry).packets_decoded
    assert requests == [range(40)]
    assert cost <= 33 + 4  # decoding order runs a few frames ahead
    kept = set(range(60)) - set(store.absent(entry).tolist())
    # In addition to the frames needed, one in sixteen of the 33 decoded frames.
    assert kept == {9, 12, 20, 33, 0, 1}
    later = reader.read(entry, [33, 9, 20], soon)
    assert reader.reader(entry).packets_decoded == cost
    assert requests == [range(40)]
    plain = FrameReader(index, 32)
    np.testing.assert_array_equal(first, plain.read(entry, [12, 20]))
    np.testing.assert_array_equal(later, plain.read(entry, [33, 9, 20]))


def test_pictures_are_kept(tmp_path, frame_folder):
    frame_folder(tmp_path / "clip", count=4)
    index = load_index(tmp_path, None)
    reader = FrameReader(index, 32, store=FrameStore(index, 32))
    first = reader.read(index.videos[0], [1, 3])
    (tmp_path / "clip" / "frame_1.png").unlink()
    np.testing.assert_array_equal(reader.read(index.videos[0], [1, 3]), first)


def test_the_indexed_one_of_several_video_streams_is_opened(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, side in zip(streams, (32, 64), strict=True):
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
        streams[0].disposition, streams[1].disposition = 0, av.stream.Disposition.default
        for value in range(8):
            for stream in streams:
                picture = np.full((stream.height, stream.width, 3), 20 * value, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    index, entry = single(path)
    assert entry.width == 64
    opened, stream = open_indexed(lambda: str(path), entry.codec, entry.timing)
    with opened:
        assert (stream.index, stream.codec_context.width) == (1, 64)
    assert FrameReader(index, 32).read(entry, [3]).mean() == pytest.approx(60, abs=4)


def test_only_the_last_decoders_stay_open(tmp_path, video):
    for i in range(4):
        video(tmp_path / f"{i}.mp4", count=4, first=10 * i)
    index = load_index(tmp_path, None)
    reader = FrameReader(index, 32, capacity=2)
    small = FrameReader(index, 32, pixels=3 * 64 * 48)
    for entry in [*index.videos, *index.videos]:
        reader.read(entry, [1])
        assert len(reader._readers) <= 2
        small.read(entry, [1])
        assert len(small._readers) <= 3
    none = FrameReader(index, 32, pixels=1)
    none.read(entry, [1])
    assert list(none._readers) == [entry.name]


def test_a_closed_decoder_is_freed_at_once(tmp_path, video):
    """Each decoder holds megabytes that the garbage collector does not account for."""
    for i in range(3):
        video(tmp_path / f"{i}.mp4", count=4)
    index = load_index(tmp_path, None)
    reader = FrameReader(index, 32, capacity=1)
    gc.disable()
    try:
        opened = []
        for entry in index.videos:
            reader.read(entry, [1])
            opened.append(weakref.ref(reader.reader(entry)))
        assert [one() is not None for one in opened] == [False, False, True]
    finally:
        gc.enable()


def test_a_pickled_reader_leaves_its_handles_behind(tmp_path, video, number):
    index, entry = single(video(tmp_path / "a.mp4"))
    reader = FrameReader(index, 32)
    reader.read(entry, [3])
    copy = pickle.loads(pickle.dumps(reader))
    assert not copy._readers
    assert number(copy.read(entry, [9])[0]) == 9


def test_forked_processes_read_with_their_own_handles(tmp_path, video):
    """Handles inherited through fork would share one file position among all processes."""
    path = video(tmp_path / "a.mp4", count=60, gop=10)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.write(path, "a.mp4")
    index, entry = single(tmp_path / "a.zip")
    reader = FrameReader(index, 32)
    order = np.random.default_rng(0).permutation(60).tolist()

    def digest() -> list[int]:
        return [zlib.crc32(reader.read(entry, [i]).tobytes()) for i in order]

    expected = digest()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=lambda: queue.put(digest())) for _ in range(2)]
    for child in children:
        child.start()
    try:
        assert digest() == expected
        assert [queue.get(timeout=60) for _ in children] == [expected] * 2
    finally:
        for child in children:
            child.join()


def test_the_error_for_a_missing_file_names_it(tmp_path, video):
    index, entry = single(video(tmp_path / "gone.mp4"))
    (tmp_path / "gone.mp4").unlink()
    with pytest.raises(UnreadableVideo, match=r"gone\.mp4: cannot be opened"):
        FrameReader(index, 32).read(entry, [0])


@pytest.mark.parametrize(
    ("rotation", "expected"), [(0, [[1, 2], [3, 4]]), (90, [[2, 4], [1, 3]]), (270, [[3, 1], [4, 2]])]
)
def test_upright_turns_counter_clockwise(rotation, expected):
    picture = np.array([[1, 2], [3, 4]])[..., None]
    np.testing.assert_array_equal(upright(picture, rotation)[..., 0], expected)


@pytest.mark.parametrize(
    ("height", "width", "aspect", "rows", "columns"),
    [
        (47, 63, 1.0, (0, 47), (8, 55)),
        (63, 47, 1.0, (8, 55), (0, 47)),
        (5, 5, 1.0, (0, 5), (0, 5)),
        (1, 9, 1.0, (0, 1), (4, 5)),
        (40, 60, 2.0, (0, 40), (20, 40)),  # shown 120 wide
        (60, 40, 0.5, (20, 40), (0, 40)),  # shown 20 wide
    ],
)
def test_centre_square(height, width, aspect, rows, columns):
    picture = np.arange(height * width).reshape(height, width, 1)
    np.testing.assert_array_equal(centre_square(picture, aspect), picture[slice(*rows), slice(*columns)])


def test_shrinking_averages():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[::2] = 200  # sampling every fourth row would see one value only
    small = to_square(picture, 16)
    assert small.shape == (16, 16, 3)
    assert abs(small[2:-2].astype(int) - 100).max() <= 4


@pytest.mark.parametrize("size", [(256, 256), (63, 100), (100, 63), (1, 9), (16, 16), (17, 15)])
def test_resize_matches_pillow(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    square = np.ascontiguousarray(centre_square(picture))
    expected = np.asarray(Image.fromarray(square).resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    picture.flags.writeable = False
    # Both round after each direction, with weights of different precision.
    assert abs(to_square(picture, 16) - expected).max() <= 1
    np.testing.assert_array_equal(to_square(np.rot90(picture), 16, rotation=-90), to_square(picture, 16))


def test_pictures_of_other_modes_become_rgb(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) << 8).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([grey] * 3 + [grey * 0])).save(tmp_path / "clear.png")
    turned = Image.fromarray(np.dstack([grey] * 3))
    exif = turned.getexif()
    exif[0x0112] = 6  # displayed rotated clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    for name in ("grey.png", "deep.png", "clear.png"):
        np.testing.assert_array_equal(read_picture(str(tmp_path / name)), np.dstack([grey] * 3))
    np.testing.assert_array_equal(read_picture(str(tmp_path / "turned.png"))[..., 0], np.rot90(grey, -1))
