"""The inception score of a set of class probabilities."""

from __future__ import annotations

import torch

from digan.errors import MetricError


def inception_score(probabilities: torch.Tensor, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over `splits` parts of exp(mean_i KL(p_i || mean_j p_j)), in float64.

    probabilities [n,C], n >= splits: rows are distributions over C classes (Salimans et al., NeurIPS 2016; of videos:
    Saito et al., IJCV 2020). Between 1 and C, higher is better. The rows are shuffled with `seed` before the split,
    since videos often lie in the order of their classes. The deviation is that of the parts as a population (division
    by `splits`), as the field reports it. Raises MetricError for anything else.
    """
    if probabilities.ndim != 2 or splits < 1:
        raise MetricError(f"class probabilities [n,C] and at least 1 split are needed, not {list(probabilities.shape)}")
    if len(probabilities) < splits:
        raise MetricError(
            f"an inception score over {splits} splits needs at least {splits} clips, there are {len(probabilities)}"
        )
    p = probabilities.detach().to("cpu", torch.float64)
    if not (p >= 0).all() or not torch.allclose(p.sum(1), torch.ones(len(p), dtype=p.dtype), atol=1e-3):
        raise MetricError("class probabilities must be positive rows that sum to 1; look at what the detector returns")
    p = p[torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))]
    scores = torch.stack([_score(part) for part in p.tensor_split(splits)])  # [splits]
    return scores.mean().item(), scores.std(correction=0).item()


def _score(p: torch.Tensor) -> torch.Tensor:
    # x log x is 0 at 0, where the logarithm alone is not finite.
    marginal = p.mean(0)  # [C]
    return (torch.xlogy(p, p).sum(1).mean() - torch.xlogy(marginal, marginal).sum()).exp()
