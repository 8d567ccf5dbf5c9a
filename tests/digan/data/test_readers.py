"""Reading of videos and picture folders: random access, cost in packets, rotation, damage."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from digan.data.decode import FrameReader
from digan.data.image import to_square
from digan.data.index import load_index
from digan.data.store import FrameStore
from digan.data.timing import open_indexed, open_video
from digan.errors import UnreadableVideo

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
    "mpeg4-avi-packed": ("a.avi", {"codec": "mpeg4", "b_frames": 2, "packed": True}),
    "mpeg4-avi-simple": ("a.avi", {"codec": "mpeg4", "b_frames": 0}),
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


def single(path):
    index = load_index(path, None)
    return index, index.videos[0]


def sequential(path, video, resolution):
    """Decode all frames from the start: uint8 `[F, 3, R, R]`."""
    with av.open(str(path)) as container:
        frames = [
            to_square(f.to_ndarray(format="rgb24"), resolution, video.rotation, video.pixel_aspect)
            for f in container.decode(video=0)
        ]
    return np.stack(frames).transpose(0, 3, 1, 2)


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


@pytest.mark.parametrize("name", ["mpeg4-avi", "mpeg4-avi-packed", "mpeg4-avi-simple", "mjpeg-avi"])
def test_damage_that_the_index_does_not_see_is_reported(tmp_path, video, number, packets_of, name):
    file, arguments = FORMATS[name]
    path = video(tmp_path / file, **arguments)
    content = packets_of[0](path)[20]
    # A VOP keeps its type and its time, which come first.
    kept = 0 if name.startswith("mjpeg") else 6
    broken = content[:kept] + bytes(len(content) - kept)
    assert path.read_bytes().count(content) == 1
    path.write_bytes(path.read_bytes().replace(content, broken))
    index, entry = single(path)
    assert (entry.num_frames, entry.damage) == (40, "")
    reader, reports = FrameReader(index, 32), []
    reader.report = reports.append
    numbers = [number(reader.read(entry, [i])[0]) for i in range(40)]
    assert numbers[:18] == list(range(18))
    (report,) = reports
    assert re.match(r"a\.avi is damaged: cannot decode \d of 40 frames correctly", report)


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_keyframes_that_do_not_decode_are_replaced_by_the_frame_before_them(
    tmp_path, video, number, packets_of, damaged
):
    path = video(tmp_path / "a.avi", codec="mjpeg", pix_fmt="yuvj420p")
    for content in packets_of[0](path)[20 : 20 + damaged]:
        path.write_bytes(path.read_bytes().replace(content, bytes(len(content))))
    index, entry = single(path)
    reader = FrameReader(index, 32)
    reader.report = lambda line: None
    expected = [19] * damaged + [20 + damaged]
    for indices in ([i] for i in reversed(range(len(expected)))), [list(range(len(expected)))]:
        for chosen in indices:
            frames = reader.read(entry, [20 + i for i in chosen])
            assert [number(frame) for frame in frames] == [expected[i] for i in chosen]


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


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_a_damaged_video_in_a_zip_is_read_as_in_a_folder(tmp_path, compression):
    """Larger than FFmpeg's buffer, so that the decoders of a file read on while others have been opened on it."""
    rng = np.random.default_rng(0)
    path = tmp_path / "folder" / "a.mp4"
    path.parent.mkdir()
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"x264-params": "bframes=2:scenecut=0", "qp": "20"})
        stream.width, stream.height, stream.codec_context.gop_size = 128, 128, 24
        stream.codec_context.thread_count = 1
        for _ in range(24):
            noise = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        output.mux(stream.encode())
    data = bytearray(path.read_bytes())
    assert len(data) > 1 << 18
    for place in (len(data) // 4, len(data) // 2):
        data[place : place + 300] = rng.integers(0, 256, 300, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as out:
        out.write(path, "a.mp4")
    orders = [rng.integers(0, 24, 2).tolist() for _ in range(20)]
    results = []
    for source in (path.parent, tmp_path / "a.zip"):
        index, video = single(source)
        reader = FrameReader(index, 32)
        reader.report = lambda sentence: None
        results.append([reader.read(video, order) for order in orders])
        reader.close()
    np.testing.assert_array_equal(*results)
