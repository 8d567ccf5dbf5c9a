"""Feature extractors: clips in, one feature vector per clip out.

An extractor has a `name`, which goes into results and cache keys, a number of features `dim`, and maps uint8 clips
[N,T,3,H,W] to float32 [N,dim].
"""

from __future__ import annotations

import math
from typing import Protocol as Interface

import torch
import torch.nn.functional as F

from digan.metrics.precision import full_precision


class Extractor(Interface):
    """What the metrics ask of a feature extractor.

    One that looks at single frames has besides an attribute `per_frame`, which is True, and returns [N,T,dim].
    """

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
        with full_precision(device):
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
