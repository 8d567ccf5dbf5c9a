"""One number for two sets of clips, however the work is cut up."""

import itertools
import json
import threading

import pytest
import torch

from digan.metrics import Detector, MetricError, RandomFeatures, append_result, compute, frechet_distance, parse

pytestmark = pytest.mark.filterwarnings("ignore:the Fréchet distance")


def random_clips(count: int, frames: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, frames, 3, 8, 8), generator=generator, dtype=torch.uint8)


class Counted:
    """A source that remembers what it was asked for."""

    def __init__(self, clips: torch.Tensor) -> None:
        self.clips, self.asked = clips, []

    def __len__(self) -> int:
        return len(self.clips)

    def batch(self, indices):
        self.asked.append(list(indices))
        return self.clips[indices]

    def indices(self) -> list[int]:
        return list(itertools.chain(*self.asked))


class MeanFeatures:
    """A stand-in for a detector: five exact features, the means of the first frames."""

    name, dim = "means", 5

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.float().mean((3, 4)).flatten(1)[:, : self.dim]


def test_value_is_the_distance_of_the_features():
    reals, fakes = random_clips(7), random_clips(5, seed=1)
    result = compute("rfvd8_4f", reals, fakes)
    network = RandomFeatures()
    assert result["value"] == pytest.approx(frechet_distance(network(reals), network(fakes)), rel=1e-4)
    assert (result["metric"], result["n_real"], result["n_fake"]) == ("rfvd8_4f", 7, 5)
    assert result["features"] == "random3d-v1"
    assert result["seconds"] > 0


def test_sources_sequences_and_tensors_agree():
    reals, fakes = random_clips(6), random_clips(6, seed=1)
    values = [
        compute("kvd6_4f", real, fake, detector=MeanFeatures(), batch=batch)["value"]
        for real, fake, batch in [
            (reals, fakes, 16),
            (Counted(reals), Counted(fakes), 4),
            (list(reals), [clip.numpy() for clip in fakes], 1),
        ]
    ]
    assert values[0] == values[1] == values[2] != 0


def test_batches_are_bounded_and_progress_is_told():
    reals, fakes, told = Counted(random_clips(7)), Counted(random_clips(4)), []
    compute("kvd8_4f", reals, fakes, detector=MeanFeatures(), batch=3, progress=lambda *p: told.append(p))
    assert reals.asked == [[0, 1, 2], [3, 4, 5], [6]]
    assert fakes.asked == [[0, 1, 2], [3]]
    assert told == [(3, 11), (6, 11), (7, 11), (10, 11), (11, 11)]


def test_larger_sets_are_drawn_from_by_seed():
    def drawn(seed: int) -> list[int]:
        reals = Counted(random_clips(50))
        result = compute("kvd8_4f", reals, random_clips(8), detector=MeanFeatures(), seed=seed)
        assert result["n_real"] == 8
        return reals.indices()

    assert drawn(0) == sorted(set(drawn(0)))
    assert len(drawn(0)) == 8
    assert drawn(0) != drawn(1)


def test_subsampling_reads_every_sth_frame():
    reals, fakes = random_clips(6, frames=7), random_clips(6, frames=7, seed=1)
    result = compute("rfvd6_7f_subsample3f", reals, fakes)
    assert result["value"] == compute("rfvd6_3f", reals[:, [0, 3, 6]], fakes[:, [0, 3, 6]])["value"]

    chosen = Counted(fakes[:, [0, 3, 6]])
    chosen.frame_indices = parse("rfvd6_7f_subsample3f").frame_indices
    assert compute("rfvd6_7f_subsample3f", reals, chosen)["value"] == result["value"]


def run_processes(world: int, work) -> list:
    """Call work(rank, gather) in `world` threads, with a gather that exchanges among them."""
    barrier, shared, results = threading.Barrier(world, timeout=20), [None] * world, [None] * world

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
def test_processes_give_the_number_of_one(world, tmp_path):
    reals, fakes = random_clips(7), random_clips(5, seed=1)
    one = compute("fvd8_4f", reals, fakes, detector=MeanFeatures())

    def work(rank: int, gather):
        shared = dict(detector=MeanFeatures(), rank=rank, world=world, gather=gather)
        sources = Counted(reals), Counted(fakes)
        result = compute("fvd8_4f", *sources, cache=tmp_path, cache_key="reals", **shared)
        return result, sources

    for rank, (result, sources) in enumerate(run_processes(world, work)):
        assert result["value"] == one["value"]
        assert (result["n_real"], result["n_fake"]) == (7, 5)
        assert sources[0].indices() == list(range(7))[rank::world]
    for result, sources in run_processes(world, work):
        assert result["value"] == one["value"]
        assert sources[0].asked == []


def test_cache_of_one_process_is_not_used_alone(tmp_path):
    """With separate disks one process may find the cache and another not: all must then compute."""
    reals, fakes = random_clips(6), random_clips(6, seed=1)
    one = compute("fvd8_4f", reals, fakes, detector=MeanFeatures(), cache=tmp_path / "0", cache_key="reals")

    def work(rank: int, gather):
        shared = dict(detector=MeanFeatures(), rank=rank, world=2, gather=gather)
        return compute("fvd8_4f", reals, fakes, cache=tmp_path / str(rank), cache_key="reals", **shared)

    assert [result["value"] for result in run_processes(2, work)] == [one["value"]] * 2


def test_cache_serves_the_same_question_only(tmp_path):
    reals, fakes = random_clips(9, frames=6), random_clips(9, frames=6, seed=1)

    def computes_reals(name: str, key: str = "reals", seed: int = 0) -> bool:
        source = Counted(reals[:, : parse(name).frames])
        cached = compute(
            name,
            source,
            fakes[:, : parse(name).frames],
            detector=MeanFeatures(),
            seed=seed,
            cache=tmp_path,
            cache_key=key,
        )
        plain = compute(name, source.clips, fakes[:, : parse(name).frames], detector=MeanFeatures(), seed=seed)
        assert cached["value"] == plain["value"]
        return len(source.asked) > 0

    assert computes_reals("fvd8_4f")
    assert not computes_reals("fvd8_4f")
    assert not computes_reals("kvd8_4f")
    assert computes_reals("fvd8_4f", key="other reals")
    assert computes_reals("fvd8_4f", seed=1)
    assert computes_reals("fvd9_4f")
    assert computes_reals("fvd8_6f")
    assert computes_reals("fvd8_4f_subsample2f")
    assert computes_reals("rfvd8_4f")

    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:20])
    assert computes_reals("fvd8_4f")
    assert not computes_reals("fvd8_4f")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "fvd8_4f"}, "needs the TorchScript I3D file: give it with --detector FILE"),
        ({"protocol": "fvd8_4f", "detector": "absent.pt"}, "absent.pt does not exist"),
        (
            {"protocol": "rfvd8_5f"},
            r"needs real clips as uint8 \[6, 5, 3, 'H', 'W'\], not torch.uint8 \[6, 4, 3, 8, 8\]",
        ),
        ({"fakes": random_clips(6) / 255}, "needs fake clips as uint8"),
        ({"reals": random_clips(1)}, "at least 2 real clips, there are 1"),
        ({"world": 2}, "2 processes needs a function that gathers"),
        ({"cache": "folder"}, "cache_key"),
        ({"protocol": "isv2048"}, "is not known"),
    ],
    ids=["no-detector", "detector-absent", "frames", "dtype", "one-clip", "no-gather", "no-key", "name"],
)
def test_what_cannot_be_computed_gets_a_sentence(options, message):
    arguments = {"protocol": "rfvd8_4f", "reals": random_clips(6), "fakes": random_clips(6), **options}
    with pytest.raises(MetricError, match=message):
        compute(**arguments)


def test_results_are_appended_as_lines(tmp_path):
    result = {"metric": "rfvd8_4f", "value": 1.5}
    for clips in (0, 1000):
        path = append_result(tmp_path / "run", result, clips=clips)
    assert path == tmp_path / "run" / "metric-rfvd8_4f.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{**result, "clips": 0}, {**result, "clips": 1000}]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_metrics_share_a_detector_file(tmp_path, monkeypatch):
    class Still(torch.nn.Module):
        def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
            return x.mean((3, 4)).flatten(1)[:, :8].repeat(1, 50)

    path = tmp_path / "i3d.pt"
    torch.jit.script(Still()).save(str(path))
    loads, load = [], torch.jit.load
    monkeypatch.setattr(torch.jit, "load", lambda *args, **options: loads.append(args) or load(*args, **options))
    results = [
        compute(name, random_clips(6), random_clips(6, seed=1), detector=path) for name in ("fvd6_4f", "kvd6_4f")
    ]
    assert len(loads) == 1
    assert {result["features"] for result in results} == {Detector(path).name}
