"""SVI within a share of a time budget."""

from typing import Literal

from ppl_vae.base.clock import OutOfTime, deadline
from ppl_vae.base.watch import watched
from ppl_vae.inference.fitting import svi
from ppl_vae.inference.fitting.svi import Fit
from ppl_vae.program.problem import Problem

__all__ = ["FIT_SHARE", "LEARNING_RATE", "fit_within", "was_cut"]

# Share of a whole check's budget that its fit may take.
FIT_SHARE = 0.4
# The rate that a fit begins with: the stopping rule lowers it, so that a large one only costs less. Networks,
# which a large rate can throw far off, begin lower.
LEARNING_RATE, OF_NETWORKS = 0.05, 0.01
# Parameters of the largest pair that is no network.
FEW_PARAMETERS = 4096


def fit_within(
    problem: Problem,
    num_steps: int,
    lr: float | None,
    train: Literal["both", "guide"],
    seconds: float,
    seed: int,
    progress: bool,
) -> Fit | None:
    """SVI until it comes to rest, the steps run out, or so many seconds have passed.

    A fit that comes to rest in time does not depend on the clock. None where the time was over before its
    first step.
    """
    pair, data, layout = problem.pair, problem.data, problem.layout
    particles = 8 if layout.vectorized and layout.num_units * layout.event_size <= 10_000 else 1
    try:
        with deadline(seconds):
            with watched():
                pair.initialise(*data, seed=seed)
            if lr is None:
                few = sum(leaf.numel() for leaf in pair.parameters(train).values()) <= FEW_PARAMETERS
                lr = LEARNING_RATE if few else OF_NETWORKS
            return svi.fit(
                pair, *data, num_steps=num_steps, lr=lr, train=train, num_particles=particles, stop=True,
                seed=seed, progress=progress,
            )  # fmt: skip
    except OutOfTime:
        return None


def was_cut(fitted: Fit, num_steps: int) -> bool:
    """Whether the time ended a fit before it came to rest and before its steps ran out."""
    return fitted.converged is False and fitted.steps < num_steps
