"""Linear response as an answer of `check`: the cheapest cure for lost correlations, where it is one."""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.diagnostics.verdict.advice import Facts, advise
from ppl_vae.diagnostics.verdict.check import check_pair
from ppl_vae.diagnostics.verdict.checks import response
from ppl_vae.diagnostics.verdict.listed import CHECKS
from ppl_vae.diagnostics.verdict.outcome import Check
from ppl_vae.diagnostics.verdict.rule import Decision, Measures
from ppl_vae.inference import natural
from ppl_vae.program.pair import Pair

# y ~ N(b_1 + b_2 x, 1) with standard normal priors, x far from zero: the weights are correlated by −.9.
X = torch.stack([torch.ones(12), torch.linspace(1.0, 3.0, 12)], 1).double()
Y = X @ torch.tensor([1.0, 0.5]).double() + 0.3 * torch.tensor([1.0, -1.0] * 6).double()
COVARIANCE = np.linalg.inv((X.T @ X).numpy() + np.eye(2))
MEAN = COVARIANCE @ (X.T @ Y).numpy()
QUICK = tuple(each for each in CHECKS if each.name in ("draws", "reference", "response"))


def line(x: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(b @ x.T, 1.0).to_event(1), obs=y)


def two_modes(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))
    pyro.sample("y", dist.Normal(z**2, 0.3), obs=y)


def checked(pair: Pair, data: tuple[Tensor, ...], draws: Any, name: str, **options: Any) -> Check:
    dims = ("chain", "draw", *(f"{name}_dim_{axis}" for axis in range(draws.ndim - 2)))
    given = Posterior(xr.Dataset({name: (dims, draws)}), "exact", "independent")
    asked = {"checks": QUICK, "budget": 600.0, "progress": False, **options}
    return check_pair(pair, *data, reference=given, **asked)


@pytest.fixture(scope="module")
def fitted() -> Pair:
    pair = Pair(line, AutoNormal(line))
    natural.fit(pair, X, Y, progress=False)
    return pair


@pytest.fixture(scope="module")
def draws() -> Any:
    return np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, (1, 8000))


def test_lost_correlations_are_mended_and_advised(tmp_path: Path, fitted: Pair, draws: Any) -> None:
    found = checked(fitted, (X, Y), draws, "b")
    assert found.verdict == "do not trust"
    assert [(one.name, one.status) for one in found.findings][-1] == ("response", "pass")
    assert found.advice == "linear response"
    assert "linear_response.posterior(pair, *data)), which agree with the reference given" in found.next_step
    assert found.comparison is not None
    assert found.comparison.verdicts["linear-response"] == "agrees"
    assert found.comparison.verdicts["svi"] == "differs"
    assert found.measures.others["response_error"] < 1 < found.measures.error
    found.save(tmp_path)
    again = Check.load(tmp_path)
    assert again.answers["linear-response"].draws.equals(found.answers["linear-response"].draws)
    # What else is found is the same with and without it.
    without = checked(fitted, (X, Y), draws, "b", checks=QUICK[:-1])
    assert without.measures.error == found.measures.error
    assert [one.sentence for one in without.findings] == [one.sentence for one in found.findings[:-1]]
    assert without.advice == "use the reference"


def test_it_is_said_where_it_does_not_mend() -> None:
    y = torch.tensor(2.0).double()
    grid = np.linspace(-3, 3, 6001)
    log_p = -0.5 * grid**2 - 0.5 * ((grid**2 - 2.0) / 0.3) ** 2
    weights = np.exp(log_p - log_p.max())
    draws = np.random.default_rng(1).choice(grid, (1, 8000), p=weights / weights.sum())
    pair = Pair(two_modes, AutoNormal(two_modes))
    natural.fit(pair, y, progress=False)
    found = checked(pair, (y,), draws, "z")
    assert (found.findings[-1].name, found.findings[-1].status) == ("response", "warn")
    assert "does not mend the guide" in found.findings[-1].sentence
    assert found.advice != "linear response"


def test_it_is_left_out_where_it_has_nothing_to_say(
    monkeypatch: pytest.MonkeyPatch, fitted: Pair, draws: Any
) -> None:
    full = Pair(line, AutoMultivariateNormal(line)).initialise(X, Y)
    narrow = MEAN + 0.5 * COVARIANCE.diagonal() ** 0.5 * np.random.default_rng(2).normal(size=(1, 8000, 2))
    own = np.array(1 / np.diag(np.linalg.inv(COVARIANCE))) ** 0.5
    as_it_is = MEAN + own * np.random.default_rng(3).normal(size=(1, 8000, 2))
    for pair, reference in ((full, narrow), (fitted, as_it_is)):
        found = checked(pair, (X, Y), reference, "b")
        assert "response" not in [one.name for one in found.findings]
    monkeypatch.setattr(response, "SHARE", 0.0)
    late = checked(fitted, (X, Y), draws, "b").findings[-1]
    assert (late.name, late.status, late.cut) == ("response", "skipped", True)


@pytest.mark.parametrize(
    ("facts", "key"),
    [
        (Facts(responds=True, mean_field=True), "linear response"),
        (Facts(responds=True, identified_right=True), "linear response"),
        # Training is wanted first, and a funnel or a missed mode is no matter of covariances.
        (Facts(responds=True, trainer="natural.fit"), "train better"),
        (Facts(responds=True, funnel=True), "reparametrise"),
        (Facts(responds=True, missed=True), "restart"),
    ],
)
def test_it_is_advised_before_what_costs_more(facts: Facts, key: str) -> None:
    measures = Measures("nuts", True, 3.0, 2.0, converged=False)
    assert advise(Decision("do not trust", ("reference",), ""), measures, facts).key == key
