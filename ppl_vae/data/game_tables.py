"""Tables of games: a row a game (wide) or a row a player (long), from CSV, parquet, pandas or a data set."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from ppl_vae.base.errors import InputError, listed
from ppl_vae.base.wording import counted
from ppl_vae.data.dataset import Columns, Dataset
from ppl_vae.data.game_cells import (
    Table,
    csv_table,
    dataset_table,
    frame_table,
    parquet_header,
    parquet_table,
)
from ppl_vae.data.game_long import long_games
from ppl_vae.data.game_roles import GameRoles, find_roles
from ppl_vae.data.game_wide import wide_games
from ppl_vae.data.game_words import is_date
from ppl_vae.data.games import Games

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GameColumns", "csv_games", "file_games", "frame_games", "read_games", "table_games"]

Named = str | Sequence[str]


class GameColumns(TypedDict, total=False):
    """Which column of a table of games is what; several make a side of several players."""

    winner: str
    loser: str
    draw: str
    home: Named
    away: Named
    home_score: str
    away_score: str
    result: str
    neutral: str
    date: str
    game_weight: str
    game: str
    side: str
    player: Named
    shared: Named
    place: str
    order: str
    score: str
    weight: str
    covariate: Named
    side1: Named
    side2: Named
    side3: Named
    side4: Named
    score1: str
    score2: str
    score3: str
    score4: str


def read_games(source: Any, *, quiet: bool = False, **columns: Unpack[GameColumns]) -> Games:
    """Read a table of games, and print one line that says which columns were read as what.

    A row a game: ``winner, loser[, draw]``; ``home, away`` (or ``home_team, away_team``; ``white, black``;
    ``player1, player2``) with ``home_score, away_score`` or ``result``, and ``neutral``; ``team1_1, team1_2,
    …, team2_1, …`` with ``result`` or ``score1, score2``. A row a player: ``game, player`` with ``place``,
    ``order`` or ``score``, and ``side``, ``weight`` (of the player) and ``home``; ``shared`` names columns of
    what several sides may have in common, such as a car, which has a skill as players have. ``covariate``
    names further numbers of a side: columns where a row is a player, ``age`` for ``home_age, away_age`` (or
    ``age1, age2``) where it is a game. All may have ``date`` and ``game_weight``. Names of columns may be in
    any case; others are named by keyword. Columns that are no part of this are left, and said to be.

    Results are ``1-0``, ``0-1``, ``H``, ``A``, ``home``, ``away``, ``1``, ``0``, a side's number or the name
    of a player who is a side; draws are ``draw``, ``1/2-1/2``, ``0.5`` and ``D``. Places are a ranking from
    1; ties share a place. Of ``order``, which is read where it is named, the least number is first and
    nothing else counts: finishing times, or places with gaps. Who did not arrive (an empty place, DNF, DSQ,
    …) is in an unordered last group, and who did not start (DNS, DNQ, …) in no game. Dates are ISO 8601, or
    plain numbers such as that of a round.

    Args:
        source: the path of a CSV or parquet file, a pandas DataFrame, or a `Dataset` of columns.
        quiet: whether the line is not printed (to stderr); it stays in `Games.history`.
        columns: by what they are, the names of columns.

    Raises:
        InputError: naming the row, for a game with one side, a player on both sides or of no name, a weight
            that is not positive, a date that is none, places that skip, a score that is missing, a result
            that is none, or a header among the rows; and for a table that lacks what games need.
    """
    named: dict[str, Named] = {**columns}  # type: ignore[dict-item]
    games = _read(source, named)
    if not quiet:
        print(games.history[-1], file=sys.stderr)
    return games


def _read(source: Any, columns: Mapping[str, Named]) -> Games:
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.suffix.lower() in (".csv", ".parquet") and path.is_file():
            return file_games(path, columns)
        from ppl_vae.data.named import load_dataset

        return Games.of(load_dataset(str(source)), columns)
    if type(source).__module__.partition(".")[0] == "pandas":
        return frame_games(source, "the table", columns)
    from ppl_vae.data.accept import as_dataset

    return Games.of(as_dataset(source), columns)


def file_games(path: Path, columns: Columns | None = None) -> Games:
    """Games from a CSV or parquet file; see `read_games`.

    Raises:
        InputError: see `read_games`.
    """
    if path.suffix.lower() == ".csv":
        return csv_games(path, columns)
    roles = find_roles(str(path), parquet_header(path), columns)
    return _made(parquet_table(path, roles.columns), roles)


def csv_games(path: Path, columns: Columns | None = None) -> Games:
    """Games from a CSV file; see `read_games`.

    Raises:
        InputError: see `read_games`.
    """
    from ppl_vae.data.tables import csv_header

    header = csv_header(path, columns)
    roles = find_roles(str(path), header, columns)
    return _made(csv_table(path, header, roles.columns), roles)


def frame_games(frame: pd.DataFrame, name: str, columns: Columns | None = None) -> Games:
    """Games from a pandas table; see `read_games`.

    Raises:
        InputError: see `read_games`.
    """
    header = [str(column) for column in frame.columns]
    if twice := [column for column in header if header.count(column) > 1]:
        raise InputError(f"{name} has the column {twice[0]!r} twice.")
    roles = find_roles(name, header, columns)
    return _made(frame_table(frame.set_axis(header, axis=1), name, roles.columns), roles)


def table_games(dataset: Dataset, columns: Columns | None = None, unsaid: Sequence[str] = ()) -> Games:
    """Games from a data set of columns; see `read_games`.

    Args:
        dataset: of a table's columns.
        columns: by role, the names of columns.
        unsaid: columns of how games end that were put in place of none, and are not to be told of.

    Raises:
        InputError: see `read_games`.
    """
    offered = [name for name, found in dataset.variables.items() if found.kind != "mask"]
    roles = find_roles(dataset.name, offered, columns)
    games = _made(dataset_table(dataset, roles.columns), roles, unsaid)
    new = tuple(words for words in games.warnings if words not in dataset.warnings)
    return replace(games, warnings=dataset.warnings + new, history=dataset.history + games.history)


def _made(table: Table, roles: GameRoles, unsaid: Sequence[str] = ()) -> Games:
    if not table.num_rows:
        raise InputError(f"{table.name} has a header but no rows: at least one is needed.")
    reading = wide_games(table, roles) if roles.sides else long_games(table, roles)
    line = understood(table, roles, reading.games, reading.said, unsaid)
    return replace(reading.games, history=(line,))


def understood(
    table: Table, roles: GameRoles, games: Games, said: Sequence[str], unsaid: Sequence[str] = ()
) -> str:
    """What was read as what, in one line.

    Args:
        table: what was read.
        roles: of its columns.
        games: what it became.
        said: what else there is to say.
        unsaid: columns that say nothing of how the games ended.
    """
    sides = games.sides
    low, high = sides.min(), sides.max()
    of = f"{low}" if low == high else f"{low} to {high}"
    parts = [f"{counted(games.num_games, 'game')} of {of} sides", counted(games.num_players, "player")]
    if not unsaid:
        parts.append(_endings(games))
    if games.time is not None:
        parts.append(_when(table, roles))
    parts += [_home(name, games) for name in games.covariates if name not in roles.covariates]
    read = [
        f"{what}: {listed(names, 12)}"
        for what, names in _by_role(roles).items()
        if any(names) and names[0] not in unsaid
    ]
    left = f"; left: {listed(table.left, 12)}" if table.left else ""
    more = "".join(f"; {words}" for words in said)
    return f"{table.name} read as {', '.join(parts)} ({'; '.join(read)}{left}{more})"


def _endings(games: Games) -> str:
    """How many were drawn, or had ties."""
    if len(games.place) == 2 * games.num_games:
        return counted(int((games.place[::2] == games.place[1::2]).sum()), "draw")
    return "ties" if games.has_ties else "no ties"


def _when(table: Table, roles: GameRoles) -> str:
    texts = [text for text in table.columns[roles.date].levels if text]
    dates = all(is_date(text) for text in texts)
    low, high = (min(texts), max(texts)) if dates else (min(texts, key=float), max(texts, key=float))
    return f"{'dates' if dates else 'times'} {low} to {high}"


def _home(name: str, games: Games) -> str:
    ground = games.covariates[name]
    return f"{int(ground.sum()):,} of {counted(games.num_games, 'game')} with a {name} side"


def _by_role(roles: GameRoles) -> dict[str, Sequence[str]]:
    """Columns by what they are called in the line."""
    if roles.winner_first:
        sides = {"winner": roles.sides[0], "loser": roles.sides[1]}
    else:
        sides = {f"side {k}": columns for k, columns in enumerate(roles.sides, start=1)}
    single = {
        "game": roles.game, "side": roles.side, "place": roles.place, "order": roles.order,
        "score": roles.score, "weight of a player": roles.weight, "home": roles.at_home, "draw": roles.draw,
        "result": roles.result, "neutral": roles.neutral, "time": roles.date,
        "weight of a game": roles.game_weight,
    }  # fmt: skip
    several: dict[str, Sequence[str]] = {
        "player": roles.player,
        "shared": roles.shared,
        "scores": roles.scores,
        "places": roles.places,
    }
    several |= {name: of for name, of in roles.covariates.items() if of != (name,)}
    several["covariates"] = [name for name, of in roles.covariates.items() if of == (name,)]
    return {**sides, **several, **{what: (name,) for what, name in single.items()}}
