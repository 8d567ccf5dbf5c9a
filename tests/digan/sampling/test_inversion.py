"""A clip of a generator is found again; searches do not affect each other; the learning rate."""

import math
from itertools import pairwise

import pytest
import torch

import fused_inr as fi
from digan import Generator
from digan.config import GeneratorConfig
from digan.errors import DivergenceError
from digan.metrics.similarity import psnr_of_error
from digan.sampling.clip_loss import ClipLoss
from digan.sampling.inversion import InversionConfig, Schedule, invert
from digan.sampling.latents import clip_times, seeded_latents

SIZES = dict(
    z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8, resolution=32, space_frequency=1.0
)
TIMES = clip_times(4)
SHORT = dict(steps=6, restarts=2, draws=4)


def make_generator(**options) -> Generator:
    torch.manual_seed(1)
    g = Generator(GeneratorConfig(**SIZES, **options)).eval()
    with torch.no_grad():
        for block in g.blocks.values():
            block.to_rgb.weight.mul_(0.2)  # so that most values lie in [-1, 1], as those of a trained network do
    return g


@pytest.fixture
def generator():
    return make_generator()


@torch.no_grad()
def clip_of(g: Generator, seed: int, times: torch.Tensor = TIMES, labels: torch.Tensor | None = None) -> torch.Tensor:
    """A clip of a seed that no search draws from, float [T, 3, 32, 32]."""
    return g(*seeded_latents(8, seed, [0]), times, labels)[0].clamp(-1, 1)


def config_of(**options) -> InversionConfig:
    return InversionConfig(**{**SHORT, **options})


@torch.no_grad()
def rendered(g: Generator, latents) -> torch.Tensor:
    inr = g.inr_from_slots(latents.w[None], latents.z_motion[None], latents.times)
    return fi.render(inr, g.grid())[0].clamp(-1, 1)


def psnr_between(a: torch.Tensor, b: torch.Tensor) -> float:
    return psnr_of_error((a - b).square().mean().item())


def test_a_clip_of_the_generator_is_found_again(generator):
    clip, reports = clip_of(generator, seed=9), []
    found = invert(
        generator,
        ClipLoss(clip),
        TIMES,
        config=InversionConfig(steps=100, restarts=3, draws=32),
        report=lambda *values: reports.append(values),
    )
    # Measured: 43.6 dB.
    assert psnr_between(rendered(generator, found.latents), clip) > 35
    assert len(reports) == found.steps
    assert psnr_of_error(reports[-1][2]) > psnr_of_error(reports[0][2]) + 10
    assert all(p.requires_grad and p.grad is None for p in generator.parameters())


def test_the_searches_start_at_the_best_of_the_draws_and_the_average(generator):
    clip = clip_of(generator, seed=0)  # that is draw 0 itself
    found = invert(generator, ClipLoss(clip), TIMES, config=config_of(prior=0))
    assert found.searches[0].start == 0
    assert found.searches[0].loss == pytest.approx(0, abs=1e-6)
    average = invert(generator, ClipLoss(clip), TIMES, config=config_of(draws=0))
    assert [search.start for search in average.searches] == [None, None]
    assert average.searches[0].loss != average.searches[1].loss  # their motions differ


def test_searches_do_not_affect_each_other(generator):
    clip = clip_of(generator, seed=9)
    loss = ClipLoss(clip)
    together = invert(generator, loss, TIMES, config=config_of(restarts=3))
    alone = invert(generator, loss, TIMES, config=config_of(restarts=1))
    losses = {search.start: search.loss for search in together.searches}
    # Measured: 1e-7; products of other shapes are summed in another order.
    assert losses[alone.searches[0].start] == pytest.approx(alone.searches[0].loss, rel=1e-4)
    again = invert(generator, loss, TIMES, config=config_of(restarts=3))
    assert torch.equal(again.latents.w, together.latents.w)


class _Spoilt(ClipLoss):
    """A loss that is not finite for the first clip after the first steps, or for all clips at once."""

    def __init__(self, clip, all_clips):
        super().__init__(clip)
        self.all_clips, self.calls = all_clips, 0

    def __call__(self, clips):
        self.calls += 1
        factor = torch.ones(len(clips))
        factor[slice(None) if self.all_clips else 0] = math.nan
        return super().__call__(clips) * (factor if self.calls > 3 or self.all_clips else 1)


def test_a_search_that_diverges_keeps_its_best_and_leaves_the_others_alone(generator):
    clip = clip_of(generator, seed=9)
    plain = invert(generator, ClipLoss(clip), TIMES, config=config_of())
    spoilt = invert(generator, _Spoilt(clip, all_clips=False), TIMES, config=config_of())
    assert spoilt.searches[1].loss == pytest.approx(plain.searches[1].loss, rel=1e-6)
    assert math.isfinite(spoilt.searches[0].loss)
    assert spoilt.latents.w.isfinite().all()


def test_no_finite_loss_is_an_error(generator):
    loss = _Spoilt(clip_of(generator, seed=9), all_clips=True)
    loss.at_frames = lambda frames: ClipLoss(loss.clip[frames])
    with pytest.raises(DivergenceError, match="not finite in any search: lower --lr"):
        invert(generator, loss, TIMES, config=config_of())


def test_the_offset_of_the_times_is_found_too(generator):
    clip = clip_of(generator, seed=0, times=TIMES + 0.4)  # draw 0, later
    config = dict(steps=60, restarts=1, draws=1, prior=0.0)
    fixed = invert(generator, ClipLoss(clip), TIMES, config=InversionConfig(**config)).latents
    free = invert(generator, ClipLoss(clip), TIMES, config=InversionConfig(**config, fit_offset=True)).latents
    assert torch.equal(fixed.times, TIMES)
    assert free.times[0] > 0.1
    torch.testing.assert_close(free.times.diff(), TIMES.diff())


def test_classes_are_taken_in_turn_and_the_result_has_one():
    g = make_generator(num_classes=3)
    clip = clip_of(g, seed=0, labels=torch.tensor([2]))
    config = config_of(steps=2, prior=0)
    assert invert(g, ClipLoss(clip), TIMES, [2], config).latents.label == 2
    both = invert(g, ClipLoss(clip), TIMES, [2, 1], config)
    assert (both.latents.label, both.searches[0].start) == (2, 0)
    other = invert(g, ClipLoss(clip), TIMES, [1], config)
    assert other.latents.label == 1
    assert other.searches[0].loss > both.searches[0].loss


def test_one_frame_is_enough(generator):
    found = invert(generator, ClipLoss(clip_of(generator, 9)[:1]), TIMES[:1], config=config_of())
    assert found.latents.times.tolist() == [0]


def test_a_stall_ends_a_stage_early(generator):
    clip = clip_of(generator, seed=9)
    found = invert(
        generator, ClipLoss(clip), TIMES, config=InversionConfig(steps=50, restarts=1, draws=1, lr=1e-9, patience=5)
    )
    assert found.steps == 26  # the first step, twice five without a gain, and the decay


def test_patience_begins_anew_with_each_stage(generator):
    found = invert(
        generator,
        ClipLoss(clip_of(generator, seed=9)),
        TIMES,
        config=InversionConfig(steps=50, shared=0.08, decay=0.5, restarts=1, draws=1, lr=1e-9, patience=5),
    )
    assert found.steps == 34  # four steps of the first stage, five without a gain, and the decay


def test_the_slots_share_one_w_at_first(generator):
    clip = clip_of(generator, seed=9)
    shared, free = (
        invert(generator, ClipLoss(clip), TIMES, config=config_of(steps=4, shared=s, decay=0)).latents.w for s in (1, 0)
    )
    assert torch.equal(shared, shared[:1].expand_as(shared))
    assert not torch.equal(free[0], free[1])


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    schedule = Schedule(100, warmup=0.1, shared=0.3, decay=0.4)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10:61] == [1.0] * 51
    assert all(a > b for a, b in pairwise(factors[60:]))
    assert factors[100] == pytest.approx(0)


def test_stages_end_early():
    schedule = Schedule(100, warmup=0.1, shared=0.3, decay=0.4)
    assert [step for step in range(100) if schedule.is_shared(step)] == list(range(30))
    schedule.end_stage(10)
    assert not schedule.is_shared(10)
    assert schedule.steps == 80
    schedule.end_stage(20)
    schedule.end_stage(30)
    assert schedule.steps == 60
    assert schedule.factor(40) == pytest.approx(0.5)
    assert Schedule(100, warmup=0, shared=1, decay=0.4).is_shared(59)
    assert not Schedule(100, warmup=0, shared=1, decay=0.4).is_shared(60)
