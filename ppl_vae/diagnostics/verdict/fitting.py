"""A fit within a share of a time budget."""

from contextlib import suppress
from dataclasses import replace
from typing import Literal

from ppl_vae.base.clock import OutOfTime, deadline
from ppl_vae.base.watch import watched
from ppl_vae.inference.fitting.choice import choice_of, fit_by
from ppl_vae.inference.fitting.fit_result import NAMES, Fit, Method
from ppl_vae.inference.fitting.options import FitOptions
from ppl_vae.program.problem import Problem

__all__ = ["FIT_SHARE", "LEARNING_RATE", "fit_within"]

# Share of a whole check's budget that its fit may take, and of that what another method than SVI may, before
# SVI has the rest.
FIT_SHARE, OTHER_SHARE = 0.4, 0.5
# The rate that a fit begins with: the stopping rule lowers it, so that a large one only costs less. Networks,
# which a large rate can throw far off, begin lower.
LEARNING_RATE, OF_NETWORKS = 0.05, 0.01
# Parameters of the largest pair that is no network.
FEW_PARAMETERS = 4096


def fit_within(
    problem: Problem, options: FitOptions, lr: float | None, seconds: float, seed: int, progress: bool
) -> tuple[Fit | None, bool]:
    """A fit until it comes to rest, its steps run out, or so many seconds have passed.

    A fit that comes to rest in time does not depend on the clock.

    Args:
        problem: what is fitted.
        options: of the fit.
        lr: learning rate of SVI; by the size of the pair where None.
        seconds: for all of it.
        seed, progress: of the fit.

    Returns:
        The fit, None where the time was over before the first step; and whether the clock had a part in it.
    """
    pair, data, layout = problem.pair, problem.data, problem.layout
    particles = 8 if layout.vectorized and layout.num_units * layout.event_size <= 10_000 else 1
    options = replace(options, num_particles=particles, stop=True)
    late: Method | Literal[""] = ""
    try:
        with deadline(seconds):
            with watched():
                pair.initialise(*data, seed=seed)
            if lr is None:
                few = sum(leaf.numel() for leaf in pair.parameters(options.train).values()) <= FEW_PARAMETERS
                lr = LEARNING_RATE if few else OF_NETWORKS
            options = replace(options, lr=lr)
            first = choice_of(pair, data, options, seed=seed).method
            if first != "svi":
                with suppress(OutOfTime), deadline(OTHER_SHARE * seconds):
                    return fit_by(pair, data, options, seed=seed, progress=progress), False
                late = first
            options = replace(options, method="svi")
            why = f"{NAMES[late]} did not arrive in {OTHER_SHARE * seconds:.0f} s" if late else ""
            found = fit_by(pair, data, options, only_svi=why, seed=seed, progress=progress)
    except OutOfTime:
        return None, True
    if found.choice is not None:
        found = replace(found, choice=replace(found.choice, instead_of=late))
    return found, bool(late) or (found.converged is False and found.steps < options.num_steps)
