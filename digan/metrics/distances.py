"""Distances between two sets of features: Fréchet (FVD) and kernel (KVD)."""

from __future__ import annotations

import warnings

import torch

from digan.errors import MetricError


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the Fréchet distance between the Gaussians fitted to two feature sets, in float64.

    |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with unbiased covariances (Heusel et al., NeurIPS 2017;
    FVD: Unterthiner et al., 2018). Symmetric; zero for equal sets.

    The trace of the root is the sum of the singular values of R_a R_b^T, where C = R^T R comes from a QR decomposition
    of the centred features. This takes no roots of rounded eigenvalues, so singular covariances lose no precision.
    Covariances are singular if a set has no more samples than features; the fit is then poor, and a warning is issued.

    Args:
        a: features [n, F], n >= 2.
        b: features [m, F], m >= 2.

    Raises:
        MetricError: the shapes do not fit, a set has fewer than 2 samples, or features are not finite.
    """
    a, b = _feature_sets(a, b)
    fewest, features = min(len(a), len(b)), a.shape[1]
    if fewest <= features:
        warnings.warn(
            f"the Fréchet distance of {features} features was fitted to {fewest} samples: their covariance is singular "
            f"and the value is biased; use more than {features} samples on both sides, or compare equal counts only",
            stacklevel=2,
        )
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    mean_term = (a.mean(0) - b.mean(0)).square().sum()
    distance = mean_term + root_a.square().sum() + root_b.square().sum() - 2 * cross
    # Never negative in exact arithmetic; for equal sets the rounding error has either sign.
    return max(0.0, distance.item())


def kernel_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy with the kernel (x.y/F + 1)^3, in float64.

    This is KVD (Binkowski et al., ICLR 2018). Symmetric; being unbiased, it scatters around zero for two sets from the
    same distribution and may be negative.

    Args:
        a: features [n, F], n >= 2.
        b: features [m, F], m >= 2.

    Raises:
        MetricError: the shapes do not fit, a set has fewer than 2 samples, or features are not finite.
    """
    a, b = _feature_sets(a, b)
    features = a.shape[1]

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x @ y.T / features + 1).pow_(3)

    def mean_of_pairs(x: torch.Tensor) -> torch.Tensor:
        matrix, count = kernel(x, x), len(x)
        return (matrix.sum() - matrix.diagonal().sum()) / (count * (count - 1))

    return (mean_of_pairs(a) + mean_of_pairs(b) - 2 * kernel(a, b).mean()).item()


def _feature_sets(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise MetricError(f"two feature sets [n,F] and [m,F] are needed, not {list(a.shape)} and {list(b.shape)}")
    if min(len(a), len(b)) < 2:
        raise MetricError(f"a distance needs at least two samples on both sides, not {len(a)} and {len(b)}")
    a, b = (features.detach().to("cpu", torch.float64) for features in (a, b))
    if not (a.isfinite().all() and b.isfinite().all()):
        raise MetricError("the features hold NaN or infinity; check the clips and the detector")
    return a, b


def _covariance_root(features: torch.Tensor) -> torch.Tensor:
    """Return R [min(n, F), F] such that R^T R is the unbiased covariance of features [n, F]."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R
