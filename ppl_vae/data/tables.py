"""CSV files: tables of any columns, rows of numeric features, or games with winner and loser columns.

pandas reads the file (`_parsed`, the one place that does); where something is amiss, a careful reader goes
through it again, record by record, and names the first cell at fault.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, brief
from ppl_vae.data.columns import as_variable, with_masks
from ppl_vae.data.dataset import Columns, Dataset, Variable
from ppl_vae.data.game_tables import csv_games
from ppl_vae.data.games import Games
from ppl_vae.data.precision import held_exactly
from ppl_vae.data.records import (
    check_header,
    check_names,
    check_width,
    number_in,
    records,
    refuse_cell,
    skip_header,
)
from ppl_vae.data.rows import Floats, Rows, kind_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cells", "read_cells", "read_csv", "read_table"]


def read_csv(path: Path, *, games: bool = False) -> Rows | Games:
    """Read rows of features, or games when the header has columns `winner` and `loser` (any case).

    Rows: a header of feature names, or none when the first line is all numbers (then x1, x2, …); every
    other cell a finite number. Games: see `ppl_vae.data.game_tables.read_games`. UTF-8 with or without a
    byte-order mark; blank lines are skipped.

    Args:
        path: the file.
        games: whether nothing but games will do, so that a missing column is said to be one.

    Raises:
        InputError: no rows; a missing or doubled column; an empty or non-numeric cell, NaN or an infinite
            number; a row of another length; games at fault, see `read_games`; no UTF-8 text; an unreadable
            file.
    """
    with _reading(path):
        line, first, named = _head(path)
        header = first if named else None
        if header is not None:
            check_header(path, line, header)
            if games or _speaks_of_games(header):
                return csv_games(path)
            check_names(path, line, header)
        return _read_rows(path, header, width=len(first))


def read_table(path: Path) -> Dataset:
    """Read a table of any columns, each with its own type: numbers, text (a category) and empty cells
    (missing).

    A table with the columns `winner` and `loser` holds games, and is read as `read_csv` reads them.

    Raises:
        InputError: no rows; a missing or doubled name of a column; a row of another length; games at fault;
            no UTF-8 text; an unreadable file.
    """
    with _reading(path):
        line, header, named = _head(path)
        if named:
            check_header(path, line, header)
            if _speaks_of_games(header):
                return csv_games(path).dataset
            check_names(path, line, header)
    cells = read_cells(path)
    found = {name: cells.variable(place) for place, name in enumerate(cells.names)}
    variables = with_masks(found)
    if len(variables) > len(found):
        cells.check_widths()
    return Dataset(path.name, variables)


def csv_header(path: Path, columns: Columns | None = None) -> list[str]:
    """The names of the columns of a file that must have a header.

    Args:
        path: the file.
        columns: by what they are, the names that must not stand in it twice.

    Raises:
        InputError: for a file without rows, and a column of no name or of two.
    """
    with _reading(path):
        line, header, named = _head(path)
        if not named:
            raise InputError(f"{path} has no header: a table of games names its columns.")
        check_header(path, line, header)
    used = {name for of in (columns or {}).values() for name in ([of] if isinstance(of, str) else of)}
    if twice := [name for name in header if header.count(name) > 1 and name in used]:
        raise InputError(f"{path}, row {line}: the header has the column '{brief(twice[0])}' twice.")
    return header


def _head(path: Path) -> tuple[int, list[str], bool]:
    """The first record's line and cells, and whether it is a header.

    Raises:
        InputError: for a file without rows.
    """
    head = list(islice(records(path), 2))
    if not head:
        raise InputError(f"{path} is empty: a header and at least one row are needed.")
    line, first = head[0]
    named = any(number_in(cell) is None for cell in first)
    if named and len(head) < 2:
        raise InputError(f"{path} has a header but no rows: at least one is needed.")
    return line, first, named


def _speaks_of_games(header: list[str]) -> bool:
    return bool({"winner", "loser"} & {name.casefold() for name in header})


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Text that is none, and files that cannot be read, in one sentence."""
    try:
        yield
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: save it as CSV in UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


def _parsed(path: Path, *, named: bool, text: bool = False) -> pd.DataFrame | None:
    """The cells below the header, or None where pandas objects.

    Args:
        path: the file.
        named: whether it has a header.
        text: whether every cell stays the text that it is.
    """
    import pandas as pd

    options: dict[str, Any] = {"dtype": str, "na_filter": False} if text else {}
    # Before 3.1 pandas reads numbers to the last digit only when asked; later it does, and warns when asked.
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
        options["float_precision"] = "round_trip"
    with path.open(encoding="utf-8-sig", newline="") as handle:
        if named:
            skip_header(handle)
        try:
            return pd.read_csv(handle, header=None, skipinitialspace=True, low_memory=False, **options)
        except UnicodeDecodeError:
            raise
        except (ValueError, OverflowError):
            return None


@dataclass(frozen=True, eq=False)
class Cells:
    """A table as it stands in a file; each column becomes numbers when it is asked for.

    Attributes:
        path: the file.
        names: one a column, in composed Unicode; x1, x2, … where the file has no header.
        table: the cells.
        named: whether the file has a header.
    """

    path: Path
    names: tuple[str, ...]
    table: pd.DataFrame
    named: bool = True

    def numbers(self, place: int, *, missing: bool = False) -> NDArray[Any]:
        """A column as finite numbers; whole ones and booleans as int64.

        Args:
            place: of the column.
            missing: whether empty cells may stand for NaN, which makes reals of the column.

        Raises:
            InputError: naming the first cell that is no finite number.
        """
        import pandas as pd

        column = self.table.iloc[:, place]
        numbers = pd.to_numeric(column, errors="coerce")
        finite = np.isfinite(numbers.to_numpy(dtype=float))
        if missing and (finite | column.isna().to_numpy()).all():
            return numbers.to_numpy(dtype=np.float64 if len(numbers) > finite.sum() else _whole(numbers))
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            cell = column.iloc[row]
            found = "the cell is empty" if cell != cell else f"{brief(str(cell))!r} is no finite number"
            raise InputError(f"{self._at(row, place)}: {found}")
        return numbers.to_numpy(dtype=_whole(numbers))

    def variable(self, place: int) -> Variable:
        """A column as it is: numbers with their type, anything else as a category; empty cells are "
        "missing."""
        column = self.table.iloc[:, place]
        numeric = column.dtype.kind in "biuf"
        values = column.to_numpy() if numeric else column.to_numpy(dtype=object)
        fault = ""
        if not numeric:
            values = np.array([None if cell != cell else str(cell).strip() for cell in values], dtype=object)
            words = [row for row, cell in enumerate(values) if cell is not None and number_in(cell) is None]
            if words:
                fault = f"{self._at(words[0], place)}: {brief(values[words[0]])!r} is not a number."
        elif (empty := self.empty(place)) is not None:
            fault = f"{empty}."
        return as_variable(values, self.names[place], fault=fault)

    def empty(self, place: int) -> str | None:
        """Where the first empty cell of a column is, in words; None if there is none."""
        rows = np.flatnonzero(self.table.iloc[:, place].isna())
        if not len(rows):
            return None
        return f"{self._at(rows[0], place)}: the cell is empty"

    def _at(self, row: int, place: int) -> str:
        """Where a cell is, by its line in the file as every reader of tables counts."""
        line = next(islice(records(self.path), int(row) + self.named, None), (int(row) + 1, []))[0]
        return f"{self.path}, row {line}, column '{brief(self.names[place])}'"

    def check_widths(self) -> None:
        """Refuse rows with fewer cells than there are columns, which reading fills up with empty ones.

        Raises:
            InputError: naming the first of them.
        """
        for line, cells in records(self.path):
            check_width(self.path, line, cells, len(self.names))


def _whole(numbers: pd.Series) -> type[np.generic]:
    """The type of a column of numbers."""
    return np.int64 if numbers.dtype.kind in "bi" else np.float64


def read_cells(path: Path) -> Cells:
    """Read a table whose columns may be of any kind; a first line of numbers alone is no header.

    Raises:
        InputError: no rows, a row of another length, no UTF-8 text, or an unreadable file.
    """
    with _reading(path):
        _, first, named = _head(path)
        table = _parsed(path, named=named)
        if table is None or table.shape[1] != len(first):
            for line, cells in records(path):
                check_width(path, line, cells, len(first))
            raise InputError(f"{path} is no table of {len(first)} columns.")
    names = first if named else [f"x{place}" for place in range(1, len(first) + 1)]
    return Cells(path, tuple(unicodedata.normalize("NFC", name) for name in names), table, named)


def _read_rows(path: Path, header: list[str] | None, width: int) -> Rows:
    """Every column is a feature."""
    names = tuple(header) if header is not None else tuple(f"x{i}" for i in range(1, width + 1))
    values = _fast_numbers(path, names, named=header is not None)
    if values is None or not np.isfinite(values).all():
        values = _careful_numbers(path, names, skip=header is not None)
    return Rows(path.name, values, names, kind_of(values))


def _fast_numbers(path: Path, names: tuple[str, ...], *, named: bool) -> Floats | None:
    """All cells as float64, or None where the careful reader has something to say.

    Raises:
        InputError: for whole numbers that float64 does not hold.
    """
    table = _parsed(path, named=named)
    if table is None or table.shape[1] != len(names) or any(kind.kind not in "iuf" for kind in table.dtypes):
        return None
    for place, name in enumerate(names):
        column = table.iloc[:, place]
        if column.dtype.kind in "iu" and not held_exactly(column.to_numpy()):
            raise InputError(
                f"{path}, column '{brief(name)}': its whole numbers are longer than the 53 binary digits "
                "of a feature."
            )
    return np.ascontiguousarray(table.to_numpy(dtype=np.float64))


def _careful_numbers(path: Path, names: tuple[str, ...], skip: bool) -> Floats:
    """All cells as float64, record by record; raises InputError at the first one at fault."""
    values = []
    for line, cells in islice(records(path), 1 if skip else 0, None):
        check_width(path, line, cells, len(names))
        row = [number_in(cell) for cell in cells]
        for name, cell, value in zip(names, cells, row, strict=True):
            if value is None or not math.isfinite(value):
                refuse_cell(path, line, name, cell, value)
        values.append(row)
    return np.array(values, dtype=np.float64)
