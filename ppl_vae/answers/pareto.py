"""Pareto-smoothed importance sampling, for many units at once: tail indices and smoothed weights.

Written out here because k̂ and the smoothed sum come from the largest weights alone, which are all that is
kept of very many draws; ArviZ's routine takes every weight of one unit. Tests hold the numbers to ArviZ's.
"""

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["pareto_k", "smoothed_tail", "smoothed_weights", "systematic", "tail_length"]


# Numbers in one table of likelihoods.
_TABLE = 2**22
# Excesses, over the largest weight, that are rounding: in float64, and in float32 for each nat of a log
# weight, whose sums are off by a few units of the last place.
DOUBLE, SINGLE = 1e-10, 1e-6


def _grid_size(size: int) -> int:
    return 30 + int(math.sqrt(size))


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
    return _fit(largest)[0]


def smoothed_tail(largest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k̂, and logs of the sums of the M largest weights as they are, and Pareto-smoothed.

    The order statistics are replaced by quantiles of the fitted distribution at (i − ½)/M, none above the
    largest weight itself (Vehtari et al. 2024, section 2). Where nothing can be fitted, both are the same.

    Args:
        largest: as for `pareto_k`.

    Returns:
        Three tensors of shape (units,).
    """
    ordered = largest.double().sort(dim=0).values
    raw = ordered[1:].logsumexp(0)
    shape, scale = _fit(largest)
    if len(ordered) < 6:
        return shape, raw, raw
    smooth = _quantiles(ordered, shape, scale).sum(0).log() + ordered[-1]
    return shape, raw, torch.where(shape.isfinite() & (shape > -1), smooth, raw)


def smoothed_weights(log_weights: Tensor) -> Tensor:
    """Normalised weights, the largest of them replaced as in `smoothed_tail`; each unit's sum is 1.

    Fewer than 25 weights that count stay as they are, and so do tails that nothing can be fitted to: of equal
    weights, as discrete draws have.

    Args:
        log_weights: of shape (draws, units), finite or −∞, and not all −∞ in a unit.
    """
    relative = log_weights.double() - log_weights.double().amax(0)
    weights = relative.exp()
    # As many as ArviZ takes.
    size = int(min(len(weights) / 5, 3 * math.sqrt(len(weights))))
    if size < 5:
        return weights / weights.sum(0)
    # Weights that vanish would make the smallest of a tail −∞.
    floored = relative.clamp_min(-700.0)
    order = floored.argsort(dim=0, stable=True)[-size - 1 :]
    ordered = floored.gather(0, order)
    shape, scale = _fit(ordered)
    fitted = _quantiles(ordered, shape, scale)
    fits = (ordered[int(size / 4 + 0.5)] > ordered[0]) & ((weights > 0).sum(0) >= 25)
    fits &= fitted.isfinite().all(0) & (scale > 0) & (shape != -1)
    weights = torch.where(fits, floored.exp().scatter(0, order[1:], fitted), weights)
    return weights / weights.sum(0)


def systematic(weights: np.ndarray, generator: np.random.Generator, size: int | None = None) -> np.ndarray:
    """Places of draws by their weights, in order: one at every (u + i)/S of the weights' sums.

    Args:
        weights: normalised, of shape (draws, units).
        generator: of one u for each unit.
        size: S, how many places; as many as draws if None.

    Returns:
        Of shape (S, units).
    """
    size = len(weights) if size is None else size
    found = np.empty((size, weights.shape[1]), dtype=int)
    for unit, column in enumerate(weights.T):
        steps = (generator.random() + np.arange(size)) / size
        found[:, unit] = np.minimum(np.searchsorted(np.cumsum(column), steps, side="right"), len(column) - 1)
    return found


def _quantiles(ordered: Tensor, shape: Tensor, scale: Tensor) -> Tensor:
    """Weights at (i − ½)/M of the fitted distribution, relative to the largest and at most it: (M, units).

    Args:
        ordered: the M + 1 largest log weights, ascending.
        shape, scale: of `_fit`.
    """
    size = len(ordered) - 1
    chance = (torch.arange(1, size + 1, dtype=torch.float64) - 0.5)[:, None] / size
    beyond = scale * torch.expm1(-shape * torch.log1p(-chance)) / torch.where(shape == 0, 1.0, shape)
    return ((ordered[:1] - ordered[-1:]).exp() + beyond).clamp_max(1.0)


def _fit(largest: Tensor) -> tuple[Tensor, Tensor]:
    """k̂ and the scale, the latter relative to the largest weight, each of shape (units,)."""
    # The likelihood is tabulated: so many units at once that memory stays bounded.
    most = max(1, _TABLE // (len(largest) * _grid_size(len(largest))))
    parts = [_fit_some(part) for part in largest.split(most, dim=1)]
    shape, scale = (torch.cat(part) for part in zip(*parts, strict=True))
    return shape, scale


def _fit_some(largest: Tensor) -> tuple[Tensor, Tensor]:
    ordered = largest.double().sort(dim=0).values
    excess = (ordered[1:] - ordered[-1:]).exp() - (ordered[:1] - ordered[-1:]).exp()
    size, units = excess.shape
    if size < 5:
        return torch.full((units,), torch.inf, dtype=torch.float64), torch.zeros(units, dtype=torch.float64)
    constant = excess[-1] < _rounding(ordered)
    shape, scale = _generalised_pareto(
        torch.where(constant, torch.ones_like(excess).cumsum(0), excess.clamp_min(1e-300))
    )
    shrunk = (size * shape + 10 * 0.5) / (size + 10)
    return torch.where(constant, -torch.ones_like(shrunk), shrunk), scale


def _rounding(ordered: Tensor) -> Tensor:
    """Excesses below which weights are constant but for the rounding of the precision that they came from.

    Args:
        ordered: log weights in float64, shape (M + 1, units), which may have been float32 before.
    """
    single = (ordered == ordered.float().double()).all(0)
    return torch.where(single, SINGLE * ordered.abs().amax(0).clamp_min(1.0), DOUBLE)


def _generalised_pareto(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Zhang and Stephens' estimates of shape and scale for ascending excesses of shape (M, units)."""
    size = excess.shape[0]
    grid = _grid_size(size)
    quartile = excess[int(size / 4 + 0.5) - 1].clamp_min(1e-300)
    steps = torch.arange(1, grid + 1, dtype=excess.dtype)
    theta = (1 - (grid / (steps - 0.5)).sqrt())[:, None] / (3 * quartile) + 1 / excess[-1]
    shape = torch.log1p(-theta[:, None] * excess).mean(1)
    log_likelihood = size * ((-theta / shape).log() - shape - 1)
    weights = log_likelihood.softmax(0)
    posterior_mean = (weights * theta).sum(0)
    shape = torch.log1p(-posterior_mean * excess).mean(0)
    return shape, -shape / posterior_mean
