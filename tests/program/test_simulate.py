from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from scipy import stats
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides import Prior
from ppl_vae.models import TrueSkill
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.simulate import simulate


def _simulate(pair: Pair, *data: Any, seed: int = 0) -> Any:
    return simulate(Problem.of(pair, *data), seed)


def test_games_have_their_pairings_and_their_chances(oracles: ModuleType) -> None:
    """Wins of either player are binomial with the logistic chance of the skills that were drawn."""
    model = TrueSkill(3, link="logistic")
    pair = Pair(model, AutoNormal(model, init_loc_fn=model.at_prior_mean))
    outcome = torch.ones(1200, dtype=torch.float64)
    players = torch.tensor([[0, 1], [2, 1], [1, 0]] * 400)
    scores = []
    for seed in range(8):
        latents, (found, same) = _simulate(pair, outcome, players, seed=seed)
        assert same is players
        skill = latents["skill"].numpy()
        assert skill.shape == (1, 3)
        for i, j in ((0, 1), (2, 1)):
            ahead, behind = ((players == torch.tensor(pair)).all(1) for pair in ((i, j), (j, i)))
            wins = int(found[ahead].sum() + (1 - found[behind]).sum())
            total = int(ahead.sum() + behind.sum())
            chance = np.exp(oracles.logistic(skill[0, i] - skill[0, j]))
            scores.append((wins - total * chance) / np.sqrt(total * chance * (1 - chance)))
    assert np.abs(scores).max() < oracles.z_limit(len(scores))


def test_values_of_a_plain_program_take_the_place_of_its_argument(oracles: ModuleType) -> None:
    def model(covariate: Tensor, x: Tensor, count: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z + covariate[i], 0.5), obs=x[i])
            pyro.sample("count", dist.Poisson((0.3 * z).exp()), obs=count[i].to(x.dtype))

    size = 3000
    covariate = torch.linspace(-1, 1, size, dtype=torch.float64)
    x, count = torch.ones(size, dtype=torch.float64), torch.ones(size, dtype=torch.int64)
    with oracles.nothing_global_changes():
        latents, data = _simulate(Pair(model, Prior(model)), covariate, x, count)
    assert data[0] is covariate
    assert (data[1].dtype, data[2].dtype) == (x.dtype, count.dtype)
    assert (x == 1).all()
    assert (count == 1).all()
    z = latents["z"][0]
    assert stats.kstest(z.numpy(), stats.norm.cdf).pvalue > oracles.LEVEL
    assert stats.kstest((data[1] - z - covariate).numpy(), stats.norm(0, 0.5).cdf).pvalue > oracles.LEVEL
    rate = (0.3 * z).exp()
    score = (data[2] - rate).sum() / rate.sum().sqrt()
    assert abs(score) < oracles.z_limit()
    again = _simulate(Pair(model, Prior(model)), covariate, x, count)[1]
    other = _simulate(Pair(model, Prior(model)), covariate, x, count, seed=1)[1]
    assert torch.equal(again[1], data[1])
    assert not (other[1] == data[1]).any()


def test_values_that_are_no_argument_are_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("height", dist.Normal(z, 0.5), obs=2 * x[i])

    with pytest.raises(InputError, match="observed at site height are none of the model's data arguments"):
        _simulate(Pair(model, Prior(model)), torch.ones(3))


def test_models_that_read_what_they_observe_are_refused() -> None:
    """Their latents would be no draws from the posterior given the simulated data."""

    def autoregressive(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            before = torch.cat([torch.zeros(1), x[:-1]])
            pyro.sample("x", dist.Normal(z + 0.5 * before, 1.0), obs=x)

    def empirical(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(x.mean(), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def masked(mask: Tensor, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z * mask, 1.0), obs=x)

    x = torch.tensor([0.3, -0.2, 1.0])
    for model, data, site in (
        (autoregressive, (x,), "x"), (empirical, (x,), "z"), (masked, (torch.ones(3), torch.ones(3)), "x"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"has another site {site}"):
            _simulate(Pair(model, Prior(model)), *data)


def _no_plate(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def _coins_without_a_plate(x: Tensor) -> None:
    chance = pyro.sample("mu", dist.Beta(2.0, 2.0))
    pyro.sample("x", dist.Bernoulli(chance), obs=x)


@pytest.mark.parametrize(
    ("model", "x"),
    [(_no_plate, torch.zeros(400)), (_coins_without_a_plate, torch.zeros(400)),
     (_no_plate, torch.zeros(20, 20))],
)  # fmt: skip
def test_values_of_a_site_narrower_than_its_data_are_drawn_one_by_one(model: Any, x: Tensor) -> None:
    """Not once for all of them: their variance around the latent is the likelihood's."""
    pair = Pair(model, Prior(model))
    latents, (drawn,) = simulate(Problem.of(pair, x))
    mu = latents["mu"].reshape(()).double()
    assert drawn.shape == x.shape
    variance = float(mu * (1 - mu)) if model is _coins_without_a_plate else 1.0
    # Of 400 values: six standard errors of their mean, and of a Gaussian's variance.
    assert abs(float(drawn.double().mean() - mu)) < 6 * (variance / 400) ** 0.5
    if model is not _coins_without_a_plate:
        assert abs(float(drawn.double().var()) - 1) < 6 * (2 / 400) ** 0.5
