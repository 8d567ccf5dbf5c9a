"""`digan convert`: convert an official snapshot, a pickle file, to safetensors without executing anything in it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from digan.cli.options import OptionParser
from digan.errors import NetworkError
from digan.official.snapshot import OfficialSnapshot, StoredNetwork, save_discriminators
from digan.official.unpickle import printable


def configure(parser: OptionParser) -> None:
    """Add the options of the command."""
    parser.add_argument("official", type=Path, help="network-snapshot-*.pkl of the official implementation")
    parser.add_argument("out", type=Path, help="safetensors file to write; --network of the other commands reads it")
    parser.add_argument("--network", choices=("G_ema", "G"), default="G_ema", help="generator to convert [%(default)s]")
    parser.add_argument(
        "--discriminators", type=Path, metavar="FILE", help="also write the discriminators to this file"
    )


def run(args: argparse.Namespace) -> int:
    """Convert a snapshot; print its content, the files written, and the next command."""
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
    print(f"Next: digan sample --network {shlex.quote(str(args.out))} --outdir samples")
    return 0


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
