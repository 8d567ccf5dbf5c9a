"""Damage the files of a run, then resume it and read everything: the right content, or one sentence."""

import atexit
import contextlib
import functools
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from unittest import mock

import torch
from accelerate import Accelerator

from digan import Generator
from digan.cli import info
from digan.cli.train import resolve
from digan.config import TrainConfig, check
from digan.data import make_demo_videos
from digan.data.training_data import TrainingData
from digan.errors import UserError
from digan.files import remove
from digan.metrics import append_result
from digan.run_dir import (
    CHECKPOINTS,
    SAMPLES,
    SNAPSHOTS,
    STATISTICS,
    is_own,
    list_metrics,
    list_snapshots,
    metric_path,
    read_records,
)
from digan.sharding import BatchSharding
from digan.training import checkpoint, logger, summary
from digan.training.run_lock import run_lock
from digan.training.trainer import Trainer

RUN = "00000-run"
STEPS = 3
DRAFTS = (f"{SAMPLES}/.fakes000000.016.0123abcd.mp4", f"{SNAPSHOTS}/.tmpAb1c2D", ".stats.89abcdef.jsonl")
FOREIGN = (b"", b"{}", b"[]", b"null", b"<html>", b"[" * 100_000, b"\x80\x02.", b"PK\x03\x04", b'{"clips": "x"}\n')


@dataclass
class Original:
    """A finished run, which trials copy, and what reading it must give."""

    outdir: pathlib.Path
    config: TrainConfig
    trainer: Trainer  # any trial may load a state into it
    states: dict[int, str]  # clips seen -> digest of everything that a checkpoint restores
    networks: dict[int, str]  # clips seen -> digest of the averaged generator
    pairs: str  # digest of real frames


@contextlib.contextmanager
def quick():
    """Replace what takes seconds and does not depend on files: measured and counted operations, and a training step.

    A step gives every tensor of the networks and the optimizers another value, at less cost than training.
    """

    with (
        mock.patch.object(logger, "matmul_peak", return_value=1e9),
        mock.patch.object(logger, "forward_macs"),
        mock.patch.object(logger, "step_flops", **{"return_value.weighted.return_value": 1.0}),
        mock.patch.object(summary, "generator_rows", return_value=[summary.Row("G", "all", 1, 1)]),
    ):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # tensors this small are slower with more
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _step(trainer: Trainer) -> None:
    for optimizer in (trainer.opt_g, trainer.opt_d):
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    trainer.update_ema()
    trainer.iteration += 1
    trainer.clips_seen += trainer.config.batch


@functools.cache
def original() -> Original:
    """Make the run once per process."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="run-files-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    data = make_demo_videos(folder / "videos", videos=4, frames=8, resolution=32)
    sizes = dict(z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8)
    output = dict(outdir=str(folder / "runs"), report_to="none", metrics="none", samples=2, checkpoints=STEPS)
    options = dict(data=str(data), resolution=32, frames=4, batch=8, workers=0, kimg=1.0, **sizes, **output)
    config = check(TrainConfig(**options))
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    real = TrainingData(config, accelerator)
    trainer = Trainer(config, accelerator)
    run = folder / "runs" / RUN
    run.mkdir()
    log = logger.RunLogger(run, trainer, real)
    log.start()
    made = Original(folder / "runs", config, trainer, {}, {}, _pairs(real))
    for _ in range(STEPS):
        _step(trainer)
        log.tick()
        log.snapshot()
        made.states[trainer.clips_seen] = _state(trainer)
        made.networks[trainer.clips_seen] = _digest(trainer.g_ema.state_dict())
        result = {"metric": "rfvd4_4f", "value": 1.0 / trainer.clips_seen}
        append_result(run, result, clips=trainer.clips_seen, snapshot=list_snapshots(run)[-1].name)
    return made


def trial(seed: int, folder: pathlib.Path) -> str:
    """Damage a copy of the run by the seed and check everything that reads it."""
    with quick(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return _trial(seed, folder)


def _trial(seed: int, folder: pathlib.Path) -> str:
    made, rng = original(), random.Random(seed)
    outdir = shutil.copytree(made.outdir, folder / "runs")
    run = outdir / RUN
    old = rng.random() < 0.1
    if old:
        for file in run.glob(f"{CHECKPOINTS}/*/{checkpoint.STATE}"):
            _without_checksums(file)
    for name in DRAFTS:
        (run / name).write_bytes(b"half")
    intact = _contents(outdir)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _damage(outdir, rng)
    damaged = {name for name, content in _contents(outdir).items() | intact.items() if intact.get(name) != content}
    damaged |= intact.keys() - _contents(outdir).keys()
    outcome = _resume(made, outdir, rng, damaged, old)
    _check_networks(made, run, damaged)
    for path in (run, outdir, *rng.sample([*checkpoint.list_all(run / CHECKPOINTS), run / SNAPSHOTS, run], 1)):
        _sentence(info.inspect, path)
    return outcome


def _resume(made: Original, outdir: pathlib.Path, rng: random.Random, damaged: set[str], old: bool) -> str:
    """Resume as the command does, up to the first step; return the outcome."""
    run, trainer, notes = outdir / RUN, made.trainer, []
    newest = max(made.states)
    touched = {int(name.split("/")[2][-9:]) for name in damaged if f"/{CHECKPOINTS}/checkpoint-" in f"/{name}"}
    found = _sentence(checkpoint.find, rng.choice(("latest", str(run))), str(outdir), notes.append)
    if isinstance(found, UserError) or found is None:
        assert touched == set(made.states), f"refused, although a checkpoint is whole: {found}"
        return "refused: no sound checkpoint"
    unchecked = any("unchecked" in note for note in notes)
    assert unchecked == old or touched, notes
    config = resolve({"outdir": str(outdir)}, checkpoint.read_state(found)["config"])
    clips = int(found.name[-9:])
    if unchecked or rng.random() < 0.25:
        refusal = _sentence(checkpoint.load, trainer, found)
        if isinstance(refusal, UserError):
            assert unchecked, refusal
            return "refused: an unchecked checkpoint"
        clips = trainer.clips_seen
        assert unchecked or _state(trainer) == made.states[clips], "other weights were loaded"
    else:  # equal files give an equal state, at a tenth of the cost of loading it
        source = made.outdir / found.relative_to(outdir)
        assert all((found / file.name).read_bytes() == file.read_bytes() for file in source.iterdir()), "other weights"
        trainer.clips_seen = clips
    if clips != newest and not unchecked:
        assert newest in touched, "the newest checkpoint was passed over"
    if clips != newest and os.path.lexists(found.with_name(f"checkpoint-{newest:09d}")):
        assert any(f"checkpoint-{newest:09d}" in note and found.name in note for note in notes), notes
    if unchecked and clips not in made.states:
        return "resumed from an unchecked checkpoint"
    data = _sentence(TrainingData, config, trainer.accelerator)
    assert not isinstance(data, UserError), data
    assert _pairs(data) == made.pairs, "other frames were read"
    outcome = _start(trainer, run, data, damaged, clips)
    if outcome is None and rng.random() < 0.2:
        saved = checkpoint.save(trainer, run / CHECKPOINTS, {"batch": 8}, keep=1)  # beyond or at a damaged one
        assert checkpoint.verify(saved)
        assert checkpoint.list_all(run / CHECKPOINTS) == [saved]
    return outcome or ("resumed from the newest" if clips == newest else "resumed from an earlier one")


def _start(trainer: Trainer, run: pathlib.Path, data: TrainingData, damaged: set[str], clips: int) -> str | None:
    """Prepare the folder as a resumed run does; return the outcome if that was refused."""
    files = (run / STATISTICS, *list_metrics(run).values(), metric_path(run, "rfvd4_4f"))
    whole = {file: _whole_records(file, run, clips) for file in files}
    if isinstance(refusal := _sentence(_prepare, trainer, run, data), UserError):
        assert damaged, refusal
        return "refused: the folder cannot be written"
    for file, expected in whole.items():
        records = read_records(file)
        assert all(record in records for record in expected), f"{file.name} lost a record"
        assert str(file.relative_to(run.parent)) in damaged or len(records) == len(expected), file.name
    assert not any((run / name).exists() for name in DRAFTS), "a draft is left"
    return None


def _prepare(trainer: Trainer, run: pathlib.Path, data: TrainingData) -> None:
    with run_lock(run):
        logger.RunLogger(run, trainer, data).start()


def _whole_records(file: pathlib.Path, run: pathlib.Path, clips: int) -> list[dict]:
    """Return the original records whose lines the damage left whole, up to `clips` clips."""
    source = original().outdir / run.name / file.name
    lines = set(source.read_bytes().splitlines()) if source.is_file() else set()
    present = file.read_bytes().split(b"\n") if file.is_file() else []
    records = [json.loads(line) for line in present if line in lines]
    return [record for record in records if not is_own(record) or record["clips"] <= clips]


def _check_networks(made: Original, run: pathlib.Path, damaged: set[str]) -> None:
    for path in (run, *(file for file in list_snapshots(run) if str(file.relative_to(run.parent)) in damaged)):
        g = _sentence(Generator.from_pretrained, path)
        if isinstance(g, UserError):
            assert any(f"/{SNAPSHOTS}" in name for name in damaged), g
        else:
            assert _digest(g.state_dict()) == made.networks[g.metadata["clips_seen"]], f"{path}: other weights"


def _damage(outdir: pathlib.Path, rng: random.Random) -> None:
    """Damage one file, link or folder."""
    run = outdir / RUN
    groups = [
        [*run.glob(f"{CHECKPOINTS}/*/*")],
        [*run.glob(f"{CHECKPOINTS}/*")],
        [*run.glob(f"{SNAPSHOTS}/*"), run / SNAPSHOTS],
        [*run.glob("*.jsonl")],
        [path for path in run.iterdir() if path.is_file()],
        [*outdir.glob(".index/*"), outdir / ".index"],
        [*run.glob(f"{SAMPLES}/*"), run / SAMPLES],
    ]
    # What an earlier damage removed, or made a link to another folder, is not there any more.
    groups = [[p for p in group if os.path.lexists(p) and p.parent.resolve() == p.parent] for group in groups]
    group = sorted(rng.choice([group for group in groups if group]))
    path = rng.choice(group)
    kinds = [_delete, _to_folder, _to_link, _replace, _swap]
    if path.is_file():
        kinds += 2 * [_truncate, _empty, _flip, _flip]
    rng.choice(kinds)(path, group, rng)


def _truncate(path, _, rng):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) + 1)])


def _empty(path, *_):
    path.write_bytes(b"")


def _flip(path, _, rng):
    content = bytearray(path.read_bytes())
    near = rng.choice((len(content), 300))  # headers are more sensitive
    for _ in range(rng.choice((1, 2, 20)) if content else 0):
        content[rng.randrange(min(near, len(content)))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _replace(path, _, rng):
    content = rng.randbytes(rng.randrange(2000)) if rng.random() < 0.5 else rng.choice(FOREIGN)
    remove(path)
    path.write_bytes(content)


def _swap(path, group, rng):
    other, aside = rng.choice(group), path.with_name("aside")
    if (other != path and other.parent == path.parent) or (path.is_file() and other.is_file() and other != path):
        os.replace(path, aside)
        os.replace(other, path)
        os.replace(aside, other)


def _delete(path, *_):
    remove(path)


def _to_folder(path, _, rng):
    remove(path)
    path.mkdir()
    if rng.random() < 0.5:
        (path / "note").write_text("kept")


def _to_link(path, group, rng):
    others = [other for other in group if not other.name.startswith(".")]  # a link would bring a removed draft back
    target = rng.choice(["nowhere", path.name, str(path.parent), *map(str, others)])
    remove(path)
    path.symlink_to(target)


def _without_checksums(file: pathlib.Path) -> None:
    state = json.loads(file.read_bytes())
    file.write_text(json.dumps({name: state[name] for name in ("counters", "config", "torch")}))


def _contents(folder: pathlib.Path) -> dict[str, bytes | str]:
    """Return what stands at each path below a folder."""
    contents: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            contents[name] = os.readlink(path)
        else:
            contents[name] = path.read_bytes() if path.is_file() else "folder"
    return contents


def _sentence(call, *arguments):
    """Return the result of a call, or its `UserError`."""
    try:
        return call(*arguments)
    except UserError as error:
        _check_sentence(error)
        return error


def _check_sentence(error: UserError) -> None:
    text = str(error)
    assert text.strip(), type(error)
    assert "\n" not in text, text
    assert len(text) < 1000, text


def _state(trainer: Trainer) -> str:
    tensors = {f"{name}.{key}": t for name, net in trainer.networks().items() for key, t in net.state_dict().items()}
    state = trainer.optimizer_state()
    for name in ("opt_g", "opt_d"):
        for i, values in state[name]["state"].items():
            tensors |= {f"{name}.{i}.{key}": torch.as_tensor(value) for key, value in values.items()}
    tensors["path_length_mean"] = state["path_length_mean"]
    return _digest(tensors) + json.dumps(trainer.counters())


def _pairs(data: TrainingData) -> str:
    batch = next(data.batches(BatchSharding(data.config.batch), 0))
    return _digest({"clips": data.clips.batch([0, 1]), "pairs": batch["frames"]})


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
