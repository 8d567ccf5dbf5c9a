"""The objective: non-saturating logistic losses, R1, path length, style mixing, and the times of generated frames.

Everything random is drawn by the caller's torch.Generator, so that a batch is the same however it is divided among
processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import fused_inr as fi
from digan.models.generator import Generator


def generator_loss(logits_motion: Tensor, logits_image: Tensor) -> Tensor:
    """softplus(-D_M(fake)) + softplus(-D_I(fake)), each a mean over its batch: scalar float32."""
    return F.softplus(-logits_motion.float()).mean() + F.softplus(-logits_image.float()).mean()


def real_loss(logits_motion: Tensor, logits_image: Tensor) -> Tensor:
    """The discriminators' loss on reals, softplus(-D(real)) of both, each a mean over its batch: scalar float32."""
    return generator_loss(logits_motion, logits_image)  # G wants of its fakes what D wants of reals


def fake_loss(logits_motion: Tensor, logits_image: Tensor) -> Tensor:
    """The discriminators' loss on fakes, softplus(D(fake)) of both, each a mean over its batch: scalar float32."""
    return generator_loss(-logits_motion, -logits_image)


def squared_gradient(logits: Tensor, inputs: Tensor) -> Tensor:
    """Squared norm of the gradient of sum(logits) at each sample of ``inputs`` [N, ...] -> [N], differentiable.

    Only the gradient of ``inputs`` is asked for, so no weight gradient is computed in this pass.
    """
    with fi.no_weight_gradients():
        (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1)


def r1(
    discriminator: Callable[..., Tensor],
    reals: Tensor,
    gamma: float,
    labels: Tensor | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """R1 penalty gamma / 2 * E |grad D(transform(reals))|^2 with the gradient taken at ``reals``.

    The published objective takes it for D_M at the 7-channel clip *before* augmentation, the time plane included (pass
    the augmentation as ``transform``), and for D_I at the frames *after* augmentation (augment first, no transform).

    Args:
        discriminator: called as discriminator(x, labels), in float32.
        reals: [N, C, H, W] float.
        labels: [N] int64, for a conditional discriminator.
        transform: differentiable map [N, C, H, W] -> [N, C, H, W].

    Returns:
        scalar, to be multiplied by the interval of the lazy regularisation.
    """
    reals = reals.detach().requires_grad_()
    logits = discriminator(reals if transform is None else transform(reals), labels)
    return gamma / 2 * squared_gradient(logits, reals).mean()


def path_length(
    generator: Generator, slots: Tensor, z_motion: Tensor, times: Tensor, noise: Tensor, mean: Tensor, *, decay: float
) -> tuple[Tensor, Tensor]:
    """Path-length regularisation (StyleGAN2): keep |J^T noise| of a clip near its running mean.

    Args:
        slots: [N, num_slots, w_dim] float, part of the graph.
        z_motion, times: as for ``Generator.inr_from_slots``.
        noise: [N, T, 3, R, R] standard normal.
        mean: scalar, the running mean of the length.
        decay: weight of this batch in the running mean (0.01 in StyleGAN2).

    Returns:
        penalty (scalar, to be weighted) and the new running mean (scalar, detached).
    """
    frames = fi.render(generator.inr_from_slots(slots, z_motion, times), generator.grid())
    pixels = frames.shape[-2] * frames.shape[-1]
    (gradient,) = torch.autograd.grad((frames * noise).sum() / math.sqrt(pixels), slots, create_graph=True)
    lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()  # [N]
    mean = mean.lerp(lengths.detach().mean(), decay)
    return (lengths - mean).square().mean(), mean


def draw_mixing_cutoff(n: int, num_slots: int, probability: float, generator: torch.Generator) -> Tensor:
    """First slot of the second style for each of n clips: int64 [n] in 1..num_slots; num_slots, no mixing, is usual."""
    cutoff = torch.randint(1, num_slots, [n], generator=generator)
    mixed = torch.rand([n], generator=generator) < probability
    return torch.where(mixed, cutoff, num_slots)


def mix_styles(slots: Tensor, other: Tensor, cutoff: Tensor) -> Tensor:
    """Slots [N, S, w_dim] of one style below ``cutoff`` [N] and of ``other`` from there on (StyleGAN)."""
    keep = torch.arange(slots.shape[1], device=slots.device) < cutoff.unsqueeze(1)  # [N, S]
    return torch.where(keep.unsqueeze(2), slots, other)


def sample_times(n: int, generator: torch.Generator) -> Tensor:
    """Times of n generated pairs: a ~ Beta(2, 1) and b ~ Beta(1, 2) in ascending order, float32 [n, 2] in [0, 1].

    Drawn by inverting the distribution functions: a = sqrt(u), b = 1 - sqrt(1 - u).
    """
    u = torch.rand([n, 2], generator=generator)
    times = torch.stack([u[:, 0].sqrt(), 1 - (1 - u[:, 1]).sqrt()], dim=1)
    return times.sort(dim=1).values


def delta_t(times: Tensor) -> Tensor:
    """Time between the two frames of a pair: times [N, 2] -> [N]."""
    return times[:, 1] - times[:, 0]
