"""Runs of dated games: forecasts, scores, leaderboards and updates by their dates."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import ppl_vae
from ppl_vae import InputError, Skills
from ppl_vae.data.game_tables import read_games
from ppl_vae.diagnostics.forecasting.standing import Standing
from ppl_vae.models.skills.links import Duel
from ppl_vae.runs import game_jobs, shown
from ppl_vae.runs.choose_job import choose_model
from ppl_vae.runs.later_games import fixtures_of
from ppl_vae.runs.shown import _Draws

TEAMS = ("Ash", "Birch", "Cedar", "Elm", "Fir")


def games(first: str, num_games: int, seed: int) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), []
    for number in range(num_games):
        home, away = rng.choice(len(TEAMS), 2, replace=False)
        ahead = 0.5 * (away - home) + 0.3 + rng.normal()
        result = "draw" if abs(ahead) < 0.4 else "home" if ahead > 0 else "away"
        date = np.datetime64(first) + np.timedelta64(3 * (number // 2), "D")
        rows.append((str(date), TEAMS[home], TEAMS[away], result))
    return pd.DataFrame(rows, columns=["date", "home", "away", "result"])


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> ppl_vae.FittedRun:
    return ppl_vae.fit(
        "skills", games("2023-01-02", 80, 0), out=tmp_path_factory.mktemp("league") / "run", progress=False,
        guide="markov", method="natural", draws=True, home=True, drift="1y", drift_sd=0.3, skill_sd=1.0,
    )  # fmt: skip


def test_fixtures_need_no_results(league: ppl_vae.FittedRun, tmp_path: Path) -> None:
    table = games("2023-09-01", 4, 1).drop(columns="result")
    table.to_csv(tmp_path / "fixtures.csv", index=False)
    found = league.predict(tmp_path / "fixtures.csv").table
    np.testing.assert_allclose(found[["win", "draw", "loss"]].sum(axis=1), 1.0)
    pd.testing.assert_frame_equal(found, league.predict(table).table)
    assert found["date"].tolist() == table["date"].tolist()


@pytest.mark.parametrize(
    "header",
    [
        "home,away", "Home Team,Away-Team", "white,black", "player1,player2", "player_1,player_2",
        "team1,team2", "team_1,team_2", "side1,side2", "team1_1,team2_1", "side_1_1,side_2_1", "game,player",
        "game,side,player", "race,driver", "heat,lane,runner", "one,other",
    ],
)  # fmt: skip
def test_fixtures_of_every_kind_of_table(header: str) -> None:
    long = header.startswith(("game", "race", "heat"))
    cells = [[0, "a", "Ann"], [0, "b", "Bob"]] if long else [["Ann", "Bob"], ["Bob", "Cy"]]
    names = header.split(",")
    table = pd.DataFrame([[*row[: len(names) - 1], row[-1]] for row in cells], columns=names)
    named = {
        "one,other": {"side1": "one", "side2": "other"},
        "heat,lane,runner": {"game": "heat", "side": "lane", "player": "runner"},
    }
    columns = named.get(header)
    found = fixtures_of(table, columns)
    assert found.players[:2] == ("Ann", "Bob")
    # Nothing is said to have been read of how they end.
    assert not re.search("draws|ties|place|score|result", found.history[-1])
    assert (found.num_games, found.sides.tolist()) == ((1, [2]) if long else (2, [2, 2]))


def test_fixtures_need_the_columns_alone_that_the_model_takes(
    league: ppl_vae.FittedRun, tmp_path: Path
) -> None:
    table = pd.DataFrame({"player1": ["Ash"], "player2": ["Elm"], "date": ["2023-09-01"]})
    with pytest.raises(InputError, match="no column 'home'"):
        league.predict(table)
    for model in ("skills", "trueskill"):
        drawn = {"draws": True} if model == "skills" else {"draw_margin": 0.5}
        run = ppl_vae.fit(
            model, games("2023-01-02", 30, 0), out=tmp_path / model, progress=False, method="natural", **drawn
        )
        found = run.predict(table).table
        assert found[["win", "draw", "loss"]].to_numpy().sum() == pytest.approx(1.0)


def test_the_table_of_players_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("players.csv").write_text("name,mean\nAsh,2\nFir,-2\n")
    asked = {"guide": "markov", "method": "natural", "draws": True, "players": "players.csv"}
    run = ppl_vae.fit("skills", games("2023-01-02", 30, 0), out="run", progress=False, **asked)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    again = ppl_vae.load("../run").leaderboard().table
    pd.testing.assert_frame_equal(run.leaderboard().table, again)


def test_no_games_are_refused(league: ppl_vae.FittedRun, tmp_path: Path) -> None:
    none = read_games(games("2023-09-01", 4, 1), quiet=True).take([])
    for asked in (
        lambda: league.predict(none),
        lambda: league.predict(none.dataset),
        lambda: league.score(none, walk_forward=True, progress=False),
        lambda: league.update(none, out=tmp_path / "updated"),
        lambda: choose_model(none, progress=False),
    ):
        with pytest.raises(InputError, match="holds no games"):
            asked()


def test_a_split_is_by_time(league: ppl_vae.FittedRun) -> None:
    later = games("2023-06-01", 30, 2)
    frozen, walked = (league.score(later, walk_forward=way, progress=False).results for way in (False, True))
    assert (frozen.mode, walked.mode) == ("frozen", "walk-forward")
    # The first date is forecast from the same games by both.
    assert frozen["log loss"] != walked["log loss"]
    assert frozen.table.loc["log loss", "base"] == walked.table.loc["log loss", "base"]
    for ask in (league.score, league.update):
        with pytest.raises(InputError, match="2022-06-01"):
            ask(games("2022-06-01", 10, 3))


def test_leaderboards_have_dates(league: ppl_vae.FittedRun) -> None:
    assert league.leaderboard().date == "2023-04-29"
    early, later = league.leaderboard("2023-02-01"), league.leaderboard("2023-12-31")
    assert early.date == "2023-02-01"
    # What is known fades.
    assert (later.table["sd"] > league.leaderboard().table["sd"].reindex(later.table.index)).all()
    with pytest.raises(InputError, match="such as 2024-05-01"):
        league.leaderboard("soon")
    with pytest.raises(InputError, match="nobody had played by 2020-01-01"):
        league.leaderboard("2020-01-01")
    with pytest.raises(InputError, match="num_draws is 0"):
        league.leaderboard(num_draws=0)


def test_leaderboards_of_many_players_take_fewer_draws(
    league: ppl_vae.FittedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of a fitted run as from the command line: draws times players are bounded."""
    made = []
    curve = Standing.curve

    def noted(self, player, time, num_draws=0, seed=0):
        made.append(num_draws)
        return curve(self, player, time, num_draws, seed)

    monkeypatch.setattr(Standing, "curve", noted)
    league.leaderboard()
    monkeypatch.setattr(game_jobs, "MOST_LEVELS", 5000)
    league.leaderboard()
    assert made == [4000, 1000]


def test_curves_are_of_the_dates_of_games(league: ppl_vae.FittedRun) -> None:
    found = league.curves(["Ash"])
    assert found["date"].is_monotonic_increasing
    assert found["date"].iloc[0] >= "2023-01-02"
    last = league.leaderboard(found["date"].iloc[-1]).table.loc["Ash"]
    assert found[["mean", "sd"]].iloc[-1].tolist() == pytest.approx(last[["mean", "sd"]].tolist())
    with pytest.raises(InputError, match="Yew played no game"):
        league.curves(["Yew"])


def test_an_update_is_a_run_of_all_games(league: ppl_vae.FittedRun, tmp_path: Path) -> None:
    later = games("2023-06-01", 20, 4)
    found = league.update(later, out=tmp_path / "updated")
    assert found.run.source.num_games == 100
    assert found.model.numbers == pytest.approx(league.model.numbers)
    assert found.fit.converged
    # As all at once with the same numbers.
    whole = ppl_vae.fit(
        "skills", pd.concat([games("2023-01-02", 80, 0), later], ignore_index=True), progress=False,
        guide="markov", method="natural", draws=True, home=True, drift="1y", drift_sd=0.3, skill_sd=1.0,
        margin=league.model.numbers["margin"],
    )  # fmt: skip
    mine, others = (run.leaderboard().table.sort_index() for run in (found, whole))
    np.testing.assert_allclose(mine[["mean", "sd"]], others[["mean", "sd"]], atol=2e-3)


def test_models_are_chosen_by_evidence_beside_later_games() -> None:
    """Evidence is the ELBO of a fit of the earlier games alone, and the last fifth is forecast."""
    found = choose_model(games("2023-01-02", 100, 5), links=("probit",), drifts=("none",), progress=False)
    assert (found.num_games, found.num_later) == (80, 20)
    assert {*found.table.index} == {"probit, at rest", "probit, at rest, home"}
    name = "probit, at rest"
    alone = ppl_vae.fit(
        "skills", games("2023-01-02", 100, 5).iloc[:80], progress=False, guide="markov", method="natural",
        draws=True,
    )  # fmt: skip
    assert found.table.loc[name, "evidence"] == pytest.approx(alone.fit.final.value, abs=1e-3)
    # The joint Gaussian is at least as good as independent chains.
    assert found.table.loc[name, "gap"] > -1e-3
    assert found.sentences()[0].startswith(f"By evidence: {found.table.index[0]}")
    assert not any("No gap is known" in sentence for sentence in found.sentences())
    found.table["gap"] = [found.table["gap"].iloc[0], float("nan")]
    assert "models of more than 1,500 states" in found.sentences()[-1]


def test_laws_of_draws_are_among_the_choices_where_games_are_drawn() -> None:
    def links(table: pd.DataFrame) -> list[str]:
        return [options.link for options in Skills.choices(read_games(table), ("none",)).values()]

    table = games("2023-01-02", 40, 5)
    decided = table[table["result"] != "draw"]
    assert links(table) == ["probit", "probit", "logistic", "logistic", "davidson", "davidson"]
    assert links(decided) == ["probit", "probit", "logistic", "logistic"]
    race = pd.DataFrame({"game": [1, 1, 1], "player": ["a", "b", "c"], "place": [1, 2, 3]})
    assert links(race) == ["probit", "gumbel"]


@pytest.mark.parametrize("law", ["logistic", "davidson"])
def test_evidence_finds_the_law_by_which_games_were_drawn(law: str) -> None:
    """The laws differ by how draws fall off. Over 8,000 games the right one is ahead by 27 nats or more in
    expectation, with an sd of 8 at most."""
    rng, count = np.random.default_rng(3), 10_000
    first, second = np.array([rng.choice(6, 2, replace=False) for _ in range(count)]).T
    chances = Duel(torch.as_tensor(1.5 * (first - second)), margin=1.0, link=law).probabilities.numpy()
    result = np.array(["1-0", "1/2-1/2", "0-1"])[(rng.random(count)[:, None] > chances.cumsum(1)).sum(1)]
    table = pd.DataFrame({"white": first, "black": second, "result": result, "date": np.arange(count)})
    found = choose_model(table, drifts=("none",), links=("logistic", "davidson"), progress=False).table
    assert found.index[0] == f"{law}, at rest"


def test_pages_of_many_games_take_fewer_draws(
    league: ppl_vae.FittedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def size() -> int:
        return _Draws(league.run, "train")["svi"].sizes["draw"]

    assert size() == shown.NUM_DRAWS
    monkeypatch.setattr(shown, "MOST_NUMBERS", 1)
    assert size() == shown.FEWEST
