"""Games learnt one date after another, against fits of all games from nothing."""

import numpy as np
import pytest
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.learning import assumed, learnt, walk
from ppl_vae.diagnostics.forecasting.standing import Standing, states_of
from ppl_vae.diagnostics.forecasting.states import ChainStates, DenseStates
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.guides.joint_normal import JointNormal
from ppl_vae.inference.fitting import natural
from ppl_vae.models import Skills
from ppl_vae.program.pair import Pair
from tests.models.skills.seasons import games_of, season

NUMBERS = {"draws": True, "margin": 0.3, "skill_sd": 1.0, "drift": "10", "drift_sd": 0.4, "home": True}


def fitted(games: Games) -> Standing:
    model = Skills.from_data(games, **NUMBERS)
    pair, data = Pair(model, ChainNormal(model)), model.arguments_of(games)
    natural.fit(pair, *data, tolerance=1e-8, progress=False)
    return Standing(model, states_of(pair, *data), games)


def test_updates_end_where_a_fit_from_nothing_does() -> None:
    """Date by date, with players who were new: means within 1e-4 sd, and sds."""
    every = season(120, 8, seed=2, dates=40)
    assert every.time is not None
    found = fitted(every.take(np.flatnonzero(every.time < 25)))
    for date in np.unique(every.time[every.time >= 25]):
        after = learnt(found, every.take(np.flatnonzero(every.time == date)), tolerance=1e-7)
        assert after.fit.converged
        found = after.standing
    at_once = fitted(every)
    names = [at_once.games.players.index(name) for name in found.games.players]
    mean, sd, _ = found.levels(num_draws=2)
    expected, width, _ = at_once.levels(num_draws=2)
    np.testing.assert_allclose(mean, expected[names], atol=1e-4)
    np.testing.assert_allclose(sd, width[names], atol=1e-4)
    fixtures = games_of([(("P0", "P1"), (0, 1)), (("P2", "new"), (0, 1))], time=np.array([41.0, 45.0]),
                        covariates={"home": np.array([1.0, 0, 0, 0])})  # fmt: skip
    np.testing.assert_allclose(
        found.expect(fixtures).probability, at_once.expect(fixtures).probability, atol=1e-4
    )


def test_walking_forward_forecasts_from_all_earlier_dates() -> None:
    """As frozen forecasts of a date from a fit of all games before it."""
    every = season(60, 6, seed=4, dates=30)
    assert every.time is not None
    last = np.flatnonzero(every.time >= 25)
    found = walk(fitted(every.take(np.flatnonzero(every.time < 25))), every.take(last))
    for date in np.unique(every.time[last])[::2]:
        at = np.flatnonzero(every.time[last] == date)
        frozen = fitted(every.take(np.flatnonzero(every.time < date)))
        alone = frozen.expect(every.take(last[at]))
        np.testing.assert_allclose(found.probability[at], alone.probability, atol=1e-4)
        np.testing.assert_array_equal(found.outcome[at], alone.outcome)


def test_walking_goes_on_from_joint_guides_too() -> None:
    """All states together, date by date: as frozen forecasts of the last date from a fit of all before."""

    def joint(games: Games) -> tuple[Standing, Pair]:
        model = Skills.from_data(games, **NUMBERS)
        pair, data = Pair(model, JointNormal(model)), model.arguments_of(games)
        natural.fit(pair, *data, tolerance=1e-8, progress=False)
        return Standing(model, states_of(pair, *data), games), pair

    every = season(40, 6, seed=4, dates=20)
    assert every.time is not None
    last = np.flatnonzero(every.time >= 17)
    standing, pair = joint(every.take(np.flatnonzero(every.time < 17)))
    found = walk(standing, every.take(last), guided=(pair, lambda model, *data: JointNormal(model)))
    at = np.flatnonzero(every.time[last] == every.time[-1])
    alone, _ = joint(every.take(np.flatnonzero(every.time < every.time[-1])))
    np.testing.assert_allclose(
        found.probability[at], alone.expect(every.take(last[at])).probability, atol=1e-4
    )


def test_an_earlier_game_is_refused() -> None:
    games = season(40, 5, dates=20)
    early = games_of([(("P0", "P1"), (0, 1))], time=np.array([3.0]), covariates={"home": np.zeros(2)})
    assert games.time is not None
    said = f"game 1 of season is of 3, before the last fit's last game of {games.time.max():g}"
    with pytest.raises(InputError, match=said):
        learnt(fitted(games), early)


def test_another_guide_is_refused() -> None:
    games = season(20, 5, dates=20)
    model = Skills.from_data(games, **NUMBERS)
    size = model.normal_prior()[1].num_states
    states = DenseStates(torch.zeros(size).double(), torch.eye(size).double())
    with pytest.raises(InputError, match="independent chains"):
        learnt(Standing(model, states, games), games)


def test_a_race_of_equals_is_that_of_its_exact_moments() -> None:
    """Five equals, N(0, 2²) and β = 1: means ±2.0804 ±.8855, sds 1.4940 1.3405 1.3107 by exact moments."""
    names = ("A", "B", "C", "D", "E")
    before = games_of([(names, (0, 1, 2, 3, 4))], time=np.array([0.0]))
    model = Skills.from_data(before, skill_sd=2.0, performance_sd=1.0, drift="1", drift_sd=1e-3)
    prior = model.normal_prior()[1].detach()
    standing = Standing(model, ChainStates(prior, prior.mean, torch.zeros_like(prior.mean)), before)
    found = assumed(standing, before)
    mean, sd, _ = found.levels(num_draws=2)
    np.testing.assert_allclose(mean, [2.0804, 0.8855, 0.0, -0.8855, -2.0804], atol=1e-4)
    np.testing.assert_allclose(sd, [1.4940, 1.3405, 1.3107, 1.3405, 1.4940], atol=1e-4)


def test_races_are_walked_by_their_moments() -> None:
    """What one race says is in the next one's forecast, and levels before it are carried back."""
    rows = [(("A", "B", "C"), (0, 1, 2))] * 4
    games = games_of(rows, time=np.arange(4.0))
    model = Skills.from_data(games.take([0]), skill_sd=1.0, performance_sd=1.0, drift="1", drift_sd=0.1)
    prior = model.normal_prior()[1].detach()
    standing = Standing(model, ChainStates(prior, prior.mean, torch.zeros_like(prior.mean)), games.take([0]))
    found = walk(standing, games)
    np.testing.assert_allclose(found.probability[0], 1 / 3)
    assert (np.diff(found.probability[:, 0]) > 0).all()
    np.testing.assert_array_equal(found.outcome, 0)
