"""Everything that is declared stands in pyproject.toml; this file is for what has to be computed at build time."""

from setuptools import setup

setup()
