"""Games added one date after another, against fits of all games from nothing."""

import numpy as np
import pytest

from ppl_vae.base.errors import InputError
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.learning import learnt, walk
from ppl_vae.diagnostics.forecasting.live import Live
from ppl_vae.diagnostics.forecasting.standing import Standing, states_of
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.inference.fitting import natural
from ppl_vae.inference.fitting.growing.posterior import Growing
from ppl_vae.models import Skills, TrueSkill
from ppl_vae.program.pair import Pair
from tests.models.skills.seasons import games_of, season

NUMBERS = {"draws": True, "margin": 0.3, "skill_sd": 1.0, "drift": "10", "drift_sd": 0.4, "home": True}
# What may be left of means in their sds, and of sds relatively.
ALLOWED = 1e-3


def fitted(games: Games, **numbers: object) -> Standing:
    return from_nothing(Skills.from_data(games, **(numbers or NUMBERS)), games)  # type: ignore[arg-type]


def from_nothing(model: Skills | TrueSkill, games: Games) -> Standing:
    pair, data = Pair(model, ChainNormal(model)), model.arguments_of(games)
    natural.fit(pair, *data, tolerance=1e-8, progress=False)
    return Standing(model, states_of(pair, *data), games)


def assert_equal_standings(found: Standing, expected: Standing) -> None:
    """All states, of all dates."""
    assert found.games.players == expected.games.players
    mine, theirs = found.states, expected.states
    place = found.model.places_in(expected.model)
    np.testing.assert_array_equal(np.sort(place), np.arange(len(theirs.mean)))
    variance = theirs.variance[place]  # type: ignore[attr-defined]
    off = (mine.mean - theirs.mean[place]).abs() / variance.sqrt()
    assert float(off.max()) <= ALLOWED
    assert float(((mine.variance / variance).sqrt() - 1).abs().max()) <= ALLOWED  # type: ignore[attr-defined]


def by_date(games: Games) -> list[Games]:
    assert games.time is not None
    return [games.take(np.flatnonzero(games.time == date)) for date in np.unique(games.time)]


def test_each_date_ends_where_a_fit_from_nothing_does() -> None:
    """Dates with several games, with players who are new, and one that is that of the last games."""
    every = season(60, 8, seed=2, dates=20)
    assert every.time is not None
    before = every.take(np.flatnonzero(every.time < 15))
    live, start = Live(fitted(before)), fitted(before)
    new = games_of(
        [(("P0", "new"), (0, 1)), (("new", "P3"), (0, 1)), (("P1", "newer"), (0, 0))],
        time=np.array([20.0, 22.0, 22.0]), covariates={"home": np.array([1.0, 0, 0, 0, 1, 0])},
    )  # fmt: skip
    again = games_of([(("P2", "new"), (0, 1))], time=np.array([22.0]), covariates={"home": np.zeros(2)})
    for games in (*by_date(every.take(np.flatnonzero(every.time >= 15)))[::2], new, again):
        assert live.add(games).converged
        found = live.standing()
        assert_equal_standings(found, fitted(found.games))
    # Old opponents of those who played are known otherwise than before.
    idle = int(np.setdiff1d(before.player, np.concatenate([new.player, again.player]))[0])
    moved = live.standing().levels(18.0, num_draws=2)[0][idle] - start.levels(18.0, num_draws=2)[0][idle]
    assert abs(moved) > 1e-3
    fixtures = games_of([(("P5", "newest"), (0, 1))], time=np.array([30.0]), covariates={"home": np.zeros(2)})
    np.testing.assert_allclose(
        live.expect(fixtures).probability, live.standing().expect(fixtures).probability, atol=1e-12
    )


@pytest.mark.parametrize("process", ["ou", "goals", "at rest", "wide"])
def test_other_models(process: str) -> None:
    """Skills that are drawn back, goals of two rows a game, skills that stay, and a prior much wider than
    what games tell, so that nothing is nearly normal."""
    numbers = {
        "ou": {**NUMBERS, "process": "ou"},
        "goals": {"outcome": "goals", "skill_sd": 0.3, "drift": "10", "drift_sd": 0.1, "home": True},
        "at rest": {"draws": True, "margin": 0.3, "skill_sd": 1.0},
        "wide": {**NUMBERS, "skill_sd": 30.0, "drift_sd": 3.0, "link": "logistic"},
    }[process]
    every = season(50, 6, seed=3, dates=12, scores="whole" if process == "goals" else "")
    assert every.time is not None
    live = Live(fitted(every.take(np.flatnonzero(every.time < 9)), **numbers))
    for games in by_date(every.take(np.flatnonzero(every.time >= 9))):
        live.add(games)
    found = live.standing()
    # The prior of goals' common level is about what they were on average when the first fit was made.
    again = fitted(found.games, **numbers).model if process != "goals" else found.model
    assert_equal_standings(found, from_nothing(again, found.games))  # type: ignore[arg-type]


def test_trueskill_is_kept_too() -> None:
    rng = np.random.default_rng(0)
    rows = [((f"P{a}", f"P{b}"), (0, 1)) for a, b in (rng.permutation(6)[:2] for _ in range(40))]
    every = games_of(rows)
    first = every.take(np.arange(30))
    live = Live(from_nothing(TrueSkill.from_data(first), first))
    live.add(every.take(np.arange(30, 40)))
    found = live.standing()
    assert_equal_standings(found, from_nothing(TrueSkill.from_data(found.games), found.games))


def test_rows_are_not_integrated_for_nothing() -> None:
    """A date integrates its own games, and few others."""
    every = season(300, 12, seed=6, dates=100)
    assert every.time is not None
    live = Live(fitted(every.take(np.flatnonzero(every.time < 98))))
    before = live.posterior.integrated
    added = every.take(np.flatnonzero(every.time >= 98))
    live.add(added)
    # All rows at each of several steps would be as many times all games.
    assert added.num_games <= live.posterior.integrated - before <= every.num_games / 3
    assert max(live.posterior.check()) <= ALLOWED


def test_a_walk_goes_on_where_steps_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    every = season(40, 5, seed=4, dates=12)
    assert every.time is not None
    standing = fitted(every.take(np.flatnonzero(every.time < 9)))
    later = every.take(np.flatnonzero(every.time >= 9))
    expected = walk(standing, later)

    def fails(*_: object) -> None:
        raise FloatingPointError

    monkeypatch.setattr(Growing, "settle", fails)
    np.testing.assert_allclose(walk(standing, later).probability, expected.probability, atol=1e-3)


def test_games_come_in_order() -> None:
    games = season(20, 5, dates=10)
    assert games.time is not None
    early = games_of([(("P0", "P1"), (0, 1))], time=np.array([3.0]), covariates={"home": np.zeros(2)})
    with pytest.raises(InputError, match="in the order of their dates"):
        Live(fitted(games)).add(early)


LATER = {
    "draw": (((("P0", "P1"), (0, 0)),), {}, "the model has no draws"),
    "three sides": (((("P0", "P1", "P2"), (0, 1, 2)),), {}, "has 3 sides; the model is of games of two"),
    "weight": (((("P0", "P1"), (0, 1)),), {"game_weight": np.array([2.0])}, "made of games without weights"),
}


@pytest.mark.parametrize("what", LATER)
def test_games_that_the_model_does_not_take_are_refused(what: str) -> None:
    """What a fit of all games would refuse, and would not have counted so."""
    before = season(20, 4, dates=10)
    assert before.time is not None
    won = before.take(np.flatnonzero(np.add.reduceat(before.place, before.side_ptr[:-1]) == 1))
    start = fitted(won, skill_sd=1.0, drift="10", drift_sd=0.4)
    rows, columns, words = LATER[what]
    sides = sum(len(teams) for teams, _ in rows)
    more = {"time": np.full(1, 10.0), "covariates": {"home": np.zeros(sides)}}
    later = games_of(rows, **more, **columns)
    for learn in (Live(start).add, lambda games: walk(start, games), lambda games: learnt(start, games)):
        with pytest.raises(InputError, match=words):
            learn(later)


def test_fixtures_of_a_model_of_scores_need_none() -> None:
    every = season(20, 4, dates=10, scores="whole")
    start = fitted(every, outcome="goals", skill_sd=0.3, drift="10", drift_sd=0.1)
    fixtures = games_of([(("P0", "P1"), (0, 1))], time=np.array([12.0]), covariates={"home": np.zeros(2)})
    live = Live(start)
    found = live.expect(fixtures).probability
    np.testing.assert_allclose(found, start.expect(fixtures).probability, atol=ALLOWED)
    with pytest.raises(InputError, match="no scores"):
        live.add(fixtures)
    assert live.added.num_games == 0
