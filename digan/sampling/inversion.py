"""Find the latents of a given clip: gradient descent on the w slots and the motion, through the renderer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import fused_inr as fi
from digan.errors import DivergenceError
from digan.models.generator import Generator
from digan.sampling.clip_loss import ClipLoss
from digan.sampling.latents import Latents, seeded_latents

_PRIOR_DRAWS = 4096  # contents that give the mean and the covariance of w
_LEAST_VARIANCE = 0.01  # floor for each direction of w, relative to the mean variance: real clips use all of them
_RANKED_FRAMES = 4  # frames by which random draws are ranked
_MOTION_STEP = 2.0  # learning rate of z_motion, relative to that of w: the gradients of a motion agree less
_STALLED = 1e-3  # a smaller relative gain within `patience` steps is a stall
Report = Callable[[int, int, float], None]  # (steps done, steps in total, mean squared error of the best search)


@dataclass(frozen=True)
class InversionConfig:
    """Settings of an inversion.

    Args:
        steps: updates.
        restarts: number of parallel searches, run as one batch of INRs; the best one is the result.
        draws: number of random samples to choose the starting points from, besides the average content.
        lr: learning rate of Adam, in standard deviations of w.
        warmup: fraction of the steps in which the learning rate rises.
        shared: fraction of the steps, the first ones, in which all slots of a clip share one w, as those of a sample
            do. Independent slots would soon drift away from all samples, into poor local minima.
        decay: fraction of the steps, the last ones, in which the learning rate falls to 0.
        patience: a stage ends early once the loss has not fallen by 0.1 % within this many steps.
        prior: weight of the squared distance, in variances, of w from its average and of z_motion from 0.
        fit_offset: also find the time of the first frame.
        seed: the draws are samples 0, 1, ... of this seed.
        dtype: compute type of the matrix products; None for float32.
    """

    steps: int = 500
    restarts: int = 4
    draws: int = 64
    lr: float = 0.1
    warmup: float = 0.05
    shared: float = 0.2
    decay: float = 0.3
    patience: int = 50
    prior: float = 1e-5
    fit_offset: bool = False
    seed: int = 0
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Search:
    """The outcome of one search: its start (a sample of the seed, or None for the average), and the loss it reached."""

    start: int | None
    loss: float


@dataclass(frozen=True)
class Inversion:
    """The latents of the best search, on the CPU; all searches, and the number of updates of each."""

    latents: Latents
    searches: list[Search]
    steps: int


class Schedule:
    """The stages of a search: one w for all slots, slots on their own, and a cosine decay of the learning rate to 0.

    Args:
        steps: number of steps, if no stage ends early.
        warmup: fraction of the steps in which the learning rate rises.
        shared: fraction of the first stage, which the decay may cut short.
        decay: fraction of the last stage.
    """

    def __init__(self, steps: int, warmup: float, shared: float, decay: float) -> None:
        self._rise = max(1, round(warmup * steps))
        self._fall = round(decay * steps)
        self._fall_start = steps - self._fall
        self._shared = min(round(shared * steps), self._fall_start)

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self._fall_start + self._fall

    def is_shared(self, step: int) -> bool:
        """Return whether the slots share one w at a step."""
        return step < self._shared

    def end_stage(self, step: int) -> None:
        """Start the next stage at a step; in the last stage, do nothing."""
        if self.is_shared(step):
            self._shared, self._fall_start = step, self._fall_start - (self._shared - step)
        else:
            self._fall_start = min(self._fall_start, step)

    def factor(self, step: int) -> float:
        """Return the factor on the learning rate at a step, counted from 0."""
        fallen = max(0, step - self._fall_start) / max(1, self._fall)
        return min(1.0, (step + 1) / self._rise) * (0.5 + 0.5 * math.cos(math.pi * fallen))


def invert(
    g: Generator,
    loss: ClipLoss,
    times: Tensor,
    classes: Sequence[int] = (),
    config: InversionConfig | None = None,
    report: Report | None = None,
) -> Inversion:
    """Find latents whose clip is as close as possible to a given one.

    Args:
        g: the generator, in evaluation mode; its parameters stay as they are.
        loss: the distance to the clip, on the device of the generator.
        times: [T], times of the clip's frames; [0, 1] spans a training clip.
        classes: for a conditional generator, the classes that the starts take in turn.
        config: settings.
        report: is called after every step.

    Raises:
        DivergenceError: the loss of no search is finite.
    """
    config = config or InversionConfig()
    with _frozen(g):
        searches = _Searches(g, loss, times, classes, config)
        schedule = Schedule(config.steps, config.warmup, config.shared, config.decay)
        step, reference, since = 0, math.inf, 0
        while step < schedule.steps:
            shared = schedule.is_shared(step)
            lowest = searches.step(config.lr * schedule.factor(step), shared)
            step += 1
            if shared and not schedule.is_shared(step):
                since = step  # patience is for one stage
            if not lowest >= reference * (1 - _STALLED):
                reference, since = lowest, step
            elif step - since >= config.patience:
                schedule.end_stage(step)
                since = step
            if report is not None:
                report(step, schedule.steps, searches.best_error)
        searches.evaluate()
    return searches.result(step)


@contextlib.contextmanager
def _frozen(g: Generator) -> Iterator[None]:
    """Compute no gradients of the generator's parameters."""
    trained = [p for p in g.parameters() if p.requires_grad]
    g.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


@dataclass(frozen=True)
class _Starts:
    """Where the searches start: w [N, w_dim], z_motion [N, z_dim], and for each its sample and class."""

    w: Tensor
    z_motion: Tensor
    samples: list[int | None]
    labels: list[int | None]

    def __getitem__(self, indices: list[int]) -> _Starts:
        samples, labels = ([values[i] for i in indices] for values in (self.samples, self.labels))
        return _Starts(self.w[indices], self.z_motion[indices], samples, labels)


class _ContentPrior:
    """Mean of w over the samples of each class, and their principal axes, each as long as its standard deviation.

    Equal steps along these axes stay within the distribution of w, which is far wider in some directions than others.
    """

    def __init__(self, g: Generator, classes: Sequence[int | None], seed: int) -> None:
        device = next(g.parameters()).device
        z_content = seeded_latents(g.config.z_dim, seed, range(_PRIOR_DRAWS))[0].to(device)
        self._of: dict[int | None, tuple[Tensor, Tensor]] = {}
        for label in dict.fromkeys(classes):
            w = _mapped(g, z_content, [label] * _PRIOR_DRAWS)
            variances, axes = torch.linalg.eigh(w.T.cov())  # [w_dim], [w_dim, w_dim] of columns
            deviations = variances.clamp(min=_LEAST_VARIANCE * variances.mean() + 1e-12).sqrt()
            self._of[label] = w.mean(dim=0), axes.T * deviations.unsqueeze(1)

    def mean(self, labels: Sequence[int | None]) -> Tensor:
        """Return the means [N, w_dim] of classes."""
        return torch.stack([self._of[label][0] for label in labels])

    def axes(self, labels: Sequence[int | None]) -> Tensor:
        """Return the axes [N, w_dim, w_dim] of classes, one a row."""
        return torch.stack([self._of[label][1] for label in labels])


class _Searches:
    """All searches as one batch: parameters, their optimiser, and the best latents that each has met.

    The parameters are the shared part of the slots and their own parts, in standard deviations of w along its principal
    axes, z_motion / _MOTION_STEP, and the offset of the times in frames: one learning rate suits all, and any network.
    """

    def __init__(
        self, g: Generator, loss: ClipLoss, times: Tensor, classes: Sequence[int], config: InversionConfig
    ) -> None:
        self._g, self._loss, self._config = g, loss, config
        device = next(g.parameters()).device
        self._times = times.to(device)
        labels: list[int | None] = list(classes) or [None]
        prior = _ContentPrior(g, labels, config.seed)
        self._starts = starts = self._best_starts(prior, labels)
        self._mean = prior.mean(starts.labels).unsqueeze(1)  # [N, 1, w_dim]
        self._axes = prior.axes(starts.labels)  # [N, w_dim, w_dim]
        shared = torch.linalg.solve(self._axes, starts.w.unsqueeze(1) - self._mean, left=False)  # [N, 1, w_dim]
        own = torch.zeros_like(shared).repeat(1, g.num_slots, 1)  # [N, S, w_dim]
        offset = torch.zeros(len(shared), 1, device=device)
        self._parameters = [shared, own, starts.z_motion / _MOTION_STEP, offset]
        for parameter in self._parameters[: 4 if config.fit_offset else 3]:
            parameter.requires_grad_(True)
        self._adam = torch.optim.Adam([p for p in self._parameters if p.requires_grad], betas=(0.9, 0.99))
        self._best = [p.detach().clone() for p in self._parameters]
        self._best_loss = torch.full([len(shared)], math.inf, device=device)
        self._best_error = self._best_loss.clone()

    @property
    def best_error(self) -> float:
        """Mean squared error of the best clip so far."""
        return self._best_error[self._best_loss.argmin()].item()

    def step(self, lr: float, shared: bool) -> float:
        """Update all searches once, and return the lowest loss so far, before the update.

        Args:
            lr: learning rate.
            shared: leave the slots' own parts as they are.

        Raises:
            DivergenceError: no search has met a finite loss.
        """
        losses = self.evaluate()
        for group in self._adam.param_groups:
            group["lr"] = lr
        self._adam.zero_grad(set_to_none=True)
        # A search whose loss is no longer finite keeps its best latents, and does not affect the others.
        losses[losses.isfinite()].sum().backward()
        if shared:
            self._parameters[1].grad = None
        self._adam.step()
        return self._best_loss.min().item()

    def evaluate(self) -> Tensor:
        """Render all clips and keep the latents that are the best so far; return the losses [N]."""
        slots, z_motion, times = self._latents(self._parameters)
        inr = self._g.inr_from_slots(slots, z_motion, times)
        frames = fi.render(inr, self._g.grid(), dtype=self._config.dtype)
        content = (self._parameters[0] + self._parameters[1]).square().mean(dim=(1, 2))
        losses = self._loss(frames) + self._config.prior * (content + z_motion.square().mean(dim=1))
        with torch.no_grad():
            better = losses < self._best_loss
            error = (frames.float().clamp(-1, 1) - self._loss.clip).square().mean(dim=(1, 2, 3, 4))
            self._best_loss = torch.where(better, losses, self._best_loss)
            self._best_error = torch.where(better, error, self._best_error)
            for best, value in zip(self._best, self._parameters, strict=True):
                best[better] = value[better]
        if not self._best_loss.isfinite().any():
            raise DivergenceError("the loss is not finite in any search: lower --lr, or leave out --perceptual.")
        return losses

    @torch.no_grad()
    def result(self, steps: int) -> Inversion:
        """Return the latents of the lowest loss."""
        best = int(self._best_loss.argmin())
        slots, z_motion, times = (value[best].cpu() for value in self._latents(self._best))
        starts = self._starts
        searches = [Search(*pair) for pair in zip(starts.samples, self._best_loss.tolist(), strict=True)]
        return Inversion(Latents(slots, z_motion, times, starts.labels[best]), searches, steps)

    def _latents(self, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return slots [N, S, w_dim], z_motion [N, z_dim] and times [N, T]."""
        shared, own, motion, offset = parameters
        frame = self._times.diff().mean() if len(self._times) > 1 else self._times.new_ones([])
        return self._mean + (shared + own) @ self._axes, _MOTION_STEP * motion, self._times + offset * frame

    @torch.no_grad()
    def _best_starts(self, prior: _ContentPrior, classes: Sequence[int | None]) -> _Starts:
        """Return the `restarts` candidates closest to the clip.

        The candidates are `draws` random samples, and the average content with `restarts` random motions.
        """
        g, config = self._g, self._config
        candidates, device = config.draws + config.restarts, self._times.device
        labels = [classes[i % len(classes)] for i in range(candidates)]
        z_content, z_motion = (z.to(device) for z in seeded_latents(g.config.z_dim, config.seed, range(candidates)))
        w = prior.mean(labels)
        w[: config.draws] = _mapped(g, z_content[: config.draws], labels[: config.draws])
        starts = _Starts(w, z_motion, [*range(config.draws), *[None] * config.restarts], labels)
        frames = sorted(set(torch.linspace(0, len(self._times) - 1, _RANKED_FRAMES).round().int().tolist()))
        loss, losses = self._loss.at_frames(frames), []
        for chunk in torch.arange(candidates).split(config.restarts):  # needs no more memory than a step
            inr = g.inr_from_slots(g.broadcast(w[chunk]), z_motion[chunk], self._times[frames])
            losses.append(loss(fi.render(inr, g.grid(), dtype=config.dtype)))
        return starts[torch.cat(losses).argsort()[: config.restarts].tolist()]


def _mapped(g: Generator, z_content: Tensor, labels: Sequence[int | None]) -> Tensor:
    """Return w [N, w_dim] of contents with classes, None for an unconditional generator."""
    numbers = torch.tensor(labels, dtype=torch.int64, device=z_content.device) if g.config.num_classes else None
    return g.mapping(z_content, numbers)
