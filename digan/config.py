"""Every hyper-parameter of the project, defined once: name, type, default, help text and presets."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from digan.errors import ConfigError


@dataclass(frozen=True)
class GeneratorConfig:
    """Architecture of the generator. Defaults: DIGAN at 128x128."""

    resolution: int = 128  # pixels per side of a training frame: 32, 64, 128, 256 or 512
    z_dim: int = 512  # size of z_content and of z_motion
    w_dim: int = 512  # size of the intermediate latent w
    num_classes: int = 0  # 0: unconditional
    mapping_layers: int = 2
    mapping_lr_mult: float = 0.01
    w_avg_beta: float = 0.995
    fourier_dim: int = 128  # D, the number of Fourier features of one stage; 2D inputs (sin and cos)
    fmm_rank: int = 10
    channel_base: int = 32768  # channels at resolution R: min(channel_base / R, channel_max)
    channel_max: int = 512
    base_resolution: int = 32  # grid of the first stage; the official blocks b4..b32 all run on it
    extra_layers_from: int = 128  # stages at and above this resolution end with one extra layer
    space_frequency: float = 10**0.5
    time_frequency: float = 0.25


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Architecture of the image and the motion discriminator, which share their widths."""

    resolution: int = 128
    num_classes: int = 0
    channel_base: int = 32768
    channel_max: int = 512
    mbstd_group: int = 4
    mbstd_channels: int = 1
    label_layers: int = 8  # depth of the label mapping network, with num_classes > 0
    half_resolutions: int = 4  # the highest resolutions run in the half-precision compute type
    half_clamp: float = 256.0  # activations are clamped to this times the gain, in half precision only


def _option(
    default: Any, help: str, group: str, *, above: float | None = None, least: float | None = None, choices: Any = None
) -> Any:
    """Return a field with its help text and its range: values must be > `above`, or >= `least`."""
    metadata = {"help": help, "group": group, "above": above, "least": least, "choices": choices}
    return field(default=default, metadata=metadata)


_run = partial(_option, group="what to train")
_data = partial(_option, group="data")
_fit = partial(_option, group="optimisation")
_net = partial(_option, group="networks", above=0)
_speed = partial(_option, group="speed")
_out = partial(_option, group="output")
_G = GeneratorConfig


@dataclass(frozen=True)
class TrainConfig:
    """Complete configuration of a training run. The field names are the flags of `digan/train.py`."""

    cfg: str | None = _run(None, "preset; 'demo' if neither --cfg nor --data is given")
    data: str | None = _run(None, "folder, zip or video file to train on")
    outdir: str = _run("runs", "folder in which run folders are created")
    desc: str = _run("", "text appended to the name of the run folder")
    resume: str | None = _run(None, "'latest' under --outdir, a run folder, or one of its checkpoints")
    other_data: bool = _run(False, "with --resume: continue on videos that are not those of the run")
    config: str | None = _run(None, "YAML file of options; the command line takes precedence")
    dry_run: bool = _run(False, "print configuration, parameters, MACs and data, then exit (also -n)")

    split: str = _data("train", "split of the data to train on, e.g. train or train+val")
    split_list: str | None = _data(None, "official split list of UCF-101 (trainlist01.txt)")
    resolution: int = _data(_G.resolution, "pixels per side", choices=(32, 64, 128, 256, 512))
    frames: int = _data(16, "frames per clip", above=0)
    stride: int = _data(1, "frame stride; a window of frames*stride frames yields this many clips", above=0)
    overlap: int = _data(0, "raw frames shared by consecutive windows; frames*stride-1: every window", least=0)
    mirror: bool = _data(True, "flip real clips horizontally with probability 1/2")
    cond: bool = _data(False, "condition on class labels (class subfolders)")
    workers: int = _data(4, "data loading processes per training process", least=0)

    batch: int = _fit(64, "clips per step, over all processes", above=0)
    batch_gpu: int | None = _fit(None, "clips per micro-batch in one process; gradients accumulate", above=0)
    kimg: float = _fit(25000.0, "length of the run, in thousands of real clips", above=0)
    lr: float = _fit(0.0025, "learning rate of Adam, before the correction for lazy regularisation", above=0)
    gamma: float = _fit(1.0, "weight of the R1 penalty on each discriminator", least=0)
    r1_interval: int = _fit(16, "steps between R1 penalties", above=0)
    pl_weight: float = _fit(0.0, "weight of the path length penalty (published model: 0)", least=0)
    pl_interval: int = _fit(4, "steps between path length penalties; corrects Adam of G even at weight 0", above=0)
    style_mixing: float = _fit(0.0, "probability of style mixing (published model: 0)", least=0)
    aug: str = _fit("color,translation", "DiffAugment policy: any of color,translation,cutout, or none")
    ema_kimg: float = _fit(20.0, "half-life of the moving average of G", least=0)
    ema_rampup: float = _fit(0.05, "upper limit of the half-life, as a fraction of the clips seen", above=0)
    seed: int = _fit(0, "seed of every random number in the run", least=0)

    z_dim: int = _net(_G.z_dim, "size of z_content and of z_motion")
    w_dim: int = _net(_G.w_dim, "size of the intermediate latent")
    fourier_dim: int = _net(_G.fourier_dim, "Fourier features per stage")
    fmm_rank: int = _net(_G.fmm_rank, "rank of the factorised multiplicative modulation")
    channel_base: int = _net(_G.channel_base, "channels at resolution R: min(channel_base/R, channel_max)")
    channel_max: int = _net(_G.channel_max, "maximum number of channels in a layer")

    mixed_precision: str | None = _speed(
        None,
        "compute type of the large discriminator layers [from accelerate's configuration]",
        choices=("no", "bf16", "fp16"),
    )
    threads: int | None = _speed(None, "threads per process [on CPUs: cores / processes]", above=0)
    compile: bool = _speed(False, "apply torch.compile to the main passes (the penalties stay eager)")

    tick: float = _out(4.0, "kimg between log lines", above=0)
    snap: int = _out(100, "ticks between snapshots, samples, metrics and checkpoints", above=0)
    checkpoints: int = _out(2, "number of complete checkpoints to keep; older ones are removed", above=0)
    metrics: str = _out("rfvd256_16f", "metrics computed at every snapshot, comma separated, or none")
    detector: str | None = _out(
        None, "TorchScript detectors for the metrics that need one: FILE or i3d=FILE,c3d=FILE,inception=FILE"
    )
    samples: int = _out(16, "number of videos in a sample sheet", above=0)
    report_to: str = _out("tensorboard", "accelerate trackers, comma separated, or none")

    def generator(self, num_classes: int) -> GeneratorConfig:
        """Return the configuration of the generator."""
        return GeneratorConfig(num_classes=num_classes, **_shared(self, GeneratorConfig))

    def discriminator(self, num_classes: int) -> DiscriminatorConfig:
        """Return the configuration of the two discriminators."""
        return DiscriminatorConfig(num_classes=num_classes, **_shared(self, DiscriminatorConfig))

    def metric_names(self) -> list[str]:
        """Return the names of the metrics."""
        return _names(self.metrics)

    def trackers(self) -> list[str]:
        """Return the names of the trackers."""
        return _names(self.report_to)

    def aug_policy(self) -> str:
        """Return the DiffAugment policy in normal form: names separated by commas, "" for none."""
        return ",".join(_names(self.aug))


PRESETS: dict[str, dict[str, Any]] = {
    "demo": dict(
        resolution=32,
        batch=8,
        kimg=10.0,
        lr=0.01,
        gamma=10.0,
        r1_interval=4,
        aug="none",
        tick=0.5,
        snap=10,
        workers=1,
        threads=1,  # leaves a core to the data loader, and makes the numbers independent of the number of cores
        channel_base=512,
        channel_max=32,
        z_dim=64,
        w_dim=64,
        fourier_dim=32,
        ema_kimg=0.5,
        ema_rampup=0.2,
    ),
    "sky": dict(frames=16, stride=1, overlap=0),
    "taichi": dict(frames=16, stride=4, overlap=0),
    "ucf101": dict(frames=16, stride=1, overlap=15),
    "kinetics-food": dict(frames=16, stride=1, overlap=0, split="train+val"),
}

ALIASES = {
    "output-dir": "outdir",
    "train-data-dir": "data",
    "resume-from-checkpoint": "resume",
    "checkpoints-total-limit": "checkpoints",
}

# A resumed run continues the same experiment: options that affect its numbers must not change, these may.
RESUME_MAY_CHANGE = frozenset(
    "outdir data desc resume other_data config dry_run cfg workers threads kimg compile tick snap checkpoints metrics "
    "detector samples report_to".split()
)


def flag(name: str) -> str:
    """Return the command-line flag of a field."""
    return "--" + name.replace("_", "-")


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip()) and name != "none"]


def _shared(config: TrainConfig, cls: type) -> dict[str, Any]:
    names = {f.name for f in fields(config)}
    return {f.name: getattr(config, f.name) for f in fields(cls) if f.name in names}


def check(config: TrainConfig) -> TrainConfig:
    """Check a configuration and return it.

    Raises:
        ConfigError: options are out of range or contradict each other.
    """
    c = config
    if c.cfg != "demo" and c.data is None:
        raise ConfigError(f"--cfg {c.cfg} needs --data: a folder, zip or file of videos.")
    for f in fields(c):
        value, m = getattr(c, f.name), f.metadata
        if value is None:
            continue
        if m["above"] is not None and not value > m["above"]:
            raise ConfigError(f"{flag(f.name)} {value} must be more than {m['above']}.")
        if m["least"] is not None and not value >= m["least"]:
            raise ConfigError(f"{flag(f.name)} {value} must be at least {m['least']}.")
        if m["choices"] is not None and value not in m["choices"]:
            raise ConfigError(f"{flag(f.name)} {value} is not one of {', '.join(map(str, m['choices']))}.")
    if c.style_mixing > 1:
        raise ConfigError(f"--style-mixing {c.style_mixing} is a probability, at most 1.")
    if c.overlap >= c.frames * c.stride:
        raise ConfigError(f"--overlap {c.overlap} must be less than --frames times --stride, {c.frames * c.stride}.")
    return config


def micro_batches(config: TrainConfig, processes: int) -> int:
    """Return the number of micro-batches per step and process: batch = batch_gpu * processes * micro-batches."""
    if config.batch % processes:
        raise ConfigError(f"--batch {config.batch} is not a multiple of the {processes} processes.")
    per_process = config.batch // processes
    micro_batch = config.batch_gpu or per_process
    if per_process % micro_batch:
        raise ConfigError(
            f"--batch {config.batch} on {processes} processes is {per_process} clips each, not a multiple of "
            f"--batch-gpu {micro_batch}."
        )
    group = min(micro_batch, DiscriminatorConfig.mbstd_group)
    if micro_batch % group:
        raise ConfigError(
            f"a micro-batch of {micro_batch} clips is not a multiple of the minibatch standard deviation's group size "
            f"{group}: change --batch or --batch-gpu."
        )
    return per_process // micro_batch
