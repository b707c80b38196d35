"""From the columns of a table to games: what a row a game and a row a player have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import listed
from ppl_vae.data.game_cells import Table
from ppl_vae.data.game_words import NOBODY, as_days, is_date
from ppl_vae.data.games import Floats, Games, Ints

__all__ = [
    "Reading",
    "check_ranked",
    "check_steps",
    "ends_of",
    "in_order",
    "numbered",
    "numbers_of",
    "times_of",
]


@dataclass(eq=False)
class Reading:
    """Games, and what has to be said of how they were read.

    Attributes:
        games: as read.
        said: further words for the line that says what was understood.
    """

    games: Games
    said: list[str] = field(default_factory=list)


def numbered(table: Table, columns: Sequence[str]) -> tuple[NDArray[np.int32], list[str]]:
    """The players in each column by numbers in no particular order, −1 for empty cells, shape (rows,
    columns); and their names."""
    known: dict[str, int] = {}
    found = np.empty((table.num_rows, len(columns)), dtype=np.int32)
    for at, name in enumerate(columns):
        column = table.columns[name]
        places = np.array(
            [known.setdefault(text, len(known)) if text else -1 for text in column.levels], dtype=np.int32
        )
        if strange := [level for level, text in enumerate(column.levels) if text in NOBODY]:
            row = int(np.isin(column.codes, strange).argmax())
            table.refuse(
                row,
                f"'{table.text(name, row)}' stands for a missing name; drop the game, or spell the player "
                "otherwise",
                name,
            )
        found[:, at] = places[column.codes] if len(places) else -1
    return found, list(known)


def in_order(player: NDArray[Any], names: Sequence[str]) -> tuple[Ints, tuple[str, ...]]:
    """Players by order of first appearance."""
    if len(player) < 10**5:
        order = np.array(list(dict.fromkeys(player.tolist())), dtype=np.int64)
    else:
        import pandas as pd

        order = np.asarray(pd.unique(player))
    place = np.full(len(names), -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    return place[player], tuple(names[at] for at in order)


def numbers_of(table: Table, name: str, judge: Any, words: str) -> Floats | None:
    """A column as numbers; None where there is no such column."""
    if not name:
        return None
    numbers, row = table.columns[name].map(judge)
    if row is not None:
        text = table.text(name, row)
        table.refuse(row, f"{text!r} {words}" if text else "the cell is empty", name)
    return numbers


def times_of(table: Table, name: str) -> Floats | None:
    """A column of dates, or of plain numbers."""
    found = numbers_of(table, name, as_days, "is no date and no number; dates are such as 2024-05-31")
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


def check_ranked(table: Table, value: Floats, side_ptr: Ints, rows: Ints, column: str) -> Floats:
    """Somebody of every game has a place; the lowest of each, shape (games,)."""
    lowest: Floats = np.minimum.reduceat(value, side_ptr[:-1])
    if (nobody := np.isinf(lowest)).any():
        table.refuse(int(rows[int(nobody.argmax())]), "nobody in this game has a place", column)
    return lowest


def check_steps(
    table: Table,
    value: Floats,
    place: NDArray[np.int32],
    side_ptr: Ints,
    rows: Ints,
    column: str,
    game: str = "",
) -> None:
    """Places begin at 1 (or 0), and go on without gaps: 1, 1, 3 and 1, 1, 2 are fine, 1, 3 is none.

    Args:
        table: for sentences.
        value: what the column says, ∞ without a place, shape (sides,).
        place: how many sides are ahead, of the same shape.
        side_ptr: each game's sides.
        rows: each game's first.
        column: the places'.
        game: the column of games' names, where a row is a player.
    """
    lowest = check_ranked(table, value, side_ptr, rows, column)
    if (late := lowest > 1).any():
        at = int(late.argmax())
        table.refuse(
            int(rows[at]),
            f"the game's first place is {lowest[at]:g}; places begin at 1{_order(game, column)}",
            column,
        )
    of = np.repeat(np.arange(len(lowest)), np.diff(side_ptr))
    skips = np.isfinite(value) & (value - lowest[of] > place)
    if skips.any():
        at = int(skips.argmax())
        number, row = of[at], int(rows[of[at]])
        held = value[side_ptr[number] : side_ptr[number + 1]]
        shown = listed(f"{each:g}" for each in np.sort(held[np.isfinite(held)]))
        name = (
            f"the game {table.text(game, row)!r}, which begins here," if game else "the game that begins here"
        )
        table.refuse(
            row,
            f"the places of {name} are {shown}: {lowest[number] + place[at]:g} is nobody's, and none may be "
            f"skipped but after a tie{_order(game, column)}",
            column,
        )


def _order(game: str, column: str) -> str:
    """What to do about a column of which only the order is meant."""
    return f" (--column order={column} takes nothing but their order)" if game else ""


def ends_of(lengths: NDArray[Any]) -> Ints:
    """Where each of some consecutive groups ends, with a leading 0, by their lengths."""
    ends = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends
