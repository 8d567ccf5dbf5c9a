"""The mapping network: maps latent z and class label to the intermediate latent w."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from digan.models.layers import FullyConnected


class Mapping(nn.Module):
    """Mapping network of StyleGAN2: second-moment normalisation, then fully connected layers with lrelu.

    With labels, the embedded label is normalised like z and concatenated to it. With `z_dim` 0 the network maps
    labels alone, which is how the discriminator uses it.

    Args:
        z_dim: size of z, 0 for none.
        w_dim: size of the output, of the hidden layers and of the label embedding.
        layers: number of fully connected layers.
        lr_mult: learning-rate multiplier of these layers (the embedding has 1).
        num_classes: number of classes; 0 for an unconditional network.
        w_avg_beta: decay of the moving average of w; None keeps no average, so truncation is not available.
    """

    w_avg: Tensor | None

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        layers: int,
        lr_mult: float,
        num_classes: int = 0,
        w_avg_beta: float | None = None,
    ) -> None:
        super().__init__()
        if z_dim == 0 and num_classes == 0:
            raise ValueError("Mapping has nothing to map: give it z_dim > 0 or num_classes > 0.")
        self.z_dim = z_dim
        self.num_classes = num_classes
        self.w_avg_beta = w_avg_beta
        self.embed = FullyConnected(num_classes, w_dim) if num_classes else None
        widths = [z_dim + (w_dim if num_classes else 0)] + [w_dim] * layers
        self.layers = nn.ModuleList(
            FullyConnected(i, o, activation="lrelu", lr_mult=lr_mult) for i, o in pairwise(widths)
        )
        self.register_buffer("w_avg", None if w_avg_beta is None else torch.zeros(w_dim))

    def forward(self, z: Tensor | None, labels: Tensor | None = None, psi: float = 1.0) -> Tensor:
        """Map z and labels to w.

        Args:
            z: [N, z_dim] float; None if z_dim is 0.
            labels: [N] int64 class indices if num_classes > 0, else None.
            psi: truncation, w_avg + psi (w - w_avg); 1 leaves w unchanged.

        Returns:
            The intermediate latents w [N, w_dim].

        Raises:
            ValueError: labels are missing, unexpected or not int64 [N], or psi is not 1 without an average of w.
        """
        parts = [] if z is None else [normalize_second_moment(z)]
        if self.embed is not None:
            parts.append(normalize_second_moment(self.embed(self._one_hot(labels))))
        elif labels is not None:
            raise ValueError(
                "labels were given to an unconditional network: drop them or build it with num_classes > 0."
            )
        w = torch.cat(parts, dim=1)  # [N, z_dim (+ w_dim)]
        for layer in self.layers:
            w = layer(w)
        if psi == 1.0:
            return w
        if self.w_avg is None:
            raise ValueError("psi needs the moving average of w, which this mapping network does not keep.")
        return self.w_avg.lerp(w, psi)

    @torch.no_grad()
    def update_average(self, mean_w: Tensor) -> None:
        """Move w_avg towards `mean_w` [w_dim], the mean of w over the batch of all processes."""
        self.w_avg.copy_(mean_w.lerp(self.w_avg, self.w_avg_beta))

    def _one_hot(self, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ValueError(
                f"labels are missing: this network is conditional, give [N] class indices below {self.num_classes}."
            )
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise ValueError(f"labels must be int64 of shape [N], got {labels.dtype} of shape {list(labels.shape)}.")
        return F.one_hot(labels, self.num_classes).to(self.embed.weight.dtype)


def normalize_second_moment(x: Tensor) -> Tensor:
    """Return x / sqrt(mean(x^2) + 1e-8), the mean over the last dimension."""
    return x * (x.square().mean(dim=-1, keepdim=True) + 1e-8).rsqrt()
