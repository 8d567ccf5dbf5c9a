"""The training algorithm of DIGAN (ICLR 2022), in one class that owns the networks and their optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

import fused_inr as fi
from digan.config import TrainConfig, micro_batches
from digan.models.discriminator import IMAGE_CHANNELS, MOTION_CHANNELS, Discriminator, motion_input
from digan.models.generator import Generator
from digan.randomness import Phase, stream
from digan.sharding import BatchSharding
from digan.training import losses
from digan.training.augment import AugmentDraw, apply_augment, augment_motion_input, draw_augment
from digan.training.distributed import COMPUTE_TYPES, send
from digan.training.divergence import NonfiniteWatch
from digan.training.optimizer import lazy_adam, load_adam, replace_nonfinite

PATH_LENGTH_DECAY = 0.01
NETWORKS = ("g", "g_ema", "d_image", "d_motion")  # attributes of the trainer, and names in checkpoints
NONFINITE = "nonfinite"  # statistic that counts non-finite gradient values

RandomNumbers = TypeVar("RandomNumbers", torch.Tensor, AugmentDraw)


@dataclass
class Reals:
    """A micro-batch of real frame pairs."""

    frames: torch.Tensor  # [n, 2, 3, R, R] in [-1, 1]
    delta_t: torch.Tensor  # [n] in [0, 1]
    labels: torch.Tensor | None  # [n]


@dataclass
class Draw:
    """The random numbers of one micro-batch of one phase, on the training device."""

    z_content: torch.Tensor  # [n, z_dim]
    z_motion: torch.Tensor  # [n, z_dim]
    times: torch.Tensor  # [n, 2], ascending
    augment_fakes: AugmentDraw
    augment_reals: AugmentDraw
    z_mixed: torch.Tensor  # [n, z_dim]: content vector of the slots from `cutoff` on
    cutoff: torch.Tensor  # [n]
    path_noise: torch.Tensor  # [n, 2, 3, R, R] for the path length penalty, else [n, 0]


class Trainer:
    """G, its moving average, both discriminators and the two Adam optimizers, with the updates of a training step.

    Random numbers are drawn for the whole batch from (seed, iteration, phase) and then divided by the same rule as the
    reals (`digan.sharding`), so a run does not depend on how its batch is divided, and resuming needs counters instead
    of random states.
    Gradients are summed over micro-batches, then averaged over processes once per optimizer step, as one flat tensor.
    The networks are never wrapped, because the penalties need second derivatives and each step freezes one side.

    Args:
        config: the configuration of the run.
        accelerator: the processes and devices of the run.
        num_classes: number of classes; 0 for unconditional training.

    Raises:
        ConfigError: the batch cannot be divided among processes and micro-batches.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, num_classes: int = 0) -> None:
        self.config, self.accelerator, self.num_classes = config, accelerator, num_classes
        self.sharding = BatchSharding(
            config.batch,
            accelerator.num_processes,
            micro_batches(config, accelerator.num_processes),
            accelerator.process_index,
        )
        self.device = accelerator.device
        self.dtype = COMPUTE_TYPES[accelerator.mixed_precision]
        self.penalty_dtype = None if self.dtype is torch.float16 else self.dtype  # squared gradients overflow float16

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.g = Generator(config.generator(num_classes))
            self.d_image = Discriminator(config.discriminator(num_classes), IMAGE_CHANNELS)
            self.d_motion = Discriminator(config.discriminator(num_classes), MOTION_CHANNELS)
        self.g_ema = copy.deepcopy(self.g).eval().requires_grad_(False)
        for net in (self.g, self.g_ema, self.d_image, self.d_motion):
            net.to(self.device)

        self.opt_g = lazy_adam(self.g, config.lr, config.pl_interval)
        self.opt_d = lazy_adam([self.d_image, self.d_motion], config.lr, config.r1_interval)
        self.path_length_mean = torch.zeros([], device=self.device)
        self.iteration = 0
        self.clips_seen = 0
        self._trained: list[torch.Tensor] = []
        self._w_mean = torch.zeros(config.w_dim, device=self.device)
        self._sums: dict[str, tuple[torch.Tensor, int]] = {}
        self.nonfinite = NonfiniteWatch(config.nonfinite_limit)
        self._nonfinite_losses: dict[str, torch.Tensor] = {}  # of the current update
        self._gradient_names = {
            self.opt_g: [f"the gradient of g.{name}" for name, _ in self.g.named_parameters()],
            self.opt_d: [
                f"the gradient of {d}.{name}"
                for d, net in (("d_image", self.d_image), ("d_motion", self.d_motion))
                for name, _ in net.named_parameters()
            ],
        }

        compiled: Callable[[Any], Any] = torch.compile if config.compile else lambda f: f
        self._generate = compiled(self._render)
        self._judge_image = compiled(self.d_image)
        self._judge_motion = compiled(self.d_motion)

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches per iteration in this process."""
        return self.sharding.micro_batches

    def step(self, reals: list[Reals]) -> None:
        """Run one iteration of training.

        Args:
            reals: the micro-batches of this process.
        """
        self.update_g(reals)
        if self.config.pl_weight and self.iteration % self.config.pl_interval == 0:
            self.update_path_length(reals)
        self.update_d(reals)
        if self.config.gamma and self.iteration % self.config.r1_interval == 0:
            self.update_r1(reals)
        self.update_ema()
        self.iteration += 1
        self.clips_seen += self.config.batch

    def update_g(self, reals: list[Reals]) -> None:
        """Update G by the non-saturating logistic loss of both discriminators on fresh fakes."""
        self._train_only(self.g)
        for draw, real in self._draws(Phase.GENERATOR, reals):
            slots = self._slots(draw, real.labels)
            fakes = self._generate(slots, draw.z_motion, draw.times)
            loss = losses.generator_loss(
                *self._judge(fakes, losses.delta_t(draw.times), real.labels, draw.augment_fakes)
            )
            self._backward(loss)
            self._record_loss("loss_g", loss)
        self._step(self.opt_g, "G")
        self._update_w_avg()

    def update_path_length(self, reals: list[Reals]) -> None:
        """Update G by StyleGAN2's path length penalty, weighted by its interval; the published model has none."""
        self._train_only(self.g)
        means = torch.zeros([], device=self.device)
        for draw, real in self._draws(Phase.PATH_LENGTH, reals):
            slots = self._slots(draw, real.labels)
            penalty, mean = losses.path_length(
                self.g,
                slots,
                draw.z_motion,
                draw.times,
                draw.path_noise,
                self.path_length_mean,
                decay=PATH_LENGTH_DECAY,
            )
            self._backward(penalty * (self.config.pl_weight * self.config.pl_interval))
            self._record_loss("path_length", penalty)
            means += mean / self.micro_batches
        self.path_length_mean = self.accelerator.reduce(means, "mean")
        self._step(self.opt_g, "G by the path length penalty")
        self._update_w_avg()

    def update_d(self, reals: list[Reals]) -> None:
        """Update both discriminators by the logistic loss on fresh fakes and on real pairs."""
        self._train_only(self.d_image, self.d_motion)
        for draw, real in self._draws(Phase.DISCRIMINATOR, reals):
            with torch.no_grad():
                fakes = self._generate(self._slots(draw, real.labels), draw.z_motion, draw.times)
            # Fakes and reals pass through the networks separately, because minibatch statistics must not mix them.
            fake_logits = self._judge(fakes, losses.delta_t(draw.times), real.labels, draw.augment_fakes)
            fake_loss = losses.fake_loss(*fake_logits)
            self._backward(fake_loss)
            real_loss = losses.real_loss(*self._judge(real.frames, real.delta_t, real.labels, draw.augment_reals))
            self._backward(real_loss)
            self._record_loss("loss_d", fake_loss.detach() + real_loss.detach())
        self._step(self.opt_d, "D")
        self._update_w_avg()

    def update_r1(self, reals: list[Reals]) -> None:
        """Update both discriminators by the R1 penalty, weighted by its interval.

        As published, the gradient of D_M is taken at the clip before augmentation, that of D_I at the frames after it.
        """
        self._train_only(self.d_image, self.d_motion)
        weight = self.config.gamma * self.config.r1_interval
        # Clamp even where only the penalty runs in float32, so that it penalises the function that is trained.
        precision = {"dtype": self.penalty_dtype, "clamped": self.dtype is not None}
        d_motion, d_image = partial(self.d_motion, **precision), partial(self.d_image, **precision)
        for draw, real in self._draws(Phase.R1, reals):
            draw_reals = draw.augment_reals
            clips = motion_input(real.frames, real.delta_t)  # [n, 7, R, R]
            motion = losses.r1(
                d_motion,
                clips,
                weight,
                real.labels,
                transform=lambda x, draw_reals=draw_reals: augment_motion_input(x, draw_reals),
            )
            self._backward(motion)
            frames = apply_augment(real.frames, draw_reals).flatten(0, 1)  # [2n, 3, R, R]
            labels = _of_frames(real.labels)
            image = losses.r1(d_image, frames, weight, labels)
            self._backward(image)
            self._record_loss("r1", (motion.detach() + image.detach()) / weight)
        self._step(self.opt_d, "D by R1")

    @torch.no_grad()
    def update_ema(self) -> None:
        """Move the averaged generator towards G; buffers are copied.

        The half-life is `ema_kimg`, shorter at the start of a run that did not start from an average (`--init`).
        """
        half_life = self.config.ema_kimg * 1000
        if self.config.init is None:
            half_life = min(half_life, self.config.ema_rampup * self.clips_seen)
        beta = 0.5 ** (self.config.batch / max(half_life, 1e-8))
        torch._foreach_lerp_(list(self.g_ema.parameters()), list(self.g.parameters()), 1 - beta)
        for average, current in zip(self.g_ema.buffers(), self.g.buffers(), strict=True):
            average.copy_(current)

    def reals(self, batch: dict[str, torch.Tensor]) -> Reals:
        """Convert a micro-batch of the data loader, already on the training device: uint8 frames become [-1, 1]."""
        frames = batch["frames"].float() / 127.5 - 1  # [n, 2, 3, R, R]
        return Reals(frames, batch["delta_t"], batch["label"] if self.num_classes else None)

    def collect_statistics(self) -> dict[str, float]:
        """Return the mean losses since the last call, over steps and processes, and the number of non-finite gradients.

        All processes must make each call.
        """
        names = sorted(self._sums)
        sums = torch.tensor([float(self._sums[n][0]) for n in names], device=self.device)
        sums = self.accelerator.reduce(sums, "mean").tolist()
        counts = [self._sums[n][1] for n in names]
        self._sums.clear()
        # Non-finite values are counted after the gradients are reduced, so every process counts the same ones.
        return {n: s if n == NONFINITE else s / c for n, s, c in zip(names, sums, counts, strict=True)}

    def find_nonfinite(self) -> str:
        """Return the name of a tensor of the networks that holds a value that is not finite; "" if none does."""
        for network, net in self.networks().items():
            for name, tensor in net.state_dict().items():
                if not tensor.isfinite().all():
                    return f"{network}.{name}"
        return ""

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks, keyed by their names in checkpoints."""
        return {name: getattr(self, name) for name in NETWORKS}

    def optimizer_state(self) -> dict[str, Any]:
        """Return the state of both optimizers and the running mean of the path length."""
        return {
            "opt_g": self.opt_g.state_dict(),
            "opt_d": self.opt_d.state_dict(),
            "path_length_mean": self.path_length_mean,
        }

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Restore a result of `optimizer_state`."""
        load_adam(self.opt_g, state["opt_g"])
        load_adam(self.opt_d, state["opt_d"])
        self.path_length_mean = state["path_length_mean"].to(self.device)

    def counters(self) -> dict[str, int]:
        """Return the number of iterations and of real clips seen so far."""
        return {"iteration": self.iteration, "clips_seen": self.clips_seen}

    def load_counters(self, counters: dict[str, int]) -> None:
        """Restore a result of `counters`."""
        self.iteration, self.clips_seen = counters["iteration"], counters["clips_seen"]

    def _train_only(self, *trained: nn.Module) -> None:
        """Freeze the other networks, so that no unused gradients are computed, and drop old gradients."""
        for net in (self.g, self.d_image, self.d_motion):
            net.requires_grad_(net in trained)
            net.zero_grad(set_to_none=True)
        self._trained = [p for net in trained for p in net.parameters()]

    def _draws(self, phase: Phase, reals: list[Reals]) -> Iterator[tuple[Draw, Reals]]:
        """Yield the random numbers of a phase with the real micro-batch that each belongs to."""
        batch = self._draw_batch(phase)
        for m, real in enumerate(reals):
            indices = self.sharding.indices(m)
            yield Draw(**{f.name: self._select(getattr(batch, f.name), indices) for f in fields(Draw)}), real

    def _select(self, numbers: RandomNumbers, indices: slice) -> RandomNumbers:
        """Copy the samples of a micro-batch from numbers of the whole batch to the training device."""
        if isinstance(numbers, AugmentDraw):
            return numbers.select(indices).to(self.device)
        return send(numbers[indices], self.device)

    def _draw_batch(self, phase: Phase) -> Draw:
        c, generator = self.config, stream(self.config.seed, self.iteration, phase)
        z = torch.randn(c.batch, 3, c.z_dim, generator=generator)
        noise_shape = (2, 3, c.resolution, c.resolution) if phase is Phase.PATH_LENGTH else (0,)
        return Draw(
            z_content=z[:, 0],
            z_motion=z[:, 1],
            z_mixed=z[:, 2],
            times=losses.sample_times(c.batch, generator),
            augment_fakes=draw_augment(c.aug_policy(), c.batch, generator),
            augment_reals=draw_augment(c.aug_policy(), c.batch, generator),
            cutoff=losses.draw_mixing_cutoff(c.batch, self.g.num_slots, c.style_mixing, generator),
            path_noise=torch.randn(c.batch, *noise_shape, generator=generator),
        )

    def _slots(self, draw: Draw, labels: torch.Tensor | None) -> torch.Tensor:
        """Return w of every slot `[n, slots, w_dim]`, with style mixing, and accumulate w for its moving average."""
        w = self.g.mapping(draw.z_content, labels)  # [n, w_dim]
        self._w_mean += w.detach().mean(0) / self.micro_batches
        slots = self.g.broadcast(w)
        if not self.config.style_mixing:
            return slots
        return losses.mix_styles(slots, self.g.broadcast(self.g.mapping(draw.z_mixed, labels)), draw.cutoff)

    def _render(self, slots: torch.Tensor, z_motion: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return fi.render(self.g.inr_from_slots(slots, z_motion, times), self.g.grid())  # [n, 2, 3, R, R]

    def _judge(
        self, frames: torch.Tensor, delta_t: torch.Tensor, labels: torch.Tensor | None, augment: AugmentDraw
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of augmented pairs: of D_M `[n, 1]` and of D_I `[2n, 1]`."""
        frames = apply_augment(frames, augment)
        motion = self._judge_motion(motion_input(frames, delta_t), labels, self.dtype)
        image = self._judge_image(frames.flatten(0, 1), _of_frames(labels), self.dtype)
        return motion, image

    def _backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients into the trained parameters only; R1's inputs are leaves too."""
        self.accelerator.backward(loss / self.micro_batches, inputs=self._trained)

    def _record(self, name: str, value: torch.Tensor) -> None:
        total, count = self._sums.get(name, (torch.zeros([], device=self.device), 0))
        self._sums[name] = (total + value.detach(), count + 1)

    def _record_loss(self, name: str, value: torch.Tensor) -> None:
        """Record a loss of the current update as a statistic, and whether it is finite."""
        value = value.detach()
        self._record(name, value)
        bad = value.isfinite().logical_not().to(torch.int64)
        self._nonfinite_losses[name] = self._nonfinite_losses.get(name, 0) + bad

    def _step(self, optimizer: torch.optim.Adam, update: str) -> None:
        """Average gradients over processes, replace non-finite values, and step the optimizer.

        A parameter without a gradient gets zeros: Adam's averages decay on every step, as in the published system.

        Args:
            optimizer: the optimizer.
            update: kind of the update, for the count of non-finite values.
        """
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for p in params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        losses = torch.stack(list(self._nonfinite_losses.values()))  # [L]
        if self.accelerator.num_processes > 1:
            flat = torch.cat([*(p.grad.reshape(-1) for p in params), losses])
            flat = self.accelerator.reduce(flat, "mean")
            *gradients, losses = flat.split([*(p.numel() for p in params), len(losses)])
            for p, gradient in zip(params, gradients, strict=True):
                p.grad = gradient.view_as(p)
        counts = replace_nonfinite([p.grad for p in params])  # [P]
        self._record(NONFINITE, counts.sum())
        names = [*self._nonfinite_losses, *self._gradient_names[optimizer]]
        self.nonfinite.record(update, self.iteration, names, torch.cat([losses.ceil().to(counts.dtype), counts]))
        self._nonfinite_losses.clear()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _update_w_avg(self) -> None:
        """Update the moving average of w by the mean w of this phase, over micro-batches and processes."""
        self.g.mapping.update_average(self.accelerator.reduce(self._w_mean, "mean"))
        self._w_mean = torch.zeros_like(self._w_mean)


def _of_frames(labels: torch.Tensor | None) -> torch.Tensor | None:
    """Repeat the label of each clip for its two frames, `[n]` -> `[2n]`."""
    return None if labels is None else labels.repeat_interleave(2)
