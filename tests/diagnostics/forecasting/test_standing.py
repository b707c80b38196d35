"""Forecasts and levels against dense Gaussian processes, quadrature and the prior."""

from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from scipy import integrate, special, stats
from torch import Tensor

from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.standing import Standing, states_of
from ppl_vae.diagnostics.forecasting.states import ChainStates, DenseStates
from ppl_vae.models import Skills, TrueSkill
from ppl_vae.program.outcomes import KnowsOutcomes, KnowsPlaces, KnowsScores
from ppl_vae.program.pair import Pair
from tests.models.skills.seasons import games_of, season

NUMBERS = {"skill_sd": 1.2, "performance_sd": 0.8}
DRIFT = {"drift": "10", "drift_sd": 0.5}


def at_prior(games: Games, **options: Any) -> Standing:
    model = Skills.from_data(games, **{**NUMBERS, **options})
    chains = model.normal_prior()[1].detach()
    return Standing(model, ChainStates(chains, chains.mean, torch.zeros_like(chains.mean)), games)


def scored(games: Games, **options: Any) -> Standing:
    """The exact posterior of normal scores."""
    model = Skills.from_data(games, outcome="score", **NUMBERS, **options)
    found = model.exact_posterior(*model.arguments_of(games))["skill"]
    return Standing(model, DenseStates(found.mean, found.covariance_matrix), games)


def kernel(games: Games, process: str) -> Tensor:
    """The prior covariance of the score differences of all games, from what the process is: no chains."""
    player, time = games.player.reshape(-1, 2), games.time
    assert time is not None
    begin = {p: time[(player == p).any(1)].min() for p in range(games.num_players)}
    found = np.zeros((games.num_games, games.num_games))
    home = games.covariates["home"].reshape(-1, 2)
    for g in range(games.num_games):
        for h in range(games.num_games):
            found[g, h] = 0.8**2 * (home[g, 0] - home[g, 1]) * (home[h, 0] - home[h, 1])
            for a, sign in zip(player[g], (1, -1), strict=True):
                for b, other in zip(player[h], (1, -1), strict=True):
                    if a == b:
                        rate = 0.5**2 / 10
                        moved = rate * (min(time[g], time[h]) - begin[a])
                        ou = np.exp(-rate / 1.2**2 * abs(time[g] - time[h]) / 2)
                        found[g, h] += sign * other * (1.2**2 + moved if process == "walk" else 1.2**2 * ou)
    return torch.as_tensor(found)


@pytest.mark.parametrize("process", ["walk", "ou"])
def test_forecasts_are_those_of_the_dense_process(process: str) -> None:
    """Of normal scores: games after the last date and in between, players who are new, the home advantage."""
    every = season(40, 6, seed=3, dates=30, scores="real")
    # A player's first game must be learnt from, or it is a new player for each early game.
    assert every.time is not None
    first = np.unique(every.player.reshape(-1, 2), return_index=True)[1] // 2
    later = np.setdiff1d(np.arange(8, 40, 3), first)
    before = np.setdiff1d(np.arange(40), later)
    standing = scored(every.take(before), drift="10", drift_sd=0.5, process=process, home=True)
    found = standing.expect(every.take(later))
    prior = kernel(every, process)
    assert every.score is not None
    scores = torch.as_tensor(every.score[::2] - every.score[1::2])
    noise = 2 * 0.8**2
    inside = prior[before][:, before] + noise * torch.eye(len(before)).double()
    across = prior[later][:, before]
    mean = across @ torch.linalg.solve(inside, scores[before])
    variance = prior[later][:, later] - across @ torch.linalg.solve(inside, across.T)
    d = found.mean[:, 0] - found.mean[:, 1]
    c = found.covariance
    v = c[:, 0, 0] + c[:, 1, 1] - 2 * c[:, 0, 1]
    torch.testing.assert_close(d, mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(v, variance.diagonal(), atol=1e-6, rtol=0)
    won = special.ndtr((mean / (variance.diagonal() + noise).sqrt()).numpy())
    np.testing.assert_allclose(found.probability[:, 0], won, atol=1e-6)
    np.testing.assert_array_equal(found.outcome, (scores[later] < 0).long())
    assert (found.outcomes, found.unseen) == (("win", "loss"), ())


def test_players_who_were_never_seen_have_the_prior() -> None:
    games = season(30, 5, dates=20)
    standing = at_prior(games, draws=True, margin=0.3, **DRIFT)
    time = np.array([25.0, 400.0])
    fixtures = games_of(
        [(("X", "Y"), (0, 1)), (("X", "Z"), (0, 1))], time=time, covariates={"home": np.zeros(4)}
    )
    found = standing.expect(fixtures)
    assert found.unseen == ("X", "Y", "Z")
    # X has drifted since its first fixture.
    sd = np.sqrt(2 * 0.8**2 + 2 * 1.2**2 + np.array([0, 0.5**2 * 37.5]))
    np.testing.assert_allclose(found.probability[:, 0], special.ndtr(-0.3 / sd), atol=1e-9)
    np.testing.assert_allclose(found.probability.sum(1), 1.0)


def test_a_game_before_a_players_first_is_that_of_a_new_player() -> None:
    """Nothing is learnt of the past from a prior that would begin earlier: the fit stays as it was."""
    games = season(30, 5, dates=20)
    assert games.time is not None
    standing = at_prior(games, **DRIFT, draws=True, margin=0.3)
    early = games_of([(("P0", "P1"), (0, 1))], time=np.array([-50.0]), covariates={"home": np.zeros(2)})
    found = standing.expect(early)
    assert {*found.unseen} == {"P1 (before its first game)", "P0 (before its first game)"}
    np.testing.assert_allclose(found.covariance.diagonal(dim1=1, dim2=2), 1.2**2)


def test_levels_fade_after_the_last_game() -> None:
    games = season(60, 5, dates=20, scores="real")
    standing = scored(games, **DRIFT)
    mean, sd, draws = standing.levels(num_draws=50)
    later, wider, _ = standing.levels(date=40.0)
    np.testing.assert_allclose(mean, later, atol=1e-8)
    np.testing.assert_allclose(wider**2, sd**2 + 0.5**2 * (40 - standing.last) / 10, atol=1e-7)
    assert draws.shape == (50, 5)
    # A player's curve at the dates of its games is made of its own states.
    player, time = np.zeros(3, dtype=np.int64), np.array([25.0, 26.0, 30.0])
    curve, width, _ = standing.curve(player, time)
    np.testing.assert_allclose(curve, mean[0], atol=1e-8)
    assert (np.diff(width) > 0).all()


def test_goals_know_their_scores() -> None:
    games = season(30, 5, scores="whole")
    standing = at_prior(games, outcome="goals", performance_sd=None, skill_sd=0.3)
    found = standing.expect(games.take(np.arange(4)))
    scores = found.scores()
    assert scores is not None
    assert isinstance(found.model, KnowsScores)
    # The base rate's prior leaves a little for more goals than are told apart.
    beyond = 1 - scores.sum((1, 2))
    assert ((beyond > 0) & (beyond < 0.02)).all()
    less = found.probability[:, 0] - np.tril(scores, -1).sum((1, 2))
    assert ((less > 0) & (less < beyond)).all()
    assert isinstance(standing.model, KnowsOutcomes)
    assert found.outcomes == ("win", "draw", "loss")
    first, second = games.score.reshape(-1, 2)[:4].T
    np.testing.assert_array_equal(found.outcome, 1 - np.sign(first - second))


def test_a_mean_field_guide_is_chains_of_one_state() -> None:
    """Its own means and sds, of skills at rest; a new player keeps the prior."""
    games = season(40, 5)
    model = Skills.from_data(games, draws=True, margin=0.3, **NUMBERS)
    guide = AutoNormal(model, init_loc_fn=model.at_prior_mean, init_scale=0.25)
    data = model.arguments_of(games)
    guide(*data)
    found = states_of(Pair(model, guide), *data)
    assert isinstance(found, ChainStates)
    torch.testing.assert_close(
        found.variance, torch.full((5,), (0.25 * 1.2) ** 2).double(), rtol=1e-5, atol=0
    )
    new = Standing(model, found, games).expect(
        games_of([(("X", "P0"), (0, 1))], covariates={"home": np.zeros(2)})
    )
    variance = new.covariance[0].diagonal()
    torch.testing.assert_close(variance, torch.tensor([1.44, 0.09]).double(), rtol=1e-5, atol=0)


def test_models_of_skills_know_outcomes() -> None:
    games = season(20, 5)
    assert isinstance(Skills.from_data(games, draws=True), KnowsOutcomes)
    races = games_of([(("A", "B", "C"), (0, 1, 2)), (("C", "B", "A"), (0, 1, 1))])
    assert isinstance(Skills.from_data(races), KnowsPlaces)


def test_races_have_a_winner_and_places() -> None:
    """Of equals all is equal; who is ahead in strength is ahead in all of them."""
    races = games_of([(("A", "B", "C"), (0, 1, 2)), (("C", "B"), (0, 1)), (("A", "B", "C"), (0, 0, 2))])
    standing = at_prior(races)
    found = standing.expect(races)
    np.testing.assert_allclose(found.probability, [[1 / 3] * 3, [1 / 2, 1 / 2, 0], [1 / 3] * 3], atol=1e-9)
    np.testing.assert_array_equal(found.outcome, [0, 0, -1])
    np.testing.assert_array_equal(found.size, [3, 2, 3])
    np.testing.assert_allclose(found.pairs()[0], 0.5)
    np.testing.assert_allclose(found.places()[1, :2].sum(1), 1.0)


@pytest.mark.parametrize("link", ["probit", "logistic"])
def test_duels_of_one_skill_a_player_are_expected_too(link: str) -> None:
    """By quadrature over the difference of two normals; a new player has the prior."""
    games = games_of([(("A", "B"), (0, 1)), (("C", "A"), (1, 0))])
    model = TrueSkill.from_data(games, link=link)
    sd = model.skill_sd
    guide = AutoNormal(model, init_loc_fn=model.at_prior_mean, init_scale=sd / 2)
    data = model.arguments_of(games)
    guide(*data)
    standing = Standing(model, states_of(Pair(model, guide), *data), games)
    found = standing.expect(games_of([(("A", "new"), (0, 1))]))
    scale, spread = (
        (2**0.5 * model.performance_sd, special.ndtr) if link == "probit" else (1.0, special.expit)
    )
    assert found.probability[0, 0] == pytest.approx(0.5)
    assert found.unseen == ("new",)
    mean = torch.tensor([[1.5 * sd, 0.0]]).double()
    chances = model.outcome_probabilities(mean, torch.diag_embed(mean.new_full((1, 2), sd**2)), *data)
    expected = integrate.quad(
        lambda z: stats.norm.pdf(z) * spread((1.5 + 2**0.5 * z) * sd / scale), -9, 9, epsabs=1e-12
    )[0]
    assert float(chances[0, 0]) == pytest.approx(expected, abs=1e-9)
