"""Whatever may stand for a data set: tables, arrays, tensors, mappings, files and names."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, brief
from ppl_vae.data.columns import as_variable, with_masks
from ppl_vae.data.convert import from_pandas, from_xarray
from ppl_vae.data.dataset import Dataset, Variable
from ppl_vae.data.games import Games
from ppl_vae.data.rows import Rows

__all__ = ["as_dataset"]


def as_dataset(data: Any, name: str = "") -> Dataset:
    """A data set of anything that may stand for one.

    Args:
        data: a `Dataset`; `Rows` or `Games`; a pandas DataFrame or Series (its index is left alone); an
            xarray Dataset or DataArray; a NumPy array or a tensor, which becomes the variable x (memory maps
            stay maps, structured arrays become columns); a mapping of names to arrays, tensors, lists or
            Series; a list of numbers or of rows of them; the name of a data set or the path of a file, see
            `ppl_vae.data.load`.
        name: what to call it, where it has no name of its own.

    Raises:
        InputError: for anything else, and for values that are neither numbers, dates nor text.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Rows | Games):
        return data.dataset
    if isinstance(data, str | Path):
        from ppl_vae.data.named import load_dataset

        return load_dataset(str(data))
    if _is(data, "pandas", "DataFrame", "Series"):
        return from_pandas(data, name)
    if _is(data, "xarray", "Dataset", "DataArray"):
        return from_xarray(data, name)
    if isinstance(data, Mapping):
        found = {str(key): _variable(values, str(key)) for key, values in data.items()}
        return Dataset(name or "the data", with_masks(found))
    return _of_array(_array(data, "the data"), name)


def _of_array(values: NDArray[Any], name: str) -> Dataset:
    if values.dtype.names is not None:
        return as_dataset({column: values[column] for column in values.dtype.names}, name)
    return Dataset(name or "the data", with_masks({"x": as_variable(values, "the data")}))


def _variable(values: Any, name: str) -> Variable:
    if isinstance(values, Variable):
        return values
    if _is(values, "pandas", "Series"):
        return from_pandas(values.rename(name))[name]
    return as_variable(_array(values, name), name)


def _array(values: Any, what: str) -> NDArray[Any]:
    """An array or tensor as NumPy's, without a copy where that is possible."""
    if isinstance(values, np.ndarray):
        return values
    if _is(values, "torch", "Tensor"):
        tensor = values.detach().cpu()
        return cast(NDArray[Any], (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy())
    if _is(values, "xarray", "DataArray") or _is(values, "pandas", "Index", "Categorical"):
        return np.asarray(values)
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        try:
            return np.asarray(values) if _alike(values) else np.asarray(values, dtype=object)
        except ValueError:
            raise InputError(f"{brief(what)} is a list of lists of different lengths.") from None
    raise InputError(
        f"{brief(what)} is of type {type(values).__name__}: a data set is a table of pandas, an array, a "
        "tensor, a mapping "
        "of these, an xarray Dataset, or the name or path of one."
    )


def _alike(values: Sequence[Any]) -> bool:
    """Whether a list holds things of one sort: NumPy would make text of numbers beside text, and of None."""
    return not any(value is None or isinstance(value, str) for value in values)


def _is(value: Any, package: str, *classes: str) -> bool:
    """Whether something is an instance of a class of a package that is loaded only if such a thing exists."""
    module = sys.modules.get(package)
    return module is not None and isinstance(value, tuple(getattr(module, name) for name in classes))
