"""`digan convert`: an official snapshot (a pickle) to safetensors. Nothing in the file is executed."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from digan.config import DiscriminatorConfig
from digan.errors import NetworkError
from digan.files import atomic_path
from digan.inert_pickle import shown
from digan.models.discriminator import Discriminator
from digan.official_snapshot import DISCRIMINATORS, OfficialSnapshot, StoredNetwork, filled


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("official", type=Path, help="network-snapshot-*.pkl of the official implementation")
    parser.add_argument("out", type=Path, help="the safetensors file to write, for --network of the other commands")
    parser.add_argument("--network", choices=("G_ema", "G"), default="G_ema", help="which generator [%(default)s]")
    parser.add_argument("--discriminators", type=Path, metavar="FILE", help="write the discriminators to this file too")


def run(args: argparse.Namespace) -> int:
    """Convert; prints what was found, what was written, and the next command."""
    _check_targets(args.official, [path for path in (args.out, args.discriminators) if path])
    snapshot = OfficialSnapshot(args.official)
    print(describe(snapshot))
    generator = snapshot.generator(args.network)
    discriminators = snapshot.discriminators() if args.discriminators else None
    source = snapshot.provenance()
    with _writing(args.out):
        generator.save(args.out, source={"network": args.network, **source})
    written = [f"{args.network} to {args.out}"]
    if discriminators:
        with _writing(args.discriminators):
            save_discriminators(discriminators, args.discriminators, source={"network": "D", **source})
        written.append(f"D to {args.discriminators}")
    print(f"Wrote {' and '.join(written)}.")
    print(f"Next: digan sample --network {args.out} --outdir samples")
    return 0


def describe(snapshot: OfficialSnapshot) -> str:
    """A table of what a snapshot holds: networks, their parameters and sizes, and what was left out."""
    rows = [f"{snapshot.path} ({snapshot.path.stat().st_size / 1e6:,.1f} MB), read without executing anything of it:"]
    for name in snapshot.names:
        try:
            stored = snapshot.stored(name)
        except NetworkError:
            rows.append(f"  {name:5}  cannot be read")
            continue
        size, classes = (_attribute(stored, name) for name in ("img_resolution", "c_dim"))
        labels = f"{classes} classes" if classes else "unconditional"
        size = f"{size}x{size}" if size else "of unknown size"
        rows.append(f"  {name:5}  {stored.parameters:>12,} parameters, {size}, {labels}, {shown(stored.kind)}")
    rows += [f"  left out: {name} ({count:,})" for name, count in snapshot.left_out.items()]
    return "\n".join(rows)


def _attribute(network: StoredNetwork, name: str) -> int | None:
    """An integer of a generator, or of the image discriminator."""
    values = (network.attributes.get(prefix + name) for prefix in ("", "imageD."))
    return next((value for value in values if isinstance(value, int)), None)


def save_discriminators(networks: dict[str, Discriminator], path: str | os.PathLike[str], **metadata: Any) -> None:
    """Write d_image and d_motion, which have one configuration, to a safetensors file, whole or not at all."""
    header = {"config": asdict(networks["d_image"].config), **metadata}
    tensors = {
        f"{name}.{key}": tensor.contiguous()
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
    }
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata={key: json.dumps(value) for key, value in header.items()})


def load_discriminators(path: str | os.PathLike[str]) -> dict[str, Discriminator]:
    """Read what ``save_discriminators`` wrote: d_image and d_motion, on the CPU in evaluation mode.

    Raises:
        NetworkError: the file is something else.
    """
    try:
        with safe_open(path, framework="pt") as reader:
            config = DiscriminatorConfig(**json.loads((reader.metadata() or {})["config"]))
            tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118 (not a mapping)
        networks = {}
        for name, channels in DISCRIMINATORS.items():
            state = {key.removeprefix(f"{name}."): x for key, x in tensors.items() if key.startswith(f"{name}.")}
            networks[name] = filled(lambda channels=channels: Discriminator(config, channels), state)
        return networks
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise NetworkError(
            f"{path} holds no discriminators: give a file that `digan convert --discriminators` wrote."
        ) from error


def _check_targets(source: Path, targets: list[Path]) -> None:
    """What can be known before a large file is read."""
    for target in targets:
        if target.is_dir():
            raise NetworkError(f"{target} is a folder: name the safetensors file to write.")
        if target.resolve() == source.resolve():
            raise NetworkError(f"{target} is the snapshot itself: name another file to write.")
    if len({target.resolve() for target in targets}) < len(targets):
        raise NetworkError(f"--discriminators {targets[-1]} is the generator's file too: name another one.")


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise NetworkError(f"{target} cannot be written ({error}): name a file in a folder that can.") from error
