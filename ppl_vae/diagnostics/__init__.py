"""Judging answers."""

from ppl_vae.diagnostics.calibration.sbc import Calibration, sbc
from ppl_vae.diagnostics.comparison.alternatives import alternatives
from ppl_vae.diagnostics.comparison.compare import Comparison, compare, judge_reference
from ppl_vae.diagnostics.latents.collapse import Collapse, collapse
from ppl_vae.diagnostics.latents.gaps import Gap, Gaps, gaps
from ppl_vae.diagnostics.prediction.predictive import Predictive, predictive_check
from ppl_vae.diagnostics.verdict.check import Check, check, check_pair
from ppl_vae.diagnostics.verdict.rule import Finding, Measures, Rule, decide
from ppl_vae.inference.evidence.agreement import Agreement, Sandwich, agreement, sandwich

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
