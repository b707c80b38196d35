"""The tail index of importance weights, for many units at once and from their largest weights only."""

import math

import torch
from torch import Tensor

__all__ = ["pareto_k", "tail_length"]


def tail_length(num_samples: int) -> int:
    """How many of the largest weights make the tail: min(S/5, 3√S) (Vehtari et al. 2024, section 2)."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def pareto_k(largest: Tensor) -> Tensor:
    """k̂ of each unit's weights.

    The generalised Pareto shape is fitted to the excesses over the smallest of the given weights by
    the quasi-Bayesian estimator of Zhang and Stephens (2009), then shrunk towards 0.5 as with ten more
    observations (Vehtari et al. 2024, appendix C).

    Args:
        largest: the M + 1 largest log weights of each unit, shape (M + 1, units), in any order.

    Returns:
        k̂ of shape (units,); −1 where the weights are constant to rounding, and infinity where the
        tail has fewer than five weights.
    """
    ordered = largest.double().sort(dim=0).values
    excess = (ordered[1:] - ordered[-1:]).exp() - (ordered[:1] - ordered[-1:]).exp()
    size, units = excess.shape
    if size < 5:
        return torch.full((units,), torch.inf, dtype=torch.float64)
    constant = excess[-1] < 1e-10
    shape = _gpd_shape(torch.where(constant, torch.ones_like(excess).cumsum(0), excess.clamp_min(1e-300)))
    shrunk = (size * shape + 10 * 0.5) / (size + 10)
    return torch.where(constant, -torch.ones_like(shrunk), shrunk)


def _gpd_shape(excess: Tensor) -> Tensor:
    """Zhang and Stephens' estimate for ascending excesses of shape (M, units)."""
    size = excess.shape[0]
    grid = 30 + int(math.sqrt(size))
    quartile = excess[int(size / 4 + 0.5) - 1].clamp_min(1e-300)
    steps = torch.arange(1, grid + 1, dtype=excess.dtype)
    theta = (1 - (grid / (steps - 0.5)).sqrt())[:, None] / (3 * quartile) + 1 / excess[-1]
    shape = torch.log1p(-theta[:, None] * excess).mean(1)
    log_likelihood = size * ((-theta / shape).log() - shape - 1)
    weights = log_likelihood.softmax(0)
    posterior_mean = (weights * theta).sum(0)
    return torch.log1p(-posterior_mean * excess).mean(0)
