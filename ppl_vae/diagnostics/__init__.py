"""Judging answers."""

from ppl_vae.diagnostics.compare import Comparison, compare, judge_reference

__all__ = ["Comparison", "compare", "judge_reference"]
