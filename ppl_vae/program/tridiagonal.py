"""Gaussian Markov chains one after another: one tridiagonal precision matrix, which LAPACK factors.

Stored by chain, and not by round as in `chains`, states can be added to the end of any chain, and one pass
over all states solves every chain, however long: a hundred microseconds for ten thousand states. It is for
NumPy alone, without gradients.

Sources: Anderson et al., *LAPACK Users' Guide* (1999), ``pttrf`` and ``pttrs``; Meurant, "A review on the
inverse of symmetric tridiagonal and block tridiagonal matrices", SIAM J. Matrix Anal. Appl. 13 (1992), for
the diagonal of the inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ppl_vae.program.chains import Chains

__all__ = ["Factored", "Tridiagonal", "by_chain"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def by_chain(chains: Chains) -> Whole:
    """The states in the order of their chains, and of one chain in its own: int64 of shape (N,)."""
    sizes = np.asarray(chains.sizes)
    chain = np.concatenate([np.arange(size) for size in sizes])
    return np.lexsort((np.repeat(np.arange(len(sizes)), sizes), chain))


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """Chains of altogether N states, one behind the other.

    Attributes:
        mean: μ, shape (N,).
        variance: v, of a state given its predecessor; of a chain's first, its prior variance.
        transition: φ, 0 at the first states of chains: that is what parts them.
    """

    mean: Floats
    variance: Floats
    transition: Floats

    @classmethod
    def of(cls, chains: Chains) -> Tridiagonal:
        """Chains in the order of `by_chain`."""
        order, chains = by_chain(chains), chains.detach()
        mean, variance, phi = (part.numpy() for part in (chains.mean, chains.variance, chains.transition))
        phi = np.where(np.arange(len(phi)) < chains.num_chains, 0.0, phi)
        return cls(mean[order], variance[order], phi[order])

    def inserted(self, before: Whole, states: Tridiagonal) -> Tridiagonal:
        """With further states, each before the present state of this number (N: at the end)."""
        parts = ("mean", "variance", "transition")
        return Tridiagonal(*(np.insert(getattr(self, p), before, getattr(states, p)) for p in parts))

    @cached_property
    def diagonal(self) -> Floats:
        """Of the precision P, shape (N,)."""
        found = 1 / self.variance
        found[:-1] -= self.beside * self.transition[1:]
        return found

    @cached_property
    def beside(self) -> Floats:
        """Beside P's diagonal, shape (N − 1,)."""
        return -self.transition[1:] / self.variance[1:]

    def times(self, x: Floats) -> Floats:
        """P x."""
        found: Floats = self.diagonal * x
        found[:-1] += self.beside * x[1:]
        found[1:] += self.beside * x[:-1]
        return found

    def factored(self, site_precision: Floats) -> Factored:
        """P + diag x, ready to be solved.

        Raises:
            FloatingPointError: where it is not positive definite.
        """
        return Factored.of(self.diagonal + site_precision, self.beside)


@dataclass(frozen=True, eq=False)
class Factored:
    """A symmetric positive definite tridiagonal matrix.

    Attributes:
        diagonal, beside: its entries, shapes (N,) and (N − 1,).
        pivots, ratios: D and the subdiagonal of L, of L D Lᵀ.
    """

    diagonal: Floats
    beside: Floats
    pivots: Floats
    ratios: Floats

    @classmethod
    def of(cls, diagonal: Floats, beside: Floats) -> Factored:
        """Factor it.

        Raises:
            FloatingPointError: where it is not positive definite.
        """
        return cls(diagonal, beside, *_factor(diagonal, beside))

    def solve(self, right: Floats) -> Floats:
        """The inverse times b, shape (N,)."""
        from scipy.linalg.lapack import dpttrs

        if len(right) == 1:
            return right / self.pivots
        found: Floats = dpttrs(self.pivots, self.ratios, right)[0]
        return found

    @cached_property
    def variance(self) -> Floats:
        """The diagonal of the inverse: from the pivots of both directions."""
        backward = _factor(self.diagonal[::-1], self.beside[::-1])[0][::-1]
        return 1 / (self.pivots + backward - self.diagonal)


def _factor(diagonal: Floats, beside: Floats) -> tuple[Floats, Floats]:
    from scipy.linalg.lapack import dpttrf

    if len(diagonal) == 1:
        return diagonal, beside
    pivots, ratios, info = dpttrf(diagonal, beside)
    if info:
        raise FloatingPointError("a tridiagonal matrix is not positive definite")
    return pivots, ratios
