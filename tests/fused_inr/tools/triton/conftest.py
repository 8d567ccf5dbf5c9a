"""Tests of tools that import Triton; nothing is collected here without it."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]
