"""The options that say where a network is evaluated and how precisely: `--device` and `--dtype`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TypeVar

import torch

from digan.errors import ConfigError

_Module = TypeVar("_Module", bound=torch.nn.Module)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def add_precision(options: argparse._ActionsContainer, default: str = "fp32", names: Iterable[str] = DTYPES) -> None:
    """Add both options to a parser or a group of its options; `names` are those of the types that it takes."""
    options.add_argument(
        "--dtype", choices=tuple(names), default=default, help="type of the matrix products [%(default)s]"
    )
    options.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="device of the network [cuda if available]",
    )


def on_device(g: _Module, device: str) -> _Module:
    """Move a network to the device of `--device`.

    Raises:
        ConfigError: the device cannot be used.
    """
    try:
        return g.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"--device {device} cannot be used here ({reason}); choose another one, or cpu.") from error
