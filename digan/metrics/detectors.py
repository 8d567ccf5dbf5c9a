"""TorchScript detectors that users provide: I3D for FVD and KVD, C3D for inception scores, Inception-v3 for FID."""

from __future__ import annotations

import functools
import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from digan.errors import MetricError, memory_sign
from digan.metrics.distances import frechet_distance
from digan.metrics.precision import full_precision
from digan.metrics.protocol import MetricProtocol

_IMAGES = 64  # frames in one call of an image detector


@dataclass(frozen=True)
class DetectorKind:
    """The calling convention of a kind of detector file, and its outputs.

    Attributes:
        title: name of the published file, for messages.
        dim: number of outputs per clip, or per frame.
        meaning: what the outputs are.
        images: True if it takes single frames [n, 3, H, W], False for clips [n, 3, T, H, W].
        dtype: type of its inputs, whose values are 0..255.
        options: keyword arguments of the call, each set to True.
        sha256: digests of the files behind published values, if known.
    """

    title: str
    dim: int
    meaning: str
    images: bool = False
    dtype: torch.dtype = torch.uint8
    options: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()


# The digests are those of i3d_torchscript.pt (51,235,320 bytes), which StyleGAN-V's evaluation fetches, and of
# inception-2015-12-05.pt (95,607,719 bytes), which StyleGAN2-ADA's does. That of StyleGAN-V's c3d_ucf101.pt is unknown.
DETECTORS = {
    "i3d": DetectorKind(
        "I3D of StyleGAN-V",
        400,
        "logits of Kinetics-400",
        dtype=torch.float32,
        options=("rescale", "resize", "return_features"),
        sha256=("bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",),
    ),
    "c3d": DetectorKind("C3D of StyleGAN-V, fine-tuned on UCF-101", 101, "classes of UCF-101"),
    "inception": DetectorKind(
        "Inception-v3 of StyleGAN2-ADA",
        2048,
        "pooled features",
        images=True,
        options=("return_features",),
        sha256=("f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",),
    ),
}


class Detector:
    """A detector file of one kind, called as the project that published it does.

    The TorchScript module takes values in 0..255 and does its own scaling and resizing:
    - i3d: `module(x, rescale=True, resize=True, return_features=True)`, x float32 [N, 3, T, H, W] -> logits [N, 400];
    - c3d: `module(x)`, x uint8 [N, 3, T, H, W] -> [N, 101]. If the outputs for the test clip are distributions, outputs
      are used as they are; otherwise they are logits, and a softmax is applied;
    - inception: `module(x, return_features=True)`, x uint8 [n, 3, H, W], n frames -> [n, 2048].
    Loading runs the module on one black test clip, so that a wrong file is found before any training.

    If the published file is known, another one is used with a warning: its values cannot be compared with published
    ones.

    Args:
        path: the file.
        device: where the module runs.
        kind: a key of `DETECTORS`.
        sha256: the file's required digest in hexadecimal, or at least its first 8 digits; checked before any of the
            file is executed.

    Raises:
        MetricError: the path does not exist, the file is not TorchScript (a saved HTML page, a state dict) or has
            another kind or digest, or the module has another signature or output.
    """

    def __init__(
        self, path: str | Path, device: torch.device | str = "cpu", kind: str = "i3d", sha256: str | None = None
    ) -> None:
        if kind not in DETECTORS:
            raise MetricError(f"detector kind {kind!r} is not one of {', '.join(DETECTORS)}")
        self.kind, self._path, self._device = kind, Path(path), torch.device(device)
        self._about = DETECTORS[kind]
        self.dim, self.per_frame = self._about.dim, self._about.images
        _check_file(str(path), self._path, self._about)
        self.sha256 = hashlib.sha256(self._path.read_bytes()).hexdigest()
        self.name = f"{kind}-{self.sha256[:12]}"
        self._check_digest(sha256)
        self._module = _load_script(self._path, self._device, self._about)
        self._logits = False
        probe = self(torch.zeros(1, 16, 3, 64, 64, dtype=torch.uint8))
        self._logits = kind == "c3d" and not _are_distributions(probe)
        if self._about.sha256 and sha256 is None and self.sha256 not in self._about.sha256:
            warnings.warn(
                f"--detector {path} is not the published {self._about.title} (its SHA-256 is {self.sha256}): compare "
                f"its values with others of the same file only",
                stacklevel=2,
            )

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """Return the features of clips uint8 [N, T, 3, H, W] from any device.

        Returns:
            float32 on the detector's device: [N, dim], or [N, T, dim] for a detector of single frames.
        """
        clips = clips.to(self._device)
        if self._about.images:
            parts = [self._run(frames, clips) for frames in clips.flatten(0, 1).split(_IMAGES)]  # each [n, dim]
            return torch.cat(parts).view(*clips.shape[:2], self.dim)
        features = self._run(clips.transpose(1, 2).contiguous(), clips)
        return features.softmax(1) if self._logits else features

    def _run(self, x: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
        about, unit = self._about, "frames" if self._about.images else "clips"
        try:
            with full_precision(self._device):
                features = self._module(x.to(about.dtype), **dict.fromkeys(about.options, True))
        except RuntimeError as error:
            if memory_sign(error):
                raise
            reason = str(error).strip().splitlines()[-1]
            called = f"with {_listed(about.options)}" if about.options else "without options"
            raise MetricError(
                f"--detector {self._path} failed on clips of {clips.shape[1]} frames of {clips.shape[4]}x"
                f"{clips.shape[3]}; it must be the TorchScript {about.title}, called {called} ({reason})"
            ) from error
        shape = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        if shape != [len(x), self.dim]:
            raise MetricError(
                f"--detector {self._path} returned {shape} for {len(x)} {unit} instead of [{len(x)}, {self.dim}]; it "
                f"must be the TorchScript {about.title} with the {self.dim} {about.meaning}"
            )
        return features.float()

    def _check_digest(self, expected: str | None) -> None:
        if expected is not None:
            if not re.fullmatch(r"[0-9a-f]{8,64}", expected.lower()):
                raise MetricError(f"the SHA-256 {expected!r} is not 8 to 64 hexadecimal digits")
            if not self.sha256.startswith(expected.lower()):
                raise MetricError(
                    f"--detector {self._path} has SHA-256 {self.sha256}, not {expected}; fetch the file again"
                )
            return
        for kind, about in DETECTORS.items():
            if self.sha256 in about.sha256 and kind != self.kind:
                raise MetricError(
                    f"--detector {self._path} is the {about.title}, not the {self._about.title}; name its kind with "
                    f"--detector {kind}=FILE"
                )


# Cached because a training run computes several metrics with the same files at every snapshot.
load_detector = functools.lru_cache(maxsize=len(DETECTORS))(Detector)


def detector_files(values: Iterable[str | Path], protocols: Sequence[MetricProtocol]) -> dict[str, str]:
    """Parse the values of `--detector` to {kind: path}, with every kind that the protocols need.

    Args:
        values: each is FILE (if the protocols need only one kind), KIND=FILE, or several KIND=FILE joined by commas.
        protocols: the metrics to compute.

    Raises:
        MetricError: a file's kind is ambiguous, a kind has two files, or a kind has none.
    """
    needed = {p.detector: p for p in reversed(protocols) if p.detector is not None}
    named, bare = _named_files(values)
    open_kinds = [kind for kind in needed if kind not in named]
    if bare and needed and (len(bare) > 1 or len(open_kinds) != 1):
        uses = " and ".join(f"{p.name} needs {kind}" for kind, p in reversed(needed.items()))
        raise MetricError(f"--detector {bare[0]}: say what it is with --detector KIND=FILE, since {uses}")
    if bare and open_kinds:
        named[open_kinds.pop()] = bare[0]
    if open_kinds:
        raise missing_detector(needed[open_kinds[-1]])
    return named


def missing_detector(protocol: MetricProtocol) -> MetricError:
    """Return the error for a protocol whose detector file was not given."""
    kind = DETECTORS[protocol.detector]
    return MetricError(
        f"{protocol.name} needs the TorchScript {kind.title}: give it with --detector {protocol.detector}=FILE, or use "
        f"rfvd{protocol.count}_{protocol.frames}f, which needs no file"
    )


def check_i3d(detector: Detector) -> float:
    """Check an I3D detector by the Fréchet distance between 8 black and 8 white clips of 30 frames of 64x64 pixels.

    Returns:
        The distance, which is 151.256 for the right I3D.

    Raises:
        MetricError: the distance is more than 0.5 % off; known versions of PyTorch differ by 0.06 %.
    """
    # Eight equal clips have the features of one.
    black, white = (torch.full((1, 30, 3, 64, 64), value, dtype=torch.uint8) for value in (0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the few samples, which do not matter here
        value = frechet_distance(*(detector(clips).expand(8, -1) for clips in (black, white)))
    if abs(value - I3D_CHECK) > 0.005 * I3D_CHECK:
        raise MetricError(
            f"the detector {detector.name} puts black and white clips {value:.3f} apart instead of {I3D_CHECK}; it is "
            f"not the TorchScript I3D of StyleGAN-V"
        )
    return value


I3D_CHECK = 151.256


def _named_files(values: Iterable[str | Path]) -> tuple[dict[str, str], list[str]]:
    """Return {kind: path} of the values that name a kind, and the list of the others."""
    kinds = "|".join(DETECTORS)
    named: dict[str, str] = {}
    bare: list[str] = []
    for value in values:
        for part in re.split(rf",(?=(?:{kinds})=)", str(value)):
            match = re.fullmatch(rf"({kinds})=(.+)", part)
            if match is None:
                bare.append(part)
            elif named.setdefault(match[1], match[2]) != match[2]:
                raise MetricError(
                    f"--detector {part}: {match[1]} already has {named[match[1]]}; give one file per kind"
                )
    return named, bare


def _are_distributions(rows: torch.Tensor) -> bool:
    return bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < 1e-3).all())


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _check_file(argument: str, path: Path, about: DetectorKind) -> None:
    if "://" in argument:
        raise MetricError(f"--detector {argument} is an address; download the file and give its path")
    if not path.is_file():
        raise MetricError(f"--detector {argument} does not exist; give the path of the TorchScript {about.title}")
    with path.open("rb") as file:
        head = file.read(512).lstrip()
    if head[:1] == b"<":
        raise MetricError(
            f"--detector {argument} is a web page, which file hosts send when they refuse a download; "
            f"fetch the file again with a browser"
        )


def _load_script(path: Path, device: torch.device, about: DetectorKind) -> torch.jit.ScriptModule:
    try:
        with warnings.catch_warnings():
            # PyTorch deprecates TorchScript, but the published detectors are in this format.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        if memory_sign(error):
            raise
        raise MetricError(
            f"--detector {path} is not a TorchScript file ({path.stat().st_size:,} bytes); a state dict or a cut-off "
            f"download will not do, give the TorchScript {about.title}"
        ) from error
