"""Numbers with their errors, and which rows they are of, as readers see them."""

import re

import numpy as np
import pytest

from ppl_vae.base.wording import distinct_texts, of_rows, rows_option, shown_error, with_error
from ppl_vae.cli.tables import console, evidence_table, fit_table, gaps_table, worst_table
from ppl_vae.report.page import _is_number
from ppl_vae.runs.fit_job import converged_of
from ppl_vae.runs.summary import say_evidence, say_fit, say_gaps, say_other_data

FIT = {
    "elbo_mean": -40.0, "elbo_std_error": 1e-3, "reconstruction": -400.0, "kl": 20.0, "num_units": 10,
    "steps": 300, "seconds": 1.0, "reason": "it rose by 0.01", "stopping": None,
}  # fmt: skip
EVIDENCE = {
    "method": "is", "kind": "estimate", "proposal": "guide", "data": "test", "num_samples": 1000,
    "unit": "datum", "num_units": 100, "log_evidence_mean": -39.0, "std_error_mean": 2e-7, "elbo_mean": -39.5,
    "num_alarms": 0, "ess": {"min": 900.0}, "seconds": 1.0, "chosen_rows": "0:100", "num_rows": 178,
}  # fmt: skip


def shown(capsys, monkeypatch, *tables, width=120):
    monkeypatch.setenv("COLUMNS", str(width))
    for table in tables:
        console().print(table)
    return capsys.readouterr().out


@pytest.mark.parametrize("error", [0.5, 1e-3, 4e-4, 4.9e-5, 3e-7, 1e-12])
@pytest.mark.parametrize("digits", [2, 3, 4])
def test_an_error_is_never_shown_as_a_zero_that_it_is_not(error, digits):
    text = shown_error(error, digits)
    assert float(text) > 0
    assert float(text) == pytest.approx(error, abs=0.5 * 10**-digits, rel=0.5)
    assert with_error(1.0, error, digits).endswith(f" ± {text}")
    assert _is_number(with_error(1.0, error, digits).replace("-", "−"))


@pytest.mark.parametrize("none", [None, 0.0, float("nan")])
def test_what_has_no_error_is_shown_without(none):
    assert with_error(-1.5, none) == "-1.500"
    assert with_error(0.25, none, 1, sign="+") == "+0.2"
    assert with_error(none or float("nan"), 1.0) == "–"


def test_no_table_or_sentence_shows_an_error_of_zero(capsys, monkeypatch):
    row = {"row": 3, "log_evidence": -1.0, "std_error": 2e-6}
    out = shown(
        capsys, monkeypatch, evidence_table([("is", EVIDENCE)]),
        worst_table([row, row | {"std_error": None}]), fit_table([("x", FIT | {"converged": True})]),
    )  # fmt: skip
    out += say_evidence(EVIDENCE) + say_fit(FIT | {"converged": True})
    assert not re.search(r"± 0\.?0*(?![\d.])", out)
    assert "± –" not in out
    assert "2e-07" in out
    assert "2e-06" in out
    exact = EVIDENCE | {"kind": "exact", "method": "exact", "std_error_mean": 0.0}
    assert "±" not in say_evidence(exact)


@pytest.mark.parametrize(
    ("units", "num_rows", "words"),
    [
        (range(100), 178, "the first 100 of the 178 test rows"),
        (range(20, 40), 178, "rows 20:40 of the 178 test rows"),
        (range(178), 178, "all 178 test rows"),
        (range(1), 2, "the first 1 of the 2 test rows"),
    ],
)
def test_rows_are_named(units, num_rows, words):
    rows = rows_option(np.array(units), num_rows)
    assert of_rows("test", len(units), rows, num_rows) == words
    found = EVIDENCE | {"num_units": len(units), "chosen_rows": rows, "num_rows": num_rows}
    assert words in say_evidence(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "the first 100 of the 178 test rows"),
        ({"chosen_rows": None, "num_units": 178}, "all 178 test rows"),
        ({"data": "train"}, "the first 100 of the 178 train rows"),
        ({"data": "train", "chosen_rows": None, "num_units": 178}, None),
        ({"data": "train", "unit": "dataset", "num_units": 1}, None),
    ],
)
def test_an_elbo_above_log_p_of_other_rows_is_explained(change, said):
    found = say_other_data({"is": EVIDENCE | change})
    assert (found is None) if said is None else (said in found and "either may be the larger" in found)


def test_runs_of_an_older_version_say_what_they_know():
    old = {name: value for name, value in EVIDENCE.items() if name not in ("chosen_rows", "num_rows")}
    assert "of 100 test rows" in say_evidence(old)
    parts = ("gap", "approximation gap", "amortisation gap", "gap, best full covariance", "gap, best flow")
    rows = [{"name": name, "mean": 0.1} for name in parts]
    old = {"num_units": 8, "split": "test", "amortised": True, "rows": rows}
    assert say_gaps(old).startswith("Over 8 test rows")
    assert say_gaps(old | {"chosen_rows": "0:8", "num_rows": 20}).startswith(
        "Over the first 8 of the 20 test"
    )


@pytest.mark.parametrize(
    ("stored", "stopping", "converged", "cell", "words"),
    [
        (True, {"checks": []}, True, "yes", "and converged"),
        (False, {"checks": []}, False, "no", "has not converged"),
        (False, None, False, "no", "has not converged"),
        (None, None, None, "–", "not judged"),
        # 0.1.0 stored True here, by another rule.
        (True, None, None, "–", "not judged"),
    ],
)
def test_converged_is_said_by_one_rule(capsys, monkeypatch, stored, stopping, converged, cell, words):
    fit = FIT | {"converged": stored, "stopping": stopping}
    assert converged_of(fit) is converged
    assert words in say_fit(fit)
    out = shown(capsys, monkeypatch, fit_table([("x", fit | {"converged": converged})]))
    assert re.search(rf"300 +1 +{cell}\b" if cell != "–" else "300 +1 +–", out)
    assert ("not judged" in out) == (converged is None)


def test_a_gaps_table_names_its_rows_and_draws(capsys, monkeypatch):
    from ppl_vae.diagnostics import Gaps

    found = Gaps(
        np.arange(8), "diagonal", True, np.full(8, -3.0), np.zeros(8), np.zeros(8), "exact",
        np.full((8, 4), -3.5), np.zeros((8, 4, 4)), (True, True, True), 2000,
    )  # fmt: skip
    out = " ".join(
        shown(capsys, monkeypatch, gaps_table(found, "x: the gap", part="test", num_rows=20)).split()
    )
    assert "x: the gap over the first 8 of the 20 test rows" in out
    assert "2,000 draws a row" in out
    assert "±" not in out.replace("± is one", "")


def test_a_statistic_that_never_varies_is_shown_without_a_spread():
    import pandas as pd

    from ppl_vae.diagnostics.prediction.predictive import Predictive

    row = {"site": "x", "statistic": "share of ones in pixel", "observed": 0.005, "replicated_mean": 0.0,
           "replicated_sd": 0.0, "p_adjusted": 0.005}  # fmt: skip
    said = [
        Predictive(pd.DataFrame([row | {"replicated_sd": sd}]), {}, {}, {}, "guide", 40).sentence()
        for sd in (0.0, 0.01)
    ]
    assert "and 0 in every replicated data set (" in said[0]
    assert "and 0 ± 0.01 in replicated data (" in said[1]


@pytest.mark.parametrize("width", [50, 60, 80, 100, 140])
@pytest.mark.parametrize("mean", [-1.0, -182.6327, -527_127.0815])
def test_no_number_of_an_evidence_table_is_cut_off(capsys, monkeypatch, width, mean):
    found = EVIDENCE | {"log_evidence_mean": mean, "elbo_mean": mean - 1, "smoothed_mean": mean,
                        "std_error_mean": 0.0234, "pareto_k": {"max": 0.871}, "seconds": 123.4}  # fmt: skip
    out = shown(capsys, monkeypatch, evidence_table([("vae on digits, is", found)], width=width), width=width)
    assert " method " in out
    for number in (f"{mean:.4f} ± 0.0234", "900", "0.87"):
        assert number in out
    assert ("123.4" in out) == (" s " in out.splitlines()[2])


@pytest.mark.parametrize(("k_hat", "ess"), [(0.86, 8.0), (5.96, 7007.0), (-1.0, 10_000.0)])
def test_what_weights_say_fits_their_numbers(k_hat, ess):
    from ppl_vae.answers.evidence import Evidence
    from ppl_vae.diagnostics.verdict.findings import say_weights

    one = np.ones(1)
    found = Evidence(-one, "is", "dataset", "estimate", 0.01 * one, 0 * one, ess=ess * one,
                     pareto_k=k_hat * one, num_samples=10_000)  # fmt: skip
    status, said = say_weights(found, 0.05)
    assert status == ("pass" if k_hat < 0 else "fail")
    assert ("a few draws decide everything" in said) == (ess < 100)
    assert "-1.00" not in said


@pytest.mark.parametrize(
    ("value", "limit", "texts"),
    [(1.0196, 1.0204, ("1.0196", "1.0204")), (1.01234, 1.01, ("1.012", "1.01")),
     (1.01, 1.01, ("1.01", "1.01")), (1.0100001, 1.01, ("1.0100001", "1.01")),
     (np.inf, 1.01, ("inf", "1.01"))],
)  # fmt: skip
def test_a_number_and_its_limit_are_told_apart(value, limit, texts):
    assert distinct_texts(value, limit) == texts
