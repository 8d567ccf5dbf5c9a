"""The inception score of a set of class probabilities."""

from __future__ import annotations

import torch

from digan.errors import MetricError


def inception_score(probabilities: torch.Tensor, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Return the mean and standard deviation of exp(mean_i KL(p_i || mean_j p_j)) over `splits` parts, in float64.

    See Salimans et al., NeurIPS 2016, and for videos Saito et al., IJCV 2020. The score is between 1 and C; higher is
    better. The standard deviation is the population one (division by `splits`), as is common in the literature.

    Args:
        probabilities: [n, C], n >= splits; each row is a distribution over C classes.
        splits: number of parts.
        seed: seed for shuffling the rows before the split, since videos are often sorted by class.

    Raises:
        MetricError: there are fewer rows than splits, or the rows are not distributions.
    """
    if probabilities.ndim != 2 or splits < 1:
        raise MetricError(f"class probabilities [n,C] and at least 1 split are needed, not {list(probabilities.shape)}")
    if len(probabilities) < splits:
        raise MetricError(
            f"an inception score over {splits} splits needs at least {splits} clips, there are {len(probabilities)}"
        )
    p = probabilities.detach().to("cpu", torch.float64)
    if not (p >= 0).all() or not torch.allclose(p.sum(1), torch.ones(len(p), dtype=p.dtype), atol=1e-3):
        raise MetricError("rows of class probabilities must be non-negative and sum to 1; check the detector's output")
    p = p[torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))]
    scores = torch.stack([_score(part) for part in p.tensor_split(splits)])  # [splits]
    return scores.mean().item(), scores.std(correction=0).item()


def _score(p: torch.Tensor) -> torch.Tensor:
    # xlogy: x log x is 0 at 0, where the logarithm is not finite.
    marginal = p.mean(0)  # [C]
    return (torch.xlogy(p, p).sum(1).mean() - torch.xlogy(marginal, marginal).sum()).exp()
