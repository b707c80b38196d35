"""Games of a table in which a row is a game."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.data.game_cells import Table
from ppl_vae.data.game_roles import GameRoles
from ppl_vae.data.game_rows import Reading, check_steps, ends_of, in_order, numbered, numbers_of, times_of
from ppl_vae.data.game_words import (
    DRAW,
    as_place,
    as_score,
    as_truth,
    as_weight,
    is_draw,
    who_won,
)
from ppl_vae.data.games import Floats, Games, Ints, places_of
from ppl_vae.data.player_names import look_alikes

__all__ = ["wide_games"]


def wide_games(table: Table, roles: GameRoles) -> Reading:
    """Games of a table of a row each.

    Raises:
        InputError: naming the first row at fault.
    """
    flat = [column for side in roles.sides for column in side]
    ids, names = numbered(table, flat)
    entries = np.stack(ids, axis=1)
    sizes = np.cumsum([0, *(len(side) for side in roles.sides)])
    members = np.stack([(entries[:, a:b] >= 0).sum(1) for a, b in pairwise(sizes)], axis=1)
    _check_sides(table, roles, members)
    _check_once(table, roles, entries, names)
    whole = bool((entries >= 0).all())
    there = members > 0
    side_ptr = ends_of(there.sum(1))
    score = _side_numbers(table, roles.scores, there) if roles.scores else None
    place = _wide_places(table, roles, entries, there, side_ptr, score)
    flat_player = entries.reshape(-1) if whole else entries[entries >= 0]
    del entries
    player, players = in_order(flat_player, names)
    games = Games(
        table.name, players, side_ptr, ends_of(members[there]), player, place,
        score=score,
        time=times_of(table, roles.date),
        game_weight=numbers_of(table, roles.game_weight, as_weight, "is no positive number"),
        covariates=_at_home(table, roles, len(place))
        | {name: _side_numbers(table, of, there) for name, of in roles.covariates.items()},
        warnings=look_alikes(players),
    )  # fmt: skip
    return Reading(games)


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
        check_steps(table, place, found, side_ptr, np.arange(len(side_ptr) - 1), roles.places[0])
        return found
    assert score is not None
    return places_of(score, side_ptr)


def _won(table: Table, roles: GameRoles) -> NDArray[np.int32]:
    """The first side won, but where a column says that the game was drawn."""
    place = np.tile(np.array([0, 1], dtype=np.int32), table.num_rows)
    if roles.draw:
        drawn = numbers_of(table, roles.draw, is_draw, "says neither yes nor no")
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
        neutral = numbers_of(table, roles.neutral, as_truth, "says neither yes nor no")
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
