"""`digan convert`: an official snapshot, a pickle, to safetensors without executing it; a network to half precision."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from digan.cli.device_options import DTYPES
from digan.cli.options import OptionParser
from digan.errors import NetworkError
from digan.models.generator import Generator
from digan.official.snapshot import OfficialSnapshot, StoredNetwork, save_discriminators
from digan.official.unpickle import printable
from digan.tensor_files import is_tensor_file


def configure(parser: OptionParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "source",
        type=Path,
        help="network-snapshot-*.pkl of the official implementation, or a network of this project for another --dtype",
    )
    parser.add_argument("out", type=Path, help="safetensors file to write; --network of the other commands reads it")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="fp32",
        help="type of the stored weights; fp16 and bf16 halve the file [fp32]",
    )
    official = parser.add_argument_group("official snapshots")
    official.add_argument("--network", choices=("G_ema", "G"), help="generator to convert [G_ema]")
    official.add_argument(
        "--discriminators", type=Path, metavar="FILE", help="also write the discriminators to this file"
    )


def run(args: argparse.Namespace) -> int:
    """Convert a network; print what was written, and the next command."""
    _check_targets(args.source, [path for path in (args.out, args.discriminators) if path])
    if args.source.is_file() and not is_tensor_file(args.source):
        written = _convert_official(args)
    else:
        written = _convert_own(args)
    print(f"Wrote {written}.")
    print(f"Next: digan sample --network {shlex.quote(str(args.out))} --outdir samples")
    return 0


def _convert_official(args: argparse.Namespace) -> str:
    snapshot = OfficialSnapshot(args.source)
    print(describe(snapshot))
    name = args.network or "G_ema"
    generator = snapshot.generator(name)
    discriminators = snapshot.discriminators() if args.discriminators else None
    source = snapshot.provenance()
    _save(generator, args, source={"network": name, **source})
    if discriminators is None:
        return f"{name} to {args.out}"
    with _writing(args.discriminators):
        save_discriminators(discriminators, args.discriminators, source={"network": "D", **source})
    return f"{name} to {args.out} and D to {args.discriminators}"


def _convert_own(args: argparse.Namespace) -> str:
    for name in ("network", "discriminators"):
        if getattr(args, name) is not None:
            raise NetworkError(f"--{name} is for official snapshots, which {args.source} is not; leave it out.")
    generator = Generator.from_pretrained(args.source)
    _save(generator, args, **generator.metadata)
    return f"{args.out} ({args.out.stat().st_size / 1e6:,.1f} MB)"


def _save(generator: Generator, args: argparse.Namespace, **metadata: Any) -> None:
    with _writing(args.out):
        try:
            generator.save(args.out, DTYPES[args.dtype], **metadata)
        except ValueError as error:
            raise NetworkError(f"--dtype {args.dtype}: {error}; use another type.") from error


def describe(snapshot: OfficialSnapshot) -> str:
    """Return a table of the networks in a snapshot, with their parameters and sizes, and of what was left out."""
    rows = [f"{snapshot.path} ({snapshot.path.stat().st_size / 1e6:,.1f} MB), read without executing anything in it:"]
    for name in snapshot.names:
        try:
            stored = snapshot.stored(name)
        except NetworkError:
            rows.append(f"  {name:5}  cannot be read")
            continue
        side, classes = (_attribute(stored, name) for name in ("img_resolution", "c_dim"))
        labels = f"{classes} classes" if classes else "unconditional"
        size = f"{side}x{side}" if side else "of unknown size"
        rows.append(f"  {name:5}  {stored.parameters:>12,} parameters, {size}, {labels}, {printable(stored.kind)}")
    rows += [f"  left out: {name} ({count:,})" for name, count in snapshot.left_out.items()]
    return "\n".join(rows)


def _attribute(network: StoredNetwork, name: str) -> int | None:
    """Return an integer attribute of a generator or of the image discriminator."""
    values = (network.attributes.get(prefix + name) for prefix in ("", "imageD."))
    return next((value for value in values if isinstance(value, int)), None)


def _check_targets(source: Path, targets: list[Path]) -> None:
    """Check the output paths before the large file is read."""
    for target in targets:
        if target.is_dir():
            raise NetworkError(f"{target} is a folder: name the safetensors file to write.")
        if target.resolve() == source.resolve():
            raise NetworkError(f"{target} is the snapshot itself: name another file to write.")
    if len({target.resolve() for target in targets}) < len(targets):
        raise NetworkError(f"--discriminators {targets[-1]} is also the generator's file: name another one.")


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NetworkError(f"{target} cannot be written ({error}): name a file in a writable folder.") from error
