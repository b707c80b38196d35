"""Which method fits which pair, and that the one chosen gets there."""

import dataclasses
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from torch import Tensor

from ppl_vae import InputError
from ppl_vae.inference import fit, fixed_noise, natural, svi
from ppl_vae.inference.fitting.choice import MOST_DENSE, MOST_NATURAL, Facts, choose, fit_by
from ppl_vae.inference.fitting.fit_result import Choice
from ppl_vae.inference.fitting.options import FitOptions
from ppl_vae.program.pair import Pair

SMALL = Facts(guide="AutoNormal", family="mean-field", dim=10, numbers=100)
WHICH = {
    "small": ({}, "natural", "the guide is mean-field with 10 latents"),
    "some thousands of independent latents": ({"dim": 3000}, "deterministic", "mean-field with 3,000"),
    "many thousands": ({"dim": 30_000}, "svi", "too many for second-order methods"),
    "a large dense covariance": (
        {"dim": 1000, "largest": 1000, "family": "full-rank"},
        "natural",
        "full-rank",
    ),
    "one too large": ({"dim": 2000, "largest": 2000, "family": "full-rank"}, "svi", "too many"),
    "large data": ({"numbers": 10**8}, "svi", "the data are large: 100,000,000 numbers"),
    "a network": ({"learnt": 500}, "svi", "the model has 500 parameters to learn"),
    "another guide": (
        {"family": "", "guide": "AutoIAFNormal"},
        "svi",
        "AutoIAFNormal, no Gaussian AutoGuide",
    ),
    "minibatches": ({"only_svi": "minibatches are asked for"}, "svi", "minibatches are asked for"),
    "skills, however many": ({"dim": 30_000, "linear": True}, "natural", "by quadrature"),
}


@pytest.mark.parametrize("case", WHICH)
def test_the_choice_is_a_function_of_a_few_facts(case: str) -> None:
    facts, method, reason = WHICH[case]
    found = choose(dataclasses.replace(SMALL, **facts))
    assert found.method == method
    assert reason in found.reason
    assert method not in found.alternatives


def test_the_limits_are_those_of_the_methods() -> None:
    assert (MOST_NATURAL, MOST_DENSE) == (natural.MOST_DIMENSIONS, fixed_noise.MOST_DENSE)


def test_choices_are_kept() -> None:
    choice = choose(SMALL)
    assert Choice.from_json(choice.to_json()) == choice
    assert str(choice).endswith("10 latents (or method='deterministic' or method='svi')")


def regression(x: Tensor, y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Normal(torch.zeros(x.shape[1]), 10.0).to_event(1))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("y", dist.Normal((weights * x[i]).sum(-1), 2.0), obs=y[i])


def learning(x: Tensor, y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Normal(torch.zeros(x.shape[1]), 10.0).to_event(1))
    scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)) as i:
        pyro.sample("y", dist.Normal((weights * x[i]).sum(-1), scale), obs=y[i])


@pytest.fixture(scope="module")
def rows() -> tuple[Tensor, Tensor]:
    """Unstandardised: a covariate far from 0 beside the intercept."""
    random = np.random.default_rng(3)
    x = np.stack([np.ones(40), random.normal(100, 15, 40)], 1)
    y = x @ [3.0, 0.5] + random.normal(0, 2, 40)
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()


def evidence(x: Tensor, y: Tensor) -> float:
    """log p(y), where y ~ N(0, 100 x xᵀ + 4 I)."""
    x = x.double()
    covariance = 100 * x @ x.T + 4 * torch.eye(len(x), dtype=torch.float64)
    zero = torch.zeros(len(x), dtype=torch.float64)
    return float(dist.MultivariateNormal(zero, covariance).log_prob(y.double()))


@pytest.mark.usefixtures("from_the_mode")
def test_a_gaussian_guide_gets_to_the_evidence_and_says_how(
    rows: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    found = fit(Pair(regression, AutoMultivariateNormal(regression)), *rows, held_out=rows)
    said = "fit by natural gradients: the guide is full-rank with 2 latents"
    assert found.method == "natural gradients"
    assert capsys.readouterr().err.startswith(said)
    assert found.choice == Choice(
        "natural", "the guide is full-rank with 2 latents", ("deterministic", "svi")
    )
    assert found.converged
    # The guide's parameters are float32: its weights are off by 1e-7 of the log densities' size, 1e3.
    assert abs(found.final.value - evidence(*rows)) <= 3 * found.final.std_error + 0.01
    # What is held out here are the data themselves, of one unit.
    assert found.held_out.shape == (1, 2)
    assert abs(found.held_out[0, 1] - found.final.value) < 0.1


def test_what_svi_alone_knows_makes_it_svi(rows: tuple[Tensor, Tensor]) -> None:
    fits = [
        method(Pair(regression, AutoNormal(regression)), *rows, num_steps=30, stop=False, progress=False)
        for method in (fit, svi.fit)
    ]
    assert np.array_equal(fits[0].elbo, fits[1].elbo)
    assert (fits[0].method, fits[0].choice) == ("SVI", Choice("svi", "options of SVI are given"))


@pytest.mark.usefixtures("from_the_mode")
@pytest.mark.parametrize(
    ("model", "guide", "options", "method"),
    [
        (learning, AutoNormal, {"method": "svi"}, "SVI"),
        (learning, AutoDiagonalNormal, {"train": "guide", "method": "deterministic"}, "deterministic VI"),
    ],
)
def test_a_method_that_is_asked_for_is_taken(
    rows: tuple[Tensor, Tensor], model: Any, guide: Any, options: dict[str, Any], method: str
) -> None:
    pyro.clear_param_store()
    steps = {"num_steps": 20, "stop": False} if method == "SVI" else {}
    found = fit(Pair(model, guide(model)), *rows, progress=False, **options, **steps)
    assert found.method == method
    assert found.choice is not None
    assert found.choice.reason == "it was asked for"


REFUSED = {
    "SVI's options": (regression, AutoNormal, {"method": "natural", "lr": 0.1}, "lr belongs to SVI"),
    "a model that learns": (learning, AutoNormal, {"method": "natural"}, "has 1 parameters to learn"),
    "no Gaussian": (regression, AutoDelta, {"method": "deterministic"}, "AutoDelta, no Gaussian AutoGuide"),
    "an unknown one": (regression, AutoNormal, {"method": "hmc"}, "method='hmc' is not known"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_method_cannot_do_is_refused_in_a_sentence(case: str, rows: tuple[Tensor, Tensor]) -> None:
    model, guide, options, words = REFUSED[case]
    pyro.clear_param_store()
    with pytest.raises(InputError, match=words):
        fit(Pair(model, guide(model)), *rows, progress=False, **options)


def test_steps_of_svi_know_no_other_method(rows: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match=r"steps of SVI; method='natural' is for inference\.fit"):
        svi.fit(Pair(regression, AutoNormal(regression)), *rows, method="natural")


def test_minibatches_are_svis(rows: tuple[Tensor, Tensor]) -> None:
    pair = Pair(regression, AutoNormal(regression))
    found = fit(pair, *rows, batch_size=10, num_steps=5, stop=False, progress=False)
    assert found.method == "SVI"


@pytest.mark.usefixtures("from_the_mode")
def test_where_a_chosen_method_does_not_go_svi_does(rows: tuple[Tensor, Tensor]) -> None:
    """A support that hangs on another latent: the guide and the density have other coordinates."""

    def model(x: Tensor, y: Tensor) -> None:
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
        slope = pyro.sample("slope", dist.Uniform(torch.zeros(()), top))
        pyro.sample("y", dist.Normal(slope * x[:, 1], 2.0).to_event(1), obs=y)

    pair = Pair(model, AutoNormal(model))
    with pytest.raises(InputError, match="svi"):
        natural.fit(pair, *rows)
    found = fit_by(pair, rows, FitOptions(method="auto", num_steps=20), progress=False)
    assert found.method == "SVI"
    assert found.choice is not None
    assert "natural gradients did not go" in found.choice.reason
