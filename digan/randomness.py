"""Random numbers as a function of (seed, iteration, phase), so that resumed and distributed runs draw the same ones."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Phase(IntEnum):
    """Purpose of a stream of random numbers. Each phase of an iteration draws fresh latents and augmentations."""

    GENERATOR = 0
    PATH_LENGTH = 1
    DISCRIMINATOR = 2
    R1 = 3
    SAMPLE = 4


def stream(seed: int, iteration: int, phase: Phase) -> torch.Generator:
    """Return a CPU generator whose state depends only on the arguments."""
    state = np.random.SeedSequence([seed, iteration, int(phase)]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
