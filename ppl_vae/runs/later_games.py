"""Games that came after those of a run: with their outcomes, or as fixtures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import stage
from ppl_vae.data.accept import as_dataset
from ppl_vae.data.dataset import Dataset, Variable
from ppl_vae.data.game_roles import GameRoles, find_roles, names_sides
from ppl_vae.data.game_tables import file_games, table_games
from ppl_vae.data.games import Games

__all__ = ["fixtures_of", "games_of_results", "say_understood"]

# Columns that tell how a game ended, in the words of `read_games`.
ENDINGS = frozenset(
    ("winner", "loser", "draw", "result", "home_score", "away_score", "score", "place", "outcome")
)
# Those that name two sides without saying who won.
SIDES = (("home", "away"), ("home_team", "away_team"))


def games_of_results(source: Any, columns: Mapping[str, str] | None = None) -> Games:
    """Games with their outcomes.

    Args:
        source: `Games`, a data set, a table, or a file.
        columns: which column plays which part.

    Raises:
        InputError: for what holds no games.
    """
    if isinstance(source, Games):
        return _some(source)
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and path.suffix.lower() in (".csv", ".parquet") and path.is_file():
        return file_games(path, columns)
    return _some(Games.of(as_dataset(source), columns))


def say_understood(games: Games, *, show: bool) -> None:
    """One line on stderr: which columns of a table were read as what."""
    if games.history:
        stage(games.history[-1], show=show)


def fixtures_of(source: Any, columns: Mapping[str, str] | None = None) -> Games:
    """Games of which nobody knows the end, as games whose end is not read.

    Args:
        source: as for `games_of_results`; a table may lack what tells how games ended.
        columns: which column plays which part.

    Raises:
        InputError: for what holds no games.
    """
    if isinstance(source, Games):
        return _some(source)
    dataset = as_dataset(source)
    if endings := _endings(dataset, columns or {}):
        whole = replace(dataset, variables={**dataset.variables, **endings})
        return table_games(whole, columns, unsaid=tuple(endings))
    return _some(Games.of(dataset, columns))


def _some(games: Games) -> Games:
    """These games; refuses none, as tables without rows are."""
    if not games.num_games:
        raise InputError(f"{games.name} holds no games: at least one is needed.")
    return games


def _endings(dataset: Dataset, columns: Mapping[str, str]) -> dict[str, Variable]:
    """Columns for a table of fixtures in which every game is a draw, or every place that of its line."""
    held = {name.casefold() for name in dataset} | {*columns}
    if held & ENDINGS or "order" in columns:
        return {}
    size = next(iter(dataset.variables.values())).values.shape[0]
    if roles := _of_players(dataset, columns):
        return {"place": Variable(_lines(dataset, roles, size), "count")}
    if any({*pair} <= held for pair in SIDES):
        zeros = Variable(np.zeros(size), "real")
        return {"home_score": zeros, "away_score": zeros}
    if names_sides(dataset.name, [*dataset], columns):
        return {"result": Variable(np.full(size, 0.5), "real")}
    return {}  # no table of games: reading it says so, of the columns that it has


def _of_players(dataset: Dataset, columns: Mapping[str, str]) -> GameRoles | None:
    """Which columns name games and players, where a row is a player."""
    try:
        roles = find_roles(dataset.name, [*dataset, "place"], columns)
    except InputError:  # reading it says so, of the columns that it has
        return None
    return roles if roles.game and not roles.sides else None


def _lines(dataset: Dataset, roles: GameRoles, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """For each line the number of its side in its game."""
    games = dataset[roles.game].values.tolist()
    sides = dataset[roles.side].values.tolist() if roles.side else range(size)
    seen: dict[Any, dict[Any, int]] = {}
    found = [
        seen.setdefault(game, {}).setdefault(own, len(seen[game]))
        for game, own in zip(games, sides, strict=True)
    ]
    return np.array(found, dtype=np.float64)
