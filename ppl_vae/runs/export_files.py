"""Exports as tables and files: CSV, NPZ or NetCDF."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.base.errors import InputError
from ppl_vae.base.files import write_bytes, write_netcdf, write_text

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["SUFFIXES", "check_ending", "export_table", "write"]

SUFFIXES = (".csv", ".npz", ".nc")


def export_table(found: xr.Dataset) -> pd.DataFrame:
    """An export as a table: a row for every unit or draw, a column for every component."""
    import pandas as pd

    lead = str(found.attrs["rows"]).split(",")
    # Data have their own columns' names.
    plain = found.attrs.get("columns") == "plain"
    columns: dict[str, Any] = {}
    for name, values in found.data_vars.items():
        missing = {dim: found.sizes[dim] for dim in lead if dim not in values.dims}
        rest = [dim for dim in values.dims if dim not in lead]
        flat = values.expand_dims(missing).transpose(*lead, *rest)
        matrix = flat.to_numpy().reshape(int(np.prod([found.sizes[dim] for dim in lead])), -1)
        for place, label in enumerate(_labels(flat, rest)):
            columns[label if plain and label else f"{name}[{label}]" if label else str(name)] = matrix[
                :, place
            ]
    index = [found[dim].to_numpy() if dim in found.coords else np.arange(found.sizes[dim]) for dim in lead]
    rows = (
        pd.MultiIndex.from_product(index, names=lead) if len(lead) > 1 else pd.Index(index[0], name=lead[0])
    )
    return pd.DataFrame(columns, index=rows)


def _labels(values: xr.DataArray, rest: list[Any]) -> list[str]:
    """What to call the entries along the other dimensions."""
    sizes = [values.sizes[dim] for dim in rest]
    names = [
        [str(label) for label in (values[dim].to_numpy() if dim in values.coords else range(size))]
        for dim, size in zip(rest, sizes, strict=True)
    ]
    return [",".join(names[axis][at] for axis, at in enumerate(place)) for place in np.ndindex(*sizes)]


def check_ending(path: Path) -> str:
    """The ending of a file to write.

    Raises:
        InputError: for another than these.
    """
    if (suffix := path.suffix.lower()) not in SUFFIXES:
        raise InputError(f"--out is {str(path)!r}; it ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    return suffix


def write(found: xr.Dataset, path: Path) -> Path:
    """Write an export as CSV, NPZ or NetCDF, by the file's ending, whole or not at all.

    Raises:
        InputError: for another ending, or where it cannot be written.
    """
    suffix = check_ending(path)
    if suffix == ".csv":
        write_text(path, export_table(found).to_csv())
    elif suffix == ".nc":
        write_netcdf(path, found)
    else:
        content = io.BytesIO()
        arrays = {str(name): values.to_numpy() for name, values in found.variables.items()}
        # Labels as texts: Python's objects could not be read back without running code.
        arrays = {name: a.astype(str) if a.dtype.hasobject else a for name, a in arrays.items()}
        np.savez_compressed(content, allow_pickle=False, **arrays)
        write_bytes(path, content.getbuffer())
    return path
