"""Games of a table in which a row is a player of a game."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def long_games(table: Table, roles: GameRoles) -> Reading:
    """Games of a table of a row for each player of each side.

    Raises:
        InputError: naming the first row at fault.
    """
    said: list[str] = []
    ranked = roles.place or roles.order
    if roles.place:
        value = numbers_of(table, roles.place, as_place, "is no place")
    elif roles.order:
        value = numbers_of(table, roles.order, as_order, "is no number")
    else:
        value = numbers_of(table, roles.score, as_score, "is no finite number")
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
    value = _of_each(table, value, rows, side_of, first, ranked or roles.score, "side")
    if ranked:
        place = places_of(-value, side_ptr)
        if roles.place:
            check_steps(table, value, place, side_ptr, rows[game_first], ranked, roles.game)
        else:
            check_ranked(table, value, side_ptr, rows[game_first], ranked)
        if out := int(np.isinf(value).sum()):
            said.append(f"{out:,} sides without a place are an unordered last group")
    else:
        place = places_of(value, side_ptr)
    entries, names = numbered(table, (*roles.player, *roles.shared))
    entries = entries[rows]
    _once_a_side(entries, side_of, len(roles.player))
    _check_long_players(table, roles, rows, game_of, entries, names)
    there = entries >= 0
    sizes = np.add.reduceat(there.sum(1), first)
    player, players = in_order(entries[there], names)
    weight = numbers_of(table, roles.weight, as_weight, "is no positive number")

    def per_game(name: str, numbers: Floats | None) -> Floats | None:
        return None if numbers is None else _of_each(table, numbers, rows, game_of, game_first, name, "game")

    def per_side(name: str, judge: Any = as_score, words: str = "is no finite number") -> Floats:
        numbers = numbers_of(table, name, judge, words)
        assert numbers is not None
        return _of_each(table, numbers, rows, side_of, first, name, "side")

    covariates = {name: per_side(name) for name in roles.covariates}
    if roles.at_home:
        covariates = {"home": per_side(roles.at_home, as_truth, "says neither yes nor no"), **covariates}
    games = Games(
        table.name, players, side_ptr, ends_of(sizes), player, place,
        weight=None if weight is None else np.repeat(weight[rows], there.sum(1)),
        score=None if ranked else value,
        time=per_game(roles.date, times_of(table, roles.date)),
        game_weight=per_game(
            roles.game_weight, numbers_of(table, roles.game_weight, as_weight, "is no positive number")
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
