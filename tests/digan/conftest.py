"""A training configuration that is small enough for tests, batches for it, a full disk, and where real video lies."""

import resource
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from digan.config import TrainConfig, check
from digan.data import make_demo_videos
from digan.data.training_data import TrainingData
from digan.training.logger import RunLogger, make_run_dir
from digan.training.trainer import Trainer

TINY = {
    "data": "unused",
    "resolution": 32,
    "batch": 8,
    "z_dim": 8,
    "w_dim": 8,
    "fourier_dim": 4,
    "fmm_rank": 2,
    "channel_base": 128,
    "channel_max": 8,
    "workers": 0,
    "report_to": "none",
    "metrics": "none",
}


@pytest.fixture
def tiny():
    """Makes a small TrainConfig with the options given."""
    return lambda **options: check(TrainConfig(**{**TINY, **options}))


@pytest.fixture
def make_run(tiny, tmp_path):
    """Makes (logger, trainer) of a new run on a few videos of moving shapes, or of the folder and clips given."""

    def make(folder=None, clips=0, **options) -> tuple[RunLogger, Trainer]:
        data = make_demo_videos(tmp_path / "videos", videos=4, frames=8, resolution=32)
        config = tiny(**{"data": str(data), "outdir": str(tmp_path / "runs"), "frames": 4, "samples": 2, **options})
        accelerator = Accelerator(cpu=True, mixed_precision="no")
        training_data = TrainingData(config, accelerator)
        trainer = Trainer(config, accelerator, training_data.num_classes)
        trainer.clips_seen = clips
        run = RunLogger(folder or make_run_dir(config), trainer, training_data)
        run.start()
        return run, trainer

    return make


@pytest.fixture
def real_batch():
    """Makes what the data loader yields for a whole batch of n pairs, a function of the seed."""

    def make(n: int, seed: int, classes: int = 1, resolution: int = 32) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 256, (n, 2, 3, resolution, resolution), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, classes, (n,), generator=generator)
        return {"frames": frames, "delta_t": torch.rand(n, generator=generator), "label": labels}

    return make


@pytest.fixture
def little_space():
    """Writes beyond 64 KiB of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real video beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder
