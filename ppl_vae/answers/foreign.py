"""Draws that other programs wrote: Stan, PyMC and NumPyro through ArviZ's files, and CmdStan's own tables."""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError, listed

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["dataset_of_columns", "foreign_draws"]

SAMPLES = ("chain", "draw")
# A column of a table of draws: "theta.1.2" (CmdStan) or "theta[1,2]" (CmdStanPy, posteriordb).
COLUMN = re.compile(r"(?P<name>[^.\[]+)(?:\[(?P<inside>[\d,\s]+)\]|(?P<dotted>(?:\.\d+)+))?$")


def foreign_draws(path: str | Path, like: Posterior | None = None, *, whole: bool = False) -> Posterior:
    """Read draws of any origin as an answer, to compare others with.

    Args:
        path: a NetCDF file with the group ``posterior`` (ArviZ 0.x and 1.x write it, from CmdStanPy, PyMC and
            NumPyro alike), or a file of CmdStan (``.csv``; a folder of them has one chain a file).
        like: an answer of the model that the draws are meant for. Variables are matched by name; only those
            in common are kept, with this answer's dimensions and labels, and a warning names the others.
            Dimensions of other names are matched by place, and labels in another order are brought into this
            one's.
        whole: whether every variable of ``like`` must be there.

    Returns:
        Chains, with ``diverging`` among the statistics where the file has it. The method is the library that
        wrote them, or "foreign".

    Raises:
        InputError: if the file cannot be read or holds no draws, and with ``like``, if it has none of its
            parameters, lacks one with ``whole``, or has them in another shape or with other labels.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    found = _read_tables(path) if path.is_dir() or path.suffix == ".csv" else _read_netcdf(path)
    return found if like is None else found.map(_matched(found.draws, like.draws, path, whole))


def dataset_of_columns(names: Sequence[str], values: np.ndarray) -> xr.Dataset:
    """Variables from columns named like ``theta[1,2]`` or ``theta.1.2``, with indices from 1.

    Args:
        names: one a column.
        values: shape (chain, draw, column).

    Returns:
        Every variable with the dimensions (chain, draw, name_dim_0, …).

    Raises:
        InputError: for a variable whose columns are not a full array.
    """
    import xarray as xr

    columns: dict[str, dict[tuple[int, ...], int]] = {}
    for place, column in enumerate(names):
        if (parts := COLUMN.match(column)) is None:
            raise InputError(f"the column {column!r} is no name of a parameter, such as theta[1,2]")
        inside = (parts["inside"] or (parts["dotted"] or "").lstrip(".")).replace(".", ",")
        index = tuple(int(number) - 1 for number in inside.split(",")) if inside else ()
        columns.setdefault(parts["name"], {})[index] = place
    variables = {}
    for name, places in columns.items():
        depths = {len(index) for index in places}
        shape = tuple(max(axis) + 1 for axis in zip(*places, strict=False))
        if (
            len(depths) != 1
            or len(places) != int(np.prod(shape))
            or any(min(i, default=0) < 0 for i in places)
        ):
            raise InputError(f"the columns of {name} are no full array: {len(places)} of shape {shape}")
        order = [places[index] for index in np.ndindex(*shape)]
        dims = (*SAMPLES, *(f"{name}_dim_{axis}" for axis in range(len(shape))))
        variables[name] = (dims, values[:, :, order].reshape(*values.shape[:2], *shape))
    return xr.Dataset(variables)


def _read_netcdf(path: Path) -> Posterior:
    import xarray as xr

    try:
        with xr.open_datatree(path, engine="h5netcdf") as opened:
            tree = opened.load()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no NetCDF file that can be read: {error}") from error
    groups = {name.strip("/").split("/")[-1]: node for name, node in tree.to_dict().items()}
    if "posterior" not in groups:
        found = ", ".join(name for name in groups if name) or "none"
        raise InputError(f"{path} has no group 'posterior' (its groups: {found}); ArviZ writes one")
    draws = groups["posterior"]
    drawn = {name: variable for name, variable in draws.data_vars.items() if {*SAMPLES} <= {*variable.dims}}
    if not drawn:
        raise InputError(f"the posterior of {path} has no variable over chain and draw")
    if "dependence" in draws.attrs:
        return Posterior.load(path)
    stats = groups.get("sample_stats", xr.Dataset())
    kept = {name: variable for name, variable in stats.data_vars.items() if {*variable.dims} == {*SAMPLES}}
    return Posterior(
        draws[list(drawn)],
        method=str(draws.attrs.get("inference_library", "foreign")),
        dependence="chains",
        stats=stats[list(kept)],
        seconds=float(draws.attrs.get("sampling_time", "nan")),
    )


def _read_tables(path: Path) -> Posterior:
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"the folder {path} holds no .csv files")
    tables = [_read_table(file) for file in files]
    names = list(tables[0].columns)
    for file, table in zip(files, tables, strict=True):
        if list(table.columns) != names or len(table) != len(tables[0]):
            raise InputError(f"{file} has other columns or another number of draws than {files[0]}")
    values = np.stack([table.to_numpy(dtype=float) for table in tables])
    kept = [place for place, name in enumerate(names) if not name.endswith("__")]
    if not kept:
        raise InputError(f"{files[0]} has no columns of parameters")
    draws = dataset_of_columns([names[place] for place in kept], values[:, :, kept])
    return Posterior(draws, "cmdstan", "chains", stats=_cmdstan_statistics(names, values))


def _read_table(file: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_csv(file, comment="#")
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is no table of draws: {error}") from error
    words = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    if words or table.isna().to_numpy().any() or not len(table):
        raise InputError(
            f"{file} is no table of draws: it needs a line of names and then numbers, one column a parameter"
        )
    return table


def _cmdstan_statistics(names: list[str], values: np.ndarray) -> xr.Dataset:
    """CmdStan's own columns under ArviZ's names."""
    import xarray as xr

    known = {"lp__": "lp", "accept_stat__": "acceptance_rate", "stepsize__": "step_size"}
    found = {name: (SAMPLES, values[..., names.index(old)]) for old, name in known.items() if old in names}
    if "divergent__" in names:
        found["diverging"] = (SAMPLES, values[..., names.index("divergent__")] > 0)
    return xr.Dataset(found)


def _matched(draws: xr.Dataset, like: xr.Dataset, path: Path, whole: bool) -> xr.Dataset:
    """The variables in common, with the dimensions and labels of ``like``."""
    common = [name for name in like.data_vars if name in draws]
    if not common:
        raise InputError(
            f"{path} is a posterior of other parameters: it has {listed(draws.data_vars)}; the model has "
            f"{listed(like.data_vars)}"
        )
    missing = [name for name in like.data_vars if name not in draws]
    left = [name for name in draws.data_vars if name not in like]
    if missing and whole:
        raise InputError(f"{path} {_told(missing, left)}; all variables of the model are needed")
    if missing or left:
        warnings.warn(f"{path} {_told(missing, left)}; compared: {listed(common)}", stacklevel=3)
    import xarray as xr

    return xr.Dataset({name: _as_in(draws[name], like[name], path) for name in common})


def _told(missing: Sequence[object], left: Sequence[object]) -> str:
    """What a file lacks, and what of it is of no use; variables go by their names."""
    lacks = [f"lacks the model's {listed(missing)}"] if missing else []
    holds = [f"holds {listed(left)}, which the model does not have"] if left else []
    return " and ".join([*lacks, *holds])


def _as_in(variable: xr.DataArray, like: xr.DataArray, path: Path) -> xr.DataArray:
    ours = [dim for dim in like.dims if dim not in SAMPLES]
    theirs = [dim for dim in variable.dims if dim not in SAMPLES]
    if {*ours} == {*theirs}:
        theirs = ours
    variable = variable.transpose(*SAMPLES, *theirs)
    shape, expected = variable.shape[2:], tuple(like.sizes[dim] for dim in ours)
    if shape != expected:
        raise InputError(
            f"{path} is a posterior of other parameters: its {variable.name} has the shape {shape}, the "
            f"model's {expected}"
        )
    for ours_dim, theirs_dim in zip(ours, theirs, strict=True):
        variable = _in_order(variable, theirs_dim, like, ours_dim, path)
    labels = {dim: like.coords[dim].to_numpy() for dim in ours if dim in like.coords}
    import xarray as xr

    return xr.DataArray(variable.to_numpy(), dims=(*SAMPLES, *ours), coords=labels, name=variable.name)


def _in_order(
    variable: xr.DataArray, theirs: Hashable, like: xr.DataArray, ours: Hashable, path: Path
) -> xr.DataArray:
    """Entries in the order of the model's labels, where both have real ones."""
    if theirs not in variable.coords or ours not in like.coords:
        return variable
    here, there = (
        [str(label) for label in values.coords[dim].to_numpy()]
        for values, dim in ((variable, theirs), (like, ours))
    )
    # Numbers are places unless both sides have the same ones.
    if sorted(here) == sorted(there):
        return variable.isel({theirs: [here.index(label) for label in there]})
    if np.issubdtype(variable.coords[theirs].dtype, np.integer):
        return variable
    raise InputError(
        f"{path} is a posterior of other parameters: {theirs} of its {variable.name} has the labels "
        f"{listed(here)}, the model's {listed(there)}"
    )
