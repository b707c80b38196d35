"""Expectation maximisation, for models that know how (`HasEM`)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.seeds import check_seed, seeded
from ppl_vae.inference.evidence.elbo import elbo
from ppl_vae.inference.fitting.fit_result import Fit, final_particles
from ppl_vae.program.abilities import HasEM
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.program_names import name_of

__all__ = ["fit"]

# Iterations that the bar is drawn for at first.
MOST = 1000


def fit(pair: Pair, *data: Any, seed: int = 0, progress: bool = True) -> Fit:
    """Bring the model to a maximum of its likelihood by EM, and the guide to the posterior there.

    The latents' exact posterior makes the E-step, so that the ELBO before every M-step is log p(x): neither
    draws nor a learning rate have a part in it. A model whose likelihood has several maxima begins at
    several starts, and takes the best one that is no degenerate solution.

    Source: Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm" (1977);
    as the ELBO's coordinate ascent Neal and Hinton, "A view of the EM algorithm" (1998).

    Args:
        pair: a model with the ability `HasEM`, and one of its guides; both are changed in place.
        data: the programs' full data.
        seed: of the starts.
        progress: whether to show a progress bar on a terminal.

    Returns:
        A `Fit` whose ``elbo`` holds log p(x) at every iteration of the run that was kept, and whose engine is
        "formulas".

    Raises:
        InputError: for a model that has no EM, a guide that cannot be set to its posterior, or data without
            a maximum that is a solution.
    """
    check_seed(seed)
    if not isinstance(pair.model, HasEM):
        raise InputError(f"{name_of(pair.model)} has no EM; take svi.fit")
    begun = time.perf_counter()
    with progress_bar("EM", MOST, open_ended=True, show=progress) as advance, seeded(seed):
        found = pair.model.fit_em(
            pair.guide, *data, seed=seed, seen=lambda value: advance(1, f"log p(x) {value:.1f}")
        )
    num_particles = final_particles(Problem.of(pair, *data).layout, late=False)
    return Fit(
        elbo=np.asarray(found.log_likelihood),
        held_out=np.empty((0, 2)),
        final=elbo(pair, *data, num_particles=num_particles, seed=seed),
        steps=len(found.log_likelihood),
        seconds=time.perf_counter() - begun,
        converged=found.converged,
        reason=found.reason,
        engine="formulas",
        compile_seconds=0.0,
        method="EM",
    )
