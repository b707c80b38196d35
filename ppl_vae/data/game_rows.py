"""From the columns of a table to games: a row a game, or a row a player."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import listed
from ppl_vae.data.game_cells import Table
from ppl_vae.data.game_roles import GameRoles
from ppl_vae.data.game_words import (
    DRAW,
    NOBODY,
    as_days,
    as_place,
    as_score,
    as_truth,
    as_weight,
    is_date,
    is_draw,
    who_won,
)
from ppl_vae.data.games import Floats, Games, Ints, places_of
from ppl_vae.data.player_names import look_alikes

__all__ = ["Reading", "long_games", "wide_games"]


@dataclass(eq=False)
class Reading:
    """Games, and what has to be said of how they were read.

    Attributes:
        games: as read.
        said: further words for the line that says what was understood.
    """

    games: Games
    said: list[str] = field(default_factory=list)


# A row a game ------------------------------------------------------------------------------------


def wide_games(table: Table, roles: GameRoles) -> Reading:
    """Games of a table of a row each.

    Raises:
        InputError: naming the first row at fault.
    """
    flat = [column for side in roles.sides for column in side]
    ids, names = _numbered(table, flat)
    entries = np.stack(ids, axis=1)
    sizes = np.cumsum([0, *(len(side) for side in roles.sides)])
    members = np.stack([(entries[:, a:b] >= 0).sum(1) for a, b in pairwise(sizes)], axis=1)
    _check_sides(table, roles, members)
    _check_once(table, roles, entries, names)
    whole = bool((entries >= 0).all())
    there = members > 0
    side_ptr = _ends(there.sum(1))
    score = _side_numbers(table, roles.scores, there) if roles.scores else None
    place = _wide_places(table, roles, entries, there, side_ptr, score)
    flat_player = entries.reshape(-1) if whole else entries[entries >= 0]
    del entries
    player, players = _in_order(flat_player, names)
    games = Games(
        table.name, players, side_ptr, _ends(members[there]), player, place,
        score=score,
        time=_times(table, roles.date),
        game_weight=_numbers(table, roles.game_weight, as_weight, "is no positive number"),
        covariates=_at_home(table, roles, len(place))
        | {name: _side_numbers(table, of, there) for name, of in roles.covariates.items()},
        warnings=look_alikes(players),
    )  # fmt: skip
    return Reading(games)


def _numbered(table: Table, columns: Sequence[str]) -> tuple[list[NDArray[np.int32]], list[str]]:
    """The players in each column by numbers in no particular order, −1 for empty cells; and their names."""
    known: dict[str, int] = {}
    found = []
    for name in columns:
        column = table.columns[name]
        places = np.array(
            [known.setdefault(text, len(known)) if text else -1 for text in column.levels], dtype=np.int32
        )
        if strange := [at for at, text in enumerate(column.levels) if text in NOBODY]:
            row = int(np.isin(column.codes, strange).argmax())
            table.refuse(
                row,
                f"'{table.text(name, row)}' stands for a missing name; drop the game, or spell the player "
                "otherwise",
                name,
            )
        found.append(places[column.codes])
    return found, list(known)


def _in_order(player: NDArray[Any], names: Sequence[str]) -> tuple[Ints, tuple[str, ...]]:
    """Players by order of first appearance."""
    if len(player) < 10**5:
        order = np.array(list(dict.fromkeys(player.tolist())), dtype=np.int64)
    else:
        import pandas as pd

        order = np.asarray(pd.unique(player))
    place = np.full(len(names), -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    return place[player], tuple(names[at] for at in order)


def _check_sides(table: Table, roles: GameRoles, members: Ints) -> None:
    """Every game has two sides of a player each at least."""
    least = members.shape[1] if members.shape[1] == 2 else 2
    few = (members > 0).sum(1) < least
    if few.any():
        row = int(few.argmax())
        columns = next(side for side, number in zip(roles.sides, members[row], strict=True) if not number)
        table.refuse(
            row, "the cell is empty" if len(columns) == 1 else "all cells of a side are empty", columns[0]
        )


def _check_once(table: Table, roles: GameRoles, entries: NDArray[np.int32], players: Sequence[str]) -> None:
    """Nobody is in a game twice."""
    count = entries.shape[1]
    for one in range(count):
        for other in range(one + 1, count):
            twice = (entries[:, one] == entries[:, other]) & (entries[:, one] >= 0)
            if twice.any():
                row = int(twice.argmax())
                who = players[entries[row, one]]
                if roles.winner_first:
                    table.refuse(row, f"{who!r} is both winner and loser; a game has two players")
                table.refuse(row, f"{who!r} is in the game twice; a player is on one side, once")


def _wide_places(
    table: Table,
    roles: GameRoles,
    entries: NDArray[np.int32],
    there: NDArray[np.bool_],
    side_ptr: Ints,
    score: Floats | None,
) -> NDArray[np.int32]:
    if roles.winner_first:
        return _won(table, roles)
    if roles.result:
        return _by_result(table, roles, entries, there)
    if roles.places:
        place = _side_numbers(table, roles.places, there, as_place, "is no place")
        found = places_of(-place, side_ptr)
        _check_steps(table, place, found, side_ptr, np.arange(len(side_ptr) - 1), roles.places[0])
        return found
    assert score is not None
    return places_of(score, side_ptr)


def _won(table: Table, roles: GameRoles) -> NDArray[np.int32]:
    """The first side won, but where a column says that the game was drawn."""
    place = np.tile(np.array([0, 1], dtype=np.int32), table.num_rows)
    if roles.draw:
        drawn = _numbers(table, roles.draw, is_draw, "says neither yes nor no")
        assert drawn is not None
        place[1::2][drawn == 1] = 0
    if roles.result:
        column = table.columns[roles.result]
        won, row = column.map(lambda text: 1.0 if text == "" else who_won(text))
        against = won == 0
        if row is not None or against.any():
            row = int(against.argmax()) if row is None else row
            table.refuse(
                row,
                f"{table.text(roles.result, row)!r} is no win of the winner and no draw (such as 0.5 or D)",
                roles.result,
            )
        place[1::2][won == DRAW] = 0
    return place


def _by_result(
    table: Table, roles: GameRoles, entries: NDArray[np.int32], there: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """By a word for the outcome, the number of a side, or the name of a player who is a side."""
    column, count = table.columns[roles.result], len(roles.sides)
    said, row = column.map(lambda text: _side_said(text, count))
    words = {text.casefold() for text in column.levels}
    if not roles.home and "0" in words and "2" in words:
        table.refuse(0, "0 beside 2 may be a draw or a loss: write draw", roles.result)
    winner = np.where(np.isnan(said), -1, said)
    if all(len(side) == 1 for side in roles.sides):
        winner = _by_name(table, roles, entries, said)
    unknown = winner == -1
    if unknown.any():
        row = int(unknown.argmax())
        text = table.text(roles.result, row)
        words_ = f"{text!r} is no result" if text else "the cell is empty"
        table.refuse(
            row,
            f"{words_}; 1-0, 0-1, draw, H, A, D, the number of a side or the name of one are",
            roles.result,
        )
    place = np.where(winner[:, None] == np.arange(count), 0, 1).astype(np.int32)
    place[winner == count] = 0
    return np.asarray(place[there], dtype=np.int32)


def _side_said(text: str, count: int) -> float | None:
    """The side that won, counted from 0; `count` for a draw, NaN for what may be a name."""
    if count > 2:
        number = as_score(text)
        if number is not None and 1 <= number <= count and number == round(number):
            return number - 1
        return float(count) if who_won(text) == DRAW else float("nan")
    won = who_won(text)
    return float("nan") if won is None else 2.0 if won == DRAW else 1 - won


def _by_name(table: Table, roles: GameRoles, entries: NDArray[np.int32], said: Floats) -> Floats:
    """The side that the result names or says."""
    column = table.columns[roles.result]
    named = np.full(len(said), -1.0)
    known = {text: at for at, text in enumerate(column.levels) if text}
    for side, columns in enumerate(roles.sides):
        of = table.columns[columns[0]]
        place = np.array([known.get(text, -2) for text in of.levels], dtype=np.int64)
        named[place[of.codes] == column.codes] = side
    both = (named >= 0) & ~np.isnan(said) & (named != said)
    if both.any():
        row = int(both.argmax())
        table.refuse(
            row, f"{table.text(roles.result, row)!r} is the name of a side and a result as well", roles.result
        )
    return np.where(named >= 0, named, np.where(np.isnan(said), -1, said))


def _at_home(table: Table, roles: GameRoles, num_sides: int) -> dict[str, Floats]:
    """1 for the first side, 0 for the other one and on neutral ground."""
    if not roles.home:
        return {}
    ground = np.zeros(num_sides)
    ground[::2] = 1
    if roles.neutral:
        neutral = _numbers(table, roles.neutral, as_truth, "says neither yes nor no")
        assert neutral is not None
        ground[::2] -= neutral
    return {roles.home: ground}


def _side_numbers(
    table: Table,
    columns: Sequence[str],
    there: NDArray[np.bool_],
    judge: Any = as_score,
    words: str = "is no finite number",
) -> Floats:
    """One number a side; cells of sides that are not there are left alone."""
    found = np.empty(there.shape)
    for at, name in enumerate(columns):
        numbers, _ = table.columns[name].map(judge)
        levels = np.array([judge(text) is None for text in table.columns[name].levels])
        faulty = levels[table.columns[name].codes] & there[:, at]
        if faulty.any():
            row = int(faulty.argmax())
            text = table.text(name, row)
            table.refuse(row, f"{text!r} {words}" if text else "the cell is empty", name)
        found[:, at] = numbers
    return np.asarray(found[there])


def _numbers(table: Table, name: str, judge: Any, words: str) -> Floats | None:
    """A column as numbers; None where there is no such column."""
    if not name:
        return None
    numbers, row = table.columns[name].map(judge)
    if row is not None:
        text = table.text(name, row)
        table.refuse(row, f"{text!r} {words}" if text else "the cell is empty", name)
    return numbers


def _times(table: Table, name: str) -> Floats | None:
    """A column of dates, or of plain numbers."""
    found = _numbers(table, name, as_days, "is no date and no number; dates are such as 2024-05-31")
    if found is not None:
        column = table.columns[name]
        dates = np.array([is_date(text) for text in column.levels])[column.codes]
        other = dates != dates[:1]
        if other.any():
            row = int(other.argmax())
            kinds = ("a plain number", "a date") if dates[0] else ("a date", "a plain number")
            words = f"{table.text(name, row)!r} is {kinds[0]}, and the first row has {kinds[1]}"
            table.refuse(row, words, name)
    return found


def _ends(lengths: NDArray[Any]) -> Ints:
    ends = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends


# A row a player ----------------------------------------------------------------------------------


def long_games(table: Table, roles: GameRoles) -> Reading:
    """Games of a table of a row for each player of each side.

    Raises:
        InputError: naming the first row at fault.
    """
    said: list[str] = []
    if roles.place:
        value = _numbers(table, roles.place, as_place, "is no place")
    else:
        value = _numbers(table, roles.score, as_score, "is no finite number")
    assert value is not None
    rows = np.flatnonzero(~np.isnan(value))
    if len(rows) < len(value):
        said.append(f"{len(value) - len(rows):,} rows of who did not start are left out")
    rows, game_of, side_of = _grouped(table, roles, rows)
    first = np.flatnonzero(np.diff(side_of, prepend=-1))
    game_first = np.flatnonzero(np.diff(game_of, prepend=-1))
    side_ptr = np.append(np.searchsorted(first, game_first), len(first))
    few = np.diff(side_ptr) < 2
    if few.any():
        row = int(rows[game_first[int(few.argmax())]])
        table.refuse(row, f"the game {table.text(roles.game, row)!r} has one side; a game has two at least")
    value = _of_each(table, value, rows, side_of, first, roles.place or roles.score, "side")
    if roles.place:
        place = places_of(-value, side_ptr)
        _check_steps(table, value, place, side_ptr, rows[game_first], roles.place)
        if out := int(np.isinf(value).sum()):
            said.append(f"{out:,} sides without a place are an unordered last group")
    else:
        place = places_of(value, side_ptr)
    ids, names = _numbered(table, (*roles.player, *roles.shared))
    entries = np.stack(ids, axis=1)[rows]
    _check_long_players(table, roles, rows, game_of, entries, names)
    there = entries >= 0
    sizes = np.add.reduceat(there.sum(1), first)
    player, players = _in_order(entries[there], names)
    weight = _numbers(table, roles.weight, as_weight, "is no positive number")

    def per_game(name: str, numbers: Floats | None) -> Floats | None:
        return None if numbers is None else _of_each(table, numbers, rows, game_of, game_first, name, "game")

    def per_side(name: str, judge: Any = as_score, words: str = "is no finite number") -> Floats:
        numbers = _numbers(table, name, judge, words)
        assert numbers is not None
        return _of_each(table, numbers, rows, side_of, first, name, "side")

    covariates = {name: per_side(name) for name in roles.covariates}
    if roles.at_home:
        covariates = {"home": per_side(roles.at_home, as_truth, "says neither yes nor no"), **covariates}
    games = Games(
        table.name, players, side_ptr, _ends(sizes), player, place,
        weight=None if weight is None else np.repeat(weight[rows], there.sum(1)),
        score=None if roles.place or not roles.score else value,
        time=per_game(roles.date, _times(table, roles.date)),
        game_weight=per_game(
            roles.game_weight, _numbers(table, roles.game_weight, as_weight, "is no positive number")
        ),
        covariates=covariates,
        warnings=look_alikes(players),
    )  # fmt: skip
    return Reading(games, said)


def _grouped(table: Table, roles: GameRoles, rows: Ints) -> tuple[Ints, Ints, Ints]:
    """The rows with each game's, and each side's in it, together; and their games' and sides' numbers."""
    game = _by_appearance(table.columns[roles.game].codes[rows])
    if roles.side:
        codes = table.columns[roles.side].codes[rows].astype(np.int64)
        side = _by_appearance(game * (int(codes.max(initial=0)) + 1) + codes)
    else:
        side = np.arange(len(rows))
    order = np.lexsort((side, game))
    return rows[order], game[order], _by_appearance(side[order])


def _by_appearance(codes: NDArray[Any]) -> Ints:
    """Numbers that count from 0 in order of first appearance."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)]


def _of_each(
    table: Table, value: Floats, rows: Ints, group: Ints, first: Ints, column: str, what: str
) -> Floats:
    """The one value that all rows of a group agree on."""
    ordered = value[rows]
    heads = ordered[first]
    differs = ordered != heads[group]
    if differs.any():
        at = int(differs.argmax())
        table.refuse(
            int(rows[at]),
            f"{table.text(column, int(rows[at]))!r} is not what the {what}'s first row says, "
            f"{table.text(column, int(rows[first[group[at]]]))!r}",
            column,
        )
    return np.asarray(heads)


def _check_long_players(
    table: Table,
    roles: GameRoles,
    rows: Ints,
    game_of: Ints,
    entries: NDArray[np.int32],
    names: Sequence[str],
) -> None:
    """Every row names somebody, and nobody plays a game twice."""
    entries, shared = np.split(entries, [len(roles.player)], axis=1)
    if (both := np.isin(shared, entries) & (shared >= 0)).any():
        row, at = (int(place[0]) for place in np.nonzero(both))
        table.refuse(
            int(rows[row]), f"{names[shared[row, at]]!r} is the name of a player as well", roles.shared[at]
        )
    if (empty := (entries < 0).all(1)).any():
        table.refuse(int(rows[int(empty.argmax())]), "the cell is empty", roles.player[0])
    keys = (game_of[:, None] * len(names) + entries).astype(np.int64)
    keys[entries < 0] = -1 - np.arange(int((entries < 0).sum()))
    flat = keys.reshape(-1)
    order = np.argsort(flat, kind="stable")
    again = np.flatnonzero(flat[order][1:] == flat[order][:-1])
    if len(again):
        at = int(order[again + 1].min())
        row, who = int(rows[at // entries.shape[1]]), names[entries.reshape(-1)[at]]
        table.refuse(
            row,
            f"{who!r} is in the game {table.text(roles.game, row)!r} twice; a player is on one side, once",
        )


def _check_steps(
    table: Table, value: Floats, place: NDArray[np.int32], side_ptr: Ints, rows: Ints, column: str
) -> None:
    """Places begin at 1 (or 0), and go on without gaps: 1, 1, 3 and 1, 1, 2 are fine, 1, 3 is none."""
    lowest = np.minimum.reduceat(value, side_ptr[:-1])
    if (nobody := np.isinf(lowest)).any():
        table.refuse(int(rows[int(nobody.argmax())]), "nobody in this game has a place", column)
    if (late := lowest > 1).any():
        at = int(late.argmax())
        table.refuse(int(rows[at]), f"the game's first place is {lowest[at]:g}; places begin at 1", column)
    game = np.repeat(np.arange(len(lowest)), np.diff(side_ptr))
    skips = np.isfinite(value) & (value - lowest[game] > place)
    if skips.any():
        at = int(skips.argmax())
        held = value[side_ptr[game[at]] : side_ptr[game[at] + 1]]
        shown = listed(f"{each:g}" for each in np.sort(held[np.isfinite(held)]))
        table.refuse(
            int(rows[game[at]]),
            f"the places of the game that begins here are {shown}: none may be skipped but after a tie",
            column,
        )
