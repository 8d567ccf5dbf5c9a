"""`digan train`, which `digan/train.py` runs: resolve options, presets and YAML to a `TrainConfig`, and train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

import torch

from digan.cli.options import OptionParser, parse_bool
from digan.config import ALIASES, PRESETS, RESUME_MAY_CHANGE, TrainConfig, check, flag
from digan.data.training_data import TrainingData
from digan.errors import ConfigError, MetricError
from digan.metrics.detectors import detector_files
from digan.metrics.protocol import MetricProtocol
from digan.run_dir import known_fields
from digan.train import train
from digan.training import checkpoint, summary
from digan.training.allocator import keep_freed_memory
from digan.training.augment import draw_augment
from digan.training.distributed import make_accelerator
from digan.training.logger import check_trackers
from digan.training.trainer import Trainer

PARSER = {"argument_default": argparse.SUPPRESS}  # presets and resumed runs need to know which options were set


def configure(parser: OptionParser) -> None:
    """Add one flag for each field of `TrainConfig`, and the aliases."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for f in fields(TrainConfig):
        if f.name == "config":
            continue  # the parser of every command has it
        title = f.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        group = groups[title]
        names = [flag(f.name), *("--" + alias for alias, name in ALIASES.items() if name == f.name)]
        no_default = f.default is None or f.default is False or f.default == ""
        text = f.metadata["help"] + ("" if no_default else f" [{f.default}]")
        if _type(f) is bool:
            names += ["-n"] if f.name == "dry_run" else []
            group.add_argument(*names, dest=f.name, nargs="?", const=True, type=parse_bool, metavar="BOOL", help=text)
            group.add_argument(
                "--no-" + flag(f.name)[2:], dest=f.name, action="store_const", const=False, help=argparse.SUPPRESS
            )
        else:
            choices = sorted(PRESETS) if f.name == "cfg" else f.metadata["choices"]
            group.add_argument(*names, dest=f.name, type=_type(f), choices=choices, help=text)


def run(args: argparse.Namespace) -> int:
    """Train according to the options and return the exit status."""
    start(vars(args))
    return 0


def start(options: dict[str, Any], trainer_class: type[Trainer] = Trainer, keep_memory: bool = True) -> Path | None:
    """Start or resume a run and train until it ends.

    Args:
        options: the options set on the command line and in the `--config` file, from `parse_options`.
        trainer_class: the class of the trainer, for comparisons with other implementations of a step.
        keep_memory: on CPUs, keep freed memory in the process for the next step.

    Returns:
        The run folder; None after a dry run.

    Raises:
        UserError: the options, the data or the checkpoint cannot be used.
    """
    notes: list[str] = []
    resume = options.get("resume")
    checkpoint_dir = checkpoint.find(resume, _outdir(options), notes.append) if resume else None
    state = checkpoint.read_state(checkpoint_dir) if checkpoint_dir else {}
    config = resolve(options, state.get("config"))
    check_trackers(config)
    accelerator = make_accelerator(config.mixed_precision, config.threads)
    if keep_memory and accelerator.device.type == "cpu":
        keep_freed_memory()
    data = TrainingData(config, accelerator)
    if (trained_on := state.get("data")) not in (None, data.index.fingerprint):
        notes.append(_other_data(config, data, trained_on))
    trainer = trainer_class(config, accelerator, data.num_classes)
    if accelerator.is_main_process:
        print(summary.start(trainer, data, checkpoint_dir), flush=True)
        for note in notes if config.dry_run else ():  # a run writes them to its log
            print(note, flush=True)
    return None if config.dry_run else train(trainer, data, checkpoint_dir, notes)


def _other_data(config: TrainConfig, data: TrainingData, trained_on: str) -> str:
    """Return a note that a run is resumed with other videos than its own.

    Raises:
        ConfigError: the options don't allow that.
    """
    text = f"{data.index.source.path} holds other videos than the run was trained on"
    text += f" (fingerprint {data.index.fingerprint}, not {trained_on})"
    if not config.other_data:
        raise ConfigError(f"--data {text}: name the data of the run, or add --other-data to go on with these.")
    return f"--other-data: {text}."


def _outdir(options: dict[str, Any]) -> str:
    return options.get("outdir", TrainConfig.outdir)


def parse_options(argv: Sequence[str]) -> dict[str, Any]:
    """Return the options that a command line and its YAML file set, keyed by field name.

    Raises:
        ConfigError: an option is unknown, for which the nearest known one is suggested, or a value is invalid.
    """
    parser = OptionParser("digan train", **PARSER)
    configure(parser)
    return vars(parser.parse(argv))


def resolve(options: dict[str, Any], resumed: dict[str, Any] | None = None) -> TrainConfig:
    """Return the configuration of a run: the defaults, overridden by the preset, then by the options.

    Args:
        options: the options set on the command line and in the `--config` file, from `parse_options`.
        resumed: the stored configuration of the run to resume. It replaces defaults and preset; options that affect the
            numbers of the run must not differ from it.

    Raises:
        ConfigError: options are out of range, or contradict each other or the resumed run.
    """
    if resumed is not None:
        stored = TrainConfig(**{**known_fields(TrainConfig, resumed), "other_data": False})
        fixed = [f.name for f in fields(TrainConfig) if f.name in options and f.name not in RESUME_MAY_CHANGE]
        changed = [n for n in fixed if options[n] != getattr(stored, n)]
        if changed:
            differences = [
                f"{flag(n)} {options[n]} differs from the resumed run's {getattr(stored, n)}" for n in changed
            ]
            raise ConfigError(
                f"{', '.join(differences)}: leave {'it' if len(changed) == 1 else 'them'} out, or start a new run "
                "without --resume."
            )
        return _check(replace(stored, **options))
    preset = options.get("cfg") or (None if options.get("data") else "demo")
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"--cfg {preset} is not one of {', '.join(PRESETS)}.")
    return _check(TrainConfig(**{**PRESETS.get(preset or "", {}), **options, "cfg": preset}))


def _type(f: Field) -> type:
    """Return the type of a field, without its `| None`."""
    return {"int": int, "float": float, "bool": bool, "str": str}[str(f.type).split(" | ")[0]]


def _check(config: TrainConfig) -> TrainConfig:
    """Apply `config.check`, and check the names that other modules define: metrics and augmentations."""
    check(config)
    try:
        protocols = [MetricProtocol.parse(name) for name in config.metric_names()]
        detector_files([config.detector] if config.detector else [], protocols)
    except MetricError as error:
        raise ConfigError(f"--metrics: {error}.") from None
    try:
        draw_augment(config.aug_policy(), 0, torch.Generator())
    except ValueError as error:
        raise ConfigError(str(error)) from None
    # Results are stored under the full name of a protocol, of which names such as `fid` are abbreviations.
    return replace(config, metrics=",".join(p.name for p in protocols) or "none")
