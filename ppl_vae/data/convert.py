"""Data sets as pandas' and xarray's, and back; neither is loaded before it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, brief
from ppl_vae.base.files import read_netcdf, write_netcdf
from ppl_vae.data.columns import as_variable, with_masks
from ppl_vae.data.dataset import Dataset, Variable, VariableKind

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["from_netcdf", "from_pandas", "from_xarray", "to_netcdf", "to_pandas", "to_xarray"]

# Where a table keeps what its columns cannot hold.
_ABOUT = "ppl_vae"


def to_xarray(dataset: Dataset) -> xr.Dataset:
    """See `Dataset.to_xarray`: attributes are text, as NetCDF wants them flat."""
    import xarray as xr

    data: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for name, variable in dataset.variables.items():
        dims = [f"{name}_{dim}" for dim in variable.dims]
        first = f"{name}_entry" if variable.is_ragged else dataset.unit
        data[name] = ((first, *dims), variable.values, _attributes(variable))
        if variable.offsets is not None:
            data[f"{name}_offsets"] = ((f"{name}_offset",), variable.offsets, {"offsets_of": name})
        for dim, labels in variable.labels.items():
            coords[f"{name}_{dim}"] = np.array(labels, dtype=object)
    about = {"name": dataset.name, "source": dataset.source, "unit": dataset.unit}
    said = {"history": json.dumps(dataset.history), "warnings": json.dumps(dataset.warnings)}
    return xr.Dataset(data, coords=coords, attrs={**about, **said})


def _attributes(variable: Variable) -> dict[str, str]:
    found = {"kind": str(variable.kind)}
    if variable.levels:
        found["levels"] = json.dumps(variable.levels)
    if variable.image_shape is not None:
        found["image_shape"] = json.dumps(variable.image_shape)
    return found


def from_xarray(data: xr.Dataset | xr.DataArray, name: str = "") -> Dataset:
    """See `Dataset.from_xarray`."""
    import xarray as xr

    if isinstance(data, xr.DataArray):
        data = data.to_dataset(name=str(data.name or "x"))
    about = data.attrs
    name = str(about.get("name", "")) or name or "data"
    unit = _unit_of(data, name)
    offsets = {
        str(found.attrs["offsets_of"]): found
        for found in data.data_vars.values()
        if "offsets_of" in found.attrs
    }
    beside = {key: found for key, found in data.coords.items() if found.dims == (unit,) and key != unit}
    variables = {
        str(key): _variable(str(key), found, unit, offsets.get(str(key)), data, name)
        for key, found in {**data.data_vars, **beside}.items()
        if "offsets_of" not in found.attrs
    }
    return Dataset(
        name,
        variables if "history" in about else with_masks(variables),
        source=str(about.get("source", "")),
        history=_texts(about.get("history")),
        warnings=_texts(about.get("warnings")),
        unit=unit if about.get("unit") == unit else "row",
    )


def _unit_of(data: xr.Dataset, name: str) -> str:
    """The dimension of the units."""
    if not data.data_vars:
        raise InputError(f"{name} has no variables.")
    said = str(data.attrs.get("unit", ""))
    first = next(iter(data.data_vars.values())).dims
    if said in data.dims or not first:
        return said
    ragged = any("offsets_of" in found.attrs for found in data.data_vars.values())
    return said if said and ragged else str(first[0])


def _variable(
    key: str, found: xr.DataArray, unit: str, offsets: xr.DataArray | None, data: xr.Dataset, name: str
) -> Variable:
    if offsets is None and unit not in found.dims:
        raise InputError(f"{name}: the variable {brief(key)!r} lacks the dimension {unit!r} of the units.")
    found = found if offsets is not None else found.transpose(unit, ...)
    trailing = [str(dim) for dim in found.dims[1:]]
    dims = tuple(dim.removeprefix(f"{key}_") for dim in trailing)
    labels = {
        dim: tuple(map(str, data.coords[long].to_numpy()))
        for dim, long in zip(dims, trailing, strict=True)
        if long in data.coords
    }
    kind, attrs = found.attrs.get("kind"), found.attrs
    values = found.to_numpy()
    if kind is None or kind not in get_args(VariableKind):
        return as_variable(values, f"{name}, variable {key}", dims=dims, labels=labels)
    shape = attrs.get("image_shape")
    return Variable(
        values,
        kind,
        dims=dims,
        labels=labels,
        levels=_texts(attrs.get("levels")),
        image_shape=None if shape is None else tuple(json.loads(shape)),
        offsets=None if offsets is None else offsets.to_numpy().astype(np.int64),
    )


def _texts(held: Any) -> tuple[str, ...]:
    """A tuple of texts from the attribute that holds it; other programs write a text there."""
    if not isinstance(held, str) or not held:
        return ()
    try:
        found = json.loads(held)
    except ValueError:
        found = held
    return tuple(map(str, found)) if isinstance(found, list) else (held,)


def to_netcdf(dataset: Dataset, path: Path) -> None:
    """See `Dataset.to_netcdf`."""
    write_netcdf(path, to_xarray(dataset))


def from_netcdf(path: Path) -> Dataset:
    """See `Dataset.from_netcdf`."""
    try:
        return from_xarray(read_netcdf(path), path.name)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except Exception as error:  # whatever HDF5 and its readers raise on a damaged file
        raise InputError(f"{path} is damaged or no NetCDF file ({type(error).__name__}).") from None


def to_pandas(dataset: Dataset) -> pd.DataFrame:
    """See `Dataset.to_pandas`."""
    import pandas as pd

    columns: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    for name, variable in dataset.variables.items():
        for column, values in _columns(dataset, name, variable).items():
            if column in columns:
                column = f"{name}_{column}"
            columns[column], kinds[column] = values, variable.kind
    table = pd.DataFrame(columns)
    about = {"name": dataset.name, "source": dataset.source, "unit": dataset.unit, "kinds": kinds}
    table.attrs[_ABOUT] = {**about, "history": list(dataset.history), "warnings": list(dataset.warnings)}
    return table


def _columns(dataset: Dataset, name: str, variable: Variable) -> dict[str, Any]:
    import pandas as pd

    values = variable.values
    if variable.is_ragged or values.ndim > 2:
        raise InputError(
            f"{dataset.name}: {name!r} is no column and no matrix, and does not fit into a table."
        )
    if values.ndim == 1:
        return {name: pd.Categorical.from_codes(values, [*variable.levels]) if variable.levels else values}
    labels = variable.labels.get(
        variable.dims[0], tuple(f"{name}{place + 1}" for place in range(values.shape[1]))
    )
    return {label: values[:, place] for place, label in enumerate(labels)}


def from_pandas(table: pd.DataFrame | pd.Series, name: str = "") -> Dataset:
    """See `Dataset.from_pandas`."""
    import pandas as pd

    if isinstance(table, pd.Series):
        table = table.to_frame("x" if table.name is None else table.name)
    about: dict[str, Any] = table.attrs.get(_ABOUT, {})
    named = ["_".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in table.columns]
    name = about.get("name") or name or "the table"
    if twice := [key for key in named if named.count(key) > 1]:
        raise InputError(f"{name} has the column {brief(twice[0])!r} twice.")
    if not len(table) or not named:
        raise InputError(
            f"{name} has {len(table)} rows and {len(named)} columns: at least one of each is needed."
        )
    kinds = about.get("kinds", {})
    variables = {
        key: _from_series(table.iloc[:, place], f"{name}, column {brief(key)!r}", kinds.get(key))
        for place, key in enumerate(named)
    }
    return Dataset(
        name,
        variables if about else with_masks(variables),
        source=about.get("source", ""),
        history=tuple(about.get("history", ())),
        warnings=tuple(about.get("warnings", ())),
        unit=about.get("unit", "row"),
    )


def _from_series(column: pd.Series, where: str, kind: VariableKind | None) -> Variable:
    """A column with its type kept; whole numbers become reals only where cells are missing."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = tuple(map(str, column.cat.categories))
        codes = column.cat.codes.to_numpy().astype(np.int64)
        return Variable(codes, "index" if kind == "index" else "category", levels=levels)
    values = _array(column)
    found = as_variable(values, where)
    if kind is None or found.kind == "category":
        return found
    try:
        return Variable(found.values, kind)
    except InputError:
        # A column was changed since the kind was noted.
        return found


def _array(column: pd.Series) -> NDArray[Any]:
    """The values as NumPy's own types where there is one, else as Python objects."""
    if isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    if getattr(column.dtype, "tz", None) is not None:
        return column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
    numpy_type = getattr(column.dtype, "numpy_dtype", None)
    if isinstance(numpy_type, np.dtype) and numpy_type.kind in "biufM" and not bool(column.isna().any()):
        return column.to_numpy(dtype=numpy_type)
    return column.to_numpy(dtype=object)
