"""Files written whole or not at all."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ppl_vae.base.errors import InputError

__all__ = [
    "PART",
    "collected_errors",
    "merge_json",
    "read_json",
    "reading",
    "write_bytes",
    "write_json",
    "write_netcdf",
    "write_text",
    "write_whole",
]

# What reading a file raises that holds something else than it should.
WRONG = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
# What the names of unfinished files begin with: a process that is killed leaves one behind.
PART = ".part-"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path``, then rename it into place.

    Raises:
        InputError: if the file cannot be written: no room, no permission.
    """
    beside = path.with_name(f"{PART}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{path} could not be written: {error.strerror or error}") from error
        raise


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file, whole or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    write_whole(path, lambda beside: beside.write_bytes(content))


# A slash separates groups in HDF5; the division slash looks like one.
SLASH, INSTEAD, RENAMED = "/", "\N{DIVISION SLASH}", "renamed"


def without_slashes(data: Any) -> Any:
    """An xarray Dataset under names that HDF5 and DataTrees take; an attribute keeps its own.

    Sites of Pyro's scopes have slashes in their names, and columns of tables do.
    """
    names = {str(name): str(name).replace(SLASH, INSTEAD) for name in (*data.variables, *data.dims)}
    names = {name: other for name, other in names.items() if name != other}
    kept = json.dumps({other: name for name, other in names.items()})
    return data.rename(names).assign_attrs({RENAMED: kept}) if names else data


def with_slashes(data: Any) -> Any:
    """The Dataset that `without_slashes` was given."""
    if RENAMED not in data.attrs:
        return data
    here = {*data.variables, *data.dims}
    kept = {name: other for name, other in json.loads(str(data.attrs[RENAMED])).items() if name in here}
    attributes = {name: value for name, value in data.attrs.items() if name != RENAMED}
    return data.rename(kept).drop_attrs(deep=False).assign_attrs(attributes)


def read_netcdf(path: str | Path) -> Any:
    """The Dataset that `write_netcdf` wrote, or any other NetCDF file's, in memory."""
    import xarray as xr

    with xr.open_dataset(path, engine="h5netcdf") as data:
        return with_slashes(data.load())


def write_netcdf(path: Path, data: Any) -> None:
    """Write an xarray Dataset or DataTree, whole or not at all.

    Names with slashes are kept in a Dataset's attribute; a DataTree's groups have been through
    `without_slashes`, without which there is none. It is made in memory: HDF5 ends the process where a disk
    is full, and Python only raises.

    Raises:
        InputError: if it cannot be written.
    """
    data = data if hasattr(data, "subtree") else without_slashes(data)
    memory = io.BytesIO()
    try:
        data.to_netcdf(memory, engine="h5netcdf")
        whole = not memory.closed
    except (TypeError, ValueError, NotImplementedError):
        whole = False
    if not whole:
        # An xarray that writes to paths only, or closes what it wrote: nothing is begun that will not fit.
        write_whole(path, lambda beside: _onto_disk(beside, data))
        return
    # Given back before the room is: Python 3.13 complains of a view that outlives it.
    with memory.getbuffer() as content:
        write_bytes(path, content)


def _onto_disk(path: Path, data: Any) -> None:
    if shutil.disk_usage(path.parent).free < 2 * data.nbytes + 2**20:
        raise OSError("no room is left on the disk")
    data.to_netcdf(path, engine="h5netcdf")


@contextmanager
def collected_errors(complaints: list[InputError] | None) -> Iterator[None]:
    """Write files in a block whose failure must not lose what was found.

    Args:
        complaints: where an `InputError` of the block is kept, to be told when what was found has been shown;
            with None it is raised at once.
    """
    try:
        yield
    except InputError as error:
        if complaints is None:
            raise
        complaints.append(error)


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Read files of a run in a block, whatever may stand in them.

    Args:
        what: the file or folder, as the sentence names it.

    Raises:
        InputError: where something is missing or of a wrong kind.
    """
    try:
        yield
    except InputError:
        raise
    except WRONG as error:
        said = " ".join(str(error).split())
        raise InputError(f"{what} is damaged: {type(error).__name__}: {said[:200]}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8", errors="replace"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON object.

    Raises:
        InputError: if it cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False, default=float) + "\n")


def merge_json(path: Path, key: str, content: Mapping[str, Any]) -> None:
    """Keep the results of other methods beside this one's."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    write_json(path, {**(before if isinstance(before, dict) else {}), key: content})


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; nothing where there is no file.

    Raises:
        InputError: if it is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
