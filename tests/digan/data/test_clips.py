"""Clip windows against brute force; the stream of pairs as a function of seed and position."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from digan.data import Clips, ClipWindows, FramePairs, VideoIndex, choose, load_index
from digan.data.index import Video
from digan.data.sources import FolderSource
from digan.data.store import FramesClaimed, FrameStore
from digan.errors import DataError


def index_of(*lengths, labels=None):
    videos = [Video(f"{i}.mp4", "video", "", n, 8, 8, label=labels[i] if labels else 0) for i, n in enumerate(lengths)]
    return VideoIndex(FolderSource("data"), "train", videos, [], [], [])


def brute_force(lengths, frames, stride, overlap):
    span = frames * stride
    clips = []
    for video, length in enumerate(lengths):
        start = 0
        while start + span <= length:
            window = list(range(start, start + span))
            clips += [(video, window[phase::stride]) for phase in range(stride)]
            start += span - overlap
    return clips


@pytest.mark.parametrize("overlap", ["none", "one", "most"])
@pytest.mark.parametrize("stride", [1, 4], ids="S{}".format)
@pytest.mark.parametrize("frames", [1, 2, 16], ids="F{}".format)
def test_windows_equal_brute_force(frames, stride, overlap):
    lengths = [3, 64, 200, 0, 15, 16, 65, 63, 128]
    overlap = {"none": 0, "one": min(1, frames * stride - 1), "most": frames * stride - 1}[overlap]
    windows = ClipWindows(index_of(*lengths), frames, stride, overlap)
    expected = brute_force(lengths, frames, stride, overlap)
    assert len(windows) == len(expected)
    assert [(v, f.tolist()) for v, f in (windows[i] for i in range(len(windows)))] == expected
    assert windows[-1][1].tolist() == expected[-1][1]
    by_video = [sum(v == video for v, _ in expected) for video in range(len(lengths))]
    assert [len(windows.clips_of(v)) for v in range(len(lengths))] == by_video
    assert windows.too_short == by_video.count(0)
    with pytest.raises(IndexError):
        windows[len(windows)]


def test_windows_take_no_memory_per_clip():
    windows = ClipWindows(index_of(*[10**7] * 100), 16, overlap=15)
    assert len(windows) == 100 * (10**7 - 15)
    assert windows[len(windows) - 1][1].tolist() == list(range(10**7 - 16, 10**7))
    assert len(pickle.dumps(windows)) < 50_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "--frames 0 and --stride 1 must be at least 1"),
        ({"stride": 0}, "--frames 16 and --stride 0 must be at least 1"),
        ({"frames": 4, "stride": 2, "overlap": 8}, "overlap 8 must be at least 0 and below --frames x --stride = 8"),
        ({"overlap": -1}, "overlap -1 must"),
        ({"frames": 33}, "it takes 33 frames, and the longest of the 2 videos of --data .* has 32: lower --frames"),
        ({"frames": 16, "stride": 3}, "no clip of --frames 16 at --stride 3 fits: it takes 48 frames"),
    ],
    ids=["no-frames", "no-stride", "overlap", "negative", "too-long", "too-long-stride"],
)
def test_impossible_windows_name_the_flags(arguments, message):
    with pytest.raises(DataError, match=message):
        ClipWindows(index_of(32, 20), **arguments)


def test_windows_summary_counts_short_videos():
    assert ClipWindows(index_of(32, 7), 8, 2, 15).summary() == (
        "34 clips of 8 frames, stride 2, windows overlap by 15; 1 video is too short"
    )


@pytest.fixture(scope="module")
def index(tmp_path_factory, video):
    root = tmp_path_factory.mktemp("data")
    for i, name in enumerate(["x/a", "y/b", "y/c"]):
        video(root / f"{name}.mp4", count=36, first=40 * i)
    return load_index(root, None, labels=True)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_item_matches_its_frames_time_and_label(index, number):
    windows = ClipWindows(index, 16, 2)
    pairs = FramePairs(windows, 32, seed=0, mirror=False)
    for k in range(30):
        item = pairs[k]
        assert item["frames"].shape == (2, 3, 32, 32)
        assert (item["frames"].dtype, item["delta_t"].dtype, item["label"].dtype) == (
            torch.uint8,
            torch.float32,
            torch.int64,
        )
        video, frames = windows[pairs.clip(k)]
        first, second = (number(f.numpy()) - 40 * video for f in item["frames"])
        assert {first, second} <= set(frames.tolist())
        assert item["delta_t"].item() == pytest.approx((second - first) / 2 / 15)
        assert item["label"].item() == index.videos[video].label


def test_item_depends_on_seed_and_position_alone(index):
    windows = ClipWindows(index, 16)
    one, other = FramePairs(windows, 32, seed=3), FramePairs(windows, 32, seed=3)
    forwards = [one[k] for k in range(20)]
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    for k in reversed(range(20)):
        assert equal(other[k], forwards[k])
        assert equal(one[k], forwards[k])
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
    changed = FramePairs(windows, 32, seed=4)
    assert not all(equal(changed[k], forwards[k]) for k in range(20))


def test_every_epoch_visits_every_clip_once_in_a_new_order():
    windows = ClipWindows(index_of(40, 20, 33), 16, overlap=12)
    pairs = FramePairs(windows, 32, seed=0)
    epochs = [[pairs.clip(e * len(windows) + i) for i in range(len(windows))] for e in range(4)]
    assert all(sorted(e) == list(range(len(windows))) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 4
    assert [pairs.clip(len(windows) + i) for i in range(len(windows))] == epochs[1]  # no longer cached, drawn again


def test_an_epoch_is_drawn_once(monkeypatch):
    windows = ClipWindows(index_of(400), 4)
    pairs = FramePairs(windows, 32, seed=0)
    drawn = []
    generator = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or generator(seed))
    for k in range(150):
        pairs.clip(k)
    assert len(drawn) == 2


@pytest.mark.parametrize(("frames", "stride", "overlap"), [(16, 1, 0), (4, 4, 0), (8, 1, 7), (4, 2, 3), (5, 1, 0)])
def test_clips_within_equal_brute_force(frames, stride, overlap):
    windows = ClipWindows(index_of(50, 3, 37), frames, stride, overlap)
    span = frames * stride
    for video in range(3):
        starts = {c: windows[c][1][0] - (c - windows.clips_of(video).start) % stride for c in windows.clips_of(video)}
        for first, stop in [(0, 1), (0, 50), (7, 9), (12, 24), (36, 37), (49, 50)]:
            expected = [c for c, start in starts.items() if start < stop and start + span > first]
            assert windows.clips_within(video, range(first, stop)).tolist() == expected


def test_soon_returns_the_later_frames_of_the_epoch(index):
    windows = ClipWindows(index, 4, overlap=2)
    pairs = FramePairs(windows, 32, seed=0)
    requests = []
    pairs.reader = SimpleNamespace(
        read=lambda video, indices, soon, wait: requests.append((video, indices, soon)) or 1 / 0
    )
    for k in range(len(windows), 2 * len(windows)):
        with pytest.raises(ZeroDivisionError):
            pairs[k]
    for place, (video, _, soon) in enumerate(requests):
        later = {i for v, indices, _ in requests[place + 1 :] if v is video for i in indices}
        for stretch in (range(10), range(10, 20)):
            assert later & set(stretch) == set(soon(stretch).tolist()) & set(stretch)


def test_items_that_another_process_is_decoding_come_last(index):
    pairs = FramePairs(ClipWindows(index, 16), 32, seed=1)
    expected = [pairs[k] for k in range(6)]
    read, order = pairs.reader.read, []

    def busy(video, indices, soon=None, wait=True):
        order.append((video.name, wait))
        if video.name == "y/b.mp4" and not wait:
            raise FramesClaimed
        return read(video, indices, soon, wait=wait)

    pairs.reader.read = busy
    assert all(map(equal, pairs.__getitems__(range(6)), expected))
    names = [pairs.windows.index.videos[pairs.windows[pairs.clip(k)][0]].name for k in range(6)]
    assert 0 < names.count("y/b.mp4") < 6
    assert order == [(n, False) for n in names] + [(n, True) for n in names if n == "y/b.mp4"]


def test_an_epoch_decodes_every_stretch_once(tmp_path, video):
    for i in range(3):
        video(tmp_path / "videos" / f"{i}.mp4", count=64, gop=32, options={"x264-params": "scenecut=0"})
    index = load_index(tmp_path / "videos", None)
    windows = ClipWindows(index, 8)
    pairs = FramePairs(windows, 32, seed=0, store=FrameStore(index, 32, tmp_path))
    for k in range(len(windows)):
        pairs[k]
    # Every stretch of 32 frames at most once, plus a few frames that the decoder reads ahead.
    decoded = [pairs.reader.reader(v).packets_decoded for v in index.videos]
    assert all(n <= 2 * (32 + 4) for n in decoded)


class _Recorder:
    """Stands in for the decoder: a frame is its index."""

    def read(self, video, indices, soon=None, wait=True):
        return np.array(indices, np.uint8)[:, None, None, None] * np.ones((1, 3, 1, 2), np.uint8)


def test_times_follow_the_published_distribution():
    """P(index i) of int(F Beta(2,1)) is ((i+1)^2 - i^2)/F^2; of int(F Beta(1,2)) the same backwards."""
    count, draws = 16, 8000
    pairs = FramePairs(ClipWindows(index_of(count), count), 1, seed=0)
    pairs.reader = _Recorder()
    items = [pairs[k] for k in range(draws)]
    first, second = np.array([i["frames"][:, 0, 0, 0].numpy() for i in items]).T.astype(int)
    assert (first <= second).all()
    np.testing.assert_allclose([i["delta_t"].item() for i in items], (second - first) / (count - 1), rtol=1e-6)
    late = (2 * np.arange(count) + 1) / count**2
    joint = np.outer(late, late[::-1])  # independent draws of the two, before sorting
    sorted_joint = np.triu(joint + joint.T) - np.diag(np.diag(joint))
    seen = np.zeros((count, count))
    np.add.at(seen, (first, second), 1 / draws)
    # 8000 draws: each marginal within 4.5 standard deviations of a binomial share.
    for got, expected in [(seen.sum(1), sorted_joint.sum(1)), (seen.sum(0), sorted_joint.sum(0))]:
        assert (abs(got - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / draws) + 1e-9).all()
    assert (first == second).mean() == pytest.approx(np.trace(joint), abs=0.01)
    assert np.trace(joint) == pytest.approx(0.04, abs=0.005)


def test_mirror_flips_half_of_the_pairs_and_both_frames_alike(index):
    windows = ClipWindows(index, 16)
    plain, mirrored = FramePairs(windows, 32, seed=0, mirror=False), FramePairs(windows, 32, seed=0)
    flips = 0
    for k in range(40):
        a, b = plain[k]["frames"], mirrored[k]["frames"]
        flipped = torch.equal(a.flip(-1), b)
        assert flipped or torch.equal(a, b)
        flips += flipped
    assert 8 <= flips <= 32


def test_clips_of_one_frame(index):
    item = FramePairs(ClipWindows(index, 1), 32, seed=0)[5]
    assert item["delta_t"].item() == 0
    assert torch.equal(item["frames"][0], item["frames"][1])


def test_negative_seed_is_refused(index):
    with pytest.raises(DataError, match="--seed -1"):
        FramePairs(ClipWindows(index, 16), 32, seed=-1)


def test_a_video_lost_in_training_is_replaced_the_same_way_every_time(tmp_path, video):
    for i in range(3):
        video(tmp_path / f"{i}.mp4", count=16)
    windows = ClipWindows(load_index(tmp_path, None), 8)
    whole = FramePairs(windows, 32, seed=0)
    (tmp_path / "1.mp4").unlink()
    one, other = FramePairs(windows, 32, seed=0), FramePairs(windows, 32, seed=0)
    with pytest.warns(UserWarning, match=r"another clip is used in place of 1\.mp4: cannot be opened"):
        items = [one[k] for k in range(12)]
    with pytest.warns(UserWarning, match=r"1\.mp4"):
        again = [other[k] for k in range(12)]
    assert all(map(equal, items, again))
    kept = [k for k in range(12) if windows[one.clip(k)][0] != 1]
    assert 0 < len(kept) < 12
    assert all(equal(items[k], whole[k]) for k in kept)


def test_clips_hold_all_frames_in_order(index, number):
    windows = ClipWindows(index, 8, 2)
    clips = Clips(windows, 32)
    assert len(clips) == len(windows) == 12
    for i in (0, 1, 5, 11):
        frames, label = clips[i]
        video, indices = windows[i]
        assert frames.shape == (8, 3, 32, 32)
        assert [number(f.numpy()) for f in frames] == (indices + 40 * video).tolist()
        assert label == index.videos[video].label
    assert torch.equal(clips.batch([5, 0]), torch.stack([clips[5][0], clips[0][0]]))
    assert clips.labels().tolist() == [clips[i][1] for i in range(12)]


def test_chosen_clips_are_fixed_and_spread_over_videos():
    windows = ClipWindows(index_of(64, 3, 160, 16, 64), 16)  # 4, 0, 10, 1, 4 clips
    clips = Clips(windows, 32)
    chosen = choose(clips, 4, seed=0)
    assert chosen == choose(clips, 4, seed=0)
    assert sorted(windows[i][0] for i in chosen) == [0, 2, 3, 4]
    assert any(choose(clips, 4, seed=s) != chosen for s in range(1, 4))
    assert choose(clips, 2, seed=0) == chosen[:2]
    many = choose(clips, 12, seed=0)
    assert many[:4] == chosen
    assert len(set(many)) == 12
    counts = np.bincount([windows[i][0] for i in many], minlength=5)
    assert (counts <= [4, 0, 4, 1, 4]).all()  # four rounds give 13: the last one omits a video
    assert sorted(choose(clips, 50, seed=0)) == list(range(19))
