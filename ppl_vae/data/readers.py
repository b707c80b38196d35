"""Data files, by their ending: NumPy arrays here, CSV in `tables`."""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.data.games import Games
from ppl_vae.data.rows import Floats, Rows, kind_of
from ppl_vae.data.tables import read_csv
from ppl_vae.errors import InputError

__all__ = ["DAMAGED", "SUFFIXES", "read_file"]

SUFFIXES = (".npy", ".npz", ".csv")

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

    Pickled objects are never loaded. Integers and booleans become float64.

    Args:
        path: the file.
        games: whether nothing but games will do.

    Raises:
        InputError: no such file, a folder, another ending, an unreadable or damaged file, or contents
            other than those above (NaN and infinite features, too).
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file ending in {_listed(SUFFIXES)}.")
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return read_csv(path, games=games)
    if suffix not in SUFFIXES:
        raise InputError(f"{path} cannot be read: a data file must end in {_listed(SUFFIXES)}.")
    try:
        return _read_npy(path) if suffix == ".npy" else _read_npz(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except DAMAGED as error:
        if "Object arrays" in str(error):
            raise InputError(f"{path} holds Python objects: only arrays of numbers are read.") from None
        raise InputError(f"{path} is damaged or no {suffix} file.") from None


def _read_npy(path: Path) -> Rows:
    # np.load would take a zip or a pickle under this name for what it is.
    with path.open("rb") as handle:
        values = _features(path, np.lib.format.read_array(handle, allow_pickle=False))
    return _rows(path, values, labels=None)


def _read_npz(path: Path) -> Rows:
    # np.load alone would take a bare .npy under this name.
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is damaged or no .npz file.")
    # A handle of our own: NumPy leaves its own open when a damaged archive makes it give up.
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = _features_name(path, arrays)
    values = _features(path, arrays[name])
    return _rows(path, values, _labels(path, arrays, len(values)))


def _features_name(path: Path, arrays: dict[str, NDArray[Any]]) -> str:
    for name in ("x", "X", "data", "Y"):
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


def _listed(suffixes: tuple[str, ...]) -> str:
    return ", ".join(suffixes[:-1]) + " or " + suffixes[-1]
