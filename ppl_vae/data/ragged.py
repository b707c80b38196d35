"""Units of different numbers of entries: tables of a line an entry, and padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ppl_vae.base.errors import InputError, listed
from ppl_vae.data.columns import category_codes, judged
from ppl_vae.data.dataset import Dataset, Variable

__all__ = ["grouped", "joined", "padded"]


def grouped(dataset: Dataset, by: str) -> Dataset:
    """A table of a line an entry as a data set of a unit a group, its columns ragged.

    Columns that are the same on all lines of a unit stay one value a unit. Units come in order of first
    appearance.

    Args:
        dataset: of columns.
        by: the column that names the unit of each line.

    Raises:
        InputError: for a column that is not there, or variables that are ragged already.
    """
    key = dataset[by]
    codes = key.values if key.levels else category_codes(key.values)[0]
    _, first, units = np.unique(codes, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    units = rank[units]
    order = np.argsort(units, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(units))]).astype(np.int64)
    found: dict[str, Variable] = {}
    for name, variable in dataset.variables.items():
        if variable.is_ragged:
            raise InputError(f"{dataset.name}: {name!r} is ragged already and cannot be grouped by {by!r}.")
        entries = variable.values[order]
        heads = entries[offsets[:-1]]
        if variable.values.ndim == 1 and bool(np.all(entries == np.repeat(heads, np.diff(offsets)))):
            found[name] = replace(variable, values=heads)
        else:
            found[name] = replace(variable, values=entries, offsets=offsets)
    return replace(dataset, variables=found, history=(*dataset.history, f"grouped by {by}"))


def joined(dataset: Dataset, names: list[str]) -> Variable:
    """Ragged columns of the same entries as one, of shape (entries, columns)."""
    columns = [dataset[name] for name in names]
    offsets = columns[0].offsets
    if offsets is None or any(
        found.offsets is None or not np.array_equal(found.offsets, offsets) or found.values.ndim > 1
        for found in columns
    ):
        raise InputError(f"{dataset.name}: {listed(names)} are no columns of the same entries.")
    values = np.stack([found.values.astype(np.float64) for found in columns], axis=1)
    return Variable(values, judged(values), labels={"feature": tuple(names)}, offsets=offsets)


def padded(found: Variable) -> Variable:
    """A ragged variable as (units, longest, …), NaN after a unit's last entry."""
    assert found.offsets is not None
    lengths = np.diff(found.offsets)
    there = np.arange(lengths.max(initial=0)) < lengths[:, None]
    reals = found.values.dtype if found.values.dtype.kind == "f" else np.dtype(np.float64)
    values = np.full((*there.shape, *found.values.shape[1:]), np.nan, dtype=reals)
    values[there] = found.values
    labels = {"feature": next(iter(found.labels.values()))} if found.labels and values.ndim == 3 else {}
    return Variable(values, "real", dims=("step", "feature")[: values.ndim - 1], labels=labels)
