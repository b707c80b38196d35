"""Games written as tables that `read_games` reads as the same games."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ppl_vae.base.errors import InputError
from ppl_vae.base.files import write_text
from ppl_vae.data.games import Games

__all__ = ["Form", "write_games"]

Form = Literal["wide", "long"]


def write_games(games: Games, path: Path, form: Form = "long", *, dates: bool = False) -> None:
    """Write games as CSV, whole or not at all.

    Args:
        games: any.
        path: of the file.
        form: "long", a row a player, for all games; "wide", a row a game, for games of two sides.
        dates: whether times are days since the beginning of 1970, which are written as ISO dates.

    Raises:
        InputError: for a form that there is not, or games that do not fit into it.
    """
    if form not in ("wide", "long"):
        raise InputError(f"games are written in the form 'wide' or 'long', and not {form!r}")
    rows = _long(games, dates) if form == "long" else _wide(games, dates)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def _long(games: Games, dates: bool) -> Iterator[list[Any]]:
    header = ["game", "side", "player"]
    # What is written of an entry of a side of a game: of these arrays, by their own numbers.
    entry = [] if games.weight is None else [("weight", games.weight)]
    side: list[tuple[str, Any]] = [("place", games.place + 1)]
    if games.score is not None:
        side = [("score", games.score)]
        if not np.array_equal(_places(games), games.place):
            raise InputError(
                f"{games.name}: places that do not follow from the scores are not written as CSV"
            )
    side += list(games.covariates.items())
    if strange := [name for name in games.covariates if name != "home"]:
        raise InputError(f"{games.name}: the covariate {strange[0]!r} is not written as CSV; NetCDF keeps it")
    game = _of_games(games, dates)
    yield header + [name for name, _ in (*side, *entry, *game)]
    names, ends = games.players, games.entry_ptr
    for g in range(games.num_games):
        beside = [values[g] for _, values in game]
        for t in range(games.side_ptr[g], games.side_ptr[g + 1]):
            of_side = [_plain(values[t]) for _, values in side]
            for e in range(ends[t], ends[t + 1]):
                of_entry = [_plain(values[e]) for _, values in entry]
                number = t - games.side_ptr[g] + 1
                yield [g + 1, number, names[games.player[e]], *of_side, *of_entry, *beside]


def _places(games: Games) -> Any:
    from ppl_vae.data.games import places_of

    assert games.score is not None
    return places_of(games.score, games.side_ptr)


def _wide(games: Games, dates: bool) -> Iterator[list[Any]]:
    if games.weight is not None:
        raise InputError(f"{games.name}: players who play parts of games have no column in a row a game")
    if not (games.sides == 2).all():
        raise InputError(f"{games.name} has games of more than two sides: write them in the form 'long'")
    if strange := [name for name in games.covariates if name != "home"]:
        raise InputError(f"{games.name}: the covariate {strange[0]!r} is not written as CSV; NetCDF keeps it")
    home, alone = games.covariates.get("home"), games.is_duels
    if home is not None and (home[1::2].any() or not alone):
        raise InputError(f"{games.name}: the home side is not the first of two players: use the form 'long'")
    words = ("home", "away") if home is not None else ("player1", "player2")
    most = int(games.sizes.max(initial=1))
    sides = [[f"team{k}_{m}" for m in range(1, most + 1)] for k in (1, 2)]
    header = [*words] if alone else [*sides[0], *sides[1]]
    game = _of_games(games, dates)
    header += ["result"]
    if games.score is not None:
        header += ["home_score", "away_score"] if home is not None else ["score1", "score2"]
    yield [*header, *(["neutral"] if home is not None else []), *(name for name, _ in game)]
    for g in range(games.num_games):
        row: list[Any] = []
        for t in (2 * g, 2 * g + 1):
            members = games.player[games.entry_ptr[t] : games.entry_ptr[t + 1]]
            row += [games.players[at] for at in members] + [""] * (most - len(members))
        first, second = games.place[2 * g], games.place[2 * g + 1]
        row.append("1/2-1/2" if first == second else "1-0" if first < second else "0-1")
        if games.score is not None:
            row += [_plain(games.score[2 * g]), _plain(games.score[2 * g + 1])]
        if home is not None:
            row.append(int(not home[2 * g]))
        yield [*row, *(values[g] for _, values in game)]


def _of_games(games: Games, dates: bool) -> list[tuple[str, list[Any]]]:
    """The columns of one value a game."""
    found: list[tuple[str, list[Any]]] = []
    if games.time is not None:
        found.append(("date", [_date(value) if dates else _plain(value) for value in games.time]))
    if games.game_weight is not None:
        found.append(("game_weight", [_plain(value) for value in games.game_weight]))
    return found


def _date(days: float) -> str:
    when = datetime(1970, 1, 1) + timedelta(days=float(days))
    return when.date().isoformat() if days == round(days) else when.isoformat()


def _plain(value: Any) -> str:
    """A number that reads back as itself."""
    number = float(value)
    return str(int(number)) if number == round(number) else repr(number)
