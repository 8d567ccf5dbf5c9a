"""A metric's name is its protocol: what is measured, on how many clips of which frames."""

from __future__ import annotations

import re
from dataclasses import dataclass

from digan.errors import MetricError

KINDS = {
    "fvd": "Fréchet distance on the features of an I3D detector",
    "kvd": "kernel distance on the features of an I3D detector",
    "rfvd": "Fréchet distance on random features: comparable between runs of this project only",
}
_NAME = re.compile(r"([a-z]+)([1-9]\d*)_([1-9]\d*)f(?:_subsample([1-9]\d*)f)?")


@dataclass(frozen=True)
class Protocol:
    """`fvd2048_128f_subsample8f` taken apart: FVD on 2048 clips of 128 frames, of which every 8th is read."""

    kind: str
    count: int
    frames: int
    subsample: int = 1

    @classmethod
    def parse(cls, name: str | Protocol) -> Protocol:
        """Read a metric's name. Raises MetricError, listing the valid forms, for any other."""
        if isinstance(name, Protocol):
            return name
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in KINDS:
            forms = ", ".join(f"{kind}<clips>_<frames>f" for kind in KINDS)
            raise MetricError(
                f"metric {name!r} is not known; a metric is named {forms}, each with _subsample<step>f if wanted, "
                f"as in fvd2048_16f, kvd2048_16f, fvd2048_128f_subsample8f, rfvd256_16f"
            )
        protocol = cls(match[1], int(match[2]), int(match[3]), int(match[4] or 1))
        if protocol.count < 2:
            raise MetricError(f"metric {name!r} compares distributions; it needs at least 2 clips")
        if protocol.subsample > protocol.frames:
            raise MetricError(f"metric {name!r} takes every {protocol.subsample}th of only {protocol.frames} frames")
        return protocol

    @property
    def name(self) -> str:
        suffix = f"_subsample{self.subsample}f" if self.subsample > 1 else ""
        return f"{self.kind}{self.count}_{self.frames}f{suffix}"

    @property
    def frame_indices(self) -> range:
        """The frames of a clip that are looked at: 0, s, 2s, ..."""
        return range(0, self.frames, self.subsample)

    @property
    def needs_detector(self) -> bool:
        return self.kind != "rfvd"
