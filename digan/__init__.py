"""DIGAN, the dynamics-aware implicit GAN for video (ICLR 2022)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digan.config import DiscriminatorConfig, GeneratorConfig
    from digan.models.discriminator import Discriminator
    from digan.models.generator import Generator

__all__ = ["Discriminator", "DiscriminatorConfig", "Generator", "GeneratorConfig"]

_MODULES = {
    "Discriminator": "digan.models.discriminator",
    "DiscriminatorConfig": "digan.config",
    "Generator": "digan.models.generator",
    "GeneratorConfig": "digan.config",
}


def __getattr__(name: str) -> Any:
    """Import a public class on first use, so that a command can set up the process before PyTorch is loaded."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
