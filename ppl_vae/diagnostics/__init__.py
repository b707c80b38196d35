"""Judging answers."""

from ppl_vae.diagnostics.agreement import Agreement, Sandwich, agreement, sandwich
from ppl_vae.diagnostics.alternatives import alternatives
from ppl_vae.diagnostics.calibration import Calibration, sbc
from ppl_vae.diagnostics.check import Check, check, check_pair
from ppl_vae.diagnostics.collapse import Collapse, collapse
from ppl_vae.diagnostics.compare import Comparison, compare, judge_reference
from ppl_vae.diagnostics.gaps import Gap, Gaps, gaps
from ppl_vae.diagnostics.predictive import Predictive, predictive_check
from ppl_vae.diagnostics.verdict import Finding, Measures, Rule, decide

__all__ = [
    "Agreement",
    "Calibration",
    "Check",
    "Collapse",
    "Comparison",
    "Finding",
    "Gap",
    "Gaps",
    "Measures",
    "Predictive",
    "Rule",
    "Sandwich",
    "agreement",
    "alternatives",
    "check",
    "check_pair",
    "collapse",
    "compare",
    "decide",
    "gaps",
    "judge_reference",
    "predictive_check",
    "sandwich",
    "sbc",
]
