"""`digan train`, which `digan/train.py` runs: resolve options, presets and YAML to a `TrainConfig`, and train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from digan.cli.options import OptionParser, number, parse_bool
from digan.config import ALIASES, PRESETS, RESUME_MAY_CHANGE, TrainConfig, check, field_type, flag
from digan.data.training_data import TrainingData
from digan.errors import ConfigError, MetricError
from digan.metrics.detectors import detector_files
from digan.metrics.protocol import MetricProtocol
from digan.run_dir import known_fields, run_of_launch
from digan.train import train
from digan.training import checkpoint, summary
from digan.training.agreement import option_facts
from digan.training.allocator import keep_freed_memory
from digan.training.augment import draw_augment
from digan.training.distributed import check_devices, make_accelerator
from digan.training.initial_weights import initialise, read_initial_weights
from digan.training.launch import launch_identity
from digan.training.logger import check_trackers
from digan.training.processes import joined
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
        if field_type(f) is bool:
            names += ["-n"] if f.name == "dry_run" else []
            group.add_argument(*names, dest=f.name, nargs="?", const=True, type=parse_bool, metavar="BOOL", help=text)
            group.add_argument(
                "--no-" + flag(f.name)[2:], dest=f.name, action="store_const", const=False, help=argparse.SUPPRESS
            )
        else:
            kind = field_type(f)
            parse = kind if kind is str else number(kind, f.metadata["range"])
            choices = sorted(PRESETS) if f.name == "cfg" else f.metadata["choices"]
            group.add_argument(*names, dest=f.name, type=parse, choices=choices, help=text)


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
    with joined(60 * options.get("start_timeout", TrainConfig.start_timeout)) as processes:
        path, notes = processes.from_main("the checkpoint", lambda: _find_checkpoint(options, processes.attempt))
        checkpoint_dir = Path(path) if path else None
        state = processes.together("the checkpoint", lambda: _read_state(checkpoint_dir))
        config = processes.together("the configuration", lambda: _resolve(options, state.get("config")))
        if processes.world > 1:
            processes.agree(option_facts(config), "start all of them with the same options and versions")
        accelerator = processes.together(
            "the devices", lambda: make_accelerator(config.mixed_precision, config.threads, processes)
        )
        check_devices(accelerator, processes)
        if keep_memory and accelerator.device.type == "cpu":
            keep_freed_memory()
        data = processes.main_first("the index of the videos", lambda: TrainingData(config, accelerator))
        notes += processes.together("the data", lambda: _other_data(config, data, state.get("data")))
        trainer = processes.together("the networks", lambda: trainer_class(config, accelerator, data.num_classes))
        if config.init is not None and checkpoint_dir is None:
            notes += processes.together("--init", lambda: initialise(trainer, read_initial_weights(config.init)))
        if accelerator.is_main_process:
            print(summary.start(trainer, data, checkpoint_dir), flush=True)
            for note in notes if config.dry_run else ():  # a run writes them to its log
                print(note, flush=True)
        return None if config.dry_run else train(trainer, data, checkpoint_dir, processes, notes)


def _find_checkpoint(options: dict[str, Any], attempt: int) -> tuple[str | None, list[str]]:
    """Return the checkpoint to continue from, and notes for the log.

    It is that of `--resume` or, if the launcher restarted this run, its newest one that is not damaged.
    """
    notes: list[str] = []
    outdir = options.get("outdir", TrainConfig.outdir)
    resume, launch = options.get("resume"), launch_identity()
    path: Path | None = None
    if attempt and launch is not None and (run := run_of_launch(outdir, launch)) is not None:
        path = checkpoint.newest(run, notes.append)
        where = f"{run} continues from {path}" if path else f"{run} had no checkpoint yet: it starts anew"
        notes.append(f"The launcher has restarted the processes; {where}.")
    elif resume:
        path = checkpoint.find(resume, outdir, notes.append)
    return str(path) if path else None, notes


def _read_state(checkpoint_dir: Path | None) -> dict[str, Any]:
    """Return the facts of a checkpoint that the main process found, or none."""
    if checkpoint_dir is None:
        return {}
    if not checkpoint_dir.is_dir():
        raise ConfigError(
            f"--resume: {checkpoint_dir.absolute()}, from which the main process continues, does not exist here: all "
            "machines must share --outdir."
        )
    return checkpoint.read_state(checkpoint_dir)


def _resolve(options: dict[str, Any], resumed: dict[str, Any] | None) -> TrainConfig:
    config = resolve(options, resumed)
    check_trackers(config)
    return config


def _other_data(config: TrainConfig, data: TrainingData, trained_on: str | None) -> list[str]:
    """Return a note if a run is resumed with other videos than its own.

    Raises:
        ConfigError: the options don't allow that.
    """
    if trained_on in (None, data.index.fingerprint, data.identity):  # older checkpoints hold the fingerprint alone
        return []
    text = f"{data.index.source.path} holds other videos than the run was trained on, or they are decoded to other "
    text += f"pixels ({data.identity}, not {trained_on})"
    if not config.other_data:
        raise ConfigError(f"--data {text}: name the data of the run, or add --other-data to go on with these.")
    return [f"--other-data: {text}."]


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
                f"{', '.join(differences)}: leave {'it' if len(changed) == 1 else 'them'} out, or start a new run from "
                "its weights, with --init in place of --resume."
            )
        return _check(replace(stored, **options))
    preset = options.get("cfg") or (None if options.get("data") else "demo")
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"--cfg {preset} is not one of {', '.join(PRESETS)}.")
    return _check(TrainConfig(**{**PRESETS.get(preset or "", {}), **options, "cfg": preset}))


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
