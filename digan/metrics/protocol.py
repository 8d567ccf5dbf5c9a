"""Parsing metric names. A name is a protocol: the measure, the number of clips, and the frames it reads of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from digan.errors import MetricError


@dataclass(frozen=True)
class Kind:
    """A measure, named by a metric's first letters.

    Attributes:
        description: one line for help texts.
        detector: the detector that computes its features, a key of `digan.metrics.detectors.DETECTORS`; None if it
            needs no file.
        needs_reals: True if it compares two sets, False if it scores the fakes alone.
        count: number of clips if the name gives none; None if the name must give it.
        frames: number of frames, likewise.
        better: "smaller" or "larger", the direction in which values improve.
    """

    description: str
    detector: str | None
    needs_reals: bool = True
    count: int | None = None
    frames: int | None = None
    better: str = "smaller"


KINDS = {
    "fvd": Kind("Fréchet distance on the features of an I3D detector", "i3d"),
    "kvd": Kind("kernel distance on the features of an I3D detector", "i3d"),
    "isv": Kind("inception score of the class probabilities of a C3D detector", "c3d", False, 2048, 16, "larger"),
    "fid": Kind("Fréchet distance of single frames on the features of an Inception-v3", "inception", True, 2048, 16),
    "rfvd": Kind("Fréchet distance on random features: comparable between runs of this project only", None),
}
_NAME = re.compile(r"([a-z]+)([1-9]\d*)?(?:_([1-9]\d*)f(?:_subsample([1-9]\d*)f)?)?")


@dataclass(frozen=True)
class MetricProtocol:
    """A parsed metric name: `fvd2048_128f_subsample8f` is FVD on 2048 clips of 128 frames, reading every 8th frame.

    `isv2048` is an inception score of 2048 clips of 16 frames, `fid` a distance between all frames of 2048 clips of 16
    frames; other counts and lengths are part of the name, as in isv10000 and fid512_32f.
    """

    kind: str
    count: int
    frames: int
    subsample: int = 1

    @classmethod
    def parse(cls, name: str | MetricProtocol) -> MetricProtocol:
        """Parse a metric's name.

        Raises:
            MetricError: the name is not valid; the message lists the valid forms.
        """
        if isinstance(name, MetricProtocol):
            return name
        match = _NAME.fullmatch(name)
        kind = KINDS.get(match[1]) if match else None
        count, frames = (int(match[2] or kind.count or 0), int(match[3] or kind.frames or 0)) if kind else (0, 0)
        if not (count and frames):
            forms = ", ".join(f"{key}<clips>" + ("_<frames>f" if not k.frames else "") for key, k in KINDS.items())
            raise MetricError(
                f"metric {name!r} is not known; a metric is named {forms}, optionally with _<frames>f_subsample<step>f,"
                f" as in fvd2048_16f, kvd2048_16f, fvd2048_128f_subsample8f, isv2048, fid2048, rfvd256_16f"
            )
        protocol = cls(match[1], count, frames, int(match[4] or 1))
        if protocol.count < 2:
            raise MetricError(f"metric {name!r} compares distributions; it needs at least 2 clips")
        if protocol.subsample > protocol.frames:
            raise MetricError(f"metric {name!r} takes every {protocol.subsample}th of only {protocol.frames} frames")
        return protocol

    @property
    def name(self) -> str:
        """The canonical name, without frames if they are the kind's default."""
        subsample = f"_subsample{self.subsample}f" if self.subsample > 1 else ""
        implied = self.frames == KINDS[self.kind].frames and not subsample
        return f"{self.kind}{self.count}" + ("" if implied else f"_{self.frames}f{subsample}")

    @property
    def frame_indices(self) -> range:
        """The frames of a clip that the metric reads: 0, s, 2s, ..."""
        return range(0, self.frames, self.subsample)

    @property
    def detector(self) -> str | None:
        """The kind of detector file that the metric needs: "i3d", "c3d", "inception" or None."""
        return KINDS[self.kind].detector

    @property
    def needs_detector(self) -> bool:
        """Whether the metric needs a detector file."""
        return self.detector is not None

    @property
    def better(self) -> str:
        """The direction in which values improve, "smaller" or "larger"."""
        return KINDS[self.kind].better

    @property
    def needs_reals(self) -> bool:
        """Whether the metric compares with real clips, rather than scoring the fakes alone."""
        return KINDS[self.kind].needs_reals
