"""The cells of a table of games: a column is codes of its distinct texts, read in blocks of rows.

Of ten million games few names, dates and scores are distinct: each is judged once, and no cell becomes an
object of its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError, brief
from ppl_vae.data.dataset import Dataset, Variable
from ppl_vae.data.records import check_width, records, skip_header

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "Table", "csv_table", "dataset_table", "frame_table", "parquet_table"]

# Cells in a block, which bounds the memory.
BLOCK = 2 * 10**6
FLOATS = np.dtype(np.float64)


@dataclass(eq=False)
class Column:
    """One column.

    Attributes:
        levels: the distinct texts, without white space around them, in composed Unicode; "" is an empty cell.
        codes: shape (rows,), int32: which text stands in each row.
    """

    levels: list[str] = field(default_factory=list)
    parts: list[NDArray[np.int32]] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)

    @property
    def codes(self) -> NDArray[np.int32]:
        """See the class."""
        if len(self.parts) != 1:
            self.parts = [np.concatenate([*self.parts, np.empty(0, np.int32)])]
        return self.parts[0]

    def add(self, codes: NDArray[Any], texts: Iterable[str]) -> None:
        """More rows, by codes of other texts."""
        places = np.array([self._place(text) for text in texts], dtype=np.int32)
        # Code −1 is that of a missing value.
        if len(codes) and codes.min() < 0:
            places = np.append(places, np.int32(self._place("")))
        self.parts.append(places[codes] if len(places) else np.empty(0, np.int32))

    def _place(self, text: str) -> int:
        text = text.strip()
        text = text if text.isascii() else unicodedata.normalize("NFC", text)
        found = self.known.get(text)
        if found is None:
            found = self.known[text] = len(self.levels)
            self.levels.append(text)
        return found

    def map(self, judge: Callable[[str], float | None]) -> tuple[NDArray[np.float64], int | None]:
        """Each row's number by its text, NaN where there is none; and the first row at fault, if any.

        Args:
            judge: from a text to a number; None for a fault.
        """
        judged = [judge(text) for text in self.levels]
        faulty = np.array([value is None for value in judged], dtype=bool)
        numbers = np.array([np.nan if value is None else value for value in judged], dtype=np.float64)
        row = int(faulty[self.codes].argmax()) if faulty.any() else None
        return numbers[self.codes], row


@dataclass(eq=False)
class Table:
    """A table of games as it stands.

    Attributes:
        name: of the table, and what errors call it: the path of a file.
        columns: by the names in the header.
        left: names of further columns that were not read.
        line: from a row's number, counted from 0, to the line that it is in.
    """

    name: str
    where: str
    columns: dict[str, Column]
    left: tuple[str, ...] = ()
    line: Callable[[int], int] = field(default=lambda row: row + 1)

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self.columns.values())).codes)

    def refuse(self, row: int, words: str, column: str = "") -> NoReturn:
        """Say what is wrong in which row, and in which of its columns.

        Raises:
            InputError: always.
        """
        place = f", column '{brief(column)}'" if column else ""
        raise InputError(f"{self.where}, row {self.line(row)}{place}: {words}.")

    def text(self, column: str, row: int) -> str:
        """What stands in a cell, as a sentence quotes it."""
        found = self.columns[column]
        return brief(found.levels[found.codes[row]])


def csv_table(path: Path, header: Sequence[str], wanted: Sequence[str]) -> Table:
    """The columns of a CSV file that are asked for.

    Args:
        path: the file.
        header: its first record.
        wanted: names of columns.

    Raises:
        InputError: for a row of another length, a header among the rows, or a file that is no CSV.
    """
    found = _fast_csv(path, header, wanted)
    if found is None or _blank(found, wanted):
        found = _careful_csv(path, header, wanted)
    columns, last = found
    table = Table(
        path.name,
        str(path),
        {name: columns[name] for name in wanted},
        tuple(name for name in header if name not in wanted),
        lambda row: next(islice(records(path), row + 1, None), (row + 2, []))[0],
    )
    # A row that is too short ends in empty cells, which can hide in a column where they mean something.
    if "" in last.known:
        for line, cells in records(path):
            check_width(path, line, cells, len(header))
    _check_header_once(table, path)
    return table


def _fast_csv(
    path: Path, header: Sequence[str], wanted: Sequence[str]
) -> tuple[dict[str, Column], Column] | None:
    """The columns by pandas, in blocks; None where it objects."""
    import pandas as pd

    last = header[-1]
    kinds = {at: "category" if name in wanted or name == last else str for at, name in enumerate(header)}
    columns = {name: Column() for name in (*wanted, last)}
    with path.open(encoding="utf-8-sig", newline="") as handle:
        skip_header(handle)
        try:
            blocks = pd.read_csv(
                handle, header=None, skipinitialspace=True, low_memory=False, dtype=kinds, na_filter=False,
                chunksize=max(1, BLOCK // len(header)),
            )  # fmt: skip
            for block in blocks:
                if block.shape[1] != len(header):
                    return None
                for name, column in columns.items():
                    _add_series(column, block.iloc[:, header.index(name)])
        except UnicodeDecodeError:
            raise
        except (ValueError, OverflowError):
            return None
    return columns, columns[last]


def _careful_csv(
    path: Path, header: Sequence[str], wanted: Sequence[str]
) -> tuple[dict[str, Column], Column]:
    """The columns record by record; raises InputError for a row of another length."""
    columns = {name: Column() for name in (*wanted, header[-1])}
    rows = islice(records(path), 1, None)
    while block := list(islice(rows, max(1, BLOCK // len(header) // 10))):
        for line, cells in block:
            check_width(path, line, cells, len(header))
        for name, column in columns.items():
            at = header.index(name)
            column.add(np.arange(len(block)), [cells[at] for _, cells in block])
    return columns, columns[header[-1]]


def _blank(found: tuple[dict[str, Column], Column], wanted: Sequence[str]) -> bool:
    """Whether some row has nothing in any column: a line of white space is no record."""
    empty = [found[0][name] for name in wanted]
    if any("" not in column.known for column in empty):
        return False
    return bool(np.logical_and.reduce([column.codes == column.known[""] for column in empty]).any())


def _check_header_once(table: Table, path: Path) -> None:
    """Refuse a row that is the header again."""
    again: NDArray[np.bool_] | None = None
    for name, column in table.columns.items():
        alike = np.array([text.casefold() == name.casefold() for text in column.levels])
        if not alike.any():
            return
        here = alike[column.codes]
        again = here if again is None else again & here
    if again is not None and again.any():
        line = table.line(int(again.argmax()))
        raise InputError(f"{path}, row {line} is the header again: a file has one, in its first row.")


def parquet_table(path: Path, wanted: Sequence[str]) -> Table:
    """The columns of a parquet file that are asked for, by groups of rows.

    Raises:
        InputError: for a damaged file.
    """
    columns = {name: Column() for name in wanted}
    left = tuple(name for name in parquet_header(path) if name not in wanted)
    for block in _parquet(path).iter_batches(batch_size=BLOCK // max(1, len(wanted)), columns=[*wanted]):
        frame = block.to_pandas()
        for name, column in columns.items():
            _add_series(column, frame[name])
    return Table(path.name, str(path), columns, left)


def parquet_header(path: Path) -> list[str]:
    """The names of a parquet file's columns.

    Raises:
        InputError: for a damaged file, and without pyarrow.
    """
    return list(map(str, _parquet(path).schema_arrow.names))


def _parquet(path: Path) -> Any:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(
            f"{path} cannot be read without pyarrow: pip install 'ppl-vae[parquet]', or save it as CSV."
        ) from None
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # whatever pyarrow raises on a damaged file
        raise InputError(f"{path} is damaged or no .parquet file ({type(error).__name__}).") from None


def frame_table(frame: pd.DataFrame, name: str, wanted: Sequence[str]) -> Table:
    """The columns of a pandas table that are asked for."""
    columns = {column: Column() for column in wanted}
    for column, found in columns.items():
        _add_series(found, frame[column])
    left = tuple(str(each) for each in frame.columns if each not in wanted)
    return Table(name, name, columns, left)


def _add_series(column: Column, series: pd.Series) -> None:
    """A column of pandas, whatever its type, by its distinct values."""
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        column.add(series.cat.codes.to_numpy(), map(str, series.cat.categories.tolist()))
        return
    codes, values = pd.factorize(series)
    column.add(codes, _texts(np.asarray(values)))


def _texts(values: NDArray[Any]) -> Iterator[str]:
    """Distinct values as texts; whole numbers in a column of reals keep no decimals."""
    if values.dtype.kind == "M":
        yield from (str(value) for value in values.astype("datetime64[us]"))
    elif values.dtype.kind == "f":
        yield from (str(int(value)) if value == np.round(value) else repr(float(value)) for value in values)
    else:
        yield from map(str, values.tolist())


def dataset_table(dataset: Dataset, wanted: Sequence[str]) -> Table:
    """The columns of a data set that are asked for.

    Raises:
        InputError: for a variable that is no column.
    """
    columns = {name: _of_variable(dataset, name, dataset[name]) for name in wanted}
    left = tuple(
        name for name, found in dataset.variables.items() if name not in wanted and found.kind != "mask"
    )
    return Table(dataset.name, dataset.name, columns, left)


def _of_variable(dataset: Dataset, name: str, variable: Variable) -> Column:
    if variable.values.ndim != 1 or variable.is_ragged:
        raise InputError(f"{dataset.name}: {name!r} is no column, and a table of games is of columns.")
    column, values = Column(), variable.values
    if variable.levels:
        column.add(values, variable.levels)
        return column
    distinct, codes = np.unique(values, return_inverse=True)
    missing = np.isnat(distinct) if distinct.dtype.kind == "M" else distinct != distinct
    texts = ["" if gone else next(_texts(distinct[[at]])) for at, gone in enumerate(missing)]
    column.add(codes.reshape(-1), texts)
    return column
