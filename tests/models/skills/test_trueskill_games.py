"""TrueSkill's draws, tails, tables and refusals; evidence and moments are in `test_trueskill.py`."""

import math
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from scipy import integrate, special, stats

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.data.games import games_between
from ppl_vae.diagnostics.prediction.predictive import predictive_check
from ppl_vae.guides import Prior
from ppl_vae.inference import svi
from ppl_vae.models import TrueSkill
from ppl_vae.program.pair import Pair

# Draws -------------------------------------------------------------------------------------------


def _of_results(
    model: TrueSkill, outcome: list[float], players: list[list[int]]
) -> tuple[float, float, float]:
    """log evidence, and mean and sd of the first of two skills, from the program's own densities on a grid.

    The common level of two skills keeps its prior: their difference alone is integrated.
    """
    difference = torch.linspace(-12, 12, 4001, dtype=torch.float64) * math.sqrt(2) * model.skill_sd
    skill = model.skill_mean + torch.stack([difference / 2, -difference / 2], 1)
    data = torch.tensor(outcome, dtype=torch.float64), torch.tensor(players)
    with pyro.validation_enabled(False):
        trace = poutine.trace(poutine.condition(model, {"skill": skill})).get_trace(*data)
        node = trace.nodes["win"]
        log_density = node["fn"].log_prob(node["value"]).sum(-1).numpy()
    log_density = log_density + stats.norm.logpdf(difference, 0, math.sqrt(2) * model.skill_sd)
    step = float(difference[1] - difference[0])
    log_evidence = float(special.logsumexp(log_density)) + math.log(step)
    weight = np.exp(log_density - special.logsumexp(log_density))
    d = difference.numpy()
    mean = weight @ d
    variance = model.skill_sd**2 / 2 + weight @ (d - mean) ** 2 / 4
    return log_evidence, model.skill_mean + mean / 2, math.sqrt(variance)


def test_wins_draws_and_losses_are_those_of_quadrature() -> None:
    model = TrueSkill(2, skill_mean=1.0, skill_sd=2.0, performance_sd=0.7, draw_margin=0.5)
    scale = math.sqrt(2) * 0.7

    def joint(d: float) -> float:
        win, lose = stats.norm.cdf((d - 0.5) / scale), stats.norm.cdf((-d - 0.5) / scale)
        return win**2 * (1 - win - lose) * lose * stats.norm.pdf(d, 0, math.sqrt(8))

    truth = math.log(integrate.quad(joint, -20, 20, epsabs=1e-14)[0])
    # Two wins of player 0, one as the second player; a draw; a loss.
    outcome, players = [1.0, 0.0, 0.5, 0.0], [[0, 1], [1, 0], [1, 0], [0, 1]]
    assert _of_results(model, outcome, players)[0] == pytest.approx(truth, abs=1e-9)


def test_one_draw_is_the_value_of_trueskill_through_time() -> None:
    """Of one game the moments of expectation propagation are exact; published to three decimals."""
    margin = stats.norm.ppf((0.25 + 1) / 2) * math.sqrt(2) * 25 / 6
    _, mean, sd = _of_results(TrueSkill(2, draw_margin=margin), [0.5], [[0, 1]])
    assert mean == pytest.approx(25.0, abs=0.51e-3)
    assert sd == pytest.approx(6.469, abs=0.51e-3)


@pytest.mark.parametrize("options", [{"link": "logistic"}, {}, {"draw_margin": 2.0}])
def test_who_is_called_first_changes_nothing(options: dict[str, Any]) -> None:
    model = TrueSkill(2, **options)
    won, turned = (
        _of_results(model, *case)
        for case in (([1, 0, 1], [[0, 1]] * 3), ([0, 0, 0], [[1, 0], [0, 1], [1, 0]]))
    )
    assert won == pytest.approx(turned, rel=1e-12)


def test_replicated_draws_are_as_many_as_their_probability_says(oracles: ModuleType) -> None:
    model = TrueSkill(2, skill_sd=1e-6, performance_sd=1.0, draw_margin=0.5)
    games = torch.tensor([1.0, 0.5] * 50, dtype=torch.float64), torch.tensor([[0, 1]] * 100)
    found = predictive_check(Pair(model, Prior(model)), *games, num_draws=400)
    row = found.table.set_index("statistic").loc["share of draws"]
    chance = 1 - 2 * stats.norm.cdf(-0.5 / math.sqrt(2))
    assert row["observed"] == 0.5
    error = math.sqrt(chance * (1 - chance) / 100)
    assert abs(row["replicated_mean"] - chance) < oracles.z_limit() * error / math.sqrt(400)
    assert row["replicated_sd"] == pytest.approx(error, rel=oracles.z_limit() / math.sqrt(800))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: (torch.tensor([[0, 1], [1, 0]]),), r"takes two arguments, .*games.duels\(\) gives them"),
        (
            lambda: (torch.tensor([1.0, 0.5]), torch.tensor([[0, 1]] * 2)),
            "game 1 is a draw, and with no margin",
        ),
        (lambda: (torch.tensor([1.0, 2.0]), torch.tensor([[0, 1]] * 2)), "game 1 has the outcome 2; it is 1"),
        (lambda: (torch.ones(3), torch.tensor([[0, 1]] * 2)), r"shape \(2,\), one a game; got \(3,\)"),
        (lambda: (torch.ones(2), torch.tensor([[0, 1], [1, 1]])), "game 1 has player 1 against itself"),
        (lambda: (torch.ones(2), torch.tensor([[0, 1], [1, 2]])), r"game 1 is \[1, 2\]; players are 0 to 1"),
        (lambda: (torch.ones(2), torch.tensor([0, 1])), r"integers of shape \(num_games, 2\)"),
    ],
)
def test_games_that_it_does_not_take_are_said_in_a_sentence(data: Any, words: str) -> None:
    model = TrueSkill(2)
    with pytest.raises(InputError, match=words):
        svi.fit(Pair(model, AutoNormal(model)), *data(), num_steps=1)


# The density, the tables, and what is refused ----------------------------------------------------


def test_probit_win_is_accurate_far_in_the_tails() -> None:
    """Φ(−40) underflows; its logarithm is −804.6 and must not be −inf."""
    model = TrueSkill(2, skill_mean=0.0, skill_sd=1.0, performance_sd=1 / math.sqrt(2))
    for difference in (-40.0, -5.0, 0.0, 5.0, 40.0):
        outcome = model._outcome(torch.tensor(difference, dtype=torch.float64))
        one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        assert outcome.log_prob(one).item() == pytest.approx(stats.norm.logcdf(difference), rel=1e-10)
        assert outcome.log_prob(zero).item() == pytest.approx(stats.norm.logsf(difference), rel=1e-10)


def _posterior(skill: np.ndarray, players: tuple[str, ...]) -> Posterior:
    draws = xr.Dataset({"skill": (("chain", "draw", "player"), skill)}, coords={"player": list(players)})
    return Posterior(draws, "made", "independent")


@pytest.mark.parametrize("link", ["probit", "logistic"])
def test_win_probability_averages_over_the_posterior(link: str) -> None:
    players = ("Ann", "Bob", "Cyd")
    skill = np.random.default_rng(0).normal(size=(2, 50, 3))
    options = {"performance_sd": 0.7, "draw_margin": 0.2} if link == "probit" else {}
    model = TrueSkill(3, link=link, skill_mean=0.0, skill_sd=1.0, players=players, **options)
    table = model.win_probability(_posterior(skill, players))
    assert (tuple(table.index), tuple(table.columns)) == (players, players)
    some = model.win_probability(_posterior(skill, players), ["Cyd", "Ann"])
    assert some.equals(table.loc[["Cyd", "Ann"], ["Cyd", "Ann"]])
    for i, first in enumerate(players):
        assert np.isnan(table.loc[first, first])
        for j, second in enumerate(players):
            if i == j:
                continue
            difference = skill[..., i] - skill[..., j]
            if link == "logistic":
                expected = (1 / (1 + np.exp(-difference))).mean()
                assert table.loc[first, second] + table.loc[second, first] == pytest.approx(1)
            else:
                expected = stats.norm.cdf((difference - 0.2) / (math.sqrt(2) * 0.7)).mean()
                # What is left is the probability of a draw.
                assert table.loc[first, second] + table.loc[second, first] < 1
            assert table.loc[first, second] == pytest.approx(expected, rel=1e-9)


def test_leaderboard_orders_by_mean_minus_three_sd() -> None:
    generator = np.random.default_rng(0)
    # Bob's mean is highest, but he is least known.
    skill = np.stack([generator.normal(m, s, (2, 400)) for m, s in ((1.0, 0.1), (2.0, 1.0), (0.0, 0.1))], -1)
    model = TrueSkill(3, players=("Ann", "Bob", "Cyd"))
    board = model.leaderboard(_posterior(skill, model.players))
    assert list(board.index) == ["Ann", "Cyd", "Bob"]
    for place, player in enumerate(model.players):
        values = skill[..., place]
        expected = (values.mean(), values.std(ddof=1), values.mean() - 3 * values.std(ddof=1))
        assert tuple(board.loc[player]) == pytest.approx(expected)


def test_only_differences_are_called_identifiable() -> None:
    skill = np.random.default_rng(0).normal(size=(1, 9, 3))
    model = TrueSkill(3, players=("Ann", "Bob", "Cyd"))
    shifted = model.identifiable(_posterior(skill + 5.0, model.players).draws)
    found = model.identifiable(_posterior(skill, model.players).draws)
    for name in ("relative_skill", "difference"):
        np.testing.assert_allclose(found[name], shifted[name], atol=1e-12)
    np.testing.assert_allclose(found["difference"].sel(pair="Ann − Cyd"), skill[..., 0] - skill[..., 2])
    many = TrueSkill(11)
    assert "difference" not in many.identifiable(_posterior(np.zeros((1, 2, 11)), many.players).draws)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"link": "cauchit"}, "link 'cauchit' is not known; it is probit or logistic"),
        ({"link": "logistic", "performance_sd": 1.0}, "performance_sd belongs to the probit link"),
        ({"link": "logistic", "draw_margin": 0.0}, "draw_margin belongs to the probit link"),
        ({"skill_sd": 0.0}, "skill_sd is 0.0; it must be positive"),
        ({"skill_sd": -1.0}, "skill_sd is -1.0; it must be positive"),
        ({"performance_sd": -2.0}, "performance_sd is -2.0; it must be positive"),
        ({"draw_margin": -0.1}, "draw_margin is -0.1; it must not be negative"),
        ({"skill_mean": math.nan}, "skill_mean is nan; it must be finite"),
        ({"skill_sd": math.inf}, "skill_sd is inf; it must be finite"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TrueSkill(2, **options)


def test_fewer_than_two_players_are_refused() -> None:
    with pytest.raises(InputError, match="1 players"):
        TrueSkill(1)


def test_defaults_are_trueskills_for_probit_and_standard_normal_for_logistic() -> None:
    games = games_between("g", ["Ann"], ["Bob"])
    probit, logistic = TrueSkill.from_data(games), TrueSkill.from_data(games, link="logistic")
    assert (probit.skill_mean, probit.skill_sd) == (25.0, 25 / 3)
    assert (probit.performance_sd, probit.draw_margin) == (25 / 6, 0.0)
    assert (logistic.skill_mean, logistic.skill_sd) == (0.0, 1.0)
    assert probit.players == ("Ann", "Bob")
