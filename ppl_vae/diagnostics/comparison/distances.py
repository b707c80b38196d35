"""How far two sets of draws are apart, each number with its Monte Carlo error.

Errors come from influence functions: a statistic's error is that of the mean of its influence values,
sd/√ESS, where the effective size is that of these very values (autocorrelated chains) or that of the
draws (independent ones). Hampel, "The influence curve and its role in robust estimation" (1974).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from scipy.linalg import eigh, qr

from ppl_vae.answers.posterior import Dependence, Posterior
from ppl_vae.base.moments import standard_deviation

__all__ = [
    "Direction",
    "Estimate",
    "Sample",
    "correlations",
    "independent_quantities",
    "lost_correlation",
    "mean_error",
    "quantile_error",
    "sd_ratio",
    "sliced_wasserstein",
    "variance_ratios",
    "wasserstein",
]

Array = np.ndarray

# Expected |B| of a standard normal B.
HALF_NORMAL = np.sqrt(2 / np.pi)
SMALL = float(np.finfo(float).tiny)


class Estimate(NamedTuple):
    """Numbers and their Monte Carlo errors, of the same shape."""

    value: Array
    error: Array


class Distance(NamedTuple):
    """A distance, its Monte Carlo error, and its expectation for two samples of one distribution.

    A distance is never negative, so that even samples of the same distribution are some way apart: the null
    level.
    """

    value: Array
    error: Array
    null: Array


@dataclass(frozen=True, eq=False)
class Sample:
    """Draws of several quantities as one array.

    Attributes:
        values: shape (quantity, chain, draw).
        dependence: "chains" or "independent".
        sizes: how many independent draws each quantity's are worth, shape (quantity,); not used for chains.
    """

    values: Array
    dependence: Dependence
    sizes: Array

    @classmethod
    def of(cls, answer: Posterior, names: list[str]) -> Self:
        """The named scalars of an answer."""
        scalars, sizes = answer.scalars(), answer.independent_sizes()
        values = np.stack([scalars[name] for name in names]).astype(float)
        return cls(values, answer.dependence, np.array([sizes[name] for name in names]))

    @property
    def flat(self) -> Array:
        """Shape (quantity, chain · draw)."""
        return self.values.reshape(len(self.values), -1)

    @property
    def scale(self) -> Array:
        """Standard deviations."""
        return standard_deviation(self.flat, axis=1, ddof=1)

    def take(self, which: Array | slice) -> Sample:
        """Some of the quantities."""
        return Sample(self.values[which], self.dependence, self.sizes[which])

    def halves(self) -> tuple[Sample, Sample]:
        """The first and the second half of every chain. Resampled draws keep their repetitions together."""
        middle = self.values.shape[2] // 2
        first, second = self.values[..., :middle], self.values[..., middle:]
        return (
            Sample(first, self.dependence, self.sizes / 2),
            Sample(second, self.dependence, self.sizes / 2),
        )

    def along(self, weights: Array) -> Sample:
        """Linear combinations: ``weights`` of shape (combination, quantity)."""
        values = np.tensordot(weights, self.values, axes=1)
        return Sample(values, self.dependence, np.full(len(weights), self.sizes.min()))

    def effective(self, values: Array) -> Array:
        """Effective sizes of the mean of functions of the draws, of this sample's shape."""
        if self.dependence == "independent":
            return self.sizes
        from arviz_stats.base import array_stats

        with np.errstate(all="ignore"):
            found = np.asarray(array_stats.ess(values, method="mean"), dtype=float)
        # Values that never change have no error, whatever their number.
        return np.where(np.isfinite(found) & (found > 0), found, 1.0)

    def error(self, influence: Array) -> Array:
        """The Monte Carlo error of means of functions of the draws, shape (quantity,)."""
        influence = influence.reshape(len(influence), *self.values.shape[1:])
        spread = influence.reshape(len(influence), -1).std(axis=1)
        return np.asarray(spread / np.sqrt(self.effective(influence)))


def mean_error(own: Sample, truth: Sample) -> Estimate:
    """Means of the answer less those of the reference, in the reference's standard deviations."""
    scale = np.maximum(truth.scale, SMALL)
    error = np.hypot(own.error(own.flat), truth.error(truth.flat))
    with np.errstate(over="ignore"):
        return Estimate((own.flat.mean(1) - truth.flat.mean(1)) / scale, error / scale)


def sd_ratio(own: Sample, truth: Sample) -> Estimate:
    """Standard deviations of the answer over those of the reference.

    The error follows from the spread of squared deviations, and so from the draws' own tails: for normal
    ones it is 1/√(2n), for heavy ones more.
    """
    ratio, relative = _variance_ratio(own, truth)
    return Estimate(np.sqrt(ratio), 0.5 * np.sqrt(ratio) * relative)


def quantile_error(own: Sample, truth: Sample, probability: float) -> Estimate:
    """Quantiles of the answer less those of the reference, in the reference's standard deviations.

    The error is that of the probability below the quantile, carried through the empirical quantile function
    (Vehtari et al., "Rank-normalization, folding, and localization", 2021, section 4.3).
    """
    scale = np.maximum(truth.scale, SMALL)
    (mine, error), (theirs, other) = (_with_error(sample, probability) for sample in (own, truth))
    with np.errstate(over="ignore"):
        return Estimate((mine - theirs) / scale, np.hypot(error, other) / scale)


def _with_error(sample: Sample, probability: float) -> Estimate:
    """Quantiles, and half the distance between those one standard error of the probability off."""
    ordered = np.sort(sample.flat, axis=1)
    at = np.full(len(ordered), probability)
    quantile = _quantile(ordered, at)
    below = (sample.values <= quantile[:, None, None]).astype(float)
    step = np.sqrt(probability * (1 - probability) / sample.effective(below))
    width = _quantile(ordered, at + step) - _quantile(ordered, at - step)
    return Estimate(quantile, width / 2)


def _quantile(ordered: Array, at: Array) -> Array:
    """Linear interpolation between order statistics, one probability a row."""
    place = np.clip(at, 0, 1) * (ordered.shape[1] - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, ordered.shape[1] - 1)
    rows = np.arange(len(ordered))
    return np.asarray(ordered[rows, low] + (place - low) * (ordered[rows, high] - ordered[rows, low]))


# Wasserstein distances ----------------------------------------------------------------------------


def wasserstein(own: Sample, truth: Sample) -> Distance:
    """1-Wasserstein distances ∫ |F(t) − G(t)| dt, in the quantities' units.

    The influence of a draw is its Kantorovich potential. The null level is the mean of
    √(1/n + 1/m) ∫ |B(F(t))| dt for a Brownian bridge B, which is √(2/π) √(1/n + 1/m) ∫ √(F(1 − F)) dt with
    effective sizes n and m (del Barrio, Giné and Matrán 1999). Those are the means', and a little too small
    for the tails of autocorrelated chains: the null level is then up to a fifth too high.
    """
    value, own_potential, potential = _transport(own.flat, truth.flat)
    error = np.hypot(own.error(own_potential), truth.error(potential))
    return Distance(value, error, _null_level(own, truth))


def sliced_wasserstein(own: Sample, truth: Sample, generator: np.random.Generator, slices: int) -> Distance:
    """The mean 1-Wasserstein distance along random directions, every quantity divided by its reference sd.

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures" (2015), section 3.

    Returns:
        Three numbers. The null level is that of the mean over the directions.
    """
    directions = generator.normal(size=(slices, len(own.values)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weights = directions / np.maximum(truth.scale, SMALL)
    ours, theirs = own.along(weights), truth.along(weights)
    value, own_potential, potential = _transport(ours.flat, theirs.flat)
    error = np.hypot(
        ours.take(slice(1)).error(own_potential.mean(0, keepdims=True)),
        theirs.take(slice(1)).error(potential.mean(0, keepdims=True)),
    )[0]
    return Distance(np.asarray(value.mean()), error, np.asarray(_null_level(ours, theirs).mean()))


def _transport(own: Array, truth: Array) -> tuple[Array, Array, Array]:
    """Distances between rows, and the potentials of the draws on either side."""
    together = np.concatenate([own, truth], axis=1)
    order = np.argsort(together, axis=1, kind="stable")
    ordered = np.take_along_axis(together, order, axis=1)
    steps = np.where(order < own.shape[1], 1 / own.shape[1], -1 / truth.shape[1])
    gap = np.cumsum(steps, axis=1)[:, :-1]
    # Equal distribution functions differ by rounding.
    gap[np.abs(gap) < 1e-12] = 0.0
    lengths = np.diff(ordered, axis=1)
    rise = np.zeros_like(ordered)
    np.cumsum(np.sign(gap) * lengths, axis=1, out=rise[:, 1:])
    potential = np.empty_like(rise)
    np.put_along_axis(potential, order, rise, axis=1)
    value = (np.abs(gap) * lengths).sum(1)
    return value, potential[:, : own.shape[1]], potential[:, own.shape[1] :]


def _null_level(own: Sample, truth: Sample) -> Array:
    ordered = np.sort(truth.flat, axis=1)
    below = np.arange(1, ordered.shape[1]) / ordered.shape[1]
    spread = (np.sqrt(below * (1 - below)) * np.diff(ordered, axis=1)).sum(1)
    share = np.sqrt(1 / own.effective(own.values) + 1 / truth.effective(truth.values))
    return np.asarray(HALF_NORMAL * share * spread)


# Covariances --------------------------------------------------------------------------------------


class Direction(NamedTuple):
    """A linear combination of quantities, and the ratio of the two answers' variances along it.

    Attributes:
        ratio: of variances, answer over reference; not biased by the choice of the direction.
        error: its Monte Carlo error.
        width: ratio of the widths between the 5 % and the 95 % quantile along the same direction, which
            heavy tails do not disturb.
        width_error: its Monte Carlo error.
        weights: of the quantities in their own units, of unit length.
    """

    ratio: float
    error: float
    width: float
    width_error: float
    weights: Array


def variance_ratios(own: Sample, truth: Sample) -> tuple[Direction, Direction]:
    """The directions in which the answer's variance is smallest and largest against the reference's.

    They are the extreme generalised eigenvectors of the two covariances. Extremes of noisy matrices
    overstate: so each half of the draws chooses directions (its correlations shrunk towards zero where they
    are mostly noise), the other half says what the ratio there is, and the two are averaged. A wrong
    direction is found with less power in many dimensions, and never invented.

    Args:
        own, truth: linearly independent quantities of positive variance; see `independent_quantities`.

    Returns:
        The smallest and the largest ratio.
    """
    scale = truth.scale
    mine, theirs = ((part.take(slice(None)).along(np.diag(1 / scale))) for part in (own, truth))
    choosing = list(zip(mine.halves(), theirs.halves(), strict=True))
    everything = _extremes(mine, theirs)
    chosen = [_extremes(*half) for half in choosing]
    found = []
    for end in (0, 1):
        ratios = [
            _variance_ratio(*(side.along(chosen[half][end]) for side in choosing[1 - half]))[0][0]
            for half in (0, 1)
        ]
        logs = np.log(np.maximum(ratios, SMALL))
        weights = everything[end]
        sides = mine.along(weights), theirs.along(weights)
        ratio, relative = float(np.exp(np.mean(logs))), float(_variance_ratio(*sides)[1][0])
        plain = weights[0] / scale
        plain /= np.linalg.norm(plain)
        found.append(Direction(ratio, ratio * relative, *_width_ratio(*sides), plain))
    return found[0], found[1]


def correlations(values: Array) -> Array:
    """Correlations of rows with each other, shape (row, row); a row that does not move has none: 0."""
    covariance = np.atleast_2d(np.cov(values))
    scale = np.maximum(np.sqrt(np.diag(covariance)), SMALL)
    found = (covariance / scale[:, None] / scale).clip(-1.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)


def independent_quantities(truth: Sample) -> Array:
    """Indices of quantities of which none is constant or a linear combination of others, in order."""
    moving = np.flatnonzero(truth.scale > 1e-12 * np.maximum(np.abs(truth.flat).max(1), SMALL))
    if len(moving) < 2:
        return moving
    correlation = correlations(truth.flat[moving])
    diagonal, pivots = qr(correlation, mode="r", pivoting=True)
    independent = np.abs(np.diag(diagonal)) > 1e-9
    return np.asarray(moving[np.sort(pivots[: int(independent.sum())])])


def lost_correlation(own: Sample, truth: Sample) -> tuple[Estimate, tuple[int, int]]:
    """The largest difference between a correlation in the answer and in the reference.

    Returns:
        |r_answer − r_reference| with its error, the pair chosen on one half of the draws and the difference
        measured on the other (so that it may come out negative where there is only noise); and the pair
        with the largest difference over all draws.
    """
    halves = list(zip(own.halves(), truth.halves(), strict=True))
    gaps = [correlations(mine.flat) - correlations(theirs.flat) for mine, theirs in halves]
    chosen = [_largest(gap) for gap in gaps]
    values = [gaps[1 - half][chosen[half]] * np.sign(gaps[half][chosen[half]]) for half in (0, 1)]
    pair = _largest(correlations(own.flat) - correlations(truth.flat))
    error = np.hypot(_correlation_error(own, pair), _correlation_error(truth, pair))
    return Estimate(np.mean(values), error), pair


def _largest(gap: Array) -> tuple[int, int]:
    upper = np.triu(np.abs(gap), k=1)
    first, second = np.unravel_index(int(np.argmax(upper)), upper.shape)
    # With nothing to choose from, the first two.
    return (int(first), int(second)) if first < second else (0, 1)


def _correlation_error(sample: Sample, pair: tuple[int, int]) -> float:
    """The influence of a draw on a correlation r is uv − r(u² + v²)/2 for standardised u and v."""
    u, v = ((row - row.mean()) / max(row.std(), SMALL) for row in sample.flat[list(pair)])
    influence = u * v - float((u * v).mean()) * (u**2 + v**2) / 2
    return float(sample.take(np.array(pair[:1])).error(influence[None])[0])


def _variance_ratio(own: Sample, truth: Sample) -> tuple[Array, Array]:
    """Ratios of variances, and their relative errors."""
    variances, errors = [], []
    for sample in (own, truth):
        squares = (sample.flat - sample.flat.mean(1, keepdims=True)) ** 2
        mean = np.maximum(squares.mean(1), SMALL)
        variances.append(squares.sum(1) / (squares.shape[1] - 1))
        errors.append(sample.error(squares / mean[:, None]))
    # Infinite against a reference that does not move.
    with np.errstate(over="ignore"):
        return variances[0] / np.maximum(variances[1], SMALL), np.hypot(*errors)


def _width_ratio(own: Sample, truth: Sample) -> tuple[float, float]:
    """Ratio of the widths of the central 90 %, of one quantity, and its error (the tails taken as
    independent)."""
    widths, relative = [], []
    for sample in (own, truth):
        low, high = (_with_error(sample, probability) for probability in (0.05, 0.95))
        width, error = float((high.value - low.value)[0]), float(np.hypot(low.error, high.error)[0])
        widths.append(max(width, SMALL))
        # Where 90 % of the draws are the same one, nothing is known of how wide they would be.
        relative.append(error / width if width > 0 else math.inf)
    ratio = min(widths[0] / widths[1], 1 / SMALL)
    return ratio, ratio * math.hypot(*relative)


def _extremes(own: Sample, truth: Sample) -> tuple[Array, Array]:
    """Directions of the smallest and the largest ratio of variances, each of shape (1, quantity)."""
    mine, theirs = _shrunk(own), _shrunk(truth)
    # A ridge far below any Monte Carlo error, against matrices singular to rounding; where nothing of theirs
    # moves, far below the spread of mine.
    size = next((trace for trace in (np.trace(theirs), np.trace(mine)) if trace > 0), 1.0)
    theirs = theirs + 1e-12 * size / len(theirs) * np.eye(len(theirs))
    vectors = eigh(mine, theirs)[1]
    return vectors[:, :1].T, vectors[:, -1:].T


def _shrunk(sample: Sample) -> Array:
    """A covariance whose correlations are shrunk towards zero as far as they are noise.

    Source: Schäfer and Strimmer, "A shrinkage approach to large-scale covariance matrix estimation" (2005),
    target D, with the normal approximation (1 − r²)²/n of a correlation's variance.
    """
    covariance = np.atleast_2d(np.cov(sample.flat))
    scale = np.maximum(np.sqrt(np.diag(covariance)), SMALL)
    correlation = covariance / scale[:, None] / scale
    size = float(np.median(sample.effective(sample.values)))
    off = ~np.eye(len(scale), dtype=bool)
    squares = float((correlation[off] ** 2).sum())
    noise = float(((1 - correlation[off] ** 2) ** 2).sum()) / max(size, 1.0)
    kept = 1 - min(1.0, noise / max(squares, SMALL))
    return np.where(off, kept, 1.0) * covariance
