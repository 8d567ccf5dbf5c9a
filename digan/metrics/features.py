"""Feature extractors, which map clips to feature vectors, and the random features of rfvd.

An extractor has a `name`, which is part of results and cache keys, and a number of features `dim`. It maps uint8 clips
[N, T, 3, H, W] to float32 [N, dim].
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F

from digan.metrics.precision import full_precision


class Extractor(Protocol):
    """Interface of a feature extractor.

    An extractor of single frames also has an attribute `per_frame` that is True, and returns [N, T, dim].
    """

    name: str
    dim: int

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """Return the features of clips."""
        ...


class RandomFeatures:
    """Features that need no download: a fixed random 3-D network, and statistics of fixed random filters.

    Distances on them are comparable between runs of this project only; `name` changes whenever the values do. Clips
    of any size are first resized to 64x64 pixels, so that resolutions can be compared.

    108 features come from the network, which separates appearance and motion: half of the first layer's filters read
    the frames, the other half the differences between successive frames, which are smaller and therefore amplified.
    Most of the appearance filters have zero mean, since brightness would otherwise dominate detail in natural images.
    Each layer gives three statistics per channel: the mean, and the logarithms of the standard deviations over space
    (of the mean frame) and over time (at each position). The logarithm gives equal weight to relative changes, whether
    a channel's contrast is large or small. 36 features are statistics of small filters (`_filter_statistics`) that vary
    little between real clips but respond strongly to typical faults of generated ones, in sharpness, steadiness and
    direction of change.

    `dim` is 144, well below the 256 clips of the usual protocol, so that covariances are regular.
    """

    name = "random3d-v2"
    _SIZE = 64
    _WIDTHS = (8, 12, 16)
    _PAIRS = 12  # of filters
    dim = 3 * sum(_WIDTHS) + 3 * _PAIRS
    _MOTION_GAIN = 4.0  # frame differences are several times smaller than frames
    _LOG_FLOOR = 0.02  # below this standard deviation (inputs span [-1, 1]) a channel counts as constant
    _DETAIL_FLOOR = 0.005  # the same for small filters, whose responses are smaller
    _CHANGE_FLOOR = 0.002  # and for their changes
    # Chosen on real clips: just large enough to stand out from the scatter of the network's features.
    _SHARPNESS, _STEADINESS, _DIRECTION = 4.0, 2.0, 5.0

    def __init__(self, device: torch.device | str = "cpu") -> None:
        # Drawn on the CPU in float32, so that every device and process has the same weights.
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
        filters = torch.randn(2 * self._PAIRS, 1, 3, 3, generator=generator)
        filters -= filters.mean((2, 3), keepdim=True)
        self._filters = (filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).to(device)

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """Return float32 [N, 144] on the network's device for clips uint8 [N, T, 3, H, W], T >= 1, on any device."""
        device = self._weights[0].device
        with full_precision(device):
            frames = self._frames(clips.to(device))
            return torch.cat([self._network_statistics(frames), self._filter_statistics(frames)], 1)

    def _frames(self, clips: torch.Tensor) -> torch.Tensor:
        """Return the frames with values in [-1, 1], [N, 3, T, 64, 64]."""
        count, times = clips.shape[:2]
        frames = clips.flatten(0, 1).float() / 127.5 - 1  # [N*T,3,H,W]
        if max(frames.shape[2:]) > self._SIZE:
            frames = F.interpolate(frames, size=(self._SIZE, self._SIZE), mode="area")
        else:
            frames = F.interpolate(frames, size=(self._SIZE, self._SIZE), mode="bilinear", align_corners=False)
        return frames.view(count, times, 3, self._SIZE, self._SIZE).transpose(1, 2)

    def _network_statistics(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the network's statistics [N, 108] of frames [N, 3, T, 64, 64]."""
        motion = torch.zeros_like(frames)
        motion[:, :, 1:] = (frames[:, :, 1:] - frames[:, :, :-1]) * self._MOTION_GAIN
        x = torch.cat([frames, motion], 1)  # [N,6,T,64,64]
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

    def _filter_statistics(self, frames: torch.Tensor) -> torch.Tensor:
        """Return statistics [N, 36] of frames [N, 3, T, 64, 64], from pairs (f, g) of filters on the grey frames.

        - Sharpness: the logarithm of f's magnitude in the frames divided by its magnitude at half the resolution.
        - Steadiness: the logarithm of the relative variation over time of the magnitude of f's change. Frozen, repeated
          or reordered frames differ clearly from the steady flow of a video.
        - Direction, in [-1, 1]: the mean of f dg - g df divided by the mean of its absolute value, where d is the
          change to the next frame. It does not depend on speed, and changes sign when time is reversed.
        """
        f, g = self._filtered(frames, stride=2)  # [N, T, P, H', W'] each; every other position is enough
        halves = F.avg_pool2d(frames.flatten(1, 2), 2).unflatten(1, frames.shape[1:3])
        coarse, _ = self._filtered(halves, stride=1)
        detail, coarse_detail = (x.square().mean((1, 3, 4)).sqrt() + self._DETAIL_FLOOR for x in (f, coarse))  # [N,P]

        if f.shape[1] > 1:
            df, dg = f[:, 1:] - f[:, :-1], g[:, 1:] - g[:, :-1]
        else:
            df, dg = torch.zeros_like(f), torch.zeros_like(g)
        strength = df.square().mean((3, 4)).sqrt()  # [N,T-1,P]
        mean = strength.mean(1)  # [N,P]
        variation = (strength - mean.unsqueeze(1)).square().mean(1).sqrt()  # [N,P]
        # The smaller floor in the denominator makes clips without any change the least steady of all.
        steadiness = torch.log((variation + self._CHANGE_FLOOR) / (mean + self._CHANGE_FLOOR / 4) + 0.1)
        turning = f[:, : df.shape[1]] * dg - g[:, : dg.shape[1]] * df
        direction = turning.mean((1, 3, 4)) / (turning.abs().mean((1, 3, 4)) + self._CHANGE_FLOOR**2)
        sharpness = torch.log(detail / coarse_detail)
        return torch.cat([self._SHARPNESS * sharpness, self._STEADINESS * steadiness, self._DIRECTION * direction], 1)

    def _filtered(self, frames: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the responses of f and of g on the grey frames, each [N, T, P, H', W'], for frames [N, 3, T, H, W]."""
        grey = frames.mean(1).flatten(0, 1).unsqueeze(1)  # [N*T,1,H,W]
        responses = F.conv2d(grey, self._filters, stride=stride).unflatten(0, frames.shape[0:3:2])
        return responses[:, :, ::2], responses[:, :, 1::2]


def _split_appearance_and_motion(weight: torch.Tensor) -> torch.Tensor:
    """Restrict the first half of a weight [O, 6, 3, 3, 3] to the frames and the second half to the differences.

    Three quarters of the first half get zero mean.
    """
    appearance = weight.shape[0] // 2
    weight = weight.clone()
    weight[:appearance, 3:] = 0
    weight[appearance:, :3] = 0
    high_pass = weight[: appearance * 3 // 4]
    high_pass[:, :3] -= high_pass[:, :3].mean((2, 3, 4), keepdim=True)
    return weight
