"""The best Gaussian of independent chains for data that come in one after another.

The fixed point is that of natural gradients (`factors.families`): site precisions x = (A∘A)ᵀ(−h) and a mean m
with Aᵀ g = P (m − μ), of all data, old ones too. Nothing is made anew when data come in: states are put at
the ends of their chains, where the prior carries them, and rows behind the others; Newton steps then go on
from there. Rows are integrated again only where their predictors have moved (`Expansions`): the others'
slopes and curvatures follow by their series. What the series leave out does not add up over time, for it
hangs on how far a row is from where it was integrated last; `Growing.check` tells what it comes to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.inference.fitting.factors.expectations import Factors, hermite_rule
from ppl_vae.inference.fitting.growing.expansions import Expansions
from ppl_vae.program.solving import SOLVER_ITERATIONS
from ppl_vae.program.tridiagonal import Factored, Tridiagonal, by_chain

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Growing", "Settled"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
# What may be left, of means in their sds, and of log variances.
TOLERANCE = 4e-4
# Steps, beyond which something is wrong.
MOST_STEPS = 40
# The first step and others are solved to these fractions of their residuals, in the norm of the chains alone:
# what chains have in common, which games may hardly tell, has little part in that norm, and would be left
# where it is by less.
FIRST_ACCURACY, ACCURACY, FINE_ACCURACY = 0.01, 3e-3, 1e-4
FEWEST_NODES, MOST_NODES = 8, 64


@dataclass(frozen=True)
class Settled:
    """How a posterior came to rest.

    Attributes:
        steps: how many Newton steps it took.
        left: by the last ones, how far it is from rest: the largest of means, in sds, and of log variances.
        converged: whether that is within the tolerance.
    """

    steps: int
    left: float
    converged: bool


class Growing:
    """N(m, (P + diag x)⁻¹) over states by chain, and the data that it is for.

    Args:
        factors: the prior and the data so far.
        mean: m in the order of the prior's own states, shape (N,).
        sites: x, of the same shape.

    Attributes:
        chains: the prior, by chain.
        mean, sites: m and x, by chain.
        num_nodes: of the rule with which all rows at once are integrated; those that are new or have moved
            are few, and get twice as many.
    """

    def __init__(self, factors: Factors, mean: Tensor, sites: Tensor) -> None:
        order = by_chain(factors.chains)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self.chains = Tridiagonal.of(factors.chains)
        self.mean, self.sites = mean.numpy()[order].copy(), sites.numpy()[order].copy()
        design = factors.design
        self._pointer = design.pointer.numpy().astype(np.int64)
        self._column, self._value = place[design.column.numpy()], design.value.numpy()
        self._rows = Expansions(
            factors.log_likelihood, hermite_rule(FEWEST_NODES).numpy(), design.observed, _counts(factors)
        )
        self._matrices = _Matrices.of(self._value, self._column, self._pointer, len(self.mean))
        self._factored = self.chains.factored(self.sites)
        self._choose_nodes()

    @property
    def variance(self) -> Floats:
        """Of all states, by chain."""
        return self._factored.variance

    @property
    def integrated(self) -> int:
        """How many rows were integrated so far, in all."""
        return self._rows.integrated

    def append(self, factors: Factors, known: Whole, before: Whole, mean: Tensor) -> Whole:
        """Further states and rows.

        Args:
            factors: a prior of some of the present states and of further ones, and new rows of both.
            known: for each of its states the number of the present state that it is, −1 for a further one.
            before: of the further ones, in the order in which they are in their chains, the present state
                that each stands before; N at the end.
            mean: m of its states.

        Returns:
            For each of its states, the number that it has now.
        """
        order = by_chain(factors.chains)
        new = order[known[order] < 0]
        size = len(self.mean)
        moved = np.arange(size) + np.searchsorted(np.sort(before), np.arange(size), side="right")
        place = np.where(known >= 0, moved[known], 0)
        rank = np.argsort(before, kind="stable")
        place[new[rank]] = before[rank] + np.arange(len(new))
        own = Tridiagonal.of(factors.chains)
        taken = known[order] < 0
        further = Tridiagonal(own.mean[taken], own.variance[taken], own.transition[taken])
        self.chains = self.chains.inserted(before, further)
        self.mean = np.insert(self.mean, before, mean.numpy()[new])
        self.sites = np.insert(self.sites, before, 0.0)
        design = factors.design
        self._pointer = np.concatenate([self._pointer, self._pointer[-1] + design.pointer.numpy()[1:]])
        self._column = np.concatenate([moved[self._column], place[design.column.numpy()]])
        self._value = np.concatenate([self._value, design.value.numpy()])
        self._rows.append(design.observed, _counts(factors))
        self._matrices = _Matrices.of(self._value, self._column, self._pointer, len(self.mean))
        self._factored = self.chains.factored(self.sites)
        return place

    def settle(self, tolerance: float = TOLERANCE) -> Settled:
        """Newton steps until no more than the tolerance is left.

        Args:
            tolerance: of a mean, in its sd, and of a log variance.

        Raises:
            FloatingPointError: where a step gives no Gaussian, as it may where ℓ is not concave.
        """
        before, left, number = np.inf, np.inf, 0
        while left > tolerance and number < MOST_STEPS:
            change = self._step(FIRST_ACCURACY if number == 0 else ACCURACY)
            if not np.isfinite(change):
                raise FloatingPointError("a step gives no numbers")
            left = _left(change, before) if number else change
            before, number = change, number + 1
        return Settled(number, left, left <= tolerance)

    def renew(self, tolerance: float = TOLERANCE) -> Settled:
        """Integrate all rows where they are, with as many nodes as that takes, and settle."""
        self._choose_nodes()
        return self.settle(tolerance)

    def check(self) -> tuple[float, float]:
        """How far means, in sds, and log variances are from where a step would take them for which every row
        is integrated where it is, with twice the nodes: the largest of each."""
        matrices = self._matrices
        mean, variance = matrices.rows @ self.mean, matrices.squares @ self.variance
        rows = np.arange(len(mean))
        exact = self._rows.integrate(rows, mean, variance, self._rows.rule)
        step, _, after = self._towards(exact[0], exact[1], FINE_ACCURACY)
        return self._in_sds(step), float(np.abs(np.log(after.variance / self.variance)).max())

    def _step(self, accuracy: float) -> float:
        matrices = self._matrices
        variance = self.variance
        slope, curvature = self._rows.at(matrices.rows @ self.mean, matrices.squares @ variance)
        step, self.sites, self._factored = self._towards(slope, curvature, accuracy)
        change = float(np.sqrt((step**2 / variance).max()))
        self.mean = self.mean + step
        return max(change, float(np.abs(np.log(self.variance / variance)).max()))

    def _towards(self, slope: Floats, curvature: Floats, accuracy: float) -> tuple[Floats, Floats, Factored]:
        """The mean's Newton step, roughly, the sites' target, and the chains with it."""
        matrices, chains = self._matrices, self.chains
        stiffness = np.maximum(-curvature, 0.0)
        diagonal = matrices.squares_across @ stiffness
        target, ahead = diagonal, chains.factored(diagonal)
        solver = ahead
        if (curvature > 0).any():
            target = np.maximum(matrices.squares_across @ -curvature, 0.0)
            ahead = chains.factored(target)
        rising = matrices.across @ slope - chains.times(self.mean - chains.mean)

        def rest(x: Floats) -> Floats:
            seen = matrices.rows @ x
            seen *= stiffness
            found: Floats = matrices.across @ seen
            found -= diagonal * x
            return found

        return _solved(solver, rest, rising, accuracy), target, ahead

    def _in_sds(self, step: Floats) -> float:
        return float(np.sqrt((step**2 / self.variance).max()))

    def _choose_nodes(self) -> None:
        """As few nodes as change next to nothing when they are doubled."""
        matrices, variance = self._matrices, self.variance
        mean, spread = matrices.rows @ self.mean, matrices.squares @ variance
        rows = np.arange(len(mean))
        self.num_nodes = FEWEST_NODES
        found = self._rows.integrate(rows, mean, spread, hermite_rule(self.num_nodes).numpy())
        while self.num_nodes < MOST_NODES:
            finer = self._rows.integrate(rows, mean, spread, hermite_rule(2 * self.num_nodes).numpy())
            off = finer - found
            moved = self._factored.solve(matrices.across @ off[0])
            widened = matrices.squares_across @ off[1] * variance
            if max(self._in_sds(moved), np.abs(widened).max()) <= 0.1 * TOLERANCE:
                break
            self.num_nodes, found = 2 * self.num_nodes, finer
        self._rows.rule = hermite_rule(2 * self.num_nodes).numpy()
        self._rows.set(rows, mean, spread, found)


def _left(change: float, before: float) -> float:
    """What is left after a step and the one before, where steps get smaller at a steady rate: the sum of all
    further ones."""
    return change**2 / (before - change) if change < before else np.inf


def _solved(solver: Factored, rest: Callable[[Floats], Floats], right: Floats, accuracy: float) -> Floats:
    """x with (M + R) x ≈ b, by conjugate gradients that M preconditions: `solving.conjugate_gradients`, where
    products with M are those that its solutions were made of.

    Args:
        solver: M.
        rest: x ↦ R x.
        right: b.
        accuracy: part of the residual, in the preconditioner's norm, that may be left.
    """
    from scipy.linalg.blas import daxpy

    found, left = np.zeros_like(right), right.copy()
    way, product = solver.solve(left), left.copy()
    size = left @ way
    enough = accuracy**2 * size
    for _ in range(SOLVER_ITERATIONS):
        if size <= enough:
            break
        image = rest(way)
        image += product
        length = size / (way @ image)
        daxpy(way, found, a=length)
        daxpy(image, left, a=-length)
        solved = solver.solve(left)
        size, before = left @ solved, size
        way *= size / before
        way += solved
        product *= size / before
        product += left
    return found


@dataclass(frozen=True, eq=False)
class _Matrices:
    """A, A∘A, and their transposes in compressed rows."""

    rows: csr_array
    squares: csr_array
    across: csr_array
    squares_across: csr_array

    @classmethod
    def of(cls, value: Floats, column: Whole, pointer: Whole, num_states: int) -> _Matrices:
        from scipy.sparse import csr_array

        shape = (len(pointer) - 1, num_states)
        small = (column.astype(np.int32), pointer.astype(np.int32))
        rows = csr_array((value, *small), shape=shape)
        squares = csr_array((value**2, *small), shape=shape)
        across = rows.T.tocsr()
        parts = (across.data**2, across.indices, across.indptr)
        return cls(rows, squares, across, csr_array(parts, shape=across.shape))


def _counts(factors: Factors) -> Floats:
    count = factors.design.count
    return np.ones(factors.size) if count is None else count.numpy()
