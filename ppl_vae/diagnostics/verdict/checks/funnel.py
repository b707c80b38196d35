"""Funnels, which no fixed Gaussian can follow."""

from ppl_vae.diagnostics.verdict.case import Case, Found
from ppl_vae.diagnostics.verdict.rule import Finding

__all__ = ["funnel_found"]


def funnel_found(case: Case) -> Found | None:
    """The funnel, from whichever draws it was seen in."""
    seen = case.notes.funnel
    if seen is None:
        return None
    bad = not case.measures.reference_ok or case.measures.error_floor > 1
    return Found(Finding("funnel", "fail" if bad else "warn", seen.sentence, cut=case.notes.late))
