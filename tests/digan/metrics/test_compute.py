"""`compute` gives one value for two sets of clips, whatever the batches, processes and caches."""

import itertools
import json
import statistics
import threading
import warnings

import pytest
import torch

from digan.metrics import (
    Detector,
    MetricError,
    RandomFeatures,
    append_result,
    compute,
    frechet_distance,
    inception_score,
    parse,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:the Fréchet distance"),
    pytest.mark.filterwarnings("ignore:--detector .* is not the published"),
]


def random_clips(count: int, frames: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, frames, 3, 8, 8), generator=generator, dtype=torch.uint8)


class RecordingSource:
    """A source that records the indices of each batch."""

    def __init__(self, clips: torch.Tensor) -> None:
        self.clips, self.requests = clips, []

    def __len__(self) -> int:
        return len(self.clips)

    def batch(self, indices):
        self.requests.append(list(indices))
        return self.clips[indices]

    def indices(self) -> list[int]:
        return list(itertools.chain(*self.requests))


class MeanFeatures:
    """A stand-in for a detector with five exact features: channel means of the first frames."""

    name, dim = "means", 5

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.float().mean((3, 4)).flatten(1)[:, : self.dim]


class Classes:
    """A stand-in for a classifier whose probabilities depend on the colour of the first frame."""

    name, dim = "classes", 3

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        return (clips[:, 0].double().mean((2, 3)) / 4).softmax(1).float()


class FrameMeans:
    """A stand-in for a detector of single frames, which returns their mean colours."""

    name, dim, per_frame = "frame-means", 3, True

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.float().mean((3, 4))


def test_value_is_the_distance_of_the_features():
    reals, fakes = random_clips(7), random_clips(5, seed=1)
    result = compute("rfvd8_4f", reals, fakes)
    network = RandomFeatures()
    assert result["value"] == pytest.approx(frechet_distance(network(reals), network(fakes)), rel=1e-4)
    assert (result["metric"], result["n_real"], result["n_fake"]) == ("rfvd8_4f", 7, 5)
    assert result["features"] == "random3d-v2"
    assert result["seconds"] > 0


def test_sources_sequences_and_tensors_agree():
    reals, fakes = random_clips(6), random_clips(6, seed=1)
    values = [
        compute("kvd6_4f", real, fake, detector=MeanFeatures(), batch=batch)["value"]
        for real, fake, batch in [
            (reals, fakes, 16),
            (RecordingSource(reals), RecordingSource(fakes), 4),
            (list(reals), [clip.numpy() for clip in fakes], 1),
        ]
    ]
    assert values[0] == values[1] == values[2] != 0


def test_batches_are_bounded_and_progress_is_reported():
    reals, fakes, reports = RecordingSource(random_clips(7)), RecordingSource(random_clips(4)), []
    compute("kvd8_4f", reals, fakes, detector=MeanFeatures(), batch=3, progress=lambda *p: reports.append(p))
    assert reals.requests == [[0, 1, 2], [3, 4, 5], [6]]
    assert fakes.requests == [[0, 1, 2], [3]]
    assert reports == [(3, 11), (6, 11), (7, 11), (10, 11), (11, 11)]


def test_subset_of_a_larger_set_depends_on_the_seed():
    def drawn(seed: int) -> list[int]:
        reals = RecordingSource(random_clips(50))
        result = compute("kvd8_4f", reals, random_clips(8), detector=MeanFeatures(), seed=seed)
        assert result["n_real"] == 8
        return reals.indices()

    assert drawn(0) == sorted(set(drawn(0)))
    assert len(drawn(0)) == 8
    assert drawn(0) != drawn(1)


def test_defaults():
    reals = RecordingSource(random_clips(50))
    result = compute("kvd20_4f", reals, random_clips(20, seed=1), detector=MeanFeatures())
    assert [len(request) for request in reals.requests] == [16, 4]
    assert result["seed"] == 0
    again = compute("kvd20_4f", random_clips(50), random_clips(20, seed=1), detector=MeanFeatures(), seed=0)
    assert result["value"] == again["value"]
    fakes = random_clips(40)
    score = compute("isv40_4f", None, fakes, detector=Classes())
    assert (score["value"], score["std_of_splits"]) == pytest.approx(inception_score(Classes()(fakes), 10, seed=0))


def test_subsampling_reads_every_sth_frame():
    reals, fakes = random_clips(6, frames=7), random_clips(6, frames=7, seed=1)
    result = compute("rfvd6_7f_subsample3f", reals, fakes)
    assert result["value"] == compute("rfvd6_3f", reals[:, [0, 3, 6]], fakes[:, [0, 3, 6]])["value"]

    subsampled = RecordingSource(fakes[:, [0, 3, 6]])
    subsampled.frame_indices = parse("rfvd6_7f_subsample3f").frame_indices
    assert compute("rfvd6_7f_subsample3f", reals, subsampled)["value"] == result["value"]


def test_fid_uses_every_frame():
    reals, fakes = random_clips(6), random_clips(5, seed=1)
    result = compute("fid8_4f", reals, fakes, detector=FrameMeans(), batch=4)
    frames = [clips.float().mean((3, 4)).flatten(0, 1) for clips in (reals, fakes)]
    assert result["value"] == pytest.approx(frechet_distance(*frames), rel=1e-6)
    assert (result["n_real"], result["n_fake"]) == (6, 5)
    halved = compute("fid8_4f_subsample2f", reals, fakes, detector=FrameMeans())
    frames = [clips[:, ::2].float().mean((3, 4)).flatten(0, 1) for clips in (reals, fakes)]
    assert halved["value"] == pytest.approx(frechet_distance(*frames), rel=1e-6)


def test_inception_score_uses_the_fakes_only():
    fakes = random_clips(40)
    result = compute("isv40_4f", None, fakes, detector=Classes(), splits=4, seed=3)
    value, deviation = inception_score(Classes()(fakes), 4, seed=3)
    assert (result["value"], result["std_of_splits"]) == pytest.approx((value, deviation), rel=1e-12)
    assert deviation > 0
    assert (result["n_real"], result["n_fake"]) == (0, 40)
    assert compute("isv40_4f", random_clips(6, seed=1), fakes, detector=Classes(), splits=4, seed=3)["value"] == value


def test_each_metric_uses_its_kind_of_detector_file(detector_file):
    files = {kind: detector_file(kind) for kind in ("i3d", "c3d", "inception")}
    reals, fakes = random_clips(12), random_clips(12, seed=1)
    for name, kind in [("fvd12_4f", "i3d"), ("kvd12_4f", "i3d"), ("isv12_4f", "c3d"), ("fid12_4f", "inception")]:
        named = compute(name, reals, fakes, detector=files)
        assert named["features"].startswith(f"{kind}-")
        assert compute(name, reals, fakes, detector=files[kind])["value"] == named["value"]
        assert compute(name, reals, fakes, detector=f"{kind}={files[kind]}")["value"] == named["value"]
        assert compute(name, reals, fakes, detector=Detector(files[kind], kind=kind))["value"] == named["value"]
    with pytest.raises(MetricError, match="needs a detector of kind c3d, not i3d"):
        compute("isv12_4f", reals, fakes, detector=Detector(files["i3d"]))


def test_trials_are_runs_of_successive_seeds():
    reals, fakes = random_clips(30), random_clips(25, seed=1)
    repeated = compute("kvd8_4f", reals, fakes, detector=MeanFeatures(), seed=5, trials=4)
    single = [compute("kvd8_4f", reals, fakes, detector=MeanFeatures(), seed=seed)["value"] for seed in range(5, 9)]
    assert repeated["values"] == single
    assert len(set(single)) == 4
    assert repeated["value"] == pytest.approx(statistics.fmean(single), rel=1e-12)
    assert repeated["std"] == pytest.approx(statistics.stdev(single), rel=1e-12)
    assert (repeated["trials"], repeated["seed"], repeated["n_real"], repeated["n_fake"]) == (4, 5, 8, 8)


def test_one_trial_has_no_standard_deviation():
    reals, fakes = random_clips(6), random_clips(6, seed=1)
    plain = compute("kvd6_4f", reals, fakes, detector=MeanFeatures())
    one = compute("kvd6_4f", reals, fakes, detector=MeanFeatures(), trials=1)
    assert one["values"] == [plain["value"]] == [one["value"]]
    assert one["std"] is None
    assert not {"std", "values", "trials"} & plain.keys()


def test_trials_read_each_clip_once():
    reals, fakes, reports = RecordingSource(random_clips(20)), RecordingSource(random_clips(6, seed=1)), []
    compute("kvd8_4f", reals, fakes, detector=MeanFeatures(), trials=5, progress=lambda *p: reports.append(p))
    indices = reals.indices()
    assert len(set(indices)) == len(indices) <= 20
    assert fakes.indices() == list(range(6))
    assert reports[-1] == (len(indices) + 6,) * 2


def test_a_function_makes_new_fakes_for_every_trial():
    sources = []

    def fakes(seed: int) -> RecordingSource:
        sources.append(RecordingSource(random_clips(6, seed=seed)))
        return sources[-1]

    reals = random_clips(6, seed=100)
    result = compute("kvd6_4f", reals, fakes, detector=MeanFeatures(), seed=7, trials=3)
    expected = [compute("kvd6_4f", reals, random_clips(6, seed=s), detector=MeanFeatures())["value"] for s in (7, 8, 9)]
    assert result["values"] == expected
    assert [source.indices() for source in sources] == [list(range(6))] * 3
    assert compute("kvd6_4f", reals, fakes, detector=MeanFeatures(), seed=8)["value"] == expected[1]


def test_equal_trials_warn():
    reals, fakes = random_clips(8), random_clips(8, seed=1)
    with pytest.warns(UserWarning, match="all 3 trials of kvd8_4f use the same clips"):
        assert compute("kvd8_4f", reals, fakes, detector=MeanFeatures(), trials=3)["std"] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute("kvd7_4f", reals, fakes[:7], detector=MeanFeatures(), trials=3)
        compute("kvd8_4f", reals, lambda seed: random_clips(8, seed=seed), detector=MeanFeatures(), trials=3)
        compute("kvd8_4f", reals, fakes, detector=MeanFeatures(), trials=1)


def run_processes(world: int, work) -> list:
    """Call work(rank, gather) in `world` threads, with a gather that exchanges tensors between them."""
    barrier, shared, results = threading.Barrier(world, timeout=300), [None] * world, [None] * world

    def gather_of(rank: int):
        def gather(tensor: torch.Tensor) -> torch.Tensor:
            shared[rank] = tensor
            barrier.wait()
            assert len({part.shape for part in shared}) == 1
            gathered = torch.cat(shared)
            barrier.wait()
            return gathered

        return gather

    def run(rank: int) -> None:
        try:
            results[rank] = work(rank, gather_of(rank))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("world", [2, 3, 8])
def test_several_processes_agree_with_one(world, tmp_path):
    reals, fakes = random_clips(7), random_clips(5, seed=1)
    one = compute("fvd8_4f", reals, fakes, detector=MeanFeatures())

    def work(rank: int, gather):
        shared = dict(detector=MeanFeatures(), rank=rank, world=world, gather=gather)
        sources = RecordingSource(reals), RecordingSource(fakes)
        result = compute("fvd8_4f", *sources, cache=tmp_path, cache_key="reals", **shared)
        return result, sources

    for rank, (result, sources) in enumerate(run_processes(world, work)):
        assert result["value"] == one["value"]
        assert (result["n_real"], result["n_fake"]) == (7, 5)
        assert sources[0].indices() == list(range(7))[rank::world]
    for result, sources in run_processes(world, work):
        assert result["value"] == one["value"]
        assert sources[0].requests == []


@pytest.mark.parametrize("world", [2, 5])
@pytest.mark.parametrize(
    ("name", "extractor"),
    [("kvd4_4f", MeanFeatures()), ("fid4_4f_subsample2f", FrameMeans()), ("isv4_4f", Classes())],
    ids=["kvd", "fid", "isv"],
)
@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "made"])
def test_trials_of_several_processes_agree_with_one(world, name, extractor, drawn, tmp_path):
    reals = random_clips(9)

    def fakes(seed: int) -> torch.Tensor:
        return random_clips(3, seed=seed + 1)

    shared = dict(detector=extractor, trials=3, splits=2, cache=tmp_path, cache_key="reals")
    sides = (reals, random_clips(7, seed=1) if drawn else fakes)
    one = compute(name, *sides, **{**shared, "cache": tmp_path / "one"})
    for kept in (False, True):
        results = run_processes(
            world, lambda rank, gather: compute(name, *sides, rank=rank, world=world, gather=gather, **shared)
        )
        for result in results:
            assert {**result, "seconds": 0} == {**one, "seconds": 0}, kept
    assert len(set(one["values"])) == 3


def test_cache_is_used_only_if_all_processes_have_it(tmp_path):
    """With separate disks, one process may have the cache and another may not: all must then compute."""
    reals, fakes = random_clips(6), random_clips(6, seed=1)
    one = compute("fvd8_4f", reals, fakes, detector=MeanFeatures(), cache=tmp_path / "0", cache_key="reals")

    def work(rank: int, gather):
        shared = dict(detector=MeanFeatures(), rank=rank, world=2, gather=gather)
        return compute("fvd8_4f", reals, fakes, cache=tmp_path / str(rank), cache_key="reals", **shared)

    assert [result["value"] for result in run_processes(2, work)] == [one["value"]] * 2


def test_cache_is_used_only_for_the_same_features(tmp_path):
    reals, fakes = random_clips(9, frames=6), random_clips(9, frames=6, seed=1)

    def computes_reals(name: str, key: str = "reals", seed: int = 0, trials: int | None = None) -> bool:
        source = RecordingSource(reals[:, : parse(name).frames])
        cached = compute(
            name,
            source,
            fakes[:, : parse(name).frames],
            detector=MeanFeatures(),
            seed=seed,
            trials=trials,
            cache=tmp_path,
            cache_key=key,
        )
        plain = compute(
            name, source.clips, fakes[:, : parse(name).frames], detector=MeanFeatures(), seed=seed, trials=trials
        )
        assert cached["value"] == plain["value"]
        return len(source.requests) > 0

    assert computes_reals("fvd8_4f")
    assert not computes_reals("fvd8_4f")
    assert not computes_reals("kvd8_4f")
    assert computes_reals("fvd8_4f", key="other reals")
    assert computes_reals("fvd8_4f", seed=1)
    assert computes_reals("fvd9_4f")
    assert computes_reals("fvd8_6f")
    assert computes_reals("fvd8_4f_subsample2f")
    assert computes_reals("rfvd8_4f")
    assert not computes_reals("kvd8_4f", trials=3)  # the trials together draw all nine clips, as fvd9_4f did

    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:20])
    assert computes_reals("fvd8_4f")
    assert not computes_reals("fvd8_4f")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"protocol": "fvd8_4f"},
            "needs the TorchScript I3D of StyleGAN-V: give it with --detector i3d=FILE, or use rfvd8_4f",
        ),
        ({"protocol": "fvd8_4f", "detector": "absent.pt"}, "absent.pt does not exist"),
        (
            {"protocol": "rfvd8_5f"},
            r"needs real clips as uint8 \[6, 5, 3, 'H', 'W'\], not torch.uint8 \[6, 4, 3, 8, 8\]",
        ),
        ({"fakes": random_clips(6) / 255}, "needs fake clips as uint8"),
        ({"reals": random_clips(1)}, "at least 2 real clips, there are 1"),
        ({"world": 2}, "over 2 processes needs `gather`"),
        ({"cache": "folder"}, "cache_key"),
        ({"protocol": "isv8_4f"}, "needs the TorchScript C3D"),
        ({"protocol": "fid8_4f", "detector": {"i3d": "i3d.pt"}}, "needs the TorchScript Inception-v3"),
        ({"protocol": "isv8_4f", "detector": MeanFeatures(), "splits": 2}, "non-negative and sum to 1"),
        ({"protocol": "isv8_4f", "detector": Classes(), "splits": 7}, "at least 7 clips, there are 6"),
        ({"trials": 0}, "--trials 0 must be at least 1"),
        ({"reals": None}, "rfvd8_4f compares with real clips; give them with --data"),
        ({"protocol": "isx2048"}, "is not known"),
    ],
    ids=[
        "no-detector",
        "detector-absent",
        "frames",
        "dtype",
        "one-clip",
        "no-gather",
        "no-key",
        "no-c3d",
        "other-detector",
        "not-probabilities",
        "few-for-splits",
        "no-trials",
        "no-reals",
        "name",
    ],
)
def test_bad_arguments_are_refused(options, message):
    arguments = {"protocol": "rfvd8_4f", "reals": random_clips(6), "fakes": random_clips(6), **options}
    with pytest.raises(MetricError, match=message):
        compute(**arguments)


def test_results_are_appended_as_lines(tmp_path):
    result = {"metric": "rfvd8_4f", "value": 1.5}
    for clips in (0, 1000):
        path = append_result(tmp_path / "run", result, clips=clips)
    assert path == tmp_path / "run" / "metric-rfvd8_4f.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    versions = lines[0]["versions"]
    assert versions["torch"] == torch.__version__
    assert lines == [{**result, "versions": versions, "clips": 0}, {**result, "versions": versions, "clips": 1000}]


def test_metrics_share_a_detector_file(detector_file, monkeypatch):
    path = detector_file("i3d")
    loads, load = [], torch.jit.load
    monkeypatch.setattr(torch.jit, "load", lambda *args, **options: loads.append(args) or load(*args, **options))
    results = [
        compute(name, random_clips(6), random_clips(6, seed=1), detector=path) for name in ("fvd6_4f", "kvd6_4f")
    ]
    assert len(loads) == 1
    assert {result["features"] for result in results} == {Detector(path).name}
