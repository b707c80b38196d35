"""Games of a table in which a row is a game."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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

# The side that a result says has won, where it says none.
NOT_SAID = -1


@dataclass(frozen=True, eq=False)
class _Seats:
    """Which seats of the table's games are taken; all of them, for most tables.

    Attributes:
        entries: who sits where, −1 for nobody, shape (rows, columns).
        sizes: of the sides, in columns.
        whole: whether nobody is missing, so that nothing has to be left out.
    """

    entries: NDArray[np.int32]
    sizes: tuple[int, ...]
    whole: bool

    @classmethod
    def of(cls, entries: NDArray[np.int32], sizes: tuple[int, ...]) -> _Seats:
        """See the class."""
        return cls(entries, sizes, bool((entries >= 0).all()))

    @cached_property
    def members(self) -> Ints:
        """How many players each side of each game has, shape (rows, sides)."""
        ends = np.cumsum([0, *self.sizes])
        return np.stack([(self.entries[:, a:b] >= 0).sum(1) for a, b in pairwise(ends)], axis=1)

    def players(self) -> NDArray[np.int32]:
        """Who is there, game by game, shape (entries,)."""
        return self.entries.reshape(-1) if self.whole else self.entries[self.entries >= 0]

    def kept(self, values: NDArray[Any]) -> NDArray[Any]:
        """Those of the sides that are there, of numbers of shape (rows, sides)."""
        return values.reshape(-1) if self.whole else values[self.members > 0]

    def ends(self) -> tuple[Ints, Ints]:
        """``side_ptr`` and ``entry_ptr`` of `Games`; sides of one player each share them."""
        rows, count = len(self.entries), len(self.sizes)
        if self.whole and all(size == 1 for size in self.sizes):
            ends = np.arange(rows * count + 1)
            return ends[::count], ends
        if self.whole:
            return np.arange(rows + 1) * count, ends_of(np.tile(np.array(self.sizes), rows))
        there = self.members > 0
        return ends_of(there.sum(1)), ends_of(self.members[there])


def wide_games(table: Table, roles: GameRoles) -> Reading:
    """Games of a table of a row each.

    Raises:
        InputError: naming the first row at fault.
    """
    flat = [column for side in roles.sides for column in side]
    entries, names = numbered(table, flat)
    seats = _Seats.of(entries, tuple(len(side) for side in roles.sides))
    _check_sides(table, roles, seats)
    _check_once(table, roles, entries, names)
    score = _side_numbers(table, roles.scores, seats) if roles.scores else None
    place = _wide_places(table, roles, seats, score)
    at_home = _at_home(table, roles, len(place))
    covariates = {name: _side_numbers(table, of, seats) for name, of in roles.covariates.items()}
    player, players = in_order(seats.players(), names)
    side_ptr, entry_ptr = seats.ends()
    # Ten million games are large: what is not needed for the rest goes.
    del entries, seats
    games = Games(
        table.name, players, side_ptr, entry_ptr, player, place,
        score=score,
        time=times_of(table, roles.date),
        game_weight=numbers_of(table, roles.game_weight, as_weight, "is no positive number"),
        covariates=at_home | covariates,
        warnings=look_alikes(players),
    )  # fmt: skip
    return Reading(games)


def _check_sides(table: Table, roles: GameRoles, seats: _Seats) -> None:
    """Every game has two sides of a player each at least."""
    if seats.whole:
        return
    members = seats.members
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


def _wide_places(table: Table, roles: GameRoles, seats: _Seats, score: Floats | None) -> NDArray[np.int32]:
    if roles.winner_first:
        return _won(table, roles)
    if roles.result:
        return _by_result(table, roles, seats)
    side_ptr, _ = seats.ends()
    if roles.places:
        place = _side_numbers(table, roles.places, seats, as_place, "is no place")
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


def _by_result(table: Table, roles: GameRoles, seats: _Seats) -> NDArray[np.int32]:
    """By a word for the outcome, the number of a side, or the name of a player who is a side."""
    column, count = table.columns[roles.result], len(roles.sides)
    words = {text.casefold() for text in column.levels}
    if not roles.home and "0" in words and "2" in words:
        table.refuse(0, "0 beside 2 may be a draw or a loss: write draw", roles.result)
    judged = (_side_said(text, count) for text in column.levels)
    said = np.array([NOT_SAID if side is None else side for side in judged], dtype=np.int16)
    if not _names_a_side(table, roles):
        # Few words are distinct: each is judged once, and rows are looked up.
        _refuse_unsaid(table, roles, said[column.codes] if (said == NOT_SAID).any() else said[:0])
        return np.asarray(seats.kept(_places_by(said, count)[column.codes]))
    winner = _by_name(table, roles, said[column.codes])
    _refuse_unsaid(table, roles, winner)
    return np.asarray(seats.kept(_places_by(winner, count)))


def _places_by(winner: NDArray[np.int16], count: int) -> NDArray[np.int32]:
    """The sides' places where these win, (…, sides); `count` is a draw."""
    place = (winner[:, None] != np.arange(count)).astype(np.int32)
    place[winner == count] = 0
    return place


def _refuse_unsaid(table: Table, roles: GameRoles, winner: NDArray[np.int16]) -> None:
    """Refuse the first row whose result is none."""
    unknown = winner == NOT_SAID
    if not unknown.any():
        return
    row = int(unknown.argmax())
    text = table.text(roles.result, row)
    words = f"{text!r} is no result" if text else "the cell is empty"
    table.refuse(
        row,
        f"{words}; 1-0, 0-1, draw, H, A, D, the number of a side or the name of one are",
        roles.result,
    )


def _side_said(text: str, count: int) -> int | None:
    """The side that won, counted from 0; `count` for a draw, None for what may be a name."""
    if count > 2:
        number = as_score(text)
        if number is not None and 1 <= number <= count and number == round(number):
            return int(number) - 1
        return count if who_won(text) == DRAW else None
    won = who_won(text)
    return None if won is None else 2 if won == DRAW else round(1 - won)


def _names_a_side(table: Table, roles: GameRoles) -> bool:
    """Whether a result anywhere is the name of a side of one player."""
    if any(len(side) != 1 for side in roles.sides):
        return False
    results = {text for text in table.columns[roles.result].levels if text}
    return any(not results.isdisjoint(table.columns[side[0]].levels) for side in roles.sides)


def _by_name(table: Table, roles: GameRoles, said: NDArray[np.int16]) -> NDArray[np.int16]:
    """The side that the result names or says."""
    column = table.columns[roles.result]
    named = np.full(len(said), NOT_SAID, dtype=np.int16)
    known = {text: at for at, text in enumerate(column.levels) if text}
    for side, columns in enumerate(roles.sides):
        of = table.columns[columns[0]]
        place = np.array([known.get(text, -2) for text in of.levels], dtype=np.int32)
        named[place[of.codes] == column.codes] = side
    both = (named >= 0) & (said >= 0) & (named != said)
    if both.any():
        row = int(both.argmax())
        table.refuse(
            row, f"{table.text(roles.result, row)!r} is the name of a side and a result as well", roles.result
        )
    return np.where(named >= 0, named, said)


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
    seats: _Seats,
    judge: Any = as_score,
    words: str = "is no finite number",
) -> Floats:
    """One number a side; cells of sides that are not there are left alone."""
    found = np.empty((table.num_rows, len(columns)))
    for at, name in enumerate(columns):
        numbers, row = table.columns[name].map(judge)
        if row is not None:
            levels = np.array([judge(text) is None for text in table.columns[name].levels])
            faulty = levels[table.columns[name].codes]
            if not seats.whole:
                faulty &= seats.members[:, at] > 0
            if faulty.any():
                row = int(faulty.argmax())
                text = table.text(name, row)
                table.refuse(row, f"{text!r} {words}" if text else "the cell is empty", name)
        found[:, at] = numbers
    return np.asarray(seats.kept(found))
