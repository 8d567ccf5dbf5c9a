"""DIGAN, the dynamics-aware implicit GAN for video (ICLR 2022)."""

from digan.config import DiscriminatorConfig, GeneratorConfig
from digan.models.discriminator import Discriminator
from digan.models.generator import Generator

__all__ = ["Discriminator", "DiscriminatorConfig", "Generator", "GeneratorConfig"]
