"""The first whole iteration agrees with the official code, with one and two processes and with micro-batches.

The official code computed it in float64. The fixture holds its inputs and a sample of every result; where the file with
every number is present, those are compared too.
"""

import json
import lzma
import os
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load, load_file
from torch import multiprocessing

from digan.config import TrainConfig
from digan.randomness import Phase
from digan.training.augment import AugmentDraw
from digan.training.distributed import make_accelerator
from digan.training.trainer import Draw, Trainer

FIXTURE = Path(__file__).parents[2] / "fixtures" / "iteration_small.safetensors.xz"
FULL = Path(__file__).parents[4] / "shared" / "parity" / "iteration_small.safetensors"  # every number, where available
CONFIG = dict(
    resolution=32, batch=4, z_dim=32, w_dim=32, fourier_dim=16, fmm_rank=4, channel_base=1024, channel_max=16,
    r1_interval=16, seed=3, lr=0.0025, gamma=1.0, aug="color,translation",
)  # fmt: skip
PHASES = {Phase.GENERATOR: "Gmain", Phase.DISCRIMINATOR: "Dmain", Phase.R1: "Dreg"}
OPERATIONS = ("brightness", "saturation", "contrast", "translation")  # in the order of their application
INPUTS = ("init.", "in.", "draw.")
PARITY = 1e-5  # relative difference of every tensor in float32; measured: 2e-6, and 5e-6 of the samples
SAMPLE = 16  # values that the fixture keeps of a result


def sample(name, x):
    """What the fixture keeps of a tensor: inputs whole, the frames as the bytes that they came from."""
    if name == "in.frames":
        return ((x + 1) * 127.5).round().to(torch.uint8)
    if name.startswith(INPUTS):
        return x
    return x.flatten()[:: -(-x.numel() // SAMPLE)].clone()


def load_fixture():
    """Inputs and sampled results of the official code."""
    return load(lzma.decompress(FIXTURE.read_bytes()))


@pytest.fixture(scope="module")
def official():
    return load_fixture()


def below(tensors, prefix):
    """The tensors whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def networks(trainer):
    return {"g": trainer.g, "i": trainer.d_image, "m": trainer.d_motion}


def prepare(official, accelerator, copies):
    """Return a trainer on `copies` shards, each of which is the official batch, and the reals of this process.

    The minibatch statistics of a shard are then those of the official batch, and so is the average over the shards.
    """
    options = {**CONFIG, "batch": CONFIG["batch"] * copies, "batch_gpu": CONFIG["batch"]}
    trainer = Trainer(TrainConfig(data="unused", **options), accelerator)
    for name, network in networks(trainer).items():
        network.load_state_dict(below(official, f"init.{name}."))

    def deal(x):
        return x.repeat_interleave(copies, dim=0)

    def draws(phase):
        given = {name: deal(x) for name, x in below(official, f"draw.{PHASES[phase]}.").items()}
        augments = {
            side: AugmentDraw({operation: given[f"{side}.{operation}"] for operation in OPERATIONS})
            for side in ("augment_fakes", "augment_reals")
        }
        latents = {name: x for name, x in given.items() if "." not in name}
        unused = torch.zeros(options["batch"], 0)
        return Draw(**latents, **augments, z_mixed=unused, cutoff=unused, path_noise=unused)

    trainer._draw_batch = draws
    batch = {name: deal(x) for name, x in below(official, "in.").items()}
    shards = [trainer.sharding.indices(m) for m in range(trainer.micro_batches)]
    return trainer, [trainer.reals({name: x[shard] for name, x in batch.items()}) for shard in shards]


def iterate(official, accelerator, copies):
    """Run the first iteration; return its results under the names of the official ones."""
    trainer, reals = prepare(official, accelerator, copies)
    results = {}

    def keep(kind, phases, names, optimizer, *_):
        phase = next(phases)
        for name in names:
            for key, p in networks(trainer)[name].named_parameters():
                results[f"{phase}.{kind}.{name}.{key}"] = (p.grad if kind == "grad" else p).detach().clone()

    for optimizer, phases, names in ((trainer.opt_g, ["Gmain"], "g"), (trainer.opt_d, ["Dmain", "Dreg"], "im")):
        optimizer.register_step_pre_hook(partial(keep, "grad", iter(phases), names))
        optimizer.register_step_post_hook(partial(keep, "param", iter(phases), names))
    if accelerator.num_processes > 1:
        # Each process has another share of the official gradients, which are the average.
        share = 0.5 + accelerator.process_index
        for network in networks(trainer).values():
            for p in network.parameters():
                p.register_hook(lambda gradient: gradient * share)
    trainer.step(reals)
    results |= {f"ema.g.{key}": x for key, x in trainer.g_ema.state_dict().items()}
    return results | {"w_avg": trainer.g.mapping.w_avg}


def iterate_in_process(rank, port, folder):
    """Run one of two processes and save its results, for `multiprocessing.spawn`."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    accelerator = make_accelerator(threads=1)
    assert accelerator.num_processes == 2
    torch.save(iterate(load_fixture(), accelerator, copies=2), folder / f"{rank}.pt")
    accelerator.end_training()


def assert_agree(results, official):
    expected = {name: x for name, x in official.items() if not name.startswith(INPUTS)}
    assert set(results) == set(expected)
    for name, x in expected.items():
        assert (results[name] - x).norm() <= PARITY * x.norm(), name


def sampled(tensors):
    return {name: sample(name, x) for name, x in tensors.items()}


def check(results, official):
    assert_agree(sampled(results), official)
    if FULL.exists():
        assert_agree(results, load_file(FULL))


@pytest.mark.parametrize("copies", [1, 2, 3], ids="{} micro-batches".format)
def test_one_process(official, copies):
    check(iterate(official, Accelerator(cpu=True, mixed_precision="no"), copies), official)


def test_two_processes(official, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    multiprocessing.spawn(iterate_in_process, (port, tmp_path), nprocs=2)
    for rank in range(2):
        check(torch.load(tmp_path / f"{rank}.pt"), official)


@pytest.mark.skipif(not FULL.exists(), reason=f"{FULL} is absent")
def test_fixture_is_a_sample_of_the_official_file(official):
    full = sampled(load_file(FULL))
    assert set(official) == set(full)
    assert all(torch.equal(official[name], x) for name, x in full.items())
    with safe_open(FULL, "pt") as file:
        assert json.loads(file.metadata()["config"]) == CONFIG
