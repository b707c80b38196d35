"""How games are expected to end whose sides' strengths are normal: integrals over what is not known of them.

Given strengths u ~ N(m, V) of the K sides of a game, sides perform at u_k + noise of scale c_k.
One-dimensional integrals are closed or go by the trapezoidal rule, whose error falls exponentially in the
number of nodes for functions that are analytic in a strip around the real axis; two-dimensional ones by Gauss
and Hermite's rule; those over the strengths of more sides by a scrambled Sobol sequence. All arithmetic is in
float64.

Sources: Trefethen and Weideman, "The exponentially convergent trapezoidal rule", SIAM Review 56 (2014); Owen,
"Randomly permuted (t, m, s)-nets and (t, s)-sequences" (1995), for scrambled sequences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ppl_vae.models.skills.links import duel_log_prob

__all__ = [
    "duel_probabilities",
    "goal_probabilities",
    "goal_results",
    "pair_probabilities",
    "place_probabilities",
    "winner_probabilities",
]

# Standard deviations on either side that integrals go over: what is left out is below 1e-17.
REACH = 8.5
MOST_NODES = 4001
# Goals of one side that are told apart; nodes of each dimension of the rule over log rates.
MOST_GOALS, RATE_NODES = 40, 16
# A rate of which hardly any goals are beyond them: P(more than 40) is 1e-8.
MOST_RATE = 15.0
# Numbers held at a time.
CHUNK = 4 * 10**6


def duel_probabilities(
    mean: Tensor, variance: Tensor, scale: Tensor, margin: Tensor | float, link: str
) -> Tensor:
    """P(the first side wins), P(draw) and P(it loses), shape (games, 3).

    Args:
        mean, variance: of the first side's strength less the second's, shape (games,).
        scale: c of every game, shape (games,); see `links.duel_log_prob`.
        margin: ε; the number 0 for games without draws.
        link: probit, logistic or davidson.
    """
    mean, variance, scale = (part.double() for part in (mean, variance, scale))
    if link == "probit":
        # A performance and what is not known of the strength behind it are one normal.
        return _ended(mean, (scale.square() + variance).sqrt(), margin, link)
    sd = variance.sqrt()
    ratio = float((sd / scale).max()) if len(sd) else 0.0
    # Analytic within π c / sd of the real axis: the rule's error is then below e^(−2π² c / (sd h)).
    step = min(0.5, 0.6 / max(ratio, 1e-12))
    count = min(2 * math.ceil(REACH / step) + 1, MOST_NODES)
    nodes = torch.linspace(-REACH, REACH, count, dtype=torch.float64)
    weights = torch.exp(-nodes.square() / 2)
    found = torch.zeros(len(mean), 3, dtype=torch.float64)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        found += weight * _ended(mean + sd * node, scale, margin, link)
    return found / found.sum(-1, keepdim=True)


def _ended(difference: Tensor, scale: Tensor, margin: Tensor | float, link: str) -> Tensor:
    outcomes = [1.0, 0.5, 0.0]
    each = [
        duel_log_prob(difference, difference.new_tensor(value), scale, margin, link) for value in outcomes
    ]
    return torch.stack(each, -1).exp()


def goal_probabilities(mean: Tensor, covariance: Tensor, most: int = MOST_GOALS) -> Tensor:
    """P(i goals to j), shape (games, most + 1, most + 1); what is above ``most`` is left out.

    Args:
        mean, covariance: of the log rates of both sides, shapes (games, 2) and (games, 2, 2).
        most: goals of a side.
    """
    found = []
    for log_rate, weights in _rates(mean, covariance, 2 * (most + 1)):
        p = _poisson(log_rate, most)
        found.append(torch.einsum("n,gni,gnj->gij", weights, p[:, :, 0], p[:, :, 1]))
    return torch.cat(found)


def goal_results(mean: Tensor, covariance: Tensor) -> Tensor:
    """P(the first side wins), P(draw) and P(it loses), shape (games, 3); see `goal_probabilities`.

    Where a rate is so high that goals are beyond those told apart, their difference is taken for normal.
    """
    found = []
    for log_rate, weights in _rates(mean, covariance, 6 * (MOST_GOALS + 1)):
        p = _poisson(log_rate, MOST_GOALS)
        first, second = p[:, :, 0], p[:, :, 1]
        draw = (first * second).sum(-1)
        below = [side.cumsum(-1) - side for side in (second, first)]
        by_goals = torch.stack([(first * below[0]).sum(-1), draw, (second * below[1]).sum(-1)], -1)
        rate = log_rate.clamp_max(600.0).exp()
        ahead, sd = rate[:, :, 0] - rate[:, :, 1], rate.sum(-1).sqrt()
        won, lost = (torch.special.ndtr((sign * ahead - 0.5) / sd) for sign in (1, -1))
        by_normal = torch.stack([won, 1 - won - lost, lost], -1)
        many = (rate > MOST_RATE).any(-1, keepdim=True)
        found.append(torch.einsum("n,gnk->gk", weights, torch.where(many, by_normal, by_goals)))
    every = torch.cat(found)
    return every / every.sum(-1, keepdim=True)


def _rates(mean: Tensor, covariance: Tensor, each: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Log rates at the nodes of the rule, shape (some games, nodes, 2), and its weights.

    Args:
        mean, covariance: see `goal_probabilities`.
        each: numbers that a node takes.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(RATE_NODES)
    grid = torch.as_tensor(np.stack(np.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2))
    both = torch.as_tensor(np.outer(weights, weights).ravel() / weights.sum() ** 2)
    for part, root in zip(*_chunks(len(both) * each, mean.double(), _root(covariance.double())), strict=True):
        yield part[:, None] + grid @ root.transpose(-1, -2), both


def _poisson(log_rate: Tensor, most: int) -> Tensor:
    """P(0 to ``most`` goals), shape (*rates, most + 1)."""
    count = torch.arange(most + 1, dtype=torch.float64)
    return (count * log_rate[..., None] - log_rate.exp()[..., None] - torch.lgamma(count + 1)).exp()


def pair_probabilities(mean: Tensor, covariance: Tensor, scale: Tensor, link: str) -> Tensor:
    """P(side i finishes ahead of side j), shape (games, K, K); ½ on the diagonal.

    Args:
        mean, covariance: of the sides' strengths, shapes (games, K) and (games, K, K).
        scale: c_k of every side, shape (games, K); of "gumbel" performances, whose differences are logistic,
            one scale for all sides.
        link: probit, or gumbel.
    """
    mean, covariance, scale = (part.double() for part in (mean, covariance, scale))
    own = covariance.diagonal(dim1=-2, dim2=-1)
    ahead = mean[:, :, None] - mean[:, None, :]
    variance = (own[:, :, None] + own[:, None, :] - 2 * covariance).clamp_min(0.0)
    squares = scale.square()
    both = (squares[:, :, None] + squares[:, None, :]).sqrt()
    if link != "probit":
        both, link = scale[:, :, None].expand_as(both), "logistic"
    d, v, c = (part.reshape(-1) for part in (ahead, variance, both.clamp_min(1e-300)))
    won = duel_probabilities(d, v, c, 0.0, link)[:, 0].reshape(ahead.shape)
    return won.where(~torch.eye(won.shape[-1], dtype=torch.bool), torch.tensor(0.5, dtype=torch.float64))


def winner_probabilities(
    mean: Tensor, covariance: Tensor, scale: Tensor, sides: Tensor, link: str, num_points: int = 256
) -> Tensor:
    """P(side k comes first), shape (games, K); 0 for sides that there are not.

    Given the strengths, P is ∫ φ_k Π_{l≠k} Φ_l by the trapezoidal rule, or a softmax for Gumbel's law.

    Args:
        mean, covariance, scale: as for `pair_probabilities`.
        sides: how many there are, int64 of shape (games,); they come first.
        link: probit or gumbel.
        num_points: of the Sobol sequence over strengths that depend on each other, or that are not normal
            together with the performances; a power of two.
    """
    mean, covariance, scale = (part.double() for part in (mean, covariance, scale))
    there = torch.arange(mean.shape[-1]) < sides[:, None]
    own = covariance.diagonal(dim1=-2, dim2=-1)
    if link == "probit" and bool((covariance - torch.diag_embed(own)).abs().max() <= 1e-12 * own.max()):
        return _first(mean[:, None], (scale.square() + own).sqrt(), there)[:, 0]
    noise = _normal_points(num_points, mean.shape[-1])
    found = []
    for m, root, c, mask in zip(
        *_chunks(num_points * mean.shape[-1] * 4, mean, _root(covariance), scale, there), strict=True
    ):
        strengths = m[:, None] + noise @ root.transpose(-1, -2)
        if link == "probit":
            found.append(_first(strengths, c, mask).mean(1))
        else:
            odds = (strengths / c.clamp_min(1e-300)[:, None]).masked_fill(~mask[:, None], -math.inf)
            found.append(odds.softmax(-1).mean(1))
    return torch.cat(found)


def _first(strengths: Tensor, scale: Tensor, there: Tensor, step: float = 0.35) -> Tensor:
    """P(each comes first) of normal performances, shape (games, points, K).

    Args:
        strengths: shape (games, points, K).
        scale, there: shape (games, K).
        step: of the rule, in the smallest standard deviation.
    """
    c = scale.where(there, torch.tensor(1.0, dtype=torch.float64))
    found = torch.empty_like(strengths)
    for game in range(len(strengths)):
        mask = there[game]
        u, sd = strengths[game][:, mask], c[game, mask]
        # Below the best side's reach nobody wins, whoever they are.
        low, high = (u - REACH * sd).max(-1).values, (u + REACH * sd).max(-1).values
        count = min(math.ceil(float((high - low).max() / sd.min()) / step) + 1, MOST_NODES)
        x = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, count, dtype=torch.float64)
        z = (x[:, None] - u[..., None]) / sd[:, None]
        log_cdf = torch.special.log_ndtr(z)
        log_p = log_cdf.sum(1, keepdim=True) - log_cdf - z.square() / 2 - sd.log()[:, None]
        p = log_p.exp().sum(-1)
        found[game] = 0.0
        found[game][:, mask] = p / p.sum(-1, keepdim=True)
    return found


def place_probabilities(
    mean: Tensor,
    covariance: Tensor,
    scale: Tensor,
    sides: Tensor,
    link: str,
    num_draws: int = 4096,
    seed: int = 0,
) -> Tensor:
    """P(side k finishes on place r), shape (games, K, K), by draws of performances.

    Args:
        mean, covariance, scale, sides, link: as for `winner_probabilities`.
        num_draws: of performances; an error is at most ½ over their root.
        seed: of them.
    """
    mean, covariance, scale = (part.double() for part in (mean, covariance, scale))
    size, generator = mean.shape[-1], torch.Generator().manual_seed(seed)
    there = torch.arange(size) < sides[:, None]
    found = torch.zeros(len(mean), size, size, dtype=torch.float64)
    for game, root in enumerate(_root(covariance)):
        noise = torch.randn(num_draws, size, generator=generator, dtype=torch.float64)
        own = torch.randn(num_draws, size, generator=generator, dtype=torch.float64)
        if link != "probit":
            own = -torch.log(-torch.log(torch.rand(own.shape, generator=generator, dtype=torch.float64)))
        performance = mean[game] + noise @ root.T + scale[game] * own
        order = performance.masked_fill(~there[game], -math.inf).argsort(-1, descending=True)
        for place in range(int(sides[game])):
            found[game, :, place] = torch.bincount(order[:, place], minlength=size) / num_draws
    return found


def _normal_points(num_points: int, dim: int) -> Tensor:
    """Normal numbers that fill space evenly, shape (points, dim); always the same."""
    engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0)
    points = engine.draw(num_points, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return torch.special.ndtri(points)


def _root(covariance: Tensor) -> Tensor:
    """A with A Aᵀ = V, also of a V that is singular, shape of V."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0.0).sqrt()[..., None, :]


def _chunks(each: int, *parts: Tensor) -> list[tuple[Tensor, ...]]:
    """Tensors cut along games into as many as fit, where a game takes so many numbers."""
    return [part.split(max(1, CHUNK // each)) for part in parts]
