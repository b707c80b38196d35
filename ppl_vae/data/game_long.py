"""Games of a table in which a row is a player of a game."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.wording import counted
from ppl_vae.data.game_cells import Table
from ppl_vae.data.game_roles import GameRoles
from ppl_vae.data.game_rows import (
    Reading,
    check_ranked,
    check_steps,
    ends_of,
    in_order,
    numbered,
    numbers_of,
    times_of,
)
from ppl_vae.data.game_words import (
    as_order,
    as_place,
    as_score,
    as_truth,
    as_weight,
)
from ppl_vae.data.games import Floats, Games, Ints, places_of
from ppl_vae.data.player_names import look_alikes

__all__ = ["long_games"]


@dataclass(frozen=True, eq=False)
class _Grouped:
    """Rows of a table by game, and in each by side.

    Attributes:
        table: of the rows.
        rows: their numbers, those of a game and of a side together.
        game_of, side_of: of each, numbers of games and sides.
        first, game_first: places in ``rows`` of each side's, and each game's, first.
    """

    table: Table
    rows: Ints
    game_of: Ints
    side_of: Ints
    first: Ints
    game_first: Ints

    @classmethod
    def of(cls, table: Table, roles: GameRoles, rows: Ints) -> Self:
        """These rows; refuses a game of one side."""
        game = _by_appearance(table.columns[roles.game].codes[rows])
        if roles.side:
            codes = table.columns[roles.side].codes[rows].astype(np.int64)
            side = _by_appearance(game * (int(codes.max(initial=0)) + 1) + codes)
        else:
            side = np.arange(len(rows))
        order = np.lexsort((side, game))
        rows, game, side = rows[order], game[order], _by_appearance(side[order])
        found = cls(
            table, rows, game, side, *(np.flatnonzero(np.diff(of, prepend=-1)) for of in (side, game))
        )
        if (few := np.diff(found.side_ptr) < 2).any():
            row = int(found.heads[int(few.argmax())])
            name = table.text(roles.game, row)
            table.refuse(row, f"the game {name!r} has one side; a game has two at least")
        return found

    @property
    def side_ptr(self) -> Ints:
        """Sides of game g are side_ptr[g] : side_ptr[g + 1]."""
        return np.append(np.searchsorted(self.first, self.game_first), len(self.first))

    @property
    def heads(self) -> Ints:
        """The row of each game's first player."""
        return self.rows[self.game_first]

    def by_side(self, column: str, value: Floats) -> Floats:
        """The one value of each side."""
        return _of_each(self.table, value, self.rows, self.side_of, self.first, column, "side")

    def by_game(self, column: str, value: Floats | None) -> Floats | None:
        """The one value of each game; None where there is no such column."""
        if value is None:
            return None
        return _of_each(self.table, value, self.rows, self.game_of, self.game_first, column, "game")


def long_games(table: Table, roles: GameRoles) -> Reading:
    """Games of a table of a row for each player of each side.

    Raises:
        InputError: naming the first row at fault.
    """
    value = _ends(table, roles)
    rows = np.flatnonzero(~np.isnan(value))
    absent = len(value) - len(rows)
    said = [f"{counted(absent, 'row')} of who did not start left out"] if absent else []
    grouped = _Grouped.of(table, roles, rows)
    value, place, more = _placed(grouped, roles, value)
    entries, names = numbered(table, (*roles.player, *roles.shared))
    entries = entries[grouped.rows]
    _once_a_side(entries, grouped.side_of, len(roles.player))
    _check_long_players(table, roles, grouped.rows, grouped.game_of, entries, names)
    there = entries >= 0
    sizes = np.add.reduceat(there.sum(1), grouped.first)
    player, players = in_order(entries[there], names)
    weight = numbers_of(table, roles.weight, as_weight, "is no positive number")
    power = numbers_of(table, roles.game_weight, as_weight, "is no positive number")
    games = Games(
        table.name, players, grouped.side_ptr, ends_of(sizes), player, place,
        weight=None if weight is None else np.repeat(weight[grouped.rows], there.sum(1)),
        score=None if roles.place or roles.order else value,
        time=grouped.by_game(roles.date, times_of(table, roles.date)),
        game_weight=grouped.by_game(roles.game_weight, power),
        covariates=_covariates(grouped, roles),
        warnings=look_alikes(players),
    )  # fmt: skip
    return Reading(games, [*said, *more])


def _ends(table: Table, roles: GameRoles) -> Floats:
    """What each row says of how its game ended: a place, what gives the order, or a score."""
    if roles.place:
        found = numbers_of(table, roles.place, as_place, "is no place")
    elif roles.order:
        found = numbers_of(table, roles.order, as_order, "is no number")
    else:
        found = numbers_of(table, roles.score, as_score, "is no finite number")
    assert found is not None
    return found


def _placed(
    grouped: _Grouped, roles: GameRoles, value: Floats
) -> tuple[Floats, NDArray[np.int32], list[str]]:
    """The value and the place of each side, and what there is to say of them."""
    ranked, side_ptr = roles.place or roles.order, grouped.side_ptr
    value = grouped.by_side(ranked or roles.score, value)
    if not ranked:
        return value, places_of(value, side_ptr), []
    place = places_of(-value, side_ptr)
    if roles.place:
        check_steps(grouped.table, value, place, side_ptr, grouped.heads, ranked, roles.game)
    else:
        check_ranked(grouped.table, value, side_ptr, grouped.heads, ranked)
    out = int(np.isinf(value).sum())
    unplaced = f"{counted(out, 'side')} without a place in an unordered last group"
    return value, place, [unplaced] if out else []


def _covariates(grouped: _Grouped, roles: GameRoles) -> dict[str, Floats]:
    """Of each side, by name; of the side at home first."""

    def read(column: str, judge: Callable[[str], float | None], words: str) -> Floats:
        numbers = numbers_of(grouped.table, column, judge, words)
        assert numbers is not None
        return grouped.by_side(column, numbers)

    home = {"home": read(roles.at_home, as_truth, "says neither yes nor no")} if roles.at_home else {}
    return home | {name: read(name, as_score, "is no finite number") for name in roles.covariates}


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


def _once_a_side(entries: NDArray[np.int32], side_of: Ints, own: int) -> None:
    """What rows of a side have in common, such as a car of two drivers, stays in the first of them alone."""
    for column in range(own, entries.shape[1]):
        _, first = np.unique(np.stack([side_of, entries[:, column]]), axis=1, return_index=True)
        again = np.ones(len(side_of), dtype=bool)
        again[first] = False
        entries[again, column] = -1


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
