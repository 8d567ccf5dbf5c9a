"""Random access returns the frames of sequential decoding, whatever the container does to times and order."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import weakref
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from digan.data.decode import FrameReader
from digan.data.image import centre_square, read_picture, to_square, upright
from digan.data.index import load_index
from digan.data.store import FrameStore
from digan.data.timing import UnreadableVideo, open_indexed, open_video

FORMATS = {
    "h264-mp4": ("a.mp4", {}),
    "h264-mp4-open-gop": ("a.mp4", {"options": {"x264-params": "open-gop=1:bframes=3"}}),
    "h264-mp4-gop3": ("a.mp4", {"gop": 3, "options": {"x264-params": "bframes=2:b-adapt=0:scenecut=0"}}),
    "hevc-mp4": ("a.mp4", {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none"}}),
    "hevc-mkv": ("a.mkv", {"codec": "libx265", "options": {"x265-params": "log-level=none:bframes=4"}}),
    "h264-mov-intra": ("a.mov", {"gop": 1}),
    "h264-mkv-variable-rate": ("a.mkv", {"durations": [10, 40, 95, 33]}),
    "h264-mp4-variable-rate": ("a.mp4", {"durations": [10, 40, 95, 33]}),
    "h264-mp4-63x47": ("a.mp4", {"width": 63, "height": 47, "pix_fmt": "yuv444p"}),
    "h264-avi": ("a.avi", {}),
    "h264-ts": ("a.ts", {}),
    "mpeg4-avi": ("a.avi", {"codec": "mpeg4", "b_frames": 2}),
    "mpeg2-mpg": ("a.mpg", {"codec": "mpeg2video", "b_frames": 2}),
    "mjpeg-avi": ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "vp9-webm": ("a.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "vp8-webm": (
        "a.webm",
        {"codec": "libvpx", "options": {"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "9"}},
    ),
    "gif": ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
    "ffv1-mkv": ("a.mkv", {"codec": "ffv1"}),
}


def sequential(path, video, resolution):
    """Decode all frames from the start: uint8 `[F, 3, R, R]`."""
    with av.open(str(path)) as container:
        frames = [
            to_square(f.to_ndarray(format="rgb24"), resolution, video.rotation, video.pixel_aspect)
            for f in container.decode(video=0)
        ]
    return np.stack(frames).transpose(0, 3, 1, 2)


def single(path):
    index = load_index(path, None)
    return index, index.videos[0]


@pytest.mark.parametrize("mode", ["apart", "onward", "kept"])
@pytest.mark.parametrize("name", FORMATS)
def test_random_access_equals_sequential_decoding(tmp_path, video, number, name, mode):
    file, arguments = FORMATS[name]
    codec = arguments.get("codec", "libx264")
    try:
        av.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"no encoder {codec}")
    path = video(tmp_path / file, **arguments)
    index, entry = single(path)
    expected = sequential(path, entry, 32)
    assert entry.num_frames == len(expected) == 40
    assert [number(f) for f in expected] == list(range(40))

    def fresh_reader() -> FrameReader:
        store = FrameStore(index, 32) if mode == "kept" else None
        return FrameReader(index, 32, onward=mode == "onward", store=store)

    reader = fresh_reader()
    rng = np.random.default_rng(0)
    reads = [[i] for i in rng.permutation(40).tolist()]
    reads += [sorted(rng.integers(0, 40, 2).tolist()) for _ in range(30)]
    reads += [list(range(7, 23)), list(range(23, 39)), [39, 3, 39, 0]]
    for indices in reads:
        np.testing.assert_array_equal(reader.read(entry, indices), expected[indices], err_msg=str(indices))
    for i in (0, 1, 13, 38, 39):  # the first read of a fresh decoder
        fresh = fresh_reader()
        np.testing.assert_array_equal(fresh.read(entry, [i])[0], expected[i])
        np.testing.assert_array_equal(fresh.read(entry, [i])[0], expected[i])


def test_pair_costs_the_packets_from_the_keyframe_to_the_last_frame(tmp_path, video):
    path = video(tmp_path / "long.mp4", count=120, gop=50, options={"x264-params": "scenecut=0:bframes=2"})
    index, entry = single(path)
    assert entry.timing.seek_frames.tolist() == [0, 50, 100]
    reader = FrameReader(index, 32)
    for pair in [[60, 62], [3, 9], [99, 99], [101, 119], [7, 70]]:
        before = reader.reader(entry).packets_decoded
        reader.read(entry, pair)
        needed = sum(max(i for i in pair if i // 50 == group) - group * 50 + 1 for group in {i // 50 for i in pair})
        # A B-frame needs the frame that follows its group of B-frames, which is at most two further.
        assert reader.reader(entry).packets_decoded - before <= needed + 2


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


@pytest.mark.parametrize("name", ["h264-mp4", "h264-mkv-variable-rate", "h264-mp4-open-gop", "h264-ts"])
def test_opening_an_indexed_file_decodes_nothing(tmp_path, video, name):
    """The reordering delay equals the one found by decoding frames."""
    file, arguments = FORMATS[name]
    path = video(tmp_path / file, **arguments)
    _, entry = single(path)
    usual, stream = open_video(str(path))
    with usual:
        delay = stream.codec_context.reorder_depth
        assert (entry.timing.reorder == delay) == (name != "h264-ts")  # MPEG-TS times need guessing too
    opened, stream = open_indexed(lambda: str(path), entry.codec, entry.timing)
    with opened:
        assert stream.codec_context.reorder_depth == delay
        assert stream.codec_context.thread_count == 1
        # The pixel format is known only once frames were decoded.
        assert (stream.codec_context.pix_fmt is None) == (name != "h264-ts")


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


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_display_rotation_is_applied(tmp_path, video, number, rotation):
    upright_path = video(tmp_path / "plain.mp4", count=20)
    path = video(tmp_path / "turned.mp4", count=20, rotation=rotation)
    (plain_index, plain), (index, entry) = single(upright_path), single(path)
    assert (entry.width, entry.height) == ((48, 64) if rotation % 180 else (64, 48))
    got = FrameReader(index, 48).read(entry, [11])[0]  # [3, 48, 48], not resized
    stored = FrameReader(plain_index, 48).read(plain, [11])[0]
    np.testing.assert_array_equal(got, np.rot90(stored, rotation // 90 % 4, axes=(1, 2)))
    assert number(stored) == 11


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


def test_frames_after_an_open_gop_are_kept(tmp_path, video):
    """Frames shown before the keyframe cannot be decoded from it, but those after it are sound."""
    options = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
    path = video(tmp_path / "a.mp4", options=options)
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.size]
    index, entry = single(path)
    (key,) = {int(f) for f in entry.timing.seek_frames if 24 < f < 40}
    assert min(times[times.index(entry.timing.labels[key]) :]) < entry.timing.labels[key]
    store = FrameStore(index, 32)
    FrameReader(index, 32, store=store).read(entry, [39])
    assert sorted(set(range(40)) - set(store.absent(entry).tolist())) == list(range(key, 40))


def damaged_video(path: Path, seed: int) -> Path:
    """Write a moving texture with damaged bytes, so that any effect of the damage on a frame is visible."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = 20, 1
        for t in range(60):
            picture = np.ascontiguousarray(np.roll(texture, (2 * t, 3 * t), (0, 1))[:64, :64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for _ in range(3):
        start, count = rng.integers(len(data) // 20, len(data) * 8 // 10), rng.integers(1, 30)
        data[start : start + count] = rng.integers(0, 256, count).astype(np.uint8).tobytes()
    path.write_bytes(data)
    return path


# In mp4-1 the damage shows only in the frames; in mkv-148 it changes times.
@pytest.mark.parametrize(("suffix", "seed"), [*(("mp4", s) for s in range(5)), ("mkv", 52), ("mkv", 148)])
def test_damaged_frames_do_not_depend_on_the_order_of_reads(tmp_path, suffix, seed):
    index, entry = single(damaged_video(tmp_path / f"a.{suffix}", seed))
    one, other = FrameReader(index, 64), FrameReader(index, 64)
    forwards = [one.read(entry, [i])[0] for i in range(entry.num_frames)]
    backwards = [other.read(entry, [i])[0] for i in reversed(range(entry.num_frames))][::-1]
    np.testing.assert_array_equal(forwards, backwards)

    full = FrameStore(index, 64)
    full._usable = False  # as when the disk is full
    unkept = FrameReader(index, 64, store=full)
    expected = [unkept.read(entry, [i])[0] for i in range(entry.num_frames)]
    for order in range(3):
        rng = np.random.default_rng(order)
        kept = FrameReader(index, 64, store=FrameStore(index, 64))
        for _ in range(40):
            indices = rng.integers(0, entry.num_frames, 1 + order).tolist()
            for i, frame in zip(indices, kept.read(entry, indices), strict=True):
                np.testing.assert_array_equal(frame, expected[i], err_msg=f"{order} {i}")


def test_a_frame_that_does_not_decode_is_replaced_by_the_previous_one(tmp_path, video, number):
    index, entry = single(video(tmp_path / "a.mp4", count=24, gop=12))
    # As if the first two frames and the 20th were damaged: the table has entries that match no decoded frame.
    labels = entry.timing.labels
    labels = np.concatenate([labels[:1] - [2, 1], labels[:17], labels[16:17] + 1, labels[17:]])
    timing = replace(entry.timing, labels=labels, seek_frames=np.array([0, 14]))
    damaged = replace(entry, num_frames=27, timing=timing)
    index = replace(index, videos=[damaged])
    for onward, store in [(False, None), (True, None), (False, FrameStore(index, 32))]:
        reader = FrameReader(index, 32, onward=onward, store=store)
        for indices, expected in [
            ([18, 19, 20], [16, 16, 17]),
            ([19], [16]),
            ([0, 1, 2], [0, 0, 0]),
            ([20, 19], [17, 16]),
        ]:
            assert [number(f) for f in reader.read(damaged, indices)] == expected


def test_the_error_for_a_missing_file_names_it(tmp_path, video):
    index, entry = single(video(tmp_path / "gone.mp4"))
    (tmp_path / "gone.mp4").unlink()
    with pytest.raises(UnreadableVideo, match=r"gone\.mp4: cannot be opened"):
        FrameReader(index, 32).read(entry, [0])


def test_frame_folder_in_natural_order(tmp_path, frame_folder, number):
    frame_folder(tmp_path / "clip", count=12)
    index = load_index(tmp_path, None)
    (entry,) = index.videos
    assert (entry.kind, entry.num_frames, entry.width, entry.height) == ("frames", 12, 64, 48)
    frames = FrameReader(index, 32).read(entry, [11, 2, 10, 2])
    assert [number(f) for f in frames] == [11, 2, 10, 2]


def test_the_error_for_a_broken_picture_names_it(tmp_path, frame_folder):
    frame_folder(tmp_path / "clip", count=3)
    index = load_index(tmp_path, None)
    (tmp_path / "clip" / "frame_1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UnreadableVideo, match=r"clip/frame_1\.png cannot be read"):
        FrameReader(index, 32).read(index.videos[0], [1])


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
