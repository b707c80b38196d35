"""Who plays: names, and what is known of players before any game."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, brief, listed

if TYPE_CHECKING:
    from ppl_vae.data.dataset import Dataset

__all__ = ["Roster"]

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Roster:
    """The players, by position.

    Attributes:
        names: of the players.
        mean, sd: of their priors, shape (players,); NaN where the model's own holds.
        group: positions in ``groups``, −1 for none.
        groups: names.
        covariate: what else is known of them, shape (players, covariates).
        covariates: its names.
    """

    names: tuple[str, ...]
    mean: Reals
    sd: Reals
    group: NDArray[np.int64]
    covariate: Reals
    groups: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """Players of whom nothing is known."""
        nothing = np.full(len(names), np.nan)
        none = np.full(len(names), -1)
        return cls(tuple(names), nothing, nothing, none, np.zeros((len(names), 0)))

    @classmethod
    def read(cls, source: str | Path, names: Sequence[str]) -> Self:
        """Players of whom a table tells: a column of their names, and any of mean, sd, group and covariates.

        Players that it does not name have the model's own prior, no group, and each covariate at its mean
        over those that it names. Lines of players without games are left out.

        Args:
            source: a file with a header: "name" (or "player"), "mean", "sd", "group"; further columns of
                numbers are covariates, which are centred and scaled over the players named.
            names: the players of the games.

        Raises:
            InputError: for a name that stands twice or is no column, an sd that is not positive, or text
                where a number is needed.
        """
        from ppl_vae.data.accept import as_dataset

        return cls.told(as_dataset(str(source)), names)

    @classmethod
    def told(cls, table: Dataset, names: Sequence[str]) -> Self:
        """As `read`, of a data set."""
        held = {key.casefold(): key for key in table if table[key].kind != "mask"}
        key = held.pop("name", None) or held.pop("player", None)
        if key is None:
            raise InputError(f"{table.name} has no column 'name': it has {listed(table)}")
        lines = _lines(table, key)
        at = np.array([lines.get(name, -1) for name in names])
        mean, sd = (
            _along(_numbers(table, held.pop(column)), at) if column in held else np.full(len(at), np.nan)
            for column in ("mean", "sd")
        )
        if (wrong := np.flatnonzero(sd <= 0)).size:
            raise InputError(
                f"{table.name}: the sd of {names[wrong[0]]!r} is {sd[wrong[0]]:g}; it must be positive"
            )
        groups, group = (
            _groups(table, held.pop("group"), at) if "group" in held else ((), np.full(len(at), -1))
        )
        columns = [_scaled(table, column, at) for column in held.values()]
        covariate = np.stack(columns, 1) if columns else np.zeros((len(at), 0))
        return cls(tuple(names), mean, sd, group, covariate, groups, tuple(held.values()))


def _texts(table: Dataset, column: str) -> list[str]:
    found = table[column]
    values = found.names() if found.levels else found.values
    return ["" if value is None or value != value else _text(value) for value in values.tolist()]


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _lines(table: Dataset, column: str) -> dict[str, int]:
    """The line of each name."""
    lines: dict[str, int] = {}
    for line, name in enumerate(_texts(table, column)):
        if name in lines:
            raise InputError(
                f"{table.name}: the player {name!r} stands on lines {lines[name] + 1} and {line + 1}"
            )
        lines[name] = line
    return lines


def _numbers(table: Dataset, column: str) -> Reals:
    found = table[column]
    if found.levels or found.values.ndim != 1 or found.values.dtype.kind not in "biuf":
        raise InputError(found.fault or f"{table.name}: the column {brief(column)!r} must hold numbers")
    return found.values.astype(np.float64)


def _along(values: Reals, at: NDArray[np.int64]) -> Reals:
    """A column's values by player, NaN for those without a line."""
    return np.where(at < 0, np.nan, values[at])


def _groups(table: Dataset, column: str, at: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    texts = _texts(table, column)
    own = [texts[line] if line >= 0 else "" for line in at]
    groups = tuple(dict.fromkeys(text for text in own if text))
    place = {name: k for k, name in enumerate(groups)} | {"": -1}
    return groups, np.array([place[text] for text in own])


def _scaled(table: Dataset, column: str, at: NDArray[np.int64]) -> Reals:
    values = _along(_numbers(table, column), at)
    there = values[~np.isnan(values)]
    if not there.size or not there.std():
        raise InputError(
            f"{table.name}: the column {brief(column)!r} is the same for all players of these games"
        )
    return np.nan_to_num((values - there.mean()) / there.std())
