"""The command line of training: flags, YAML files and presets become a `TrainConfig`."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import Field, fields, replace
from typing import Any, NoReturn

import torch

from digan.config import ALIASES, PRESETS, RESUME_MAY_CHANGE, TrainConfig, check, flag
from digan.errors import ConfigError, MetricError
from digan.metrics.detectors import detector_files
from digan.metrics.protocol import Protocol
from digan.run_dir import known_fields
from digan.training.augment import draw_augment


def _parse_bool(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message + ".")


def _kind(f: Field) -> type:
    """The type of a field, without its `| None`."""
    return {"int": int, "float": float, "bool": bool, "str": str}[str(f.type).split(" | ")[0]]


def build_parser() -> argparse.ArgumentParser:
    """The command line of `digan/train.py`: one flag for each field of `TrainConfig`, and the aliases."""
    parser = _Parser(
        prog="train.py",
        description="Train DIGAN on a folder of videos. Without arguments: a demonstration on videos it makes itself.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for f in fields(TrainConfig):
        group = groups.setdefault(f.metadata["group"], parser.add_argument_group(f.metadata["group"]))
        names = [flag(f.name), *("--" + alias for alias, name in ALIASES.items() if name == f.name)]
        text = f.metadata["help"] + ("" if f.default in (None, "", False) else f" [{f.default}]")
        if _kind(f) is bool:
            names += ["-n"] if f.name == "dry_run" else []
            group.add_argument(*names, dest=f.name, nargs="?", const=True, type=_parse_bool, metavar="BOOL", help=text)
            group.add_argument(
                "--no-" + flag(f.name)[2:], dest=f.name, action="store_const", const=False, help=argparse.SUPPRESS
            )
        else:
            choices = sorted(PRESETS) if f.name == "cfg" else f.metadata["choices"]
            group.add_argument(*names, dest=f.name, type=_kind(f), choices=choices, help=text)
    return parser


def parse_options(argv: Sequence[str]) -> dict[str, Any]:
    """The options given on a command line, by field name. Dashes and underscores in flags are alike.

    Raises `ConfigError` for an unknown flag, with the nearest known one.
    """
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        words.append(name.replace("_", "-") + equals + value if name.startswith("--") else word)
    parser = build_parser()
    known, unknown = parser.parse_known_args(words)
    if unknown:
        flags = [name for action in parser._actions for name in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], flags, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; --help lists the options."
        raise ConfigError(f"unknown option {unknown[0]}{hint}")
    return vars(known)


def read_yaml(path: str) -> dict[str, Any]:
    """Options from a YAML file of `name: value` lines; names as the flags, dashes or underscores."""
    import yaml

    try:
        with open(path) as file:
            given = yaml.safe_load(file) or {}
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path} is not YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(given, dict):
        raise ConfigError(f"--config {path} must hold 'name: value' lines.")
    argv = []
    for name, value in given.items():
        if isinstance(value, list):
            value = ",".join(map(str, value))
        if value is not None:
            argv.append(f"--{name}={value}")
    try:
        return parse_options(argv)
    except ConfigError as error:
        raise ConfigError(f"--config {path}: {error}") from None


def resolve(given: dict[str, Any], resumed: dict[str, Any] | None = None) -> TrainConfig:
    """The configuration of a run: defaults, then the preset, then the --config file, then the command line.

    Args:
        given: options of the command line, from `parse_options`.
        resumed: the stored configuration of the run that is continued. It replaces defaults, preset and file; options
            that decide the numbers of the run must not differ from it.
    """
    if resumed is not None:
        clash = [n for n in given if n not in RESUME_MAY_CHANGE and n in resumed and given[n] != resumed[n]]
        if clash:
            raise ConfigError(
                f"{flag(clash[0])} {given[clash[0]]} differs from the resumed run's {resumed[clash[0]]}: leave it out, "
                "or start a new run without --resume."
            )
        return _check(TrainConfig(**{**known_fields(TrainConfig, resumed), **given}))
    options = {**(read_yaml(given["config"]) if given.get("config") else {}), **given}
    preset = options.get("cfg") or (None if options.get("data") else "demo")
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"--cfg {preset} is not one of {', '.join(PRESETS)}.")
    return _check(TrainConfig(**{**PRESETS.get(preset or "", {}), **options, "cfg": preset}))


def _check(config: TrainConfig) -> TrainConfig:
    """`config.check`, and the names that other modules define: metrics and augmentations."""
    check(config)
    try:
        protocols = [Protocol.parse(name) for name in config.metric_names()]
        detector_files([config.detector] if config.detector else [], protocols)
    except MetricError as error:
        raise ConfigError(f"--metrics: {error}.") from None
    try:
        draw_augment(config.aug_policy(), 0, torch.Generator())
    except ValueError as error:
        raise ConfigError(str(error)) from None
    # Results are filed under a protocol's whole name, which `fid` and others abbreviate.
    return replace(config, metrics=",".join(p.name for p in protocols) or "none")
