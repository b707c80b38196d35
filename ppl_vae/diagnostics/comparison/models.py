"""Which of several models of the same data, by their log p(x)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["model_probabilities"]

# Draws of the estimates within their errors, behind the intervals.
DRAWS = 4000


def model_probabilities(evidence: Mapping[str, Evidence], *, seed: int = 0) -> pd.DataFrame:
    """Posterior probabilities of models that are equally probable beforehand: p(x | M) over their sum.

    Such as of mixtures of one, two and three components. The penalty for needless parameters is in p(x | M)
    itself, since it is an average over their priors; it is as good as these are.

    Source: Kass and Raftery, "Bayes factors" (1995), section 3.

    Args:
        evidence: log p(x) of the same data, by model.
        seed: of the draws behind the intervals.

    Returns:
        A row for each model, in the order given: ``log_evidence`` of the whole data and its ``std_error`` in
        nats, ``probability``, and the ends ``low`` and ``high`` of the central 95 % of what the errors
        leave possible.

    Raises:
        InputError: for fewer than two models, data of different sizes, or bounds, which may lie anywhere
            below log p(x).
    """
    import pandas as pd

    if len(evidence) < 2:
        raise InputError("models are compared: give at least two")
    if len({found.num_units for found in evidence.values() if found.unit == "datum"}) > 1:
        raise InputError("the values of log p(x) are of different numbers of data")
    for name, found in evidence.items():
        if found.kind not in ("exact", "estimate"):
            raise InputError(
                f"log p(x) of {name} is a bound ({found.method}), by which models are not compared"
            )
    totals = np.array([found.total for found in evidence.values()])
    errors = np.array([found.total_std_error for found in evidence.values()])
    noise = np.random.default_rng(seed).normal(size=(DRAWS, len(totals)))
    low, high = np.quantile(_shares(totals + errors * noise), (0.025, 0.975), axis=0)
    return pd.DataFrame(
        {
            "log_evidence": totals, "std_error": errors, "probability": _shares(totals), "low": low,
            "high": high,
        },
        index=pd.Index(list(evidence), name="model"),
    )  # fmt: skip


def _shares(logs: np.ndarray) -> np.ndarray:
    """Exponentials over their sum along the last axis."""
    found = np.exp(logs - logs.max(-1, keepdims=True))
    return found / found.sum(-1, keepdims=True)
