"""Learning a model's parameters by expectation propagation's estimate of log p(x).

At a fixed point the estimate is stationary in the sites (Minka 2001; Opper and Winther 2005), so that its
gradient in the parameters is that with the sites held: E_q log p_θ(s) gives the prior's part, and the
expected log likelihood under the tilted densities the factors'. L-BFGS climbs in unconstrained space, and
every propagation starts at the best one's sites. The estimate is no bound: what is learnt so may be judged by
the ELBO of the guide, or by later data, as any other.

Sources: Opper and Winther, "Expectation Consistent Approximate Inference", JMLR 6 (2005); Seeger,
"Expectation Propagation for Exponential Families" (2005), for the gradient; Byrd et al., SIAM J. Sci. Comput.
16 (1995), for L-BFGS-B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError, listed
from ppl_vae.base.wording import learnt_parameters
from ppl_vae.inference.fitting.propagation.loop import Propagated, propagate
from ppl_vae.inference.fitting.propagation.steps import Factors, Sites, predictors

__all__ = ["evidence_gradient", "learn"]

# Propagations at most, and how near each comes to its fixed point: the gradient is right to that, and the
# estimate to its square.
MOST, INNER_TOLERANCE, INNER_STEPS = 100, 1e-4, 60
# Nats that L-BFGS still climbs for.
LEAST_RISE = 1e-4
# What it is given where there is no fixed point: worse than anything.
NOWHERE = 1e300


def evidence_gradient(
    model: Any, factors: Factors, found: Propagated, leaves: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The gradient of the estimate of log p(x) at a fixed point, by leaf; None of leaves that move nothing.

    Args:
        model: whose unconstrained parameters the leaves are.
        factors, found: under the parameters as they are, and the fixed point.
        leaves: by name.
    """
    total: dict[str, Tensor] = {}
    with torch.enable_grad():
        for part in _parts(model, factors, found):
            if not part.requires_grad:
                continue
            slopes = torch.autograd.grad(part, [*leaves.values()], allow_unused=True, retain_graph=True)
            for name, slope in zip(leaves, slopes, strict=True):
                if slope is not None:
                    total[name] = total[name] + slope if name in total else slope
    return total


def _parts(model: Any, factors: Factors, found: Propagated) -> Iterator[Tensor]:
    around = found.around
    _, chains = model.normal_prior()
    yield chains.expected_log_prob(found.sites.mean, around.variance, around.lag_covariance)
    if factors.rule is not None:
        mean, variance = predictors(factors, found.sites)
        count = factors.design.count
        counts = torch.ones_like(mean) if count is None else count
        yield from factors.rule.expected_log_likelihood(mean, variance, counts)


def learn(
    model: Any, factors: Factors, leaves: Mapping[str, Tensor], start: Sites | None = None
) -> tuple[Factors, Sites, str]:
    """Climb in the model's parameters, which are set in place.

    Args:
        model: whose unconstrained parameters the leaves are.
        factors: of the model and its data.
        leaves: by name.
        start: sites to begin at; none by default, which is the prior.

    Returns:
        The factors and the fixed point at the best parameters, and a clause about what was done.

    Raises:
        InputError: for parameters of rankings' own likelihood, whose derivatives are not known, and where
            nothing can be propagated at the parameters as they are.
    """
    from scipy.optimize import minimize

    climb = _Climb(model, factors, leaves, start or Sites.none(factors))
    begin = torch.cat([leaf.detach().double().reshape(-1) for leaf in leaves.values()])
    scale = max(1.0, abs(climb(begin.numpy())[0]))
    minimize(
        climb, begin.numpy(), jac=True, method="L-BFGS-B",
        options={"maxfun": MOST, "maxiter": MOST, "ftol": LEAST_RISE / scale, "gtol": 1e-6},
    )  # fmt: skip
    climb.set(climb.best_at)
    said = f"; {learnt_parameters(len(begin))} in {climb.count} propagations"
    return climb.factors, climb.best_sites, said


class _Climb:
    """Minus the estimate and its gradient; every propagation starts at the best one's sites."""

    def __init__(self, model: Any, factors: Factors, leaves: Mapping[str, Tensor], start: Sites) -> None:
        self.model, self.factors, self.leaves = model, factors, leaves
        self.best, self.best_at = -np.inf, np.empty(0)
        self.best_sites = start
        self.count = 0
        self._last: tuple[np.ndarray, tuple[float, np.ndarray]] | None = None

    @torch.no_grad()
    def set(self, at: np.ndarray) -> None:
        """Move the parameters, and the prior with them."""
        values = torch.from_numpy(np.array(at)).split([leaf.numel() for leaf in self.leaves.values()])
        for leaf, own in zip(self.leaves.values(), values, strict=True):
            leaf.copy_(own.reshape(leaf.shape))
        self.factors = replace(self.factors, chains=self.model.normal_prior()[1].detach())

    def __call__(self, at: np.ndarray) -> tuple[float, np.ndarray]:
        if self._last is None or not np.array_equal(self._last[0], at):
            self._last = np.array(at), self._propagated(at)
        return self._last[1]

    def _propagated(self, at: np.ndarray) -> tuple[float, np.ndarray]:
        self.set(at)
        self.count += 1
        try:
            found = propagate(
                self.factors, start=self.best_sites, tolerance=INNER_TOLERANCE, max_steps=INNER_STEPS
            )
        except InputError:
            if not self.best_at.size:  # where it begins: nothing is known to be better
                raise
            return NOWHERE, np.zeros_like(at)
        value = found.log_evidence[-1]
        if value > self.best:
            self.best, self.best_at, self.best_sites = value, np.array(at), found.sites
        slopes = evidence_gradient(self.model, self.factors, found, self.leaves)
        if unknown := [name for name in self.leaves if name not in slopes]:
            raise InputError(
                f"expectation propagation cannot learn {listed(unknown)}: no derivative of its estimate is "
                "known; hold it, or take another method"
            )
        flat = torch.cat([slopes[name].double().reshape(-1) for name in self.leaves])
        return -value, -flat.numpy()
