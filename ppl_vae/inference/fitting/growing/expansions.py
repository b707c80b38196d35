"""Expected log likelihoods of rows as Taylor series in the moments of their predictors.

E[ℓ(d)] of d ~ N(m, v) has the derivatives, by Bonnet's and Price's theorems, ∂/∂m = E[ℓ′] and
∂/∂v = ½ E[ℓ″], and so on for those: four numbers, E[ℓ′] to E[ℓ⁗], tell what slope and curvature become as m
and v move. All four come of the values of ℓ′ at the nodes of one quadrature, by Stein's lemma with Hermite's
polynomials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Expansions"]

Floats = NDArray[np.float64]
# Rows times nodes at once.
CHUNK = 2**17
# Of the largest standard deviation of a predictor, what is taken for none.
LEAST_SD = 1e-7
# A row is integrated again where its mean has moved by so many sds of its predictor, or its variance by this
# part; and before, where the last term of its series comes to more than this: of the mean of a state in its
# sd, and of a log variance, were the row all that is known of it. What is left out is smaller yet.
FARTHEST, LAST_TERM = 1.0, 1e-4


@dataclass(eq=False)
class Expansions:
    """Slopes and curvatures of rows, near the moments at which each was integrated last.

    Attributes:
        log_likelihood: ℓ, as `program.factors.LinearFactors` has it.
        observed: what is observed of every row, tensors of R rows each.
        count: how many times each row counts, shape (R,).
        rule: nodes and weights of the expectation over N(0, 1), shape (2, num_nodes).
        mean, variance: where each row was integrated, shape (R,).
        derivatives: E[ℓ′], E[ℓ″], E[ℓ‴] and E[ℓ⁗] there, times the count: shape (4, R).
        integrated: how many rows were integrated so far, in all.
    """

    log_likelihood: Callable[..., Tensor]
    rule: Floats
    observed: tuple[Tensor, ...]
    count: Floats
    mean: Floats = field(default_factory=lambda: np.empty(0))
    variance: Floats = field(default_factory=lambda: np.empty(0))
    derivatives: Floats = field(default_factory=lambda: np.empty((4, 0)))
    integrated: int = 0

    def append(self, observed: tuple[Tensor, ...], count: Floats) -> None:
        """Rows that are not integrated yet."""
        self.observed = tuple(map(torch.cat, zip(self.observed, observed, strict=True)))
        self.count = np.concatenate([self.count, count])

    def set(self, rows: NDArray[np.int64], mean: Floats, variance: Floats, derivatives: Floats) -> None:
        """What `integrate` found of some rows."""
        self._place_new(len(self.count))
        self.mean[rows], self.variance[rows], self.derivatives[:, rows] = mean, variance, derivatives
        self.integrated += len(rows)

    def at(self, mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
        """g and h of all rows, each of shape (R,); rows that are new or moved far are integrated.

        Args:
            mean, variance: of all predictors, shape (R,).
        """
        self._place_new(len(mean))
        moved, widened = mean - self.mean, variance - self.variance
        far = np.flatnonzero(~self._near(moved, widened))
        if len(far):
            self.set(far, mean[far], variance[far], self.integrate(far, mean[far], variance[far], self.rule))
            moved[far] = widened[far] = 0.0
        first, second, third, fourth = self.derivatives
        square = moved * moved
        half = 0.5 * (square + widened)
        slope = first + moved * (second + fourth * (half - square / 3)) + third * half
        return slope, second + third * moved + fourth * half

    def _near(self, moved: Floats, widened: Floats) -> NDArray[np.bool_]:
        """Which rows' series do; none that is new."""
        squares, variance = moved * moved, self.variance
        term = 0.5 * np.abs(self.derivatives[3]) * (squares + np.abs(widened))
        far = np.maximum(squares, FARTHEST * np.abs(widened))
        size = np.maximum(variance, np.sqrt(squares * variance))
        found: NDArray[np.bool_] = (term * size <= LAST_TERM) & (far <= FARTHEST**2 * variance)
        return found

    def integrate(self, rows: NDArray[np.int64], mean: Floats, variance: Floats, rule: Floats) -> Floats:
        """The four derivatives of some rows at these moments, shape (4, rows)."""
        found = np.empty((4, len(rows)))
        for here in _chunks(len(rows), rule.shape[1]):
            observed = tuple(part[torch.from_numpy(rows[here])] for part in self.observed)
            found[:, here] = self._integrated(mean[here], variance[here], observed, rule)
        found *= self.count[rows]
        return found

    def _integrated(
        self, mean: Floats, variance: Floats, observed: tuple[Tensor, ...], rule: Floats
    ) -> Floats:
        nodes, weights = rule
        sd = np.sqrt(np.maximum(variance, LEAST_SD**2 * max(float(variance.max()), 1e-300)))
        at = torch.from_numpy(mean + nodes[:, None] * sd).requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(self.log_likelihood(at, *observed).sum(), at)
        hermite = np.stack([np.ones_like(nodes), nodes, nodes**2 - 1, nodes**3 - 3 * nodes])
        found: Floats = (hermite * weights) @ slope.numpy()
        return found / np.stack([np.ones_like(sd), sd, sd**2, sd**3])

    def _place_new(self, size: int) -> None:
        """NaN, which is near nothing, is where new rows were integrated."""
        new = np.full(size - len(self.mean), np.nan)
        if len(new):
            self.mean, self.variance = (np.concatenate([part, new]) for part in (self.mean, self.variance))
            self.derivatives = np.concatenate([self.derivatives, np.tile(new, (4, 1))], 1)


def _chunks(size: int, num_nodes: int) -> Iterator[slice]:
    step = max(1, CHUNK // num_nodes)
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
