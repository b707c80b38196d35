"""Whether data like these come from the fitted model."""

import torch

from ppl_vae.base.clock import OutOfTime
from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import stage
from ppl_vae.diagnostics.prediction.predictive import predictive_check
from ppl_vae.diagnostics.verdict.case import LEAST_LEFT, Case, Found, skipped
from ppl_vae.diagnostics.verdict.checked import ROWS
from ppl_vae.diagnostics.verdict.checks.modes import WHOLE
from ppl_vae.diagnostics.verdict.rule import Finding, Status

__all__ = ["prediction"]

SEED = 7
# Numbers of the data that predictive checks replicate.
PREDICTED = 100_000


def prediction(case: Case) -> Found:
    """Test statistics of the data beside those of replicated data."""
    if case.clock.left < LEAST_LEFT * case.clock.budget:
        raise OutOfTime
    stage("check: data replicated from the model", show=case.options.progress)
    layout, measures, some = case.layout, case.measures, None
    known = measures.reference_ok and measures.reference in WHOLE and case.index is None
    if layout.can_index and layout.num_units * layout.event_size > PREDICTED:
        some = torch.arange(max(ROWS, PREDICTED // layout.event_size))
    try:
        found = predictive_check(
            case.pair,
            *case.data,
            # The right posterior, where it is known: what fails is then the model's fault alone.
            posterior=case.posteriors[measures.reference] if known else None,
            index=some,
            feature_names=case.feature_names,
            seed=case.seed(SEED),
        )
    except InputError as error:
        return Found(skipped("prediction", str(error), cut=False))
    status: Status = "warn" if len(found.failing) else "pass"
    said = Finding("prediction", status, found.sentence(), cut=case.notes.late)
    return Found(said, answers={"": found})
