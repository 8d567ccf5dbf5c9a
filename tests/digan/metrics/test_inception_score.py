"""The inception score against scipy's entropy."""

import numpy as np
import pytest
import scipy.stats
import torch

from digan.metrics import MetricError, inception_score


def probabilities(count: int, classes: int = 101, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(count, classes, generator=generator)).softmax(1)


def by_entropy(p: np.ndarray) -> float:
    """The entropy of the mean minus the mean entropy is the mean divergence from the mean."""
    return np.exp(scipy.stats.entropy(p.mean(0)) - scipy.stats.entropy(p, axis=1).mean())


def by_divergence(p: np.ndarray) -> float:
    return np.exp(np.mean(scipy.stats.entropy(p, p.mean(0, keepdims=True), axis=1)))


@pytest.mark.parametrize("by", [by_entropy, by_divergence])
def test_one_split_matches_scipy(by):
    p = probabilities(200)
    value, deviation = inception_score(p, splits=1)
    p = p.double().numpy()
    assert value == pytest.approx(by(p / p.sum(1, keepdims=True)), rel=1e-6)  # scipy scales rows to sum to 1 itself
    assert deviation == 0


@pytest.mark.parametrize(("count", "splits"), [(200, 10), (103, 10), (10, 10), (7, 3)])
def test_splits_match_scipy(count, splits):
    p = probabilities(count)
    value, deviation = inception_score(p, splits, seed=4)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(4))
    parts = np.array_split(p[order].double().numpy(), splits)
    scores = [by_divergence(part) for part in parts]
    assert (value, deviation) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-5, abs=1e-9)


def test_bounds_are_reached():
    """Certain predictions spread evenly over all classes score their number; equal predictions score 1."""
    certain = torch.eye(7).repeat(5, 1)
    assert inception_score(certain, splits=1)[0] == pytest.approx(7, rel=1e-12)
    assert inception_score(torch.full((20, 7), 1 / 7), splits=2) == pytest.approx((1, 0), abs=1e-7)


def test_order_of_classes_does_not_matter():
    """Clips sorted by class would score 1 in every split of consecutive ones."""
    assert inception_score(torch.eye(10).repeat_interleave(20, 0), splits=10)[0] > 5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((9, 4), 0.25), "at least 10 clips, there are 9"),
        (torch.full((20, 4), 0.3), "non-negative and sum to 1"),
        (torch.tensor([[1.5, -0.5]]).repeat(20, 1), "must be non-negative"),
        (torch.full((20, 4), float("nan")), "must be non-negative"),
        (torch.zeros(20), "probabilities"),
    ],
    ids=["few", "sum", "negative", "nan", "shape"],
)
def test_other_values_are_refused(bad, message):
    with pytest.raises(MetricError, match=message):
        inception_score(bad)
