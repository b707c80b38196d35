"""What a run of a model of games gives away, as xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.base.errors import InputError
from ppl_vae.data.games import Games
from ppl_vae.runs.game_jobs import leaderboard_of_run, skill_curves, standing_of
from ppl_vae.runs.run import Run

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["export_of_games", "win_probability"]

# Players of whom every pair is told.
MOST_PLAYERS = 1000


def export_of_games(run: Run, what: str, *, num_draws: int, seed: int | None = None) -> xr.Dataset:
    """One of a run's answers about players, labelled; see `exports.export`.

    Args:
        run: a fitted run of a model of games.
        what: "leaderboard" at the date of the last game, "win-probability" of a game then, or "curves".
        num_draws: joint draws behind ranks.
        seed: of draws; the run's by default.

    Raises:
        InputError: for a run of another model, or more players than pairs can be told of.
    """
    import xarray as xr

    if what == "leaderboard":
        table = leaderboard_of_run(run, num_draws=num_draws, seed=seed).table
        return xr.Dataset.from_dataframe(table).assign_attrs(rows="player", columns="plain")
    if what == "curves":
        curves = skill_curves(run, seed=seed).rename_axis("row")
        return xr.Dataset.from_dataframe(curves).assign_attrs(rows="row", columns="plain")
    return win_probability(run, seed=seed)


def win_probability(run: Run, *, seed: int | None = None) -> xr.Dataset:
    """P(the row's player beats the column's) at the date of the last game, on neutral ground.

    Where games may be drawn, P(draw) stands beside it. A player's chance against itself is NaN.

    Args:
        run: a fitted run of a model of games between two players.
        seed: of draws, where they are needed.

    Raises:
        InputError: for a run of another model, of teams alone, or of more than 1,000 players.
    """
    import xarray as xr

    standing = standing_of(run, seed)
    games = standing.games
    size = games.num_players
    if size > MOST_PLAYERS:
        raise InputError(
            f"there are {size:,} players; chances of every pair are told of {MOST_PLAYERS:,} at most: "
            "predict some of them"
        )
    first, second = np.nonzero(~np.eye(size, dtype=bool))
    expected = standing.expect(_duels(games, first, second, standing.last))
    names = {"win": "win_probability", "draw": "draw_probability"}
    of = expected.outcomes or ("win",)
    dims = ("player", "opponent")
    found = {}
    for outcome, name in names.items():
        if outcome in of:
            values = np.full((size, size), np.nan)
            values[first, second] = expected.probability[:, of.index(outcome)]
            found[name] = (dims, values)
    labels = [str(name) for name in games.players]
    return xr.Dataset(found, {"player": labels, "opponent": labels}).assign_attrs(rows="player")


def _duels(games: Games, first: np.ndarray, second: np.ndarray, date: float) -> Games:
    """Each of these pairs once, at a date, nobody at home."""
    ends = np.arange(2 * len(first) + 1)
    sides = np.zeros(2 * len(first))
    return Games(
        "pairs", games.players, ends[::2].copy(), ends, np.stack([first, second], 1).ravel(),
        np.tile(np.array([0, 1], dtype=np.int32), len(first)),
        score=None if games.score is None else sides,
        time=None if games.time is None else np.full(len(first), date),
        covariates=dict.fromkeys(games.covariates, sides),
    )  # fmt: skip
