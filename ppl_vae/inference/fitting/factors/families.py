"""Gaussian families for models of linear predictors, and what a step of natural gradients is in each.

Both are what conjugate computations give where a Gaussian factor stands for every datum (Khan and Lin 2017):
a prior of precision P meets sites, and the guide is N(m, Λ⁻¹) with

- `ChainFamily`: Λ = P + diag x, a site a state: every chain exact, chains independent of each other;
- `InnovationFamily`: Λ = L⁻ᵀ diag(q + x) L⁻¹, a site an innovation, with L what makes states of innovations
  and q the diagonal of LᵀPL: mean-field in the coordinates that AutoGuides have, and of chains of one state
  in the states themselves;
- `JointFamily`: Λ = P + Aᵀ diag(w) A, a site a row: the best Gaussian of all, since the optimum's precision
  has this form.

KL(q ‖ p) = ½ [−Σ sites · (variance that they see) + (m − μ)ᵀ P (m − μ) + log |Λ| − log |P|].

Natural gradients take sites toward (A∘A)ᵀ(−h) or −h, the negative expected curvatures. The mean takes the
step that a Gaussian with a full precision matrix would take at the same expectations (variational online
Newton, Khan et al. 2018), (P + Aᵀ diag(−h) A)⁻¹ (Aᵀ g − P (m − μ)), by conjugate gradients that the chains'
own solution preconditions, or densely.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference.fitting.factors.expectations import Expected, Factors
from ppl_vae.inference.fitting.factors.spreads import InnovationSpread, JointSpread, Spread, joint_spread
from ppl_vae.program.block_tridiagonal import Blocks
from ppl_vae.program.chains import Chains, Smoother
from ppl_vae.program.products import OfRows
from ppl_vae.program.solving import conjugate_gradients

__all__ = [
    "ChainFamily",
    "FactorFamily",
    "InnovationFamily",
    "JointFamily",
]

# A state's precision falls at most to this fraction in one step, which keeps it positive where ℓ is not
# concave.
LEAST_PRECISION = 0.1


class FactorFamily(Protocol):
    """A family of Gaussians over the states, described by a mean and sites."""

    factors: Factors

    def spread(self, sites: Tensor) -> Spread | None:
        """What sites make of the prior; None where that is no Gaussian."""
        ...

    def predictor_variance(self, spread: Spread) -> OfRows:
        """Variances of A s, shape (R,)."""
        ...

    def seen(self, spread: Spread, predictor_variance: OfRows) -> Tensor:
        """The variances that the sites multiply in the KL."""
        ...

    def target(self, sites: Tensor, spread: Spread, expected: Expected) -> Tensor:
        """Where natural gradients take the sites."""
        ...

    def step(self, mean: Tensor, spread: Spread | None, expected: Expected) -> Tensor:
        """The mean's Newton step, roughly, where the sites' target makes this of the prior."""
        ...


@dataclass(frozen=True, eq=False)
class ChainFamily:
    """Chains independent of each other: one site precision a state.

    Attributes:
        factors: the model's.
    """

    factors: Factors

    def spread(self, sites: Tensor) -> Smoother:
        """The smoother of the chains with these sites."""
        return self.factors.chains.smoother(sites, plain=True)

    def predictor_variance(self, spread: Spread) -> OfRows:
        """Sums of the states' own."""
        return self.factors.predictor_variance(spread.variance)

    def seen(self, spread: Spread, predictor_variance: OfRows) -> Tensor:
        """The states' variances."""
        return spread.variance

    def target(self, sites: Tensor, spread: Spread, expected: Expected) -> Tensor:
        """(A∘A)ᵀ(−h), not negative, which it would be where ℓ is not concave."""
        return self.factors.gather_squares(expected.curvature).neg_().clamp_min_(0)

    def step(self, mean: Tensor, spread: Spread | None, expected: Expected) -> Tensor:
        """See `_by_gradients`."""
        return _by_gradients(self.factors, mean, spread, expected)


def _by_gradients(factors: Factors, mean: Tensor, spread: Spread | None, expected: Expected) -> Tensor:
    """The mean's step by conjugate gradients, preconditioned by the chains with the rows' stiffness on its
    diagonal.

    Where ℓ is not concave, curvature that would turn the step round is left out. Started at zero, every
    iterate has a positive product with the gradient: stopped anywhere, it is a direction of ascent.
    """
    chains = factors.chains
    stiffness = (-expected.curvature).clamp_min_(0)
    rising = factors.gather(expected.slope) - chains.precision_times(mean - chains.mean)
    if not isinstance(spread, Smoother) or bool((expected.curvature > 0).any()):
        spread = chains.smoother(factors.gather_squares(stiffness), plain=True)

    def times(x: Tensor) -> Tensor:
        return chains.precision_times(x) + factors.curved(stiffness, x)

    return conjugate_gradients(times, rising, spread.solve)


@dataclass(frozen=True, eq=False)
class InnovationFamily:
    """Independent innovations: one site precision each.

    The innovations are those of given chains, which are the prior's as they were when the guide was made.

    Attributes:
        factors: the model's.
        own: these chains.
    """

    factors: Factors
    own: Chains

    @cached_property
    def prior(self) -> Tensor:
        """q: the diagonal of LᵀPL, which is 1 where the prior has not moved, shape (N,)."""
        chains, own = self.factors.chains, self.own
        if len(own.sizes) == 1:
            return own.variance / chains.variance
        first = own.num_chains
        off = ((own.transition - chains.transition) ** 2 / chains.variance)[first:]
        moved = torch.zeros_like(own.variance).index_copy(0, own.previous, off)
        return own.variance * (1 / chains.variance + own.run_back(own.transition**2, moved))

    def spread(self, sites: Tensor) -> InnovationSpread | None:
        """Of innovations of precision q + x; None where one is not positive."""
        precision = self.prior + sites
        positive = bool((precision > 0).all())
        return InnovationSpread(self.factors.chains, self.own, 1 / precision) if positive else None

    def predictor_variance(self, spread: Spread) -> OfRows:
        """Sums of the states' own."""
        return self.factors.predictor_variance(spread.variance)

    def seen(self, spread: Spread, predictor_variance: OfRows) -> Tensor:
        """The innovations' variances."""
        assert isinstance(spread, InnovationSpread)
        return spread.innovation

    def target(self, sites: Tensor, spread: Spread, expected: Expected) -> Tensor:
        """((A L)∘(A L))ᵀ(−h): what a state's factor tells, of its own innovation and of all before it."""
        assert isinstance(spread, InnovationSpread)
        of_states, own = self.factors.gather_squares(expected.curvature).neg_(), self.own
        found = own.variance * own.run_back(own.transition**2, of_states)
        return torch.maximum(found, sites - (1 - LEAST_PRECISION) / spread.innovation)

    def step(self, mean: Tensor, spread: Spread | None, expected: Expected) -> Tensor:
        """See `_by_gradients`."""
        return _by_gradients(self.factors, mean, None, expected)


@dataclass(frozen=True, eq=False)
class JointFamily:
    """All states together: one site precision a row.

    Attributes:
        factors: the model's.
        blocks: an order of the states in which the precision is sparse; None to take it as a dense matrix.
    """

    factors: Factors
    blocks: Blocks | None = None

    def spread(self, sites: Tensor) -> JointSpread | None:
        """The Gaussian of the prior's precision and the rows' sites."""
        return joint_spread(self.factors.chains, self.factors.design, sites, self.blocks)

    def predictor_variance(self, spread: Spread) -> Tensor:
        """The diagonal of A Λ⁻¹ Aᵀ."""
        assert isinstance(spread, JointSpread)
        return spread.row_variances(self.factors.design)

    def seen(self, spread: Spread, predictor_variance: Tensor) -> Tensor:
        """The predictors' variances."""
        return predictor_variance

    def target(self, sites: Tensor, spread: Spread, expected: Expected) -> Tensor:
        """−h."""
        return -expected.curvature

    def step(self, mean: Tensor, spread: Spread | None, expected: Expected) -> Tensor:
        """Solved exactly, without curvature that would turn it round."""
        factors, chains = self.factors, self.factors.chains
        if not isinstance(spread, JointSpread) or bool((expected.curvature > 0).any()):
            spread = self.spread((-expected.curvature).clamp_min(0))
        if spread is None:
            raise InputError("the precision of the prior is not positive definite")
        return spread.solve(factors.gather(expected.slope) - chains.precision_times(mean - chains.mean))
