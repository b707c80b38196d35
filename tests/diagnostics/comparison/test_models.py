import math

import numpy as np
import pytest

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.comparison.models import model_probabilities


def _evidence(value: float, error: float = 0.0, kind: str = "estimate", units: int = 1) -> Evidence:
    values, errors = np.full(units, value / units), np.full(units, error / math.sqrt(units))
    unit = "dataset" if units == 1 else "datum"
    return Evidence(values, "bridge", unit, kind, errors, np.zeros(units), seconds=0.0)


def test_probabilities_are_shares_of_the_evidence_with_intervals_of_its_error() -> None:
    """Of two models the logit of the probability is normal, with the errors' root sum of squares."""
    found = model_probabilities({"K = 1": _evidence(-700.0, 0.3), "K = 2": _evidence(-699.0, 0.4)})
    second = found.loc["K = 2"]
    assert second["probability"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert found["probability"].sum() == pytest.approx(1)
    ends = [1 / (1 + math.exp(-(1 + sign * 1.96 * 0.5))) for sign in (-1, 1)]
    assert [second["low"], second["high"]] == pytest.approx(ends, abs=0.02)
    exact = model_probabilities({"a": _evidence(-5.0, kind="exact", units=3), "b": _evidence(-5.0, units=3)})
    assert exact.to_numpy()[:, 2:] == pytest.approx(0.5)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="at least two"):
        model_probabilities({"a": _evidence(0.0)})
    with pytest.raises(InputError, match="different numbers of data"):
        model_probabilities({"a": _evidence(0.0, units=3), "b": _evidence(0.0, units=4)})
    with pytest.raises(InputError, match=r"log p\(x\) of b is a bound"):
        model_probabilities({"a": _evidence(0.0), "b": _evidence(0.0, kind="lower bound")})
