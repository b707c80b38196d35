"""The guide's draws reweighted, and what their shape says: all that can be known without a reference."""

import numpy as np

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.clock import OutOfTime
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.comparison.closeness import Severity
from ppl_vae.diagnostics.comparison.reasons import Reason
from ppl_vae.diagnostics.latents.funnels import funnel
from ppl_vae.diagnostics.verdict.case import Case, Found, skipped
from ppl_vae.diagnostics.verdict.scored import scored

__all__ = ["reweighted"]

SEED = 3


def reweighted(case: Case) -> Found | None:
    """How far the guide's draws are from themselves, resampled by their importance weights."""
    own = case.posteriors.get("svi")
    if own is None:
        return None
    answers: dict[str, Posterior] = {}
    try:
        answers["reweighted"] = own.resampled(seed=case.seed(SEED))
        shift = scored(case, "svi", own, answers["reweighted"])
    except InputError as error:  # no weight at all, or weights that are no numbers
        shift = Severity(np.inf, np.inf, Reason(criterion="said", who=str(error)))
    measures = {"shift": shift.error, "shift_floor": shift.floor}
    # What needs no reference is found before one is looked for, and kept.
    try:
        seen = None if case.local else funnel(answers.get("reweighted", own))
    except OutOfTime:
        return Found(skipped("draws"), measures, answers)
    return Found(None, measures, answers, {"funnel": seen})
