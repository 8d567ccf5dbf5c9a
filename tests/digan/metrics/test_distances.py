"""The distances against values of the official implementation, and against scipy and scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file
from sklearn.covariance import empirical_covariance
from sklearn.metrics.pairwise import polynomial_kernel

from digan.metrics import MetricError, frechet_distance, kernel_distance

OFFICIAL = load_file(Path(__file__).parents[2] / "fixtures" / "metric.safetensors")


def feature_set(count: int, features: int, seed: int) -> torch.Tensor:
    """Return correlated features of unequal scales, [count, features], with a mean that depends on the seed."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator) * torch.linspace(0.01, 2, features)
    return torch.randn(count, features, generator=generator) @ mixing + 0.1 * seed


def by_matrix_root(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double().numpy(), b.double().numpy()
    # scikit-learn computes the population covariance, divided by n.
    cov_a, cov_b = (empirical_covariance(x) * len(x) / (len(x) - 1) for x in (a, b))
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)


def by_kernel_matrices(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double().numpy(), b.double().numpy()

    def mean_of_pairs(x: np.ndarray) -> float:
        return polynomial_kernel(x, degree=3, coef0=1)[~np.eye(len(x), dtype=bool)].mean()

    return mean_of_pairs(a) + mean_of_pairs(b) - 2 * polynomial_kernel(a, b, degree=3, coef0=1).mean()


def test_frechet_matches_official():
    # The official value was computed in float32 and differs by 1.2e-6 from the matrix root in float64.
    assert frechet_distance(OFFICIAL["a"], OFFICIAL["b"]) == pytest.approx(OFFICIAL["frechet"].item(), rel=1e-5)


def test_kernel_matches_official():
    assert kernel_distance(OFFICIAL["a"], OFFICIAL["b"]) == pytest.approx(OFFICIAL["kvd"].item(), rel=1e-12)


@pytest.mark.parametrize(("n", "m", "features"), [(64, 80, 24), (300, 200, 40)])
def test_frechet_matches_matrix_root(n, m, features):
    a, b = feature_set(n, features, 1), feature_set(m, features, 2)
    assert frechet_distance(a, b) == pytest.approx(by_matrix_root(a, b), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "features"), [(64, 80, 24), (10, 7, 50), (2, 3, 1)])
def test_kernel_matches_kernel_matrices(n, m, features):
    a, b = feature_set(n, features, 1), feature_set(m, features, 2)
    assert kernel_distance(a, b) == pytest.approx(by_kernel_matrices(a, b), rel=1e-10)


@pytest.mark.parametrize("by", [by_matrix_root, by_kernel_matrices])
def test_independent_implementations_match_official(by):
    name = {by_matrix_root: "frechet", by_kernel_matrices: "kvd"}[by]
    # As above, the official Fréchet distance was computed in float32.
    assert by(OFFICIAL["a"], OFFICIAL["b"]) == pytest.approx(OFFICIAL[name].item(), rel=1e-5)


def test_frechet_of_one_feature():
    a, b = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [8.0], [5.0]])  # means 2 and 5, deviations root 2 and 3
    assert frechet_distance(a, b) == pytest.approx(9 + (3 - 2**0.5) ** 2, rel=1e-12)


@pytest.mark.filterwarnings("ignore:the Fréchet distance")
@pytest.mark.parametrize(("n", "m", "features"), [(10, 10, 50), (2, 100, 50), (3, 70, 8)])
def test_singular_covariances(n, m, features):
    """With fewer samples than features, compare with the distance in the span of the samples, which is regular."""
    a, b = feature_set(n, features, 1).double(), feature_set(m, features, 2).double()
    root_a, root_b = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b))
    # tr (C_a C_b)^(1/2) from the eigenvalues of the small matrix K K^T, K = X_a X_b^T.
    small = root_a @ root_b.T
    eigenvalues = torch.linalg.eigvalsh(small @ small.T).clamp(min=0)
    expected = (a.mean(0) - b.mean(0)).square().sum() + root_a.square().sum() + root_b.square().sum()
    expected = (expected - 2 * eigenvalues.sqrt().sum()).item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore:the Fréchet distance")
@pytest.mark.parametrize(("count", "features"), [(500, 30), (20, 30)], ids=["regular", "singular"])
def test_frechet_of_equal_sets_is_zero(count, features):
    a = feature_set(count, features, 3)
    assert frechet_distance(a, a.flip(0)) <= 1e-10 * a.double().var(0).sum()


def test_symmetry():
    a, b = feature_set(90, 12, 1), feature_set(70, 12, 2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert kernel_distance(a, b) == pytest.approx(kernel_distance(b, a), rel=1e-12)


def test_kernel_distance_is_unbiased():
    """Over draws from one distribution, it averages to zero; the biased estimate would average to about 4 / n."""
    draws = [kernel_distance(*torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(s))) for s in range(400)]
    values = torch.tensor(draws)
    assert abs(values.mean()) < 4 * values.std() / 400**0.5
    assert values.min() < 0


def test_few_samples_warn():
    with pytest.warns(UserWarning, match="5 features was fitted to 5 samples"):
        frechet_distance(feature_set(5, 5, 1), feature_set(50, 5, 2))


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_bad_sets_are_refused(distance):
    good = torch.zeros(3, 4)
    with pytest.raises(MetricError, match="two feature sets"):
        distance(good, torch.zeros(3, 5))
    with pytest.raises(MetricError, match="at least two samples"):
        distance(good, good[:1])
    with pytest.raises(MetricError, match="NaN"):
        distance(good, torch.full((3, 4), float("nan")))
