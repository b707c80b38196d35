"""How wrong an answer is, in multiples of what is tolerable: one number from a whole comparison."""

from collections.abc import Sequence

import numpy as np

from ppl_vae.diagnostics.comparison.closeness import Severity, Tolerances, severity
from ppl_vae.diagnostics.comparison.compare import Comparison

__all__ = ["over_rows", "score"]

# The posteriors of so many rows have to be right.
SHARE = 0.9


def score(comparison: Comparison, answer: str) -> Severity:
    """Judge one answer of a comparison, whether or not its reference passed its checks."""
    table = comparison.table[comparison.table["answer"] == answer]
    joint = comparison.joint[comparison.joint["answer"] == answer].iloc[0].to_dict()
    return severity(table, joint, Tolerances())


def over_rows(rows: Sequence[Severity]) -> Severity:
    """The severity that nine rows of ten do not exceed, and in words the worst row."""
    error, floor = (float(_quantile([getattr(row, name) for row in rows])) for name in ("error", "floor"))
    return Severity(error, floor, max(rows, key=lambda row: row.floor).worst)


def _quantile(values: Sequence[float]) -> float:
    # Infinite ones would make an interpolation NaN.
    return float(np.quantile(np.minimum(values, np.finfo(float).max / 4), SHARE))
