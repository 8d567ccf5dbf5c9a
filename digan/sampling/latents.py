"""Latents determined by a seed or read from a file, and the times of a clip's frames."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from digan.errors import LatentsError
from digan.files import parse_json
from digan.models.generator import Generator
from digan.randomness import Phase, stream
from digan.tensor_files import LATENTS, read_tensors, write_tensors
from digan.wording import reason


@dataclass(frozen=True)
class Latents:
    """One clip in the latent space of a generator.

    Args:
        w: the w slots, float32 [num_slots, w_dim].
        z_motion: the motion vector, float32 [z_dim].
        times: times of the clip's frames, float32 [T].
        label: its class; None for an unconditional generator.
    """

    w: Tensor
    z_motion: Tensor
    times: Tensor
    label: int | None = None


def write_latents(path: str | os.PathLike[str], latents: Latents, network_sha256: str, **metadata: Any) -> None:
    """Write a clip's latents to a safetensors file, atomically.

    The file holds the tensors `w` [num_slots, w_dim], `z_motion` [z_dim] and `times` [T], all float32, and, for a
    conditional generator, `label`, int64 []. Its metadata holds JSON values: `format`, "digan-latents-1";
    `network_sha256`, the SHA-256 of the network file; `metadata`; and a checksum, which `read_latents` compares.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {"w": latents.w, "z_motion": latents.z_motion, "times": latents.times}
    tensors = {name: tensor.float().cpu() for name, tensor in tensors.items()}
    if latents.label is not None:
        tensors["label"] = torch.tensor(latents.label)
    header = {"format": LATENTS, "network_sha256": network_sha256, **metadata}
    write_tensors(path, tensors, {name: json.dumps(value) for name, value in header.items()})


def read_latents(path: str | os.PathLike[str], g: Generator, network_sha256: str | None = None) -> Latents:
    """Read a clip's latents for a generator, on the CPU.

    Args:
        path: a file of `write_latents`.
        g: the generator that they are for.
        network_sha256: the SHA-256 of the generator's file. Latents of another file that fit are accepted with a
            warning, since those of a network stay useful for its later snapshots.

    Raises:
        LatentsError: the file cannot be read, holds no latents, holds values that are not finite, or is from a
            generator of other sizes or classes; the message names the file and the remedy.
    """
    latents, metadata = load_latents(path)
    _check_sizes(path, g, latents)
    if network_sha256 is not None and metadata.get("network_sha256") != network_sha256:
        warnings.warn(
            f"{Path(path).name} was made with another network file than this one, so its clip may look different",
            stacklevel=2,
        )
    return latents


def load_latents(path: str | os.PathLike[str]) -> tuple[Latents, dict[str, Any]]:
    """Read a clip's latents, which may fit no generator, on the CPU, and the metadata of `write_latents`.

    Raises:
        LatentsError: as of `read_latents`, apart from what depends on the generator.
    """
    try:
        tensors, header = read_tensors(path)
        metadata = {name: parse_json(text) for name, text in header.items()}
        if metadata.get("format") != LATENTS:
            raise ValueError(f"its format is not {LATENTS}")
        w, z_motion, times = (tensors[name] for name in ("w", "z_motion", "times"))
        label = int(tensors["label"].item()) if "label" in tensors else None
    except KeyError as error:
        raise _not_latents(path, f"it lacks the tensor {error.args[0]}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_latents(path, reason(error)) from None
    for name, tensor, dims in (
        ("w", w, ("num_slots", "w_dim")),
        ("z_motion", z_motion, ("z_dim",)),
        ("times", times, "T"),
    ):
        if tensor.ndim != len(dims) or not tensor.numel():
            raise _not_latents(path, f"its {name} is {list(tensor.shape)} and not [{', '.join(dims)}]")
        if not tensor.isfinite().all():
            raise LatentsError(f"{path} holds values of {name} that are not finite: invert the video again.")
    return Latents(w.float(), z_motion.float(), times.float(), label), metadata


def are_latents(path: str | os.PathLike[str]) -> bool:
    """Return whether a safetensors file says that it is one of `write_latents`."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == json.dumps(LATENTS)
    except SafetensorError:
        return False


def _check_sizes(path: str | os.PathLike[str], g: Generator, latents: Latents) -> None:
    """Raise `LatentsError` if latents do not fit a generator."""
    w, z_motion, label = latents.w, latents.z_motion, latents.label
    expected, remedy = [g.num_slots, g.config.w_dim], "give the network that it was made with"
    if list(w.shape) != expected:
        sizes = "{} slots of width {}".format
        raise LatentsError(f"{path} holds {sizes(*w.shape)}, but this network has {sizes(*expected)}: {remedy}.")
    if list(z_motion.shape) != [g.config.z_dim]:
        raise LatentsError(
            f"{path} holds a motion vector of {list(z_motion.shape)}, but that of this network is [{g.config.z_dim}]: "
            f"{remedy}."
        )
    if (label is None) != (g.config.num_classes == 0) or not 0 <= (label or 0) < max(g.config.num_classes, 1):
        classes = f"{g.config.num_classes} classes" if g.config.num_classes else "no classes"
        found = "no class" if label is None else f"class {label}"
        raise LatentsError(f"{path} is a clip of {found}, but this network has {classes}: {remedy}.")


def _not_latents(path: str | os.PathLike[str], why: str) -> LatentsError:
    return LatentsError(
        f"{path} holds no latents of a clip, or is damaged ({why}); give a latents.safetensors of digan invert."
    )


def seeded_latents(z_dim: int, seed: int, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the content and motion vectors of samples `indices`; sample i depends on (seed, i) alone.

    Returns:
        (z_content, z_motion), each float32 [N, z_dim], standard normal, on the CPU.
    """
    rows = [torch.randn(2, z_dim, generator=stream(seed, i, Phase.SAMPLE)) for i in indices]
    z = torch.stack(rows) if rows else torch.empty(0, 2, z_dim)  # [N,2,z_dim]
    return z[:, 0], z[:, 1]


def clip_times(frames: int, t0: float = 0.0, t1: float = 1.0) -> torch.Tensor:
    """Return a clip's frame times, float32 [frames]: evenly spaced from t0 to t1, or t0 for a single frame."""
    return torch.linspace(t0, t1, frames)


def paced_times(frames: int, span: int) -> torch.Tensor:
    """Return times 0, 1/(span-1), ... of `frames` frames at the pace of training clips of `span` frames.

    Generated clips of any length then move as fast as real ones of that length; frames past `span` extrapolate.

    Returns:
        float32 [frames].
    """
    return torch.arange(frames) / max(span - 1, 1)
