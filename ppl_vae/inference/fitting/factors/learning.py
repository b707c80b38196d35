"""Learning a model's parameters by the ELBO at its optimum over the guide, as a bound on the evidence.

L(θ) = max_q ELBO(q, θ) has the gradient ∂ELBO/∂θ at the best q (the envelope theorem): what q does as θ moves
is of second order. With the moments of q, the prior's part, E_q log p_θ(s), needs no loop along chains, and
the data's is a sum of one-dimensional integrals. L-BFGS climbs in the parameters' unconstrained space, and
every guide starts where the last one ended.

Sources: Danskin (1966) for the envelope; Byrd et al., "A limited memory algorithm for bound constrained
optimization", SIAM J. Sci. Comput. 16 (1995); Neal and Hinton (1998) for the ELBO in both.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.wording import learnt_parameters
from ppl_vae.inference.fitting.factors.ascent import Ascent, Bound, State
from ppl_vae.inference.fitting.factors.families import FactorFamily
from ppl_vae.inference.fitting.factors.guides import FactorGuide
from ppl_vae.program.factors import LinearFactors

__all__ = ["envelope_gradient", "learn"]

# Evaluations of L at most.
MOST = 200
# What L is given where it is no number: worse than anything.
NOWHERE = 1e300


def envelope_gradient(model: LinearFactors, bound: Bound, state: State, leaves: list[Tensor]) -> list[Tensor]:
    """∂ELBO/∂θ at a guide that stays, one tensor a leaf.

    Args:
        model: whose parameters the leaves are.
        bound, state: the ELBO, and the guide.
        leaves: unconstrained parameters.
    """
    factors = bound.family.factors
    predictor = factors.predictor(state.mean)
    variance = bound.family.predictor_variance(state.spread)
    found = [torch.zeros_like(leaf, dtype=torch.float64) for leaf in leaves]
    with torch.enable_grad():
        _, chains = model.normal_prior()
        prior = chains.expected_log_prob(state.mean, state.spread.variance, state.spread.lag_covariance)
        for part in chain([prior], factors.expected_likelihood(predictor, variance, bound.rule)):
            if part.requires_grad:
                slopes = torch.autograd.grad(part, leaves, allow_unused=True, retain_graph=True)
                for total, slope in zip(found, slopes, strict=True):
                    total += 0.0 if slope is None else slope
    return found


def learn(
    model: LinearFactors, guide: FactorGuide, bound: Bound, leaves: list[Tensor], ascent: Ascent
) -> tuple[Bound, State, str]:
    """Climb in the model's parameters, which are set in place, and fit the guide to the best.

    Args:
        model: whose parameters the leaves are.
        guide: where it starts.
        bound: the ELBO of its family, under the parameters as they are.
        leaves: unconstrained parameters.
        ascent: how guides are fitted; its history becomes that of the best ELBO after every fit.

    Returns:
        The bound under the best parameters, the best guide, and a clause about what was done.
    """
    from scipy.optimize import minimize

    bound, state = ascent.run(bound, bound.begin(*guide.read(bound.family.factors)))
    climb = _Climb(model, bound, leaves, ascent, state)
    climb.history = list(ascent.history)
    scale = max(1.0, abs(state.elbo))
    found = minimize(
        climb,
        _flat(leaves).numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxfun": MOST, "maxiter": MOST, "ftol": 0.1 * ascent.tolerance / scale, "gtol": 1e-8},
    )
    _set(leaves, climb.best_at)
    best = replace(bound, family=climb.family())
    history = climb.history
    best, state = ascent.run(best, climb.best)
    ascent.history = [*history, state.elbo]
    count = sum(leaf.numel() for leaf in leaves)
    said = f"; {learnt_parameters(count)} in {found.nfev} fits"
    return best, state, said


class _Climb:
    """−L and its gradient at unconstrained parameters; every guide starts at the last one."""

    def __init__(
        self, model: LinearFactors, bound: Bound, leaves: list[Tensor], ascent: Ascent, state: State
    ) -> None:
        self.model, self.bound, self.leaves, self.ascent = model, bound, leaves, ascent
        self.state = self.best = state
        self.best_at = _flat(leaves)
        self.history: list[float] = []

    def family(self) -> FactorFamily:
        """The family under the parameters as they are now."""
        family = self.bound.family
        return replace(family, factors=family.factors.under(self.model))  # type: ignore[type-var]

    def __call__(self, at: np.ndarray) -> tuple[float, np.ndarray]:
        where = torch.from_numpy(np.array(at))
        _set(self.leaves, where)
        bound = replace(self.bound, family=self.family())
        with torch.no_grad():
            spread = bound.family.spread(self.state.sites)
            state = None if spread is None else bound.at(self.state.mean, self.state.sites, spread)
        if state is None or not math.isfinite(state.elbo):
            return NOWHERE, np.zeros_like(at)
        inner = self.ascent.within()
        self.state = state = inner.climb(bound, state, inner.tolerance)
        if state.elbo > self.best.elbo:
            self.best, self.best_at = state, where
        self.history.append(self.best.elbo)
        slopes = envelope_gradient(self.model, bound, state, self.leaves)
        return -state.elbo, -torch.cat([slope.reshape(-1) for slope in slopes]).numpy()


def _flat(leaves: list[Tensor]) -> Tensor:
    return torch.cat([leaf.detach().cpu().double().reshape(-1) for leaf in leaves])


@torch.no_grad()
def _set(leaves: list[Tensor], values: Tensor) -> None:
    for leaf, own in zip(leaves, values.split([leaf.numel() for leaf in leaves]), strict=True):
        leaf.copy_(own.reshape(leaf.shape))
