"""Which process and worker reads which items: shards, resuming, workers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from digan.data import (
    ClipWindows,
    FramePairs,
    FrameStore,
    StreamSampler,
    load_index,
    make_demo_videos,
    on_device,
    pair_loader,
)
from digan.sharding import BatchSharding
from tests.digan.training.launches import GONE, left_after, started

ROOT = Path(__file__).parents[3]


def take(sharding, iterations, start=0):
    """Return `positions[iteration][micro_batch]`."""
    micro = sharding.micro_batches
    flat = list(islice(StreamSampler(sharding, start), iterations * micro))
    return [flat[i : i + micro] for i in range(0, len(flat), micro)]


@pytest.mark.parametrize(("world", "micro"), [(1, 1), (1, 4), (2, 2), (4, 1)], ids=lambda v: str(v))
def test_shards_together_are_the_batch(world, micro):
    batch, shards = 8, world * micro
    ranks = [take(BatchSharding(batch, world, micro, r), 3, start=5) for r in range(world)]
    for i in range(3):
        first = (5 + i) * batch
        for r in range(world):
            for m in range(micro):
                assert ranks[r][i][m] == list(range(first + r * micro + m, first + batch, shards))
        assert sorted(p for r in ranks for m in r[i] for p in m) == list(range(first, first + batch))


def test_processes_and_micro_batches_see_the_same_shards():
    one = take(BatchSharding(8, micro_batches=2), 4)
    two = [take(BatchSharding(8, processes=2, process_index=r), 4) for r in range(2)]
    assert one == [[two[0][i][0], two[1][i][0]] for i in range(4)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, video):
    root = tmp_path_factory.mktemp("data")
    for i in range(3):
        video(root / f"{i}.mp4", count=40, first=40 * i)
    return FramePairs(ClipWindows(load_index(root, None), 16), 32, seed=1)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_batches(pairs):
    batch = next(pair_loader(pairs, BatchSharding(8, micro_batches=2)))
    assert batch["frames"].shape == (4, 2, 3, 32, 32)
    assert batch["frames"].dtype == torch.uint8
    assert (batch["delta_t"].shape, batch["delta_t"].dtype) == ((4,), torch.float32)
    assert (batch["label"].shape, batch["label"].dtype) == ((4,), torch.int64)
    assert torch.equal(batch["frames"][1], pairs[2]["frames"])


def test_stream_does_not_depend_on_workers_and_resumes_anywhere(pairs):
    plain = list(islice(pair_loader(pairs, BatchSharding(4)), 8))
    for workers, start in [(2, 0), (0, 3), (2, 3), (1, 7)]:
        again = islice(pair_loader(pairs, BatchSharding(4), workers=workers, start=start), 8 - start)
        assert all(equal(a, b) for a, b in zip(again, plain[start:], strict=True))


def batches_of(count):
    """Return batches filled with their number, and the list of the numbers requested so far."""
    requested = []

    def batches():
        for i in range(count):
            requested.append(i)
            yield {"frames": torch.full((2, 3), i, dtype=torch.uint8), "delta_t": torch.full((2,), float(i))}

    return batches(), requested


def test_batches_are_not_prefetched_on_the_cpu():
    batches, requested = batches_of(3)
    on_cpu = on_device(batches, torch.device("cpu"))
    first = next(on_cpu)
    assert requested == [0]  # nothing to copy, so nothing is waited for
    assert [int(b["frames"][0, 0]) for b in [first, *on_cpu]] == [0, 1, 2]


def test_a_batch_is_used_while_the_next_one_is_copied(monkeypatch):
    """Check the order of GPU operations with stand-ins for streams and tensors."""
    done = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def record_event(self):
            return [action for action in done if action[0] == "copy"][-1]

        def wait_event(self, event):
            done.append(("wait", event[1]))

    class Tensor:
        def __init__(self, number):
            self.number = number

        def to(self, device, non_blocking):
            assert device.type == "cuda"
            assert non_blocking
            done.append(("copy", self.number, current[-1].name))
            return self

        def record_stream(self, stream):
            done.append(("hold", self.number, stream.name))

    current = [Stream("default")]

    @contextlib.contextmanager
    def stream(other):
        current.append(other)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies"))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    for batch in on_device(({"frames": Tensor(i)} for i in range(3)), torch.device("cuda")):
        done.append(("use", batch["frames"].number))
    one = [[("copy", i, "copies"), ("wait", i), ("hold", i, "default"), ("use", i)] for i in range(3)]
    assert done == [one[0][0], one[1][0], *one[0][1:], one[2][0], *one[1][1:], *one[2][1:]]
    assert not list(on_device(iter([]), torch.device("cuda")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_are_copied_to_the_gpu_one_ahead():
    count = 50
    device = torch.device("cuda", torch.cuda.current_device())
    batches, requested = batches_of(count)
    pinned = ({name: tensor.pin_memory() for name, tensor in batch.items()} for batch in batches)
    sums = []
    for i, batch in enumerate(on_device(pinned, device)):
        assert len(requested) == min(i + 2, count)
        assert batch["frames"].device == device
        torch.cuda._sleep(1_000_000)  # the host is far ahead of the device
        sums.append(batch["frames"].sum() + batch["delta_t"].sum())
        del batch
    assert torch.stack(sums).tolist() == [8 * i for i in range(count)]
    assert not list(on_device(iter([]), device))


def test_workers_share_a_store(pairs, tmp_path):
    index = pairs.windows.index
    store = FrameStore(index, 32, tmp_path)
    kept = FramePairs(pairs.windows, 32, seed=1, store=store)
    plain = list(islice(pair_loader(pairs, BatchSharding(4)), 8))
    for workers in (2, 0, 1):
        assert all(map(equal, islice(pair_loader(kept, BatchSharding(4), workers=workers), 8), plain))
    (file,) = tmp_path.iterdir()
    assert file == store.path
    reader, decoded = FramePairs(pairs.windows, 32, seed=1, store=store).reader, []
    reader.reader = lambda video: decoded.append(video)
    for k in range(32):
        number, frames = pairs.windows[pairs.clip(k)]
        pair, _ = pairs._pair(k)
        reader.read(index.videos[number], frames[pair].tolist())
    assert not decoded


def test_two_processes_read_the_items_of_one(pairs):
    whole = pair_loader(pairs, BatchSharding(4))
    ranks = [pair_loader(pairs, BatchSharding(4, processes=2, process_index=r)) for r in range(2)]
    micro = pair_loader(pairs, BatchSharding(4, micro_batches=2))
    for _ in range(4):
        everything, shards = next(whole), [next(r) for r in ranks]
        for r, shard in enumerate(shards):
            assert equal(shard, {k: v[r::2] for k, v in everything.items()})
            assert equal(shard, next(micro))


def test_a_worker_ends_with_the_process_that_reads_from_it(tmp_path):
    """The fork server, not the reader, is the parent of a worker, and lives as long as a worker does."""
    code = (
        "import multiprocessing, os, signal, sys\n"
        "from digan.data import FramePairs, ClipWindows, load_index, pair_loader\n"
        "from digan.sharding import BatchSharding\n"
        "pairs = FramePairs(ClipWindows(load_index(sys.argv[1], None), 4), 32, seed=1)\n"
        "loader = pair_loader(pairs, BatchSharding(4), workers=2)\n"
        "next(loader)\n"
        "print([w.pid for w in multiprocessing.active_children()], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    data = make_demo_videos(tmp_path / "videos", videos=1)
    with started([["-c", code, data]], tmp_path) as (processes, alive):
        assert processes[0].wait(240) == -9
        assert not left_after(GONE, alive)
    assert (tmp_path / "out-0.txt").read_text().count(",") == 1  # there were two workers


def test_workers_import_what_their_reader_imports(tmp_path):
    """The fork server must not preload an installed package where a script runs another one."""
    (tmp_path / "installed" / "digan").mkdir(parents=True)
    (tmp_path / "installed" / "digan" / "__init__.py").write_text("raise SystemExit('the installed package')")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = {[str(ROOT), str(ROOT / 'kernels')]}\n"
        "from digan.data import loader\n"
        "if __name__ == '__main__':\n"
        "    process = loader._worker_context().Process(target=loader._as_they_are, args=(None,))\n"
        "    process.start()\n"
        "    process.join()\n"
        "    sys.exit(process.exitcode)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run([sys.executable, script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_global_random_state_is_touched(pairs):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(islice(pair_loader(pairs, BatchSharding(4)), 2))
    loader = pair_loader(pairs, BatchSharding(4), workers=1)
    next(loader)
    assert torch.equal(torch.get_rng_state(), before)
