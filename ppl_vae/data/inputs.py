"""What a model takes from a data set: its inputs by name, each of a kind, observed or conditioned on.

A model declares them in the order of its program's parameters::

    inputs = {"x": Features(kinds=("binary", "grey")), "label": Category()}

and `Dataset.arguments(inputs)` finds the variables by these names, or by a mapping of the user's
(`columns={"label": "species"}`), and makes its tensors of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, listed
from ppl_vae.data.columns import MASK, category_codes, missing
from ppl_vae.data.dataset import Variable, VariableKind
from ppl_vae.data.game_inputs import (
    DUELS,
    Covariates,
    DuelOutcome,
    DuelPlayers,
    GameInput,
    GameTime,
    GameWeight,
    Outcome,
    Players,
    Weight,
    game_inputs,
)
from ppl_vae.data.input import Input, WholeInput, as_reals, as_whole, writable
from ppl_vae.data.matching import NUMERIC, also, stacked
from ppl_vae.data.precision import held_exactly
from ppl_vae.data.ragged import joined, padded

if TYPE_CHECKING:
    import torch

    from ppl_vae.data.matching import Search

__all__ = [
    "DUELS",
    "Category",
    "Condition",
    "Count",
    "Covariates",
    "DuelOutcome",
    "DuelPlayers",
    "Features",
    "GameInput",
    "GameTime",
    "GameWeight",
    "Group",
    "Index",
    "Input",
    "Mask",
    "Outcome",
    "Players",
    "Points",
    "Sequence",
    "Time",
    "Weight",
    "game_inputs",
]


@dataclass(frozen=True, kw_only=True)
class Features(Input):
    """A matrix of reals, (units, features): the one there is, or every numeric column that no other input
    takes.

    Images fold into rows, and their bytes become greys in [0, 1].

    Attributes:
        kinds: what the values may be.
    """

    turn: ClassVar[int] = 1
    kinds: tuple[VariableKind, ...] = ("real", "grey", "binary", "count")

    def prepare(self, name: str, search: Search) -> Variable:
        """See `Input.prepare`."""
        found = _folded(self._matrix(name, search))
        if found.kind not in self.kinds:
            raise InputError(
                f"{search.dataset.name}: the values of {name!r} are {found.kind}, and the model takes "
                f"{' or '.join(self.kinds)} ones."
            )
        return search.check_whole(name, found)

    def _matrix(self, name: str, search: Search) -> Variable:
        dataset = search.dataset
        if name not in search.columns:
            matrices = [key for key, found in dataset.variables.items() if _is_matrix(found)]
            known = [key for key in (name, *also(name)) if key in matrices]
            free = known or [key for key in matrices if key not in search.taken]
            if len(free) == 1 or known:
                search.taken.add(free[0])
                return dataset[free[0]]
            if free:
                raise InputError(
                    f"{dataset.name} must hold {name!r} as a matrix of this name, or as its only one; it "
                    "holds "
                    f"{listed([f'{key} {dataset[key].values.shape}' for key in free])}."
                )
        names = search.named(name) if name in search.columns else search.rest()
        if len(names) == 1 and dataset[names[0]].values.ndim > 1:
            return dataset[names[0]]
        if not names:
            raise InputError(
                f"{dataset.name} has no numeric column for {name!r}: it has {listed(search.offered())}."
            )
        return stacked(dataset, names)


def _is_matrix(variable: Variable) -> bool:
    return variable.values.ndim > 1 and variable.kind in NUMERIC and not variable.is_ragged


def _folded(found: Variable) -> Variable:
    """Images as rows of features in [0, 1]."""
    values, shape = found.values, found.values.shape
    if found.kind == "image":
        scaled = np.divide(values, np.float32(255), dtype=np.float32)
        found = Variable(scaled, "grey", image_shape=shape[1:])
    if found.values.ndim == 2:
        labels = found.labels or {found.dims[0]: tuple(f"x{place + 1}" for place in range(shape[1]))}
        return replace(found, labels=labels)
    names = ("_".join(map(str, place)) for place in np.ndindex(*shape[1:]))
    return Variable(
        found.values.reshape(shape[0], -1),
        found.kind,
        labels={"feature": tuple(f"pixel_{place}" for place in names)},
        image_shape=shape[1:],
        fault=found.fault,
    )


@dataclass(frozen=True, kw_only=True)
class Category(WholeInput):
    """A category a unit, int64 of shape (units,): positions in the levels, −1 where a missing one is masked.

    Attributes:
        levels: the names of the categories, where they are known before the data; otherwise those that occur.
    """

    observed: bool = False
    levels: tuple[str, ...] = ()

    def prepare(self, name: str, search: Search) -> Variable:
        """See `Input.prepare`."""
        found = search.one(name)
        if found.values.ndim != 1 or found.is_ragged:
            raise InputError(
                f"{search.dataset.name}: {name!r} must be one category a unit, not {found.values.shape}."
            )
        if found.levels and not self.levels:
            found = replace(found, kind="category", fault="", values=found.values.astype(np.int64))
        else:
            found = self._encoded(name, found, search)
        return search.check_whole(name, found)

    def _encoded(self, name: str, found: Variable, search: Search) -> Variable:
        try:
            codes, levels = category_codes(found.names() if found.levels else found.values, self.levels)
        except InputError as error:
            raise InputError(f"{search.dataset.name}, {name!r}: {error}") from None
        return Variable(codes, "category", levels=levels)


@dataclass(frozen=True, kw_only=True)
class Condition(Category):
    """What a program is conditioned on: a category a unit, or a matrix of reals, (units, features).

    One column of text, of whole numbers or of zeros and ones is a category; one of other numbers, several
    columns, a matrix and images are features, as of `Features`.
    """

    def prepare(self, name: str, search: Search) -> Variable:
        """See `Input.prepare`."""
        names = search.named(name) or [name]
        found = search.one(name) if len(names) == 1 else stacked(search.dataset, names)
        if found.is_ragged or found.kind not in (*NUMERIC, "category", "index"):
            raise InputError(
                f"{search.dataset.name}: {name!r} is {'ragged' if found.is_ragged else found.kind}, and the "
                "model is conditioned on a category, numbers or an image."
            )
        if found.values.ndim == 1 and (self.levels or found.kind not in ("real", "grey")):
            return super().prepare(name, search)
        found = stacked(search.dataset, names) if found.values.ndim == 1 else _folded(found)
        return search.check_whole(name, found)

    def tensor(self, variable: Variable, where: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Input.tensor`: int64 of categories, else the program's reals."""
        return as_whole(variable) if variable.kind == "category" else as_reals(variable, where, dtype)


@dataclass(frozen=True, kw_only=True)
class Group(Category):
    """The group that a unit belongs to, by any name or number, int64 of shape (units,)."""


@dataclass(frozen=True, kw_only=True)
class Index(WholeInput):
    """Positions that count from 0, or names that are numbered: int64 of shape (units,)."""

    observed: bool = False

    def prepare(self, name: str, search: Search) -> Variable:
        """See `Input.prepare`."""
        found = search.check_whole(name, search.one(name))
        if found.levels:
            return replace(found, kind="index")
        values = found.values
        if values.dtype.kind not in "iub" or (values.size and values.min() < 0):
            raise InputError(
                f"{search.dataset.name}: {name!r} must be positions that count from 0, or names."
            )
        if values.dtype.kind == "u" and values.size and int(values.max()) >= 2**63:
            raise InputError(f"{search.dataset.name}: {name!r} holds positions beyond 2^63.")
        return Variable(values.astype(np.int64), "index")


@dataclass(frozen=True, kw_only=True)
class Count(Input):
    """A count a unit, shape (units,).

    Attributes:
        integers: whether the program takes int64; the program's reals otherwise.
    """

    integers: bool = False

    def prepare(self, name: str, search: Search) -> Variable:
        """See `Input.prepare`."""
        found = search.one(name)
        if found.kind == "category":
            raise InputError(
                found.fault or f"{search.dataset.name}: {name!r} holds categories and no counts."
            )
        found = search.check_whole(name, found)
        there = found.values[~np.isnan(found.values)] if found.values.dtype.kind == "f" else found.values
        if wrong := [float(value) for value in there.ravel() if value < 0 or value != np.round(value)][:1]:
            raise InputError(
                f"{search.dataset.name}: {name!r} must be counts, whole and not negative, not {wrong[0]:g}."
            )
        return Variable(
            found.values.astype(np.int64) if found.values.dtype.kind == "b" else found.values, "count"
        )

    def tensor(self, variable: Variable, where: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Input.tensor`: int64 or the program's reals."""
        return as_whole(variable) if self.integers else as_reals(variable, where, dtype)


@dataclass(frozen=True, kw_only=True)
class Sequence(Input):
    """A sequence a unit, of shape (units, steps) or (units, steps, features); shorter ones end in NaN.

    A variable of two or three dimensions or a ragged one, or columns of one table row each: NAME1, NAME2, ….
        A table of
    a line a step becomes sequences by the column that names their units (`columns={"unit": …}`).
    """

    def prepare(self, name: str, search: Search) -> Variable:
        """See `Input.prepare`."""
        found = self._found(name, search)
        if found.offsets is not None:
            found = replace(padded(found), fault="")
        if not 2 <= found.values.ndim <= 3:
            raise InputError(
                f"{search.dataset.name}: {name!r} must be sequences, not values of shape "
                f"{found.values.shape}."
            )
        return search.check_whole(name, found)

    def _found(self, name: str, search: Search) -> Variable:
        dataset = search.dataset
        if name not in dataset and name not in search.columns:
            numbered = {key: re.fullmatch(re.escape(name) + r"[_ ]?(\d+)", key) for key in dataset}
            steps = {key: int(match[1]) for key, match in numbered.items() if match}
            if steps:
                search.taken.update(steps)
                wide = stacked(dataset, sorted(steps, key=lambda key: steps[key]))
                return Variable(wide.values, wide.kind, dims=("step",), fault=wide.fault)
            ragged = [key for key in dataset if dataset[key].is_ragged and dataset[key].kind in NUMERIC]
            if len(ragged) > 1 and not any(dataset[key].values.ndim > 1 for key in ragged):
                search.taken.update(ragged)
                return joined(dataset, ragged)
        names = search.columns.get(name, [])
        if len(names) > 1:
            search.named(name)
            return joined(dataset, names) if dataset[names[0]].is_ragged else stacked(dataset, names)
        found = search.one(name)
        if found.kind not in NUMERIC:
            raise InputError(found.fault or f"{dataset.name}: {name!r} is {found.kind} and no numbers.")
        return found


@dataclass(frozen=True, kw_only=True)
class Points(Sequence):
    """A set of points a unit, of shape (units, points, dimensions); smaller sets end in NaN."""

    def prepare(self, name: str, search: Search) -> Variable:
        """See `Input.prepare`."""
        found = super().prepare(name, search)
        if found.values.ndim != 3:
            raise InputError(
                f"{search.dataset.name}: {name!r} must be sets of points, (units, points, dimensions), not "
                "values of shape "
                f"{found.values.shape}."
            )
        return replace(found, dims=("point", "dimension"), labels={})


@dataclass(frozen=True, kw_only=True)
class Mask(Input):
    """Which values of another input are there: booleans of its shape, False also after the end of a sequence.

    Attributes:
        of: the other input; by default that whose name this one's begins with (x of x_observed), or the
            first one.
        optional: whether the program does without it where the data set misses nothing.
    """

    turn: ClassVar[int] = 2
    observed: bool = False
    of: str = ""
    optional: bool = False

    def covers(self, name: str, inputs: Mapping[str, Input]) -> str:
        """See `Input.covers`: never another mask."""
        others = [other for other, found in inputs.items() if not isinstance(found, Mask)]
        return self.of or next(
            (other for other in others if name == other + MASK), others[0] if others else ""
        )

    def prepare(self, name: str, search: Search) -> Variable | None:
        """See `Input.prepare`."""
        whole = search.found[self.covers(name, search.inputs)]
        absent, names = missing(whole), search.named(name)
        if self.optional and absent is None and not names:
            return None
        there = np.ones(whole.values.shape, dtype=bool) if absent is None else ~absent
        if names:
            said = search.dataset[names[0]]
            if said.kind not in ("mask", "binary") or said.values.shape != there.shape:
                raise InputError(
                    f"{search.dataset.name}: the mask {names[0]!r} must be booleans of shape "
                    f"{there.shape}, not "
                    f"{said.kind} values of shape {said.values.shape}."
                )
            there = there & (said.values != 0)
        return Variable(there, "mask", dims=whole.dims, labels=whole.labels)

    def tensor(self, variable: Variable, where: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Input.tensor`: booleans."""
        import torch

        return torch.as_tensor(writable(variable.values))


@dataclass(frozen=True, kw_only=True)
class Time(Input):
    """A time a unit, float64 of shape (units,) whatever the program computes in.

    float32 would merge Unix times. Dates become seconds since the beginning of 1970, UTC; text is read as
    ISO 8601.
    """

    observed: bool = False

    def prepare(self, name: str, search: Search) -> Variable:
        """See `Input.prepare`."""
        found = search.one(name)
        where = f"{search.dataset.name}: {name!r}"
        values = _dates(found, where) if found.levels else found.values
        if values.dtype.kind == "M":
            absent = np.isnat(values)
            seconds = (values - np.datetime64(0, "s")) / np.timedelta64(1, "s")
            values = np.where(absent, np.nan, seconds)
        if values.dtype.kind in "iu" and not held_exactly(values):
            raise InputError(f"{where} holds whole numbers beyond 2^53, which float64 cannot hold apart.")
        return search.check_whole(name, Variable(values.astype(np.float64), "time", fault=found.fault))

    def tensor(self, variable: Variable, where: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Input.tensor`: float64."""
        import torch

        return torch.as_tensor(writable(variable.values), dtype=torch.float64)


def _dates(found: Variable, where: str) -> NDArray[Any]:
    try:
        levels = np.array([*found.levels, "NaT"], dtype="datetime64[us]")
    except ValueError:
        raise InputError(
            f"{where} holds text that is no date: numbers, or dates such as 2024-05-31, are needed."
        ) from None
    return levels[found.values]
