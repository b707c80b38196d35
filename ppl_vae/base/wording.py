"""Numbers with their errors, and which rows they are of, as they stand in tables and sentences."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "counted",
    "data_in_words",
    "distinct_texts",
    "each_or_all",
    "in_words",
    "learnt_parameters",
    "of_rows",
    "rows_in_words",
    "rows_option",
    "shown_error",
    "with_error",
]


def shown_error(error: float, digits: int = 3) -> str:
    """A standard error with so many decimals, and never as a zero that it is not."""
    return f"{error:.1g}" if 0 < error < 0.5 * 10**-digits else f"{error:.{digits}f}"


def distinct_texts(value: float, limit: float) -> tuple[str, str]:
    """A number and the limit that it was compared with, in as many digits as tell one from the other."""
    for digits in range(4, 17):
        texts = f"{value:.{digits}g}", f"{limit:.{digits}g}"
        if texts[0] != texts[1]:
            break
    return texts


def in_words(names: Sequence[str], most: int = 4) -> str:
    """Names with commas and an "and"; of very many, the first and how many more there are."""
    shown = list(names) if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def with_error(value: float | None, error: float | None, digits: int = 3, *, sign: str = "") -> str:
    """A number and its standard error after "±"; alone where it has none.

    Args:
        value: the number; None and NaN stand for what is not known and become a dash.
        error: its standard error; None, NaN and zero stand for none: an exact value has no error to show.
        digits: decimals of both; a smaller error is written with one digit that is not zero.
        sign: "+" to write the sign of positive numbers too.
    """
    if value is None or math.isnan(value):
        return "–"
    # "z" keeps zero from being written with a minus.
    text = f"{value:{sign}z.{digits}f}"
    return (
        text if error is None or math.isnan(error) or error == 0 else f"{text} ± {shown_error(error, digits)}"
    )


def rows_option(units: Sequence[int], num_rows: int) -> str | None:
    """The rows that a number is of, as ``--rows`` takes them; None where it is of all of them.

    Args:
        units: their numbers, one after another.
        num_rows: how many there are.
    """
    return None if len(units) == num_rows else f"{int(units[0])}:{int(units[-1]) + 1}"


def of_rows(part: str, num_units: int, rows: str | None, num_rows: int | None) -> str:
    """Which rows a number is of, in words.

    Args:
        part: their name: "train", "validation", "test", or a data set.
        num_units: how many of them.
        rows: as `rows_option` gives them.
        num_rows: how many rows the part has; None where that was not kept.
    """
    if num_rows is None:
        return f"{num_units:,} {part} rows"
    if rows is None:
        return f"all {num_rows:,} {part} rows"
    of = f"of the {num_rows:,} {part} rows"
    return f"the first {num_units:,} {of}" if rows.startswith("0:") else f"rows {rows} {of}"


def rows_in_words(part: str, found: Mapping[str, Any]) -> str:
    """`of_rows` of what a command found, as its JSON has it."""
    return of_rows(part, found["num_units"], found.get("chosen_rows"), found.get("num_rows"))


def data_in_words(evidence: Mapping[str, Any]) -> str:
    """Which data one method's log p(x) is of, as its JSON has it."""
    name = Path(evidence["data"]).name
    return rows_in_words(name, evidence) if evidence["unit"] == "datum" else f"the {name} data"


def counted(count: int, noun: str) -> str:
    """So many of something, one of it in the singular: "1 game", "1,200 games"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def each_or_all(num_units: int) -> str:
    """Of what a number is: of each unit, or of all the data where they are one."""
    return "in all" if num_units == 1 else "a unit"


def learnt_parameters(count: int) -> str:
    """How many parameters of a model were learnt, as a clause that goes on after it."""
    return "the model's parameter was learnt" if count == 1 else f"the model's {count} parameters were learnt"
