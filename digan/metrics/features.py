"""Feature extractors: clips in, one feature vector per clip out.

An extractor has a `name`, which goes into results and cache keys, a number of features `dim`, and maps uint8 clips
[N,T,3,H,W] to float32 [N,dim].
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol as Interface

import torch
import torch.nn.functional as F

from digan.errors import MetricError


class Extractor(Interface):
    """What the metrics ask of a feature extractor."""

    name: str
    dim: int

    def __call__(self, clips: torch.Tensor) -> torch.Tensor: ...


class RandomFeatures:
    """A fixed random 3-D convolutional network: features that need no download.

    Distances on them are comparable between runs of this project only; `name` changes whenever the numbers do. Clips
    of any size are first resized to 64x64, so that resolutions can be compared. The network sees appearance and motion
    apart: half of the first layer's filters read the frames, the other half the differences of successive frames,
    which move less. Most filters of the first layer have no mean, as natural images would otherwise drown detail
    (blur, noise) in brightness. Each layer is read out as three statistics per channel: the mean, and the logarithms of
    the standard deviations over space (of the mean frame) and over time (of each place). The logarithm weighs relative
    changes alike, whether a channel's contrast is large or small. These statistics see blur, noise, missing variety and
    frozen, shuffled or slowed frames, but hardly time reversal or misplaced parts.

    `dim` is 216, below the 256 clips of the usual protocol, so that covariances are regular.
    """

    name = "random3d-v1"
    _SIZE = 64
    _WIDTHS = (16, 24, 32)
    dim = 3 * sum(_WIDTHS)
    _MOTION_GAIN = 4.0  # frame differences are several times smaller than frames
    _LOG_FLOOR = 0.02  # below this standard deviation (inputs span [-1, 1]) a channel counts as constant

    def __init__(self, device: torch.device | str = "cpu") -> None:
        # A CPU generator in float32, so that every device and process gets the same weights.
        generator = torch.Generator().manual_seed(0)
        self._weights = []
        channels = 6
        for index, width in enumerate(self._WIDTHS):
            weight = torch.randn(width, channels, 3, 3, 3, generator=generator)
            if index == 0:
                weight = _split_appearance_and_motion(weight)
            norm = weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
            self._weights.append((weight * (math.sqrt(2) / norm)).to(device))
            channels = width

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 [N,T,3,H,W] on any device, T >= 1 -> float32 [N,216] on the network's device."""
        device = self._weights[0].device
        with _full_precision(device):
            x = self._inputs(clips.to(device))
            statistics = []
            for index, weight in enumerate(self._weights):
                stride = (1 if index == 0 else 2, 2, 2)
                x = F.leaky_relu(F.conv3d(x, weight, stride=stride, padding=1), 0.2)  # [N,C,T',H',W']
                mean = x.flatten(2).mean(2)  # [N,C]
                still = x.mean(2)  # [N,C,H',W']
                over_space = (still - mean[..., None, None]).square().flatten(2).mean(2).sqrt()  # [N,C]
                over_time = (x - still.unsqueeze(2)).square().flatten(2).mean(2).sqrt()  # [N,C]
                statistics.append(mean)
                statistics += [torch.log(deviation + self._LOG_FLOOR) for deviation in (over_space, over_time)]
            return torch.cat(statistics, 1)

    def _inputs(self, clips: torch.Tensor) -> torch.Tensor:
        """Frames in [-1, 1] and their amplified differences, the first one zero: [N,6,T,64,64]."""
        count, times = clips.shape[:2]
        frames = clips.flatten(0, 1).float() / 127.5 - 1  # [N*T,3,H,W]
        if max(frames.shape[2:]) > self._SIZE:
            frames = F.interpolate(frames, size=(self._SIZE, self._SIZE), mode="area")
        else:
            frames = F.interpolate(frames, size=(self._SIZE, self._SIZE), mode="bilinear", align_corners=False)
        frames = frames.view(count, times, 3, self._SIZE, self._SIZE).transpose(1, 2)  # [N,3,T,64,64]
        motion = torch.zeros_like(frames)
        motion[:, :, 1:] = (frames[:, :, 1:] - frames[:, :, :-1]) * self._MOTION_GAIN
        return torch.cat([frames, motion], 1)


def _split_appearance_and_motion(weight: torch.Tensor) -> torch.Tensor:
    """First-layer weight [O,6,3,3,3]: the first half reads the frames, three quarters of it without a mean; the second
    half reads the differences."""
    appearance = weight.shape[0] // 2
    weight = weight.clone()
    weight[:appearance, 3:] = 0
    weight[appearance:, :3] = 0
    high_pass = weight[: appearance * 3 // 4]
    high_pass[:, :3] -= high_pass[:, :3].mean((2, 3, 4), keepdim=True)
    return weight


class Detector:
    """The user's I3D file: 400 logits of Kinetics-400, in the convention of StyleGAN-V.

    The TorchScript module is called as `module(x, rescale=True, resize=True, return_features=True)` with x float32
    [N,3,T,H,W] in 0..255; it scales to [-1, 1] and resizes to 224 itself. It is tried on one black clip when it is
    loaded, so that a wrong file is found before anything is trained.

    Raises MetricError, in one sentence, for a path that does not exist, a file that is not TorchScript (a saved HTML
    page, a state dict), and a module with another signature or output.
    """

    dim = 400

    def __init__(self, path: str | Path, device: torch.device | str = "cpu") -> None:
        self._path, self._device = Path(path), torch.device(device)
        self._module = _load_script(str(path), self._path, self._device)
        digest = hashlib.sha256(self._path.read_bytes()).hexdigest()
        self.name = f"detector-{digest[:12]}"
        self(torch.zeros(1, 16, 3, 64, 64, dtype=torch.uint8))

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 [N,T,3,H,W] on any device -> float32 [N,400] on the detector's device."""
        x = clips.to(self._device).transpose(1, 2).float()  # [N,3,T,H,W]
        try:
            with _full_precision(self._device):
                features = self._module(x, rescale=True, resize=True, return_features=True)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise MetricError(
                f"--detector {self._path} failed on clips of {clips.shape[1]} frames of {clips.shape[4]}x"
                f"{clips.shape[3]}; it must be the TorchScript I3D of StyleGAN-V, called with rescale, resize and "
                f"return_features ({reason})"
            ) from error
        shape = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        if shape != [len(clips), self.dim]:
            raise MetricError(
                f"--detector {self._path} returned {shape} for {len(clips)} clips instead of [{len(clips)}, "
                f"{self.dim}]; it must be the TorchScript I3D of StyleGAN-V with the 400 logits of Kinetics-400"
            )
        return features.float()


def _load_script(given: str, path: Path, device: torch.device) -> torch.jit.ScriptModule:
    if "://" in given:
        raise MetricError(f"--detector {given} is an address; download the file and give its path")
    if not path.is_file():
        raise MetricError(f"--detector {given} does not exist; give the path of the TorchScript I3D file")
    with path.open("rb") as file:
        head = file.read(512).lstrip()
    if head[:1] == b"<":
        raise MetricError(
            f"--detector {given} is a web page saved under that name, as file hosts send when they refuse a download; "
            f"fetch the file again with a browser"
        )
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated in torch, but it is the format in which the field shares its detector.
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        raise MetricError(
            f"--detector {given} is not a TorchScript file ({path.stat().st_size:,} bytes); a state dict or a cut-off "
            f"download will not do, give the TorchScript I3D file"
        ) from error


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Float32 throughout, without autocast, TF32 or autotuned algorithms: one number for one set of clips."""
    cudnn = torch.backends.cudnn
    # Per operator, since reading the older `allow_tf32` raises once a caller has set precisions one by one.
    convolutions = (cudnn.conv, torch.backends.mkldnn.conv)
    before = cudnn.benchmark, cudnn.deterministic, [conv.fp32_precision for conv in convolutions]
    try:
        cudnn.benchmark, cudnn.deterministic = False, True
        for conv in convolutions:
            conv.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before[:2]
        for conv, precision in zip(convolutions, before[2], strict=True):
            conv.fp32_precision = precision
