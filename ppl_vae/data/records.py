"""CSV record by record, each with its line: read where something is amiss, to say what and where."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from ppl_vae.base.errors import InputError, brief

__all__ = [
    "check_header",
    "check_names",
    "check_width",
    "number_in",
    "records",
    "refuse_cell",
    "skip_header",
]


def records(path: Path) -> Iterator[tuple[int, list[str]]]:
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


def skip_header(handle: Iterator[str]) -> None:
    """Move past the first record that is not blank."""
    for record in csv.reader(handle, skipinitialspace=True):
        if any(cell.strip() for cell in record):
            return


def number_in(cell: str) -> float | None:
    """The number in a cell, or None; Python's `1_000` is no number in a file."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def check_header(path: Path, line: int, header: list[str]) -> None:
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
            raise InputError(f"{where}: the header has the column '{brief(name)}' twice.")


def check_names(path: Path, line: int, header: list[str]) -> None:
    """A first line of names and numbers mixed is more likely a faulty row than a header."""
    names = [name for name in header if number_in(name) is None]
    if len(names) < len(header):
        raise InputError(
            f"{path}, row {line} mixes names and numbers: a header has names only, and in a row of features "
            f"'{brief(names[0])}' is not a number."
        )


def check_width(path: Path, line: int, cells: list[str], width: int) -> None:
    """Refuse a record of another length."""
    if len(cells) != width:
        raise InputError(
            f"{path}, row {line} has {len(cells)} cells where {width} are expected (commas separate cells)."
        )


def refuse_cell(path: Path, line: int, column: str, cell: str, value: float | None) -> NoReturn:
    """Say what is wrong with a cell: empty, no number (value None), or not finite."""
    where, cell = f"{path}, row {line}, column '{brief(column)}'", brief(cell)
    if not cell:
        raise InputError(f"{where}: the cell is empty.")
    if value is None:
        raise InputError(f"{where}: '{cell}' is not a number (commas separate cells).")
    raise InputError(f"{where}: {cell} is not finite; features must be finite numbers.")
