"""CSV files: rows of numeric features, or games with winner and loser columns.

Two readers share the work: a fast one for the whole file, and a careful one that goes through it again
when something is amiss and names the first cell at fault.
"""

import csv
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np

from ppl_vae.data.games import Games, games_between
from ppl_vae.data.rows import Floats, Rows, kind_of
from ppl_vae.errors import InputError

__all__ = ["read_csv"]


def read_csv(path: Path) -> Rows | Games:
    """Read rows of features, or games when the header has columns `winner` and `loser` (any case).

    Rows: a header of feature names, or none when the first line is all numbers (then x1, x2, …); every
    other cell a finite number. Games: one a line, players by name or number; other columns are ignored.
    UTF-8 with or without a byte-order mark; blank lines are skipped.

    Raises:
        InputError: no rows; a missing or doubled column; an empty or non-numeric cell, NaN or an infinite
            number; a row of another length; a player beating itself; no UTF-8 text; an unreadable file.
    """
    try:
        head = list(islice(_records(path), 2))
        if not head:
            raise InputError(f"{path} is empty: a header and at least one row are needed.")
        first = head[0][1]
        header = None if all(_number(cell) is not None for cell in first) else first
        if header is not None:
            _check_header(path, head[0][0], header)
            if len(head) < 2:
                raise InputError(f"{path} has a header but no rows: at least one is needed.")
        columns = [name.casefold() for name in header or ()]
        if header is not None and ("winner" in columns or "loser" in columns):
            return _read_games(path, header)
        if header is not None:
            _check_names(path, head[0][0], header)
        return _read_rows(path, header, width=len(first))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: save it as CSV in UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def _read_rows(path: Path, header: list[str] | None, width: int) -> Rows:
    """Every column is a feature."""
    names = tuple(header) if header is not None else tuple(f"x{i}" for i in range(1, width + 1))
    values = _fast_numbers(path, skip=header is not None)
    if values is None or values.shape[1] != width or not np.isfinite(values).all():
        values = _careful_numbers(path, names, skip=header is not None)
    return Rows(path.name, values, names, kind_of(values))


def _read_games(path: Path, header: list[str]) -> Games:
    """The winner and loser columns are the players."""
    columns = [name.casefold() for name in header]
    for wanted in ("winner", "loser"):
        if wanted not in columns:
            raise InputError(f"{path} has no column '{wanted}': games need the columns winner and loser.")
    winner, loser = columns.index("winner"), columns.index("loser")
    games = _fast_games(path, len(header), winner, loser)
    if games is None or "" in games.players or np.any(games.winners == games.losers):
        games = _careful_games(path, header, winner, loser)
    return games


def _fast_numbers(path: Path, skip: bool) -> Floats | None:
    """All cells as float64, or None where NumPy's reader objects."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        if skip:
            _skip_header(handle)
        try:
            return np.loadtxt(handle, dtype=np.float64, delimiter=",", quotechar='"', comments=None, ndmin=2)
        except ValueError:
            return None


def _careful_numbers(path: Path, names: tuple[str, ...], skip: bool) -> Floats:
    """All cells as float64, record by record; raises InputError at the first one at fault."""
    records = islice(_records(path), 1 if skip else 0, None)
    values = []
    for line, cells in records:
        _check_width(path, line, cells, len(names))
        row = [_number(cell) for cell in cells]
        for name, cell, value in zip(names, cells, row, strict=True):
            if value is None or not math.isfinite(value):
                _refuse_cell(path, line, name, cell, value)
        values.append(row)
    return np.array(values, dtype=np.float64)


def _fast_games(path: Path, width: int, winner: int, loser: int) -> Games | None:
    """The games as they stand, or None where pandas' reader objects."""
    import pandas as pd

    with path.open(encoding="utf-8-sig", newline="") as handle:
        _skip_header(handle)
        try:
            cells = pd.read_csv(handle, header=None, dtype=str, na_filter=False, skipinitialspace=True)
        except ValueError:
            return None
    # A row that is too short ends in empty cells, which can hide in a column nobody asked for; only
    # such a row or an empty last cell needs the second look.
    if cells.shape[1] != width or (width > 2 and bool((cells[width - 1] == "").any())):
        return None
    return games_between(path.name, cells[winner].to_numpy(object), cells[loser].to_numpy(object))


def _careful_games(path: Path, header: list[str], winner: int, loser: int) -> Games:
    """The games, record by record; raises InputError at the first one at fault."""
    winners, losers = [], []
    for line, cells in islice(_records(path), 1, None):
        _check_width(path, line, cells, len(header))
        for column in (winner, loser):
            if not cells[column]:
                _refuse_cell(path, line, header[column], "", None)
        if cells[winner] == cells[loser]:
            raise InputError(
                f"{path}, row {line}: '{cells[winner]}' is both winner and loser; a game has two players."
            )
        winners.append(cells[winner])
        losers.append(cells[loser])
    return games_between(path.name, winners, losers)


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(1-based line, stripped cells) of each record; blank lines are no records."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle, strict=True, skipinitialspace=True)
        line = 1
        try:
            for record in reader:
                cells = [cell.strip() for cell in record]
                if cells not in ([], [""]):
                    yield line, cells
                # A quoted cell may hold line breaks, so a record starts after where the last one ended.
                line = reader.line_num + 1
        except csv.Error as error:
            raise InputError(f"{path}, row {line}: not a CSV record ({error}).") from None


def _skip_header(handle: Iterator[str]) -> None:
    """Move past the first record that is not blank."""
    for record in csv.reader(handle, skipinitialspace=True):
        if any(cell.strip() for cell in record):
            return


def _number(cell: str) -> float | None:
    """The number in a cell, or None; Python's `1_000` is no number in a file."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _check_header(path: Path, line: int, header: list[str]) -> None:
    """Every column has a name of its own."""
    where = f"{path}, row {line}"
    columns = [name.casefold() for name in header]
    for position, name in enumerate(header, start=1):
        if not name:
            raise InputError(
                f"{where}, column {position}: the cell is empty; a header names every column (drop one that "
                "only counts the rows)."
            )
        # Feature names may differ in case only; the two columns that games are known by may not.
        seen = columns if name.casefold() in ("winner", "loser") else header
        if seen.count(seen[position - 1]) > 1:
            raise InputError(f"{where}: the header has the column '{name}' twice.")


def _check_names(path: Path, line: int, header: list[str]) -> None:
    """A first line of names and numbers mixed is more likely a faulty row than a header."""
    names = [name for name in header if _number(name) is None]
    if len(names) < len(header):
        raise InputError(
            f"{path}, row {line} mixes names and numbers: a header has names only, and in a row of features "
            f"'{names[0]}' is not a number."
        )


def _check_width(path: Path, line: int, cells: list[str], width: int) -> None:
    if len(cells) != width:
        raise InputError(
            f"{path}, row {line} has {len(cells)} cells where {width} are expected (commas separate cells)."
        )


def _refuse_cell(path: Path, line: int, column: str, cell: str, value: float | None) -> NoReturn:
    where = f"{path}, row {line}, column '{column}'"
    if not cell:
        raise InputError(f"{where}: the cell is empty.")
    if value is None:
        raise InputError(f"{where}: '{cell}' is not a number (commas separate cells).")
    raise InputError(f"{where}: {cell} is not finite; features must be finite numbers.")
