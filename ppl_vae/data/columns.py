"""What an array is: its kind judged from its values, text as categories, missing values as a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, brief, listed
from ppl_vae.data.dataset import Variable, VariableKind

__all__ = ["MASK", "as_number", "as_variable", "category_codes", "judged", "missing", "with_masks"]

# What the name of a variable that says which values of another are there ends with.
MASK = "_observed"


def as_variable(
    values: NDArray[Any],
    name: str = "",
    *,
    fault: str = "",
    labels: Mapping[str, tuple[str, ...]] | None = None,
    dims: tuple[str, ...] = (),
) -> Variable:
    """A variable of the values in an array, with their type kept.

    Args:
        values: shape (units, …): numbers, booleans, dates, or text, which becomes a category.
        name: for the sentence that refuses others.
        fault: see `Variable`.
        labels, dims: see `Variable`.

    Raises:
        InputError: for values of another type, or without a first dimension.
    """
    labels = labels or {}
    values = np.asanyarray(values)
    if values.ndim < 1:
        raise InputError(f"{brief(name) or 'The data'} is a single value: values of many units are needed.")
    if values.dtype.kind == "O":
        values = _plain(values, name)
    if values.dtype.kind in "UT" or values.dtype.kind == "O":
        codes, levels = category_codes(values)
        return Variable(codes, "category", levels=levels, fault=fault, labels=labels, dims=dims)
    if values.dtype.kind not in "biufM":
        raise InputError(
            f"{brief(name) or 'The data'} holds values of type {values.dtype}: numbers or text are needed."
        )
    return Variable(values, judged(values, name), fault=fault, labels=labels, dims=dims)


def judged(values: NDArray[Any], name: str = "") -> VariableKind:
    """The narrowest kind that these values are of; missing ones are left out."""
    if values.dtype.kind == "M":
        return "time"
    if values.dtype.kind == "b":
        return "mask" if name.endswith(MASK) else "binary"
    if values.dtype == np.uint8 and values.ndim in (3, 4):
        return "image"
    if values.size == 0:
        return "real"
    low, high = values.min(), values.max()
    if low != low:
        present = values[~np.isnan(values)]
        return judged(present, name) if present.size else "real"
    if not (low >= 0 and high <= 1):
        return "count" if values.dtype.kind in "iu" and low >= 0 else "real"
    return "binary" if bool(np.all((values == 0) | (values == 1))) else "grey"


def _plain(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Python objects as text, or as the numbers that all of them are; None and NaN are missing."""
    there = [value for value in values.ravel() if not _nothing(value)]
    if all(isinstance(value, str) for value in there):
        return values
    if all(isinstance(value, bool | np.bool_) for value in there) and len(there) == values.size:
        return values.astype(bool)
    if all(isinstance(value, int | float | np.number) for value in there):
        whole = len(there) == values.size and all(isinstance(value, int | np.integer) for value in there)
        try:
            return values.astype(np.int64) if whole else _reals(values, name)
        except InputError:
            raise
        except (OverflowError, TypeError, ValueError):
            pass
    raise InputError(f"{brief(name) or 'The data'} holds Python objects: numbers or text are needed.")


def _reals(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    found = np.array([np.nan if _nothing(value) else value for value in values.ravel()], dtype=np.float64)
    if any(isinstance(value, int) and abs(value) > 2**53 for value in values.ravel() if not _nothing(value)):
        raise InputError(
            f"{brief(name) or 'The data'}: whole numbers beyond 2^53 with missing ones among them cannot "
            "be kept exactly."
        )
    return found.reshape(values.shape)


def _nothing(value: object) -> bool:
    """Whether a Python object stands for a missing value: None, NaN and pandas' own."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def category_codes(
    values: NDArray[Any], levels: Sequence[str] = ()
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Text or whole numbers as positions in their levels, −1 where one is missing.

    Args:
        values: any shape; text, whole numbers or booleans.
        levels: the levels, where they are known; otherwise those that occur, numbers by size and text by
            letters.

    Returns:
        int64 positions of the shape of `values`, and the levels' names.

    Raises:
        InputError: for a value that is none of the levels, or reals that are not whole.
    """
    if values.dtype.kind in "iu" and not levels:
        numbers, places = np.unique(values, return_inverse=True)
        return places.astype(np.int64).reshape(values.shape), tuple(map(str, numbers.tolist()))
    flat = _identities(values)
    present = [value for value in dict.fromkeys(flat) if value is not None]
    if not levels:
        levels = _in_order(present)
    known: dict[str | None, int] = {level: place for place, level in enumerate(levels)}
    if unknown := [value for value in present if value not in known]:
        raise InputError(f"{brief(unknown[0])!r} is none of the categories {listed(levels)}.")
    known[None] = -1
    codes = np.fromiter((known[value] for value in flat), dtype=np.int64, count=len(flat))
    return codes.reshape(values.shape), tuple(levels)


def _in_order(levels: list[str]) -> list[str]:
    """Numbers that were read as text ("10", "9") by size, too."""
    sizes = {level: as_number(level) for level in levels}
    if None in sizes.values():
        return sorted(levels)
    return sorted(levels, key=lambda level: (sizes[level], level))


def _identities(values: NDArray[Any]) -> list[str | None]:
    """What tells each value from others, as text; None for missing ones."""
    if values.dtype.kind == "f":
        finite = values[~np.isnan(values)]
        if not np.all(finite == np.round(finite)) or np.abs(finite).max(initial=0) > 2.0**53:
            raise InputError("Reals are no categories: whole numbers or text are needed.")
        return [None if value != value else str(int(value)) for value in values.ravel()]
    if values.dtype.kind == "O":
        return [None if _nothing(value) else str(value) for value in values.ravel()]
    return [str(value) for value in values.ravel().tolist()]


def as_number(text: str) -> float | None:
    """The number that a text is, or None; Python's `1_000` is no number in a file."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def missing(variable: Variable) -> NDArray[np.bool_] | None:
    """Which values are missing, of the values' shape; None where none is."""
    values = variable.values
    if variable.kind == "category":
        absent = values < 0
    elif values.dtype.kind == "M":
        absent = np.isnat(values)
    elif values.dtype.kind == "f" and np.isnan(values.sum()):
        absent = np.isnan(values)
    else:
        return None
    return absent if absent.any() else None


def with_masks(variables: Mapping[str, Variable]) -> dict[str, Variable]:
    """The variables, with a mask NAME_observed beside each that has missing values and none yet."""
    found: dict[str, Variable] = {}
    for name, variable in variables.items():
        found[name] = variable
        if name + MASK not in variables and (absent := missing(variable)) is not None:
            found[name + MASK] = Variable(
                ~absent, "mask", dims=variable.dims, labels=variable.labels, offsets=variable.offsets
            )
    return found
