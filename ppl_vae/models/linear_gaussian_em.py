"""Maximum likelihood of linear-Gaussian models by EM, with or without missing values.

Sources: Rubin and Thayer, "EM algorithms for ML factor analysis", Psychometrika 47 (1982); Tipping and Bishop
(1999), section 3.3 and appendix B; of missing values Ilin and Raiko, "Practical approaches to principal
component analysis in the presence of missing values", JMLR 11 (2010), section 4; of the expansion Liu, Rubin
and Wu, "Parameter expansion to accelerate EM", Biometrika 85 (1998), section 5; of moving ahead Varadhan and
Roland, "Simple and globally convergent methods for accelerating the convergence of any EM algorithm",
Scandinavian Journal of Statistics 35 (2008), scheme S3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.base.clock import check_time

__all__ = ["EM", "Estimate", "Rule", "first_estimate", "maximise"]

# Where the noise of a feature is no further above its bound than this share of it, it is at the bound.
AT_BOUND = 1e-3


@dataclass(frozen=True, eq=False)
class Estimate:
    """Parameters, all float64: W of shape (d, q), μ and the noise variances ψ of shape (d,)."""

    loadings: Tensor
    mean: Tensor
    noise: Tensor

    @property
    def vector(self) -> Tensor:
        """All of them in a row, ψ by its logarithm."""
        return torch.cat([self.loadings.flatten(), self.mean, self.noise.log()])


@dataclass(frozen=True, eq=False)
class EM:
    """What EM came to.

    Attributes:
        loadings, mean: W of shape (d, q) and μ of shape (d,).
        noise: ψ, the noise variances, shape (d,).
        log_likelihood: in nats, of all observed values, before every iteration and after the last; it never
            falls but for rounding.
        converged: whether further iterations were expected to gain less than the tolerance.
        bounded: the features whose noise is at its bound, by their positions.
    """

    loadings: Tensor
    mean: Tensor
    noise: Tensor
    log_likelihood: NDArray[np.float64]
    converged: bool
    bounded: tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """What EM is held to, and where its sequence goes.

    Attributes:
        shared: whether all features have one noise variance, as in PPCA.
        floor: lower bounds of the noise variances, shape (d,).
    """

    shared: bool
    floor: Tensor

    def noise(self, squares: Tensor, counts: Tensor) -> Tensor:
        """The best noise variances above their bounds.

        The expected log likelihood rises towards its maximum from either side, so that the best permitted
        value is the nearest.

        Args:
            squares: expected squared residuals by feature, summed over rows.
            counts: how many values of each feature there are.
        """
        if self.shared:
            squares, counts = squares.sum().expand(len(squares)), counts.sum().expand(len(counts))
        return torch.maximum(squares / counts, self.floor)

    def ahead(self, zero: Estimate, one: Estimate, two: Estimate) -> tuple[Estimate, float]:
        """Where a sequence of which these are three members in a row goes, and how many steps that is."""
        start, first, second = (each.vector for each in (zero, one, two))
        step = first - start
        bend = second - first - step
        length = max(1.0, float(step.norm() / bend.norm().clamp_min(1e-300)))
        found = start + 2 * length * step + length**2 * bend
        loadings, mean, noise = found.split([zero.loadings.numel(), len(zero.mean), len(zero.noise)])
        noise = torch.maximum(noise.exp(), self.floor)
        return Estimate(loadings.view_as(zero.loadings), mean, noise), length


def maximise(
    x: Tensor,
    observed: Tensor | None,
    start: Estimate,
    rule: Rule,
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 10_000,
    seen: Callable[[float], None] = lambda value: None,
) -> EM:
    """Iterate until what is left to gain is expected to be less than the tolerance.

    Two iterations tell how fast what remains shrinks, and the estimates are moved ahead to where they would
    come to; a move after which the likelihood is less is taken back, so that it never falls.

    Args:
        x: shape (num_data, d), float64.
        observed: where there is a value; everywhere if None.
        start: where it begins.
        rule: of the noise.
        tolerance: in nats a row.
        max_iterations: after which it ends at any rate.
        seen: told the log likelihood at every iteration.
    """
    model = _Complete(x, rule) if observed is None else _Incomplete(x, observed, rule)
    here, trace, calm = start, np.array([]), 0
    while calm < 3 and len(trace) < max_iterations:
        check_time()
        before, one = model.step(here)
        value, two = model.step(one)
        ahead, length = rule.ahead(here, one, two)
        calm = calm + 1 if (value - before) * length < tolerance * len(x) else 0
        reached, after = model.step(ahead)
        better = reached >= value
        here = after if better else two
        trace = np.append(trace, [before, value, reached] if better else [before, value])
        seen(value)
    trace = np.append(trace, model.step(here)[0])
    bounded = (here.noise <= rule.floor * (1 + AT_BOUND)).nonzero().flatten().tolist()
    return EM(here.loadings, here.mean, here.noise, trace, calm >= 3, tuple(bounded))


def first_estimate(x: Tensor, observed: Tensor | None, latent_dim: int, rule: Rule) -> Estimate:
    """Principal components of the standardised features, a missing value standing at its feature's mean."""
    there = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    counts = there.sum(0).clamp_min(1)
    mean = torch.where(there, x, 0.0).sum(0) / counts
    residuals = torch.where(there, x - mean, 0.0)
    variance = residuals.square().sum(0) / counts
    scale = torch.where(variance > 0, variance, 1.0).sqrt()
    scaled = residuals / scale
    values, vectors = torch.linalg.eigh(scaled.T @ scaled / len(x))
    rest = values[:-latent_dim].mean().clamp_min(1e-3)
    # Never quite zero: there EM would stay.
    sizes = (values[-latent_dim:] - rest).clamp_min(1e-2).sqrt()
    noise = rule.noise(counts * scale.square() * rest, counts.double())
    return Estimate(scale[:, None] * vectors[:, -latent_dim:] * sizes, mean, noise)


class _Complete:
    """Steps from the covariance of complete data: their cost does not depend on the number of rows."""

    def __init__(self, x: Tensor, rule: Rule) -> None:
        self.rows, self.rule, self.mean = len(x), rule, x.mean(0)
        residuals = x - self.mean
        self.covariance = residuals.T @ residuals / len(x)

    def step(self, at: Estimate) -> tuple[float, Estimate]:
        """The log likelihood, and the estimate after an iteration."""
        covariance, (size, latent) = self.covariance, at.loadings.shape
        scaled = at.loadings / at.noise[:, None]
        precision = torch.eye(latent, dtype=torch.float64) + at.loadings.T @ scaled
        inverse = torch.linalg.inv(precision)
        slopes = scaled @ inverse
        with_latent = covariance @ slopes
        quadratic = (covariance.diagonal() / at.noise).sum() - (with_latent * scaled).sum()
        determinant = at.noise.log().sum() + torch.linalg.slogdet(precision).logabsdet
        value = -0.5 * self.rows * float(size * math.log(2 * math.pi) + determinant + quadratic)
        moments = inverse + slopes.T @ with_latent
        loadings = torch.linalg.solve(moments, with_latent.T).T
        squares = covariance.diagonal() - (loadings * with_latent).sum(1)
        noise = self.rule.noise(squares * self.rows, torch.full_like(squares, self.rows))
        return value, Estimate(loadings @ torch.linalg.cholesky(moments), self.mean, noise)


class _Incomplete:
    """Steps from the observed values: each feature is regressed on the latents of the rows that have it."""

    def __init__(self, x: Tensor, observed: Tensor, rule: Rule) -> None:
        self.there, self.rule = observed.double(), rule
        self.counts = self.there.sum(0)
        self.shift = torch.where(observed, x, 0.0).sum(0) / self.counts
        self.x = torch.where(observed, x - self.shift, 0.0)

    def step(self, at: Estimate) -> tuple[float, Estimate]:
        """The log likelihood, and the estimate after an iteration."""
        there, latent = self.there, at.loadings.shape[1]
        mean, scaled = at.mean - self.shift, at.loadings / at.noise[:, None]
        outer = (at.loadings[:, :, None] * scaled[:, None, :]).flatten(1)
        precision = torch.eye(latent, dtype=torch.float64) + (there @ outer).unflatten(1, (latent, latent))
        residuals = there * (self.x - mean)
        weighted = residuals @ scaled
        inverse = torch.linalg.inv(precision)
        means = (inverse @ weighted[:, :, None])[:, :, 0]
        rest = (there * (2 * math.pi * at.noise).log() + residuals.square() / at.noise).sum()
        determinant = torch.linalg.slogdet(precision).logabsdet.sum()
        value = -0.5 * float(rest + determinant - (means * weighted).sum())
        return value, self._expanded(self._regressions(means, inverse), means, inverse)

    def _regressions(self, means: Tensor, inverse: Tensor) -> Estimate:
        """W, μ and ψ that maximise the expected log likelihood of the observed values."""
        ones = torch.ones(len(means), 1, dtype=torch.float64)
        design = torch.cat([means, ones], 1)
        moments = design[:, :, None] * design[:, None, :]
        moments[:, :-1, :-1] += inverse
        width = design.shape[1]
        left = (self.there.T @ moments.flatten(1)).unflatten(1, (width, width))
        right = self.x.T @ design
        found = torch.linalg.solve(left, right)
        squares = self.x.square().sum(0) - (found * right).sum(1)
        return Estimate(found[:, :-1], found[:, -1] + self.shift, self.rule.noise(squares, self.counts))

    def _expanded(self, found: Estimate, means: Tensor, inverse: Tensor) -> Estimate:
        """The latents' own mean and covariance, estimated beside the rest, put into W and μ."""
        centre = means.mean(0)
        spread = inverse.mean(0) + means.T @ means / len(means) - centre[:, None] * centre
        return replace(
            found,
            mean=found.mean + found.loadings @ centre,
            loadings=found.loadings @ torch.linalg.cholesky(spread),
        )
