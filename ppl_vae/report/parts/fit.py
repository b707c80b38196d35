"""The part of the page about the fit: the ELBO, and why it ended where it did."""

from collections.abc import Sequence

import numpy as np

from ppl_vae.inference.fitting.stopping import R_HAT_LIMIT, Stopping
from ppl_vae.report.figures.stopping import Marks, stopping_curve
from ppl_vae.report.page import Part, Picture, Table

__all__ = ["fit_part", "took"]


def fit_part(
    sentences: Sequence[str],
    elbo: np.ndarray,
    held_out: np.ndarray,
    num_units: int,
    *,
    kl_warmup: int = 0,
    stopping: Stopping | None = None,
    tables: Sequence[Table] = (),
) -> Part:
    """The ELBO with the stopping decision.

    Args:
        sentences: what to say first.
        elbo, held_out, num_units, kl_warmup: as for `stopping_curve`.
        stopping: what the rule did; without it there is only the curve.
        tables: such as the settings.
    """
    marks = None if stopping is None else Marks.of(stopping)
    figure = stopping_curve(elbo, held_out, num_units, kl_warmup=kl_warmup, marks=marks)
    return Part("The fit", sentences, tables, [Picture(figure, _caption(len(held_out) > 0, stopping))])


def took(method: str, steps: int, seconds: float) -> str:
    """What a fit took, as the beginning of a sentence."""
    what = "steps" if method == "SVI" else "iterations"
    return f"{method[0].upper()}{method[1:]} took {steps:,} {what} and {seconds:.0f} s"


def _caption(checked: bool, stopping: Stopping | None) -> str:
    caption = "The ELBO during the fit: the curve should have levelled off at the right."
    if stopping is not None and stopping.checks:
        ended = f"stopped the fit after step {stopping.step:,}" if stopping.converged else "was never met"
        expected = (
            f", where ten times as many steps are expected to gain {stopping.expected_gain:.2g} nats a unit"
            if stopping.converged
            else ""
        )
        caption = (
            "The ELBO during the fit, and R-hat of its iterates (below the dashed line they are at rest): "
            "the learning rate is lowered (dotted) once they are at rest or gain next to nothing, and the "
            f"rule {ended}{expected}."
        )
        last = stopping.checks[-1].r_hat
        if stopping.converged and last > R_HAT_LIMIT:
            caption += (
                f" R-hat was still {last:.3g}, above its line: the iterates move, but what more steps could "
                "gain is below the tolerance, which ends a fit as well."
            )
    if checked:
        caption += " Validation rows falling away from training ones would mean overfitting."
    return caption
