"""Judging answers."""

from ppl_vae.diagnostics.agreement import Agreement, Sandwich, agreement, sandwich
from ppl_vae.diagnostics.compare import Comparison, compare, judge_reference
from ppl_vae.diagnostics.gaps import Gap, Gaps, gaps

__all__ = [
    "Agreement",
    "Comparison",
    "Gap",
    "Gaps",
    "Sandwich",
    "agreement",
    "compare",
    "gaps",
    "judge_reference",
    "sandwich",
]
