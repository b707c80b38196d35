"""Games of more than two sides against orders, choices and derivatives of normalisers."""

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from pyro import poutine
from scipy import stats

from ppl_vae.data.games import Games
from ppl_vae.guides import Prior
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.simulate import simulate
from tests.models.skills.made import log_likelihood, made
from tests.models.skills.seasons import games_of

SD, BETA = 1.3, 0.8
RACES: Mapping[str, tuple[Games, str]] = {
    "one size, no ties": (games_of([(("A", "B", "C"), (0, 2, 1)), (("C", "B", "A"), (1, 0, 2))]), "none"),
    "a shared last place": (games_of([(("A", "B", "C", "D"), (0, 2, 2, 1)), (("A", "D"), (1, 0))]), "last"),
    "shared places": (games_of([(("A", "B", "C", "D"), (0, 0, 3, 2)), (("A", "C"), (1, 0))]), "unordered"),
    "teams": (games_of([((("A", "B"), "C", ("D", "E")), (0, 2, 1)), (("A", "C"), (1, 0))]), "none"),
}


@pytest.mark.parametrize("race", RACES)
def test_rankings_are_the_orders_of_performances(race: str) -> None:
    """By adding up, over all orders of the sides that agree with the places, what SciPy says of each."""
    games, ties = RACES[race]
    model, data = made(games, skill_sd=SD, performance_sd=BETA)
    assert model.ties == ties
    skill = torch.as_tensor(np.random.default_rng(0).normal(size=(2, games.num_players)))
    found = log_likelihood(model, data, skill).numpy()
    for own, value in zip(skill.numpy(), found, strict=True):
        assert value == pytest.approx(_by_orders(games, own), abs=3e-4)


@pytest.mark.parametrize("link", ["probit", "gumbel"])
@pytest.mark.parametrize("race", RACES)
def test_races_are_simulated_with_the_sides_that_they_have(race: str, link: str) -> None:
    games, _ = RACES[race]
    model, data = made(games, link=link)
    problem = Problem.of(Pair(model, Prior(model)), *data)
    assert problem.layout.vectorized
    latents, simulated = simulate(problem, seed=1)
    model.check_data(*simulated)
    assert torch.equal(simulated[0].isnan(), data[0].isnan())
    leaves = [*model.parameters()]
    trace = poutine.trace(poutine.condition(model, data={"skill": latents["skill"][0]})).get_trace(*simulated)
    gradients = torch.autograd.grad(trace.log_prob_sum(), leaves)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def _by_orders(games: Games, skill: np.ndarray) -> float:
    total = 0.0
    for game in range(games.num_games):
        sides = range(games.side_ptr[game], games.side_ptr[game + 1])
        members = [games.player[games.entry_ptr[t] : games.entry_ptr[t + 1]] for t in sides]
        strength = np.array([skill[who].sum() for who in members])
        variance = BETA**2 * np.array([len(who) for who in members])
        place = games.place[list(sides)]
        chances = [
            _order(strength[list(order)], variance[list(order)])
            for order in itertools.permutations(range(len(place)))
            if (np.diff(place[list(order)]) >= 0).all()
        ]
        total += np.log(sum(chances))
    return total


def _order(strength: np.ndarray, variance: np.ndarray) -> float:
    """P(p_1 > p_2 > …) of independent normals, an orthant of their differences."""
    step = np.diff(np.eye(len(strength)), axis=0)
    cov = step @ np.diag(variance) @ step.T
    law = stats.multivariate_normal(step @ strength, cov, abseps=1e-7, releps=1e-7, maxpts=10**6, seed=0)
    return float(law.cdf(np.zeros(len(step))))


def test_moments_of_rankings_are_derivatives_of_their_normaliser() -> None:
    games = games_of(
        [((("A", "B"), "C", "D"), (1, 0, 2)), (("A", "C"), (1, 0)), (("A", "C", "D"), (0, 1, 1))]
    )
    model, data = made(games, skill_sd=SD, performance_sd=BETA)
    design, sizes = model.rankings(*data)
    assert sizes.tolist() == [3, 2, 3]
    generator = np.random.default_rng(1)
    mean, variance = torch.as_tensor(generator.normal(size=8)), torch.as_tensor(generator.uniform(0.2, 1, 8))
    design.check(model.normal_prior()[1].num_states)
    found = model.ranking_moments(mean, variance, *data)
    steps = 1e-4 * torch.eye(8, dtype=torch.float64)
    values = {
        sign: torch.stack(
            [model.ranking_moments(mean + sign * s, variance, *data).log_normaliser.sum() for s in steps]
        )
        for sign in (-1, 1)
    }
    middle = found.log_normaliser.sum()
    torch.testing.assert_close(found.slope, (values[1] - values[-1]) / 2e-4, atol=1e-6, rtol=0.0)
    bend = -(values[1] + values[-1] - 2 * middle) / 1e-8
    torch.testing.assert_close(found.curvature, bend, atol=1e-5, rtol=0.0)


def test_plackett_luce_is_a_product_of_choices() -> None:
    games = games_of([(("A", "B", "C"), (0, 2, 1))])
    model, data = made(games, link="gumbel", performance_sd=2.0)
    skill = torch.tensor([[0.5, -0.3, 0.2]], dtype=torch.float64)
    weight = np.exp(skill[0].numpy() / 2.0)
    expected = np.log(weight[0] / weight.sum()) + np.log(weight[2] / (weight[1] + weight[2]))
    assert float(log_likelihood(model, data, skill)) == pytest.approx(expected, abs=1e-12)
