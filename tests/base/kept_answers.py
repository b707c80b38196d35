"""One answer of every type that is kept in files, with everything in it that a file could lose."""

import math

import numpy as np
import pandas as pd
import xarray as xr

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.diagnostics.calibration.sbc import Calibration
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.comparison.reasons import Reason
from ppl_vae.diagnostics.latents.collapse import Collapse
from ppl_vae.diagnostics.latents.gap_parts import Gaps
from ppl_vae.diagnostics.prediction.predictive import Predictive
from ppl_vae.diagnostics.verdict.outcome import Check
from ppl_vae.diagnostics.verdict.results import Results
from ppl_vae.diagnostics.verdict.rule import Decision, Finding, Measures
from ppl_vae.inference.fitting.stopping import Stopping, TailCheck

NOTES = ("One sentence, of µ.", "Another one.")


def numbers(*shape: int) -> np.ndarray:
    """Numbers that all differ and that decimal fractions do not hold."""
    return np.sqrt(np.arange(1.0, 1.0 + math.prod(shape))).reshape(shape) - 1.5


def posterior() -> Posterior:
    draws = xr.Dataset(
        {
            "scope/z": (("chain", "draw", "unit", "component"), numbers(2, 3, 2, 2).astype("float32")),
            "k": (("chain", "draw"), np.arange(6).reshape(2, 3)),
        },
        coords={"unit": ["a/b", "ü"], "component": [3, 1]},
    )
    stats = xr.Dataset({"diverging": (("chain", "draw"), numbers(2, 3) > 0)}, attrs={"sampler": "batched"})
    weights = xr.DataArray(numbers(2, 3, 2), dims=("chain", "draw", "unit"), coords={"unit": ["a/b", "ü"]})
    size = xr.DataArray(numbers(2) + 3, dims=("unit",), coords={"unit": ["a/b", "ü"]})
    return Posterior(draws, "nuts", "chains", weights, stats, 1.25, size)


def evidence() -> Evidence:
    values = numbers(8, 3)
    values[4, 1] = np.inf
    values[6, 2] = np.nan
    return Evidence(
        values[0], "is", "datum", "estimate", values[1], values[2], values[3], values[4], values[5],
        values[6], values[7], np.array([7, 2, 40]), numbers(2, 3), 1000, "the guide", NOTES, 2.5, 1.5,
    )  # fmt: skip


def bare_evidence() -> Evidence:
    return Evidence(np.array([-3.0]), "exact", "dataset", "exact", np.zeros(1), np.zeros(1))


def gaps() -> Gaps:
    return Gaps(
        index=np.array([4, 9]), family="full", amortised=True, log_evidence=numbers(2),
        evidence_std_error=numbers(2) + 2, evidence_bias=numbers(2) / 7, evidence_method="is",
        elbo=numbers(2, 4) - 3, elbo_covariance=numbers(2, 4, 4), rested=(True, False, True),
        num_samples=500, notes=NOTES, seconds=0.5,
    )  # fmt: skip


def whole_gaps() -> Gaps:
    """A gap that was not taken apart."""
    return Gaps(
        np.array([0]), "", False, numbers(1), numbers(1), numbers(1), "exact", numbers(1, 1),
        numbers(1, 1, 1), (), 10, ("The guide is of no family.",),
    )  # fmt: skip


def collapse() -> Collapse:
    columns = {
        "component": ["z[0]", "z[1]"], "site": ["z", "z"], "kl": [1.5, 0.1], "kl_std_error": [0.0, math.nan],
        "variance_of_means": [0.9, 1e-9], "mean_variance": [0.2, 1.0], "active": [True, False],
        "site_kl": [1.6, 1.6], "site_kl_std_error": [0.0, 0.0],
    }  # fmt: skip
    return Collapse(pd.DataFrame(columns), 1.6, math.nan, 0.25, 40, True, 3.5, NOTES, 0.125)


def calibration() -> Calibration:
    ranks = xr.Dataset(
        {"rank": (("simulation", "quantity"), np.arange(12).reshape(6, 2))},
        coords={"simulation": np.arange(6), "quantity": ["z", "log p(x | z)"]},
    )
    return Calibration(ranks, 20, "guide", 0.1, NOTES, 4.5, 8.25, True)


def comparison() -> Comparison:
    columns = {
        "answer": ["svi", "svi"], "name": ["a", "b"], "mean": [0.1, 0.2], "mean_reference": [math.nan, 0.25],
        "sd_ratio": [math.inf, 1.0],
    }  # fmt: skip
    joint = {
        "answer": ["svi"], "num_quantities": [2.0], "sliced_wasserstein": [0.5],
        "smallest_direction": ["a − b"], "correlation_pair": ["a and b"],
    }  # fmt: skip
    why = (
        Reason(
            criterion="mean", answer="svi", quantity="a", size=1.5, error=0.25, limits=(0.2,),
            count=1, total=2,
        ),
        Reason(criterion="joint", answer="svi", size=math.inf),
        Reason(criterion="r_hat", quantity="b", size=1.125, limits=(1.01,), count=1, total=2, who="nuts"),
    )  # fmt: skip
    costs = {
        "answer": ["svi", "nuts"],
        "seconds": [0.5, 2.0],
        "draws": [1000.0, 400.0],
        "ess": [1000.0, 99.5],
    }
    return Comparison(
        pd.DataFrame(columns), "nuts", True, {"svi": "differs"}, why, pd.DataFrame(joint),
        pd.DataFrame(costs), "R-hat at most 1.003",
    )  # fmt: skip


def predictive() -> Predictive:
    table = pd.DataFrame({
        "statistic": ["mean", "sd"], "site": ["scope/x", "scope/x"], "observed": [0.5, 1.0],
        "replicated_mean": [0.25, 1.5], "replicated_sd": [0.1, 0.2], "p_value": [0.5, 0.01],
        "p_std_error": [0.01, 0.02], "p_adjusted": [0.75, 0.02],
    })  # fmt: skip
    replicates = xr.Dataset(
        {"scope/x": (("chain", "draw", "scope/x_statistic"), numbers(1, 3, 2))},
        coords={"scope/x_statistic": ["mean", "sd"]},
    )
    profile = xr.Dataset(
        {"observed": ("feature", numbers(2)), "frequency": (("panel", "bin"), numbers(1, 3))},
        coords={"feature": ["a", "b"], "panel": ["all"]},
    )
    profiles = {
        "scope/x": profile.assign_attrs(kind="real", rows=5),
        "y": profile.assign_attrs(kind="counts", rows=6),
    }
    return Predictive(table, replicates, profiles, "guide", 3, 0.75, NOTES)


def table() -> pd.DataFrame:
    index = pd.Index(["first", "second"], name="latent")
    return pd.DataFrame({"sd": [0.5, math.inf], "wide": [False, True], "called": ["a", "ü"]}, index=index)


def stopping() -> Stopping:
    checks = (
        TailCheck(300, 0, 0.05, 1.3, -10.0, 0.1, 0.02, math.inf, "go on"),
        TailCheck(400, 1, 0.005, 1.01, -9.5, 0.1, 0.001, 0.0005, "stop"),
    )
    return Stopping(checks, 400, True, "at rest", 0.001, 0.0005, math.nan, 120.5, 0.05, "held-out data")


def check() -> Check:
    """A check with an answer of every type, one of them without a name."""
    measures = Measures(
        "nuts", True, math.inf, 0.5, alarming=0.25, converged=False, points=("b",),
        others={"widest": 2.5, "unknown": math.nan},
    )  # fmt: skip
    answers = {
        "svi": posterior(), "is": evidence(), "exact": bare_evidence(), "guide": calibration(),
    }  # fmt: skip
    unnamed = (comparison(), predictive(), collapse())
    return Check(
        Decision("do not trust", ("weights", "reference"), "the guide differs from NUTS"),
        "draw with NUTS",
        (Finding("weights", "fail", "k̂ is 1.2.", 1.5, True), Finding("draws", "pass", "Fine.")),
        measures,
        Results([*answers.items(), *(("", each) for each in unnamed), ("spreads", table())]),
        index=(3, 5),
        seconds=12.5,
        budget=120.0,
        advice="nuts",
    )
