"""The gap between log p(x) and the ELBO."""

from dataclasses import replace

import numpy as np

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.wording import in_words
from ppl_vae.diagnostics.verdict.case import Case, Found, skipped
from ppl_vae.diagnostics.verdict.findings import say_gap
from ppl_vae.diagnostics.verdict.rule import Finding
from ppl_vae.inference.samplers import exact
from ppl_vae.program.abilities import ExactEvidence

__all__ = ["gap"]


def gap(case: Case) -> Found | None:
    """log p(x), exactly where the model knows it, less the ELBO of the rows that were weighed."""
    found = case.notes.weighed
    if found is None:
        return None
    if case.layout.improper:
        flat = in_words(case.layout.improper)
        said = f"log p(x) is not defined: the prior of {flat} is flat (improper)"
        return Found(skipped("evidence", said, cut=False))
    truth = _exact(case, found)
    known = found if truth is None else truth
    answers = {} if truth is None else {"exact": truth}
    with np.errstate(invalid="ignore"):
        gaps = known.log_evidence - found.elbo
    measures = {"gap": float(gaps.mean())}
    if not np.isfinite(gaps).all():
        said = "the guide draws values that the model gives no probability: its ELBO is −∞"
        return Found(Finding("evidence", "fail", said), measures, answers)
    doubtful = truth is None and bool(found.alarming.any())
    few = found.num_units < case.layout.num_units
    of = f" over {found.num_units:,} rows spread over all {case.layout.num_units:,}" if few else ""
    said = say_gap(known, float(gaps.mean()), of, truth is not None, doubtful)
    said += "".join(f"; {name} counts by its weights in both" for name in case.layout.weighted)
    return Found(Finding("evidence", "warn" if doubtful else "pass", said), measures, answers)


def _exact(case: Case, found: Evidence) -> Evidence | None:
    """The exact log p(x) of the same rows; None where the model does not know it."""
    if not isinstance(case.pair.model, ExactEvidence):
        return None
    truth = exact.log_evidence(case.pair.model, *case.data)
    if found.index is None:
        return truth
    none, chosen = np.zeros(len(found.index)), truth.log_evidence[found.index]
    return replace(truth, log_evidence=chosen, std_error=none, bias=none, index=found.index)
