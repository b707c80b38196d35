"""Data files, by their ending: NumPy arrays here, CSV in `tables`, NetCDF in `convert`, parquet by pandas."""

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, listed
from ppl_vae.data.columns import as_variable, with_masks
from ppl_vae.data.convert import from_netcdf, from_pandas
from ppl_vae.data.dataset import Columns, Dataset, Variable
from ppl_vae.data.game_tables import file_games
from ppl_vae.data.games import Games
from ppl_vae.data.matching import also
from ppl_vae.data.rows import Floats, Rows, kind_of
from ppl_vae.data.tables import read_csv, read_table

__all__ = ["DAMAGED", "SUFFIXES", "listed_suffixes", "load_array", "load_arrays", "read_dataset", "read_file"]

SUFFIXES = (".npy", ".npz", ".csv", ".nc", ".parquet")

# Arrays beyond this many bytes stay on disk, as memory maps.
_LARGE = 2**26

# What a truncated or garbled file makes NumPy and zipfile raise; MemoryError stands for a shape that
# noise in a header made up.
DAMAGED = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_file(path: Path, *, games: bool = False) -> Rows | Games:
    """Read a data file.

    - `.npy`: a numeric array of shape (num_rows, num_features).
    - `.npz`: such an array under the name x, X, data or Y, or the only one with two dimensions; with it,
      optionally, whole-number `labels` or `y` of shape (num_rows,).
    - `.csv`: see `ppl_vae.data.tables.read_csv`.
    - `.nc` and `.parquet`: as `read_dataset` reads them.

    Pickled objects are never loaded. Integers and booleans become float64.

    Args:
        path: the file.
        games: whether nothing but games will do.

    Raises:
        InputError: no such file, a folder, another ending, an unreadable or damaged file, or contents
            other than those above (NaN and infinite features, too).
    """
    suffix = _suffix(path)
    if suffix == ".csv":
        return read_csv(path, games=games)
    if suffix == ".npy":
        return _rows(path, _features(path, load_array(path)), labels=None)
    if suffix == ".npz":
        return _read_npz(path)
    dataset = read_dataset(path)
    if games or {"winner", "loser"} & {name.casefold() for name in dataset}:
        return Games.of(dataset)
    return Rows.of(dataset)


def read_dataset(path: Path, *, games: bool = False, columns: Columns | None = None) -> Dataset:
    """Read a data file as it is: types are kept, text becomes categories, empty cells and NaN are missing.

    - `.npy`: an array, the variable x; a large one stays on disk as a memory map.
    - `.npz`: arrays by name, as many units as the first matrix (x, if there is one) or array has;
    NAME_offsets makes
      NAME ragged, and arrays of other lengths are left out with a warning.
    - `.csv`: see `ppl_vae.data.tables.read_table`.
    - `.nc`: NetCDF, as `Dataset.to_netcdf` writes it, or any with a leading dimension of units.
    - `.parquet`: a table; needs `pip install 'ppl-vae[parquet]'`.

    Args:
        path: the file.
        games: whether a table must hold games.
        columns: of a table of games, which column is what (`ppl_vae.data.game_tables.read_games`).

    Raises:
        InputError: no such file, a folder, another ending, an unreadable or damaged file, or contents that
            are neither numbers, dates nor text.
    """
    suffix = _suffix(path)
    if games and suffix in (".csv", ".parquet"):
        return file_games(path, columns).dataset
    if suffix == ".csv":
        return read_table(path)
    if suffix == ".nc":
        return from_netcdf(path)
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix == ".npy":
        x = as_variable(load_array(path, lazy=path.stat().st_size > _LARGE), str(path))
        return Dataset(path.name, with_masks({"x": x}))
    return _of_arrays(path, load_arrays(path))


def _suffix(path: Path) -> str:
    """The ending of a data file that exists."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file ending in {listed_suffixes()}.")
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} cannot be read: a data file must end in {listed_suffixes()}.")
    return path.suffix.lower()


def _read_parquet(path: Path) -> Dataset:
    import pandas as pd

    try:
        return from_pandas(pd.read_parquet(path), path.name)
    except ImportError:
        raise InputError(
            f"{path} cannot be read without pyarrow: pip install 'ppl-vae[parquet]', or save it as CSV."
        ) from None
    except InputError:
        raise
    except Exception as error:  # whatever pyarrow raises on a damaged file
        raise InputError(f"{path} is damaged or no .parquet file ({type(error).__name__}).") from None


def _of_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> Dataset:
    """The arrays of one archive that have a value for every unit."""
    ragged = {name: arrays[f"{name}_offsets"] for name in arrays if f"{name}_offsets" in arrays}
    found: dict[str, Variable] = {}
    for name, array in arrays.items():
        if array.ndim and name.removesuffix("_offsets") not in ragged:
            found[name] = as_variable(array, f"{path}, array {name}")
        elif name in ragged:
            found[name] = replace(
                as_variable(array, f"{path}, array {name}"), offsets=ragged[name].astype(np.int64)
            )
    if not found:
        raise InputError(f"{path} holds no arrays.")
    matrices = [name for name, variable in found.items() if variable.values.ndim > 1]
    first = next((name for name in ("x", *also("x"), *matrices) if name in found), next(iter(found)))
    count = found[first].num_units
    other = [name for name, variable in found.items() if variable.num_units != count]
    kept = {name: variable for name, variable in found.items() if name not in other}
    words = f"arrays that have no value for each of the {count} of {first} are left out: {listed(other)}"
    return Dataset(path.name, with_masks(kept), warnings=(words,) if other else ())


def load_array(path: Path, *, lazy: bool = False) -> NDArray[Any]:
    """The array in a .npy file.

    Args:
        path: the file.
        lazy: whether it stays on disk, as a memory map that what is written to leaves unchanged.

    Raises:
        InputError: for a damaged file, and one that holds Python objects.
    """
    with _loading(path):
        # np.load would take a zip or a pickle under this name for what it is.
        with path.open("rb") as handle:
            if not lazy:
                return np.lib.format.read_array(handle, allow_pickle=False)
            np.lib.format.read_magic(handle)
        return np.load(path, mmap_mode="c", allow_pickle=False)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays in a .npz file by name.

    Raises:
        InputError: for a damaged file, and one that holds Python objects.
    """
    with _loading(path):
        # np.load alone would take a bare .npy under this name.
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} is damaged or no .npz file.")
        # A handle of our own: NumPy leaves its own open when a damaged archive makes it give up.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """Files that NumPy cannot read, in one sentence."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except DAMAGED as error:
        if "Object arrays" in str(error):
            raise InputError(f"{path} holds Python objects: only arrays of numbers are read.") from None
        raise InputError(f"{path} is damaged or no {path.suffix.lower()} file.") from None


def _read_npz(path: Path) -> Rows:
    arrays = load_arrays(path)
    name = _features_name(path, arrays)
    values = _features(path, arrays[name])
    return _rows(path, values, _labels(path, arrays, len(values)))


def _features_name(path: Path, arrays: dict[str, NDArray[Any]]) -> str:
    for name in ("x", *also("x")):
        if name in arrays:
            return name
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    if len(matrices) != 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"
        raise InputError(
            f"{path} must hold the rows as an array named x, X, data or Y, or as its only array with two "
            f"dimensions; it holds {found}."
        )
    return matrices[0]


def _labels(path: Path, arrays: dict[str, NDArray[Any]], num_rows: int) -> NDArray[np.int64] | None:
    for name in ("labels", "y"):
        if name in arrays and arrays[name].ndim == 1:
            labels = arrays[name]
            if len(labels) != num_rows:
                raise InputError(f"{path} holds {len(labels)} values of '{name}' for {num_rows} rows.")
            if labels.dtype.kind not in "iub":
                raise InputError(f"{path}: '{name}' must be whole numbers, not {labels.dtype}.")
            return labels.astype(np.int64)
    return None


def _features(path: Path, array: NDArray[Any]) -> Floats:
    """The array as finite float64 of two dimensions."""
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path} holds values of type {array.dtype}: real numbers are needed.")
    if array.ndim != 2:
        raise InputError(
            f"{path} holds an array of shape {array.shape}: two dimensions are needed, (rows, features)."
        )
    if 0 in array.shape:
        raise InputError(f"{path} holds no rows: its shape is {array.shape}.")
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        row, column = (int(place[0]) for place in np.nonzero(~np.isfinite(values)))
        raise InputError(
            f"{path}, row {row + 1}, column {column + 1}: {values[row, column]} is not finite; features must "
            "be finite numbers."
        )
    return values


def _rows(path: Path, values: Floats, labels: NDArray[np.int64] | None) -> Rows:
    names = tuple(f"x{i}" for i in range(1, values.shape[1] + 1))
    return Rows(path.name, values, names, kind_of(values), labels=labels)


def listed_suffixes() -> str:
    """The endings of data files, as a sentence lists them."""
    return ", ".join(SUFFIXES[:-1]) + " or " + SUFFIXES[-1]
