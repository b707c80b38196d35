"""What answers look like in a notebook and at the prompt: content, escaping, and tags that are closed."""

import importlib
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base import notebook
from ppl_vae.diagnostics.calibration.sbc import Calibration
from ppl_vae.diagnostics.comparison.agreement import agreement
from ppl_vae.diagnostics.comparison.compare import Comparison
from ppl_vae.diagnostics.comparison.reasons import Reason
from ppl_vae.diagnostics.latents.gap_parts import Gaps
from ppl_vae.diagnostics.verdict.check import Check
from ppl_vae.diagnostics.verdict.rule import Decision, Finding, Measures
from ppl_vae.inference.evidence.elbo import ELBO
from ppl_vae.inference.fitting.fit_result import Fit
from ppl_vae.program.pair import Pair

# A name as a data set may bring it; it must not become markup.
NASTY = '<b onclick="x">&nbsp;</b>'


class _Page(HTMLParser):
    """The text and the tags of a page; fails at one that is not closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.tags, self.open = "", [], []  # type: ignore[var-annotated]
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        assert {name for name, _ in attrs} <= {"style", "class"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _posterior() -> Posterior:
    draws = {
        NASTY: (("chain", "draw", "school"), np.arange(24.0).reshape(2, 4, 3)),
        "tau": (("chain", "draw"), np.full((2, 4), 2.5)),
    }
    return Posterior(xr.Dataset(draws), "nuts", "chains")


def _evidence() -> Evidence:
    values = np.array([-1.5, -2.5, -3.0])
    error, weight = np.array([0.1, 0.2, 0.2]), np.array([900.0, 800.0, 2.0])
    return Evidence(
        values, "is", "datum", "estimate", error, -(error**2) / 2, ess=weight, num_samples=1000,
        notes=(f"a note about {NASTY}",), seconds=1.25,
    )  # fmt: skip


def _comparison() -> Comparison:
    row = {"answer": "svi", "name": NASTY, "mean": 1.25, "mean_reference": 1.0, "mean_error_in_sd": 0.5}
    table = pd.DataFrame([{**row, "sd_ratio": 0.5}])
    return Comparison(
        table,
        "nuts",
        True,
        {"svi": "differs"},
        (Reason(criterion="said", answer="svi", who=f"the mean of {NASTY} is off"),),
    )


def _check() -> Check:
    finding = Finding("weights", "fail", f"k̂ of {NASTY} is 1.2")
    decision = Decision(verdict="do not trust", reason=f"{NASTY} differs", failing=("weights",))
    return Check(decision, "use NUTS", (finding,), Measures(), seconds=12.0, budget=60.0)


def _fit(**more: Any) -> Fit:
    final = ELBO(-12.5, 0.25, -10.0, 2.5, True, 5, 100)
    told: dict[str, Any] = {"converged": True, "reason": f"{NASTY} came to rest", **more}
    return Fit(np.zeros(1500), np.array([[1000, -3.25]]), final, 1500, 3.5, engine="traced",
               compile_seconds=0.0, **told)  # fmt: skip


ANSWERS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "Fit": (_fit, ("1,500 steps", "-12.500 ± 0.250", "CONVERGED", "2.500", "−3.250", "came to rest")),
    "Posterior": (_posterior, ("2 chains of 4 draws by nuts", "school: 3", "10.500 to 12.500", "2.500")),
    "Evidence": (_evidence, ("log p(x) by is: estimate", "-7.000 ± 0.300", "1 of 3 units alarm", "a note")),
    "Comparison": (_comparison, ("Compared with nuts", "svi differs", "1.250", "0.500")),
    "Check": (_check, ("DO NOT TRUST", "differs.", "Next step: use NUTS.", "weights", "12 s of a budget")),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_notebook_shows_what_an_answer_says_and_escapes_names(name: str) -> None:
    make, expected = ANSWERS[name]
    source = make()._repr_html_()
    page = _Page(source)
    for text in (*expected, NASTY):
        assert text in page.text, text
    assert {"b", "script", "link", "img"}.isdisjoint(page.tags)
    assert "http" not in source


def _shown(answer: Any) -> str:
    text = repr(answer)
    assert len(text) < 220
    assert "\n" not in text
    assert "array(" not in text
    return text


def test_a_short_repr_says_what_the_thing_is() -> None:
    assert _shown(_posterior()) == f"Posterior(nuts: 2 chains of 4 draws of {NASTY} (3), tau)"
    assert _shown(_evidence()) == (
        "Evidence(is, estimate: log p(x) = -7.000 ± 0.300 nats of 3 units; 1 alarm)"
    )
    assert _shown(_comparison()) == "Comparison(with nuts in 1 quantities: svi differs)"
    assert _shown(_fit()) == "Fit(1,500 steps, traced, 4 s: ELBO -12.500 ± 0.250 nats; converged)"
    assert _shown(_fit(converged=None)).endswith("; convergence not judged)")
    assert _shown(_fit(converged=False)).endswith("; not converged)")
    assert _shown(_check()) == "Check(do not trust: 1 checks, failing: weights; 12 s)"


def test_reprs_of_agreement_calibration_and_gaps() -> None:
    assert _shown(agreement({"is": _evidence()})) == "Agreement(is: believe none; 1 flags)"
    ranks = np.stack([np.arange(101), np.zeros(101, int)], 1)
    labelled = xr.Dataset({"rank": (("simulation", "quantity"), ranks)}, coords={"quantity": ["good", "bad"]})
    assert _shown(Calibration(labelled, 100, "guide")) == (
        "Calibration(guide: 101 simulations, 2 quantities; 1 fail, bad the most)"
    )
    ones, elbo = np.ones(2), np.array([[-3.0, -2.0, -1.5, -1.25]] * 2)
    found = Gaps(np.arange(2), "full", True, -ones, 0 * ones, 0 * ones, "exact", elbo,
                 np.zeros((2, 4, 4)), (True,) * 3, 100)  # fmt: skip
    assert _shown(found) == (
        "Gaps(2 units: 2.000 nats a unit = approximation gap 0.500 + amortisation gap 1.500)"
    )
    assert _shown(found.total) == "Gap(2.000 nats a unit, over 2 units)"


def _model(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def test_a_pair_says_its_programs_and_its_size() -> None:
    pair = Pair(_model, AutoNormal(_model))
    assert _shown(pair) == "Pair(_model with AutoNormal; not yet run)"
    pair.initialise(torch.zeros(3))
    assert _shown(pair) == "Pair(_model with AutoNormal; 2 numbers in 2 parameters)"


def test_a_long_table_says_how_much_is_left_out() -> None:
    page = _Page(notebook.table(["n"], [(number,) for number in range(2000)]))
    assert page.text.endswith("and 1,988 more")
    assert notebook.table(["n"], []) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), (-0.5, "−0.500"), (1e-5, "1.0e−05"), (12345.6, "12,346"), (2.5e9, "2.5e+09"),
     (float("nan"), "–"), (-float("inf"), "−∞"), (True, "True"), (np.float32(0.25), "0.250"),
     (np.int64(7), "7"), ("a", "a")],
)  # fmt: skip
def test_numbers_are_written_as_in_the_report(value: object, text: str) -> None:
    assert notebook.cell(value) == text
    assert text == importlib.import_module("ppl_vae.report.page")._cell(value)
