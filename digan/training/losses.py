"""The training objective: non-saturating logistic losses, R1, path length, style mixing, and times of generated frames.

All random numbers come from the caller's `torch.Generator`, so a batch does not depend on how it is divided among
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
    """Return the loss of G: the sum of both batch means of softplus(-D(fake)), scalar float32."""
    return F.softplus(-logits_motion.float()).mean() + F.softplus(-logits_image.float()).mean()


def real_loss(logits_motion: Tensor, logits_image: Tensor) -> Tensor:
    """Return the discriminators' loss on reals: the sum of both batch means of softplus(-D(real)), scalar float32."""
    return generator_loss(logits_motion, logits_image)  # D is trained to score reals as G wants its fakes scored


def fake_loss(logits_motion: Tensor, logits_image: Tensor) -> Tensor:
    """Return the discriminators' loss on fakes: the sum of both batch means of softplus(D(fake)), scalar float32."""
    return generator_loss(-logits_motion, -logits_image)


def squared_gradient(logits: Tensor, inputs: Tensor) -> Tensor:
    """Return the squared norm of the gradient of sum(logits) at each sample of `inputs`, differentiably.

    Only the gradient with respect to `inputs` is computed in this pass, no weight gradients.

    Args:
        logits: output of a network, any shape.
        inputs: `[N, ...]`, input of that network.

    Returns:
        `[N]`.
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
    """Return the R1 penalty gamma / 2 * E |grad D(transform(reals))|^2, with the gradient taken at `reals`.

    The published objective takes the gradient of D_M at the 7-channel clip *before* augmentation, including the time
    plane (pass the augmentation as `transform`), and that of D_I at the frames *after* augmentation (augment first,
    without a transform).

    Args:
        discriminator: called as `discriminator(x, labels)`; returns logits.
        reals: `[N, C, H, W]` float.
        gamma: weight of the penalty; the trainer includes the interval of the lazy regularisation in it.
        labels: `[N]` int64, for a conditional discriminator.
        transform: differentiable map `[N, C, H, W] -> [N, C, H, W]`.

    Returns:
        Scalar.
    """
    reals = reals.detach().requires_grad_()
    logits = discriminator(reals if transform is None else transform(reals), labels)
    return gamma / 2 * squared_gradient(logits, reals).mean()


def path_length(
    generator: Generator, slots: Tensor, z_motion: Tensor, times: Tensor, noise: Tensor, mean: Tensor, *, decay: float
) -> tuple[Tensor, Tensor]:
    """Return StyleGAN2's path length penalty, which keeps |J^T noise| of each clip near its running mean.

    Args:
        generator: the generator.
        slots: `[N, num_slots, w_dim]` float, part of the graph.
        z_motion: as for `Generator.inr_from_slots`.
        times: as for `Generator.inr_from_slots`.
        noise: `[N, T, 3, R, R]` standard normal.
        mean: scalar, the running mean of the length before this batch. The penalty refers to it, and not to the new
            mean as in StyleGAN2, so that its gradient does not depend on how a batch is divided.
        decay: weight of this batch in the running mean (0.01 in StyleGAN2).

    Returns:
        The unweighted penalty (scalar) and the new running mean (scalar, detached).
    """
    frames = fi.render(generator.inr_from_slots(slots, z_motion, times), generator.grid())
    pixels = frames.shape[-2] * frames.shape[-1]
    (gradient,) = torch.autograd.grad((frames * noise).sum() / math.sqrt(pixels), slots, create_graph=True)
    lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()  # [N]
    return (lengths - mean).square().mean(), mean.lerp(lengths.detach().mean(), decay)


def draw_mixing_cutoff(n: int, num_slots: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw the first slot of the second style for `n` clips: int64 `[n]` in 1..num_slots; num_slots means no mixing."""
    cutoff = torch.randint(1, num_slots, [n], generator=generator)
    mixed = torch.rand([n], generator=generator) < probability
    return torch.where(mixed, cutoff, num_slots)


def mix_styles(slots: Tensor, other: Tensor, cutoff: Tensor) -> Tensor:
    """Take slots `[N, S, w_dim]` of one style below `cutoff` `[N]` and of `other` from there on (StyleGAN)."""
    keep = torch.arange(slots.shape[1], device=slots.device) < cutoff.unsqueeze(1)  # [N, S]
    return torch.where(keep.unsqueeze(2), slots, other)


def sample_times(n: int, generator: torch.Generator) -> Tensor:
    """Draw the times of `n` generated pairs: a ~ Beta(2, 1) and b ~ Beta(1, 2) in ascending order.

    The distribution functions are inverted: a = sqrt(u), b = 1 - sqrt(1 - u).

    Returns:
        `[n, 2]` float32 in [0, 1].
    """
    u = torch.rand([n, 2], generator=generator)
    times = torch.stack([u[:, 0].sqrt(), 1 - (1 - u[:, 1]).sqrt()], dim=1)
    return times.sort(dim=1).values


def delta_t(times: Tensor) -> Tensor:
    """Return the time between the two frames of each pair: times `[N, 2]` -> `[N]`."""
    return times[:, 1] - times[:, 0]
