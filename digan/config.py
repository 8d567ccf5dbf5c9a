"""Every hyper-parameter of the project, defined once: name, type, default, help text and presets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from functools import partial
from typing import Any

from digan.errors import ConfigError

RESIZES = (
    "antialias",  # bilinear with a filter that widens when frames are reduced, in uint8
    "bilinear",  # bilinear between four pixels at any scale, in float32, then rounded: the published loaders
)


@dataclass(frozen=True)
class Range:
    """The values that a number may have: finite, and within the limits given.

    Without an upper limit of its own, an integer is at most 2**31 - 1, the largest size that every library in use
    accepts, and a float is at most 1e12 in magnitude, so that its products stay within float32.
    """

    above: float | None = None
    minimum: float | None = None
    maximum: float | None = None

    def problem(self, value: float) -> str:
        """Return why a value is out of range, as the rest of a sentence after the value; "" if it is not."""
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number"
        if self.above is not None and not value > self.above:
            return f"must be more than {self.above:,}"
        maximum = self.maximum if self.maximum is not None else 1e12 if isinstance(value, float) else 2**31 - 1
        minimum = self.minimum if self.minimum is not None else -maximum
        if value < minimum:
            return f"must be at least {minimum:,}"
        return f"must be at most {maximum:,}" if value > maximum else ""


_LAYERS = {"range": Range(minimum=0, maximum=256)}
SEED = Range(minimum=0, maximum=2**63 - 1)  # what PyTorch and NumPy accept, and room for the seeds of further trials
FRACTION = Range(minimum=0, maximum=1)
FPS = Range(minimum=0.001, maximum=1000)  # frames per second of playback
_CLIP = 0.001  # kimg
_MAX_WORKERS = 4096  # processes or threads
_MAX_WIDTH = 2**16  # features or channels of a layer


@dataclass(frozen=True)
class GeneratorConfig:
    """Architecture of the generator. Defaults: DIGAN at 128x128."""

    resolution: int = 128  # pixels per side of a training frame: 32, 64, 128, 256 or 512
    z_dim: int = 512  # size of z_content and of z_motion
    w_dim: int = 512  # size of the intermediate latent w
    num_classes: int = 0  # 0: unconditional
    mapping_layers: int = field(default=2, metadata=_LAYERS)
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
    mbstd_group: int = 4  # clips whose features share the minibatch standard deviation
    mbstd_channels: int = 1
    label_layers: int = field(default=8, metadata=_LAYERS)  # depth of the label mapping network, with num_classes > 0
    half_resolutions: int = 4  # the highest resolutions run in the half-precision compute type
    clamp: float = 256.0  # activations are clamped to this times the gain, once any resolution is in half precision


def _option(
    default: Any,
    help: str,
    group: str,
    *,
    range: Range | None = None,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Any = None,
) -> Any:
    """Return a field with its help text and its `Range`, or the limits of one."""
    metadata = {"help": help, "group": group, "range": range or Range(above, minimum, maximum), "choices": choices}
    return field(default=default, metadata=metadata)


_run = partial(_option, group="what to train")
_data = partial(_option, group="data")
_fit = partial(_option, group="optimisation")
_net = partial(_option, group="networks", above=0, maximum=_MAX_WIDTH)
_speed = partial(_option, group="speed")
_out = partial(_option, group="output")
_G, _D = GeneratorConfig, DiscriminatorConfig


@dataclass(frozen=True)
class TrainConfig:
    """Complete configuration of a training run. The field names are the flags of `digan/train.py`."""

    cfg: str | None = _run(None, "preset; 'demo' if neither --cfg nor --data is given")
    data: str | None = _run(None, "folder, zip or video file to train on")
    outdir: str = _run("runs", "folder in which run folders are created")
    desc: str = _run("", "text appended to the name of the run folder")
    resume: str | None = _run(None, "'latest' under --outdir, a run folder, or one of its checkpoints")
    init: str | None = _run(None, "start a new run from the weights of a run, checkpoint, snapshot or hub name")
    other_data: bool = _run(False, "with --resume: continue on videos that are not those of the run")
    config: str | None = _run(None, "YAML file of options; the command line takes precedence")
    dry_run: bool = _run(False, "print configuration, parameters, MACs and data, then exit (also -n)")
    start_timeout: float = _run(10.0, "minutes to wait at the start for the processes of all machines", above=0)

    split: str = _data("train", "split of the data to train on, e.g. train or train+val")
    split_list: str | None = _data(None, "official split list of UCF-101 (trainlist01.txt)")
    resolution: int = _data(_G.resolution, "pixels per side", choices=(32, 64, 128, 256, 512))
    resize: str = _data(
        "antialias",
        "how frames are resized: antialias averages, bilinear skips pixels (as published)",
        choices=RESIZES,
    )
    frames: int = _data(16, "frames per clip", above=0)
    stride: int = _data(1, "frame stride; a window of frames*stride frames yields this many clips", above=0)
    overlap: int = _data(0, "raw frames shared by consecutive windows; frames*stride-1: every window", minimum=0)
    mirror: bool = _data(True, "flip real clips horizontally with probability 1/2; --no-mirror turns it off")
    cond: bool = _data(False, "condition on class labels (class subfolders)")
    workers: int = _data(4, "data loading processes per training process", minimum=0, maximum=_MAX_WORKERS)

    batch: int = _fit(64, "clips per step, over all processes", above=0)
    batch_gpu: int | None = _fit(None, "clips per micro-batch in one process; gradients accumulate", above=0)
    kimg: float = _fit(25000.0, "length of the run, in thousands of real clips", minimum=_CLIP)
    lr: float = _fit(0.0025, "learning rate of Adam, before the correction for lazy regularisation", above=0)
    gamma: float = _fit(1.0, "weight of the R1 penalty on each discriminator", minimum=0)
    r1_interval: int = _fit(16, "steps between R1 penalties", above=0)
    pl_weight: float = _fit(0.0, "weight of the path length penalty (published model: 0)", minimum=0)
    pl_interval: int = _fit(4, "steps between path length penalties; corrects Adam of G even at weight 0", above=0)
    style_mixing: float = _fit(0.0, "probability of style mixing (published model: 0)", range=FRACTION)
    aug: str = _fit("color,translation", "DiffAugment policy: any of color,translation,cutout, or none")
    ema_kimg: float = _fit(20.0, "half-life of the moving average of G", minimum=0)
    ema_rampup: float = _fit(
        0.05, "upper limit of the half-life, as a fraction of the clips seen; without effect after --init", above=0
    )
    nonfinite_limit: int = _fit(
        50, "stop after this many updates in a row whose losses or gradients are not finite", above=0
    )
    seed: int = _fit(0, "seed of every random number in the run", range=SEED)

    z_dim: int = _net(_G.z_dim, "size of z_content and of z_motion")
    w_dim: int = _net(_G.w_dim, "size of the intermediate latent")
    fourier_dim: int = _net(_G.fourier_dim, "Fourier features per stage")
    space_frequency: float = _net(_G.space_frequency, "scale of the Fourier frequencies, radians per half image width")
    time_frequency: float = _net(_G.time_frequency, "scale of the motion, which shifts the Fourier phases over a clip")
    fmm_rank: int = _net(_G.fmm_rank, "rank of the factorised multiplicative modulation")
    channel_base: int = _net(_G.channel_base, "channels at resolution R: min(channel_base/R, channel_max)")
    channel_max: int = _net(_G.channel_max, "maximum number of channels in a layer")
    mbstd_group: int = _net(_D.mbstd_group, "clips that share a minibatch standard deviation; at most the batch")

    mixed_precision: str | None = _speed(
        None,
        "compute type of the large discriminator layers [from accelerate's configuration]",
        choices=("no", "bf16", "fp16"),
    )
    threads: int | None = _speed(
        None, "threads per process [on CPUs: cores / processes]", above=0, maximum=_MAX_WORKERS
    )
    compile: bool = _speed(False, "apply torch.compile to the main passes (the penalties stay eager)")

    tick: float = _out(4.0, "kimg between log lines", minimum=_CLIP)
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
        shared = _shared(self, DiscriminatorConfig)
        return DiscriminatorConfig(num_classes=num_classes, **{**shared, "mbstd_group": _mbstd_group(self)})

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
        kimg=13.0,
        lr=0.01,
        gamma=0.5,
        r1_interval=8,
        aug="none",
        tick=0.5,
        snap=16,
        workers=1,
        threads=1,  # leaves a core to the data loader, and makes the numbers independent of the number of cores
        channel_base=512,
        channel_max=32,
        z_dim=4,  # content is a shape and its place, motion a velocity
        w_dim=32,
        fourier_dim=32,
        space_frequency=1.0,  # a shape as large as these is not repeated within the picture
        time_frequency=1.5,  # and moves from the first step on
        ema_kimg=1.0,
        ema_rampup=0.2,
    ),
    "sky": dict(frames=16, stride=1, overlap=0, resize="bilinear"),
    "taichi": dict(frames=16, stride=4, overlap=0, resize="bilinear"),
    "ucf101": dict(frames=16, stride=1, overlap=15, resize="bilinear"),
    # Its frames were published resized by Pillow, with antialiasing.
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
    "outdir data desc resume other_data config dry_run start_timeout cfg batch_gpu workers threads kimg compile tick "
    "snap checkpoints metrics detector samples report_to nonfinite_limit".split()
)

# Options that may differ between the processes of a run: places of files, whose contents are compared instead, and what
# one process has for itself.
PROCESSES_MAY_DIFFER = frozenset(
    "outdir data split_list detector resume init config start_timeout workers threads".split()
)


def flag(name: str) -> str:
    """Return the command-line flag of a field."""
    return "--" + name.replace("_", "-")


def option_range(name: str) -> Range:
    """Return the range of an option of `TrainConfig`, for the options of other commands that mean the same."""
    return TrainConfig.__dataclass_fields__[name].metadata["range"]


def field_type(f: Field[Any]) -> type:
    """Return the type of a field, without its `| None`."""
    return {"int": int, "float": float, "bool": bool, "str": str}[str(f.type).split(" | ")[0]]


def check_values(config: Any, spell: Callable[[str], str] = str) -> None:
    """Check that every value of a configuration has the type and the range of its field; an integer is a float too.

    Args:
        config: a configuration, perhaps from a file.
        spell: spells the name of a field for the message.

    Raises:
        ValueError: a value has another type or is out of range; the message names the field.
    """
    for f in fields(config):
        value, kind = getattr(config, f.name), field_type(f)
        if value is None and "None" in str(f.type):
            continue
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{spell(f.name)} must be of type {kind.__name__}, not {value!r}")
        if kind in (int, float) and (problem := f.metadata.get("range", Range(minimum=0)).problem(value)):
            raise ValueError(f"{spell(f.name)} {value} {problem}")


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
    try:
        check_values(c, flag)
    except ValueError as error:
        raise ConfigError(f"{error}.") from None
    if c.cfg != "demo" and c.data is None:
        raise ConfigError(f"--cfg {c.cfg} needs --data: a folder, zip or file of videos.")
    for f in fields(c):
        value, choices = getattr(c, f.name), f.metadata["choices"]
        if value is not None and choices is not None and value not in choices:
            raise ConfigError(f"{flag(f.name)} {value} is not one of {', '.join(map(str, choices))}.")
    if c.overlap >= c.frames * c.stride:
        raise ConfigError(f"--overlap {c.overlap} must be less than --frames times --stride, {c.frames * c.stride}.")
    return config


def micro_batches(config: TrainConfig, processes: int) -> int:
    """Return the number of micro-batches per step and process: batch = batch_gpu * processes * micro-batches.

    Raises:
        ConfigError: the batch cannot be divided so; the message proposes values that fit.
    """
    group = _mbstd_group(config)
    if config.batch % processes:
        unit = processes * config.mbstd_group
        below = config.batch // unit * unit
        raise ConfigError(
            f"--batch {config.batch} is not a multiple of the {processes} processes; "
            f"use {f'{below} or ' if below else ''}{below + unit}{_fewer(config, processes)}."
        )
    per_process = config.batch // processes
    micro_batch = config.batch_gpu or per_process
    if per_process % micro_batch:
        fitting = [size for size in range(group, per_process + 1, group) if per_process % size == 0] or [per_process]
        nearest = min(fitting, key=lambda size: abs(size - micro_batch))
        raise ConfigError(
            f"--batch {config.batch} on {processes} process(es) is {per_process} clips each, not a multiple of "
            f"--batch-gpu {micro_batch}; use --batch-gpu {nearest}."
        )
    if micro_batch % group:
        fitting = next(size for size in range(min(group, micro_batch), 0, -1) if micro_batch % size == 0)
        raise ConfigError(
            f"--batch {config.batch} on {processes} process(es) is divided into micro-batches of {micro_batch} clips, "
            f"which do not hold whole groups of {group} clips for the minibatch standard deviation: change --batch, "
            f"--batch-gpu or the number of processes, or, for a new run, set --mbstd-group {fitting}"
            f"{_fewer(config, processes)}."
        )
    return per_process // micro_batch


def _fewer(config: TrainConfig, processes: int) -> str:
    """Return the part of an error that proposes fewer processes, "" if no other number fits."""
    fitting = [n for n in range(1, processes) if config.batch % (n * _mbstd_group(config)) == 0]
    return f", or start {fitting[-1]} of them (--num_processes {fitting[-1]} of accelerate launch)" if fitting else ""


def _mbstd_group(config: TrainConfig) -> int:
    """Return the size of the groups of the minibatch standard deviation, however the batch is divided.

    The published system lowers it to the clips of one process; here it is a part of the model.
    """
    return min(config.batch, config.mbstd_group)
