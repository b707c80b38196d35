"""Expectation propagation for linear factors on Gaussian chains: how games usually rate players.

Its fixed point is reached by Newton steps in place of message passing (`propagation.steps`). The answer is
written into the guide, and is judged as any other's: expectation propagation has no bound of its own, but the
guide has an ELBO.
"""

from __future__ import annotations

import math
import time
from typing import Any, Literal

import numpy as np
import pyro
from torch import Tensor

from ppl_vae.base.arguments import check_real, check_whole
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.threads import SMALL_WORK, one_thread
from ppl_vae.inference.evidence.elbo import ELBO, elbo
from ppl_vae.inference.fitting.factors import quadrature
from ppl_vae.inference.fitting.fit_result import EvidenceEstimate, Fit, final_particles
from ppl_vae.inference.fitting.propagation.factors import factors_of
from ppl_vae.inference.fitting.propagation.guides import check_guide, is_joint, write
from ppl_vae.inference.fitting.propagation.learning import learn
from ppl_vae.inference.fitting.propagation.loop import Propagated, propagate
from ppl_vae.inference.fitting.propagation.starts import start_of
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["fit"]

NAME = "expectation propagation"


def fit(
    pair: Pair,
    *data: Any,
    tolerance: float = 1e-8,
    max_steps: int = 200,
    damping: float = 0.0,
    num_nodes: int = 32,
    train: Literal["guide", "both"] = "guide",
    warm: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Fit:
    """Set a guide to the answer of expectation propagation.

    Under guides of independent chains every entry of a factor has a Gaussian site of its own, so that chains
    (players) are independent in the answer, whether they have one state each (Herbrich et al. 2006) or many,
    through time (Dangauthier et al. 2007). Under guides of all states together every row has one, and nothing
    is lost between players; rankings, and more than 4,000 states of no sparse precision, are propagated by
    independent chains, and the guide gets the precision by which their means answer to a pull. Factors of one
    predictor are matched in closed form where the model knows it (`TiltedFactors`), else by quadrature;
    rankings of whole games by their exact marginal moments (`RankingFactors`), which those authors iterate
    for within the game. Nothing is random but the draws of rankings' last ELBO, and the order of data changes
    nothing.

    Args:
        pair: a model with the ability `LinearFactors` or `RankingFactors`, and a `ChainNormal`, Pyro's
            ``AutoNormal`` where chains have one state each, a `JointNormal`, or Pyro's
            ``AutoMultivariateNormal``. The guide's parameters are changed in place, in their own precision;
            all arithmetic is in float64. Where the guide stands changes no answer.
        data: the programs' full data.
        tolerance: change of the means, in their sds, and of log variances at which to stop.
        max_steps: most steps.
        damping: part of its way that every step leaves out, from 0 to less than 1. Steps are shortened by
            themselves where they come no nearer.
        num_nodes: nodes of the Gauss–Hermite rule, where moments are not known in closed form.
        train: "both" to learn the model's parameters as well, by EP's estimate of log p(x)
            (`propagation.learning`); otherwise they are held.
        warm: whether to begin at what the guide holds, where that is of chains apart: fewer steps where that
            is near the answer, which is the same. By default it begins at the prior.
        seed: of the draws of rankings' last ELBO.
        progress: whether to show a progress bar on a terminal.

    Returns:
        A `Fit`. Its ``elbo`` holds EP's estimate of log p(x) before every step, and ``estimate`` the last, or
        where chains are propagated apart under a joint guide that of their factors with all states together;
        these are no bounds. Its ``final`` is the guide's ELBO, which is one. The engine is "moments".

    Raises:
        InputError: for a model without these abilities, another guide, data or arguments that are not
            acceptable, and factors without finite integrals.
    """
    _check_arguments(tolerance, max_steps, damping, num_nodes)
    begun = time.perf_counter()
    factors = factors_of(pair.model, *data, num_nodes=num_nodes, together=is_joint(pair.guide))
    pair.initialise(*data, seed=seed)
    check_guide(pair.guide, factors, *data)
    leaves = _learnt(pair) if train == "both" else {}
    start, learnt = start_of(pair, factors) if warm else None, ""
    with (
        one_thread(len(factors.design.column) * num_nodes < SMALL_WORK),
        pyro.validation_enabled(False),
        progress_bar(NAME, max_steps, open_ended=True, show=progress) as advance,
    ):
        if leaves:
            factors, start, learnt = learn(pair.model, factors, leaves, start)
        found = propagate(
            factors, start=start, tolerance=tolerance, max_steps=max_steps, damping=damping,
            seen=lambda value, change: advance(1, f"log p(x) ≈ {value:.4f}, change {change:.1g}"),
        )  # fmt: skip
    estimate = write(pair, factors, found, *data)
    return Fit(
        elbo=np.asarray(found.log_evidence),
        held_out=np.empty((0, 2)),
        final=_bound(pair, data, seed),
        steps=len(found.log_evidence),
        seconds=time.perf_counter() - begun,
        converged=found.converged,
        reason=_reason(found, tolerance) + learnt,
        engine="moments",
        compile_seconds=0.0,
        method=NAME,
        estimate=EvidenceEstimate(estimate, NAME),
    )


def _bound(pair: Pair, data: tuple[Any, ...], seed: int) -> ELBO:
    """The guide's ELBO, by quadrature where that goes."""
    if quadrature.fits(pair):
        return quadrature.quadrature_elbo(pair, *data)
    num_particles = final_particles(Problem.of(pair, *data).layout, late=False)
    return elbo(pair, *data, num_particles=num_particles, seed=seed)


def _learnt(pair: Pair) -> dict[str, Tensor]:
    """The model's unconstrained parameters, by name."""
    own = pair.parameters("guide")
    return {name: leaf for name, leaf in pair.parameters().items() if name not in own}


def _reason(found: Propagated, tolerance: float) -> str:
    damped = "" if found.length == 1 else f", at {found.length:.2g} of their length"
    return (
        f"the last of {len(found.log_evidence)} steps moved means and log variances by at most "
        f"{found.change:.2g} (tolerance {tolerance:g}){damped}"
    )


def _check_arguments(tolerance: float, max_steps: int, damping: float, num_nodes: int) -> None:
    check_real(lambda v: 0 < v < math.inf, "must be positive", tolerance=tolerance)
    check_real(lambda v: 0 <= v < 1, "is a part of the way, from 0 to less than 1", damping=damping)
    check_whole(1, max_steps=max_steps)
    check_whole(2, num_nodes=num_nodes)
