"""Features are those of the clips asked for, in order, however they are divided, kept and drawn again."""

import threading

import pytest
import torch
from safetensors.torch import save_file

from digan.metrics.clip_sets import ClipSet
from digan.metrics.extraction import Drawn, Extraction
from digan.metrics.protocol import MetricProtocol

COUNT, FRAMES = 7, 3
CPU = torch.device("cpu")


class Means:
    """Channel means of the first frame, and a record of how many clips each call got."""

    name, dim = "means", 3

    def __init__(self):
        self.calls = []

    def __call__(self, clips):
        self.calls.append(len(clips))
        return clips[:, 0].float().mean((2, 3))


class FrameMeans(Means):
    """Channel means of every frame."""

    name, per_frame = "frame-means", True

    def __call__(self, clips):
        self.calls.append(len(clips))
        return clips.float().mean((3, 4))


def random_clips(count=COUNT, frames=FRAMES):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, frames, 3, 4, 4), generator=generator, dtype=torch.uint8)


def extraction(extractor=None, metric=f"rfvd4_{FRAMES}f", batch=3, rank=0, world=1, gather=None, progress=None):
    protocol = MetricProtocol.parse(metric)
    return Extraction(extractor or Means(), protocol, CPU, batch, rank, world, gather, progress)


def clip_set(metric=f"rfvd4_{FRAMES}f", count=COUNT):
    return ClipSet("real", random_clips(count), MetricProtocol.parse(metric))


class Gathering:
    """What the processes of a group, here threads, hand to each other."""

    def __init__(self, world):
        self.world, self.parts, self.barrier = world, {}, threading.Barrier(world, timeout=30)

    def process(self, rank):
        def gather(tensor):
            self.parts[rank] = tensor
            self.barrier.wait()
            everything = torch.cat([self.parts[other] for other in range(self.world)])
            self.barrier.wait()
            return everything

        return gather

    def run(self, work):
        """Return the results of work(rank, gather) of every process."""
        results = [None] * self.world

        def one(rank):
            results[rank] = work(rank, self.process(rank))

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def test_features_of_the_clips_asked_for_in_batches():
    means, seen = Means(), []
    work = extraction(means, progress=lambda done, total: seen.append((done, total)))
    work.expect(COUNT)
    indices = [5, 0, 3, 6, 1, 2, 4]
    features = work.features(clip_set(), indices)
    assert torch.equal(features, Means()(random_clips()[indices]))
    assert means.calls == [3, 3, 1]
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_features_of_single_frames():
    metric = "fid4_3f_subsample2f"
    features = extraction(FrameMeans(), metric).features(clip_set(metric), [2, 1])
    assert features.shape == (2, 2, 3)
    assert torch.equal(features, FrameMeans()(random_clips()[[2, 1], ::2]))


@pytest.mark.parametrize("world", [2, 3, 8])
def test_processes_share_the_clips(world):
    progress = {rank: [] for rank in range(world)}
    extractors = [Means() for _ in range(world)]

    def work(rank, gather):
        one = extraction(
            extractors[rank],
            rank=rank,
            world=world,
            gather=gather,
            progress=lambda *state: progress[rank].append(state),
        )
        one.expect(COUNT)
        return one.features(clip_set(), range(COUNT))

    for features in Gathering(world).run(work):
        assert torch.equal(features, Means()(random_clips()))
    shares = [len(range(rank, COUNT, world)) for rank in range(world)]
    assert [sum(extractor.calls) for extractor in extractors] == shares
    for rank, share in enumerate(shares):
        assert [state[1] for state in progress[rank]] == [share] * len(progress[rank])
        assert [state[0] for state in progress[rank]][-1:] == ([share] if share else [])


class TestKept:
    def test_what_was_kept(self, tmp_path):
        features, path = torch.randn(3, 4).T, tmp_path / "folder" / "features.safetensors"
        assert extraction().kept(path) is None
        extraction().keep(path, features)
        assert torch.equal(extraction().kept(path), features)
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_nothing_without_a_file(self):
        assert extraction().kept(None) is None
        assert extraction(world=2, gather=None).kept(None) is None  # asks no other process

    def test_only_the_first_process_writes(self, tmp_path):
        extraction(rank=1, world=2).keep(tmp_path / "features.safetensors", torch.zeros(1, 1))
        assert list(tmp_path.iterdir()) == []
        extraction(rank=0, world=2).keep(tmp_path / "features.safetensors", torch.zeros(1, 1))
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("damage", ["cut off", "another tensor"])
    def test_a_damaged_file_counts_as_none(self, tmp_path, damage):
        path = tmp_path / "features.safetensors"
        if damage == "cut off":
            extraction().keep(path, torch.randn(4, 4))
            path.write_bytes(path.read_bytes()[:-8])
        else:
            save_file({"other": torch.zeros(1)}, path)
        assert extraction().kept(path) is None

    @pytest.mark.parametrize("readable", [0, 1, 2])
    def test_all_processes_or_none(self, tmp_path, readable):
        for rank in range(readable):
            extraction().keep(tmp_path / f"{rank}.safetensors", torch.full([1, 1], 5.0))
        kept = Gathering(2).run(
            lambda rank, gather: extraction(rank=rank, world=2, gather=gather).kept(tmp_path / f"{rank}.safetensors")
        )
        assert [features is not None for features in kept] == [readable == 2] * 2


class TestDrawn:
    def test_clips_of_several_trials_are_read_once(self):
        means, clips, seen = Means(), clip_set(), []
        drawn = Drawn(clips, range(3), extraction(means, progress=lambda *state: seen.append(state)))
        everything = Means()(random_clips())
        for seed in (2, 0, 1, 0):
            assert torch.equal(drawn.features(seed), everything[clips.draw(seed)])
            assert drawn.count(seed) == 4
        needed = len({index for seed in range(3) for index in clips.draw(seed)})
        assert sum(means.calls) == needed
        assert seen[-1] == (needed, needed)

    def test_features_of_all_frames_are_rows(self):
        metric, clips = f"fid4_{FRAMES}f", clip_set(f"fid4_{FRAMES}f")
        features = Drawn(clips, [0], extraction(FrameMeans(), metric)).features(0)
        assert torch.equal(features, FrameMeans()(random_clips()[clips.draw(0)]).flatten(0, 1))

    @pytest.mark.parametrize(("seeds", "count", "varies"), [([0], 4, True), ([0, 1], 4, False), ([0, 1], 7, True)])
    def test_whether_trials_differ(self, seeds, count, varies):
        assert Drawn(clip_set(count=count), seeds, extraction()).varies == varies

    def test_the_cache_saves_the_work_and_its_progress(self, tmp_path):
        clips = clip_set()
        first = Drawn(clips, range(2), extraction(), tmp_path, "set").features(1)
        means, seen = Means(), []
        work = extraction(means, progress=lambda *state: seen.append(state))
        again = Drawn(clips, range(2), work, tmp_path, "set")
        assert torch.equal(again.features(1), first)
        assert means.calls == []
        work.expect(1)
        work.features(clips, [0])
        assert seen == [(1, 1)]  # cached clips are not part of the total

    @pytest.mark.parametrize(
        "change",
        [{"key": "other"}, {"seeds": [5]}, {"metric": "rfvd5_3f"}, {"metric": "rfvd4_3f_subsample2f"}, {"name": "m2"}],
        ids=str,
    )
    def test_the_cache_is_used_only_for_the_same_features(self, tmp_path, change):
        def calls(metric=f"rfvd4_{FRAMES}f", seeds=(0, 1), key="set", name="means"):
            means = Means()
            means.name = name
            Drawn(clip_set(metric), seeds, extraction(means, metric), tmp_path, key).features(seeds[0])
            return len(means.calls)

        assert calls() > 0
        assert calls() == 0
        assert calls(**change) > 0
        assert calls() == 0
