"""What the words in a table of games mean: results, dates, yes and no, places."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

from ppl_vae.data.columns import as_number

__all__ = [
    "DRAW", "NOBODY", "as_days", "as_order", "as_place", "as_score", "as_truth", "as_weight", "is_date",
    "is_draw", "who_won",
]  # fmt: skip

# Names under which programs write that there is none. A person may be called Nan or Null.
NOBODY = frozenset({"NA", "N/A", "n/a", "<NA>", "#N/A", "#NA", "NaN", "nan", "-NaN", "-nan", "NULL", "null",
                    "None", "none", "-", "?"})  # fmt: skip
# Places that a result list writes for who did not arrive, and for who was not there.
RETIRED = frozenset({"", "dnf", "nc", "dsq", "dq", "ex", "ret", "r", "retired", "unclassified", "na", "nan"})
NOT_STARTED = frozenset({"dns", "dnq", "dnpq", "dnp", "wd", "withdrawn"})
DRAW = 0.5

_DRAWN = frozenset(
    {"draw", "drawn", "tie", "tied", "d", "x", "0.5", ".5", "½", "1/2", "1/2-1/2", "½-½", "0.5-0.5"}
)
_FIRST = frozenset({"1-0", "h", "home", "1", "1.0", "win", "won", "w"})
_SECOND = frozenset({"0-1", "a", "away", "0", "0.0", "loss", "lost", "l", "2"})
_YES, _NO = (
    frozenset({"1", "1.0", "true", "t", "yes", "y"}),
    frozenset({"", "0", "0.0", "false", "f", "no", "n"}),
)
_DIGITS = re.compile(r"(1[0-9]|20|21)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")


def who_won(text: str) -> float | None:
    """The outcome of a game of two sides: 1, 0 or ½ of the first; None for another word."""
    word = text.casefold().replace(" ", "").replace("–", "-")
    return 1.0 if word in _FIRST else 0.0 if word in _SECOND else DRAW if word in _DRAWN else None


def is_draw(text: str) -> float | None:
    """Whether a cell of a column of draws says that the game was one; None for another word."""
    word = text.casefold().replace(" ", "")
    return 1.0 if word in _YES or word in _DRAWN else 0.0 if word in _NO else None


def as_truth(text: str) -> float | None:
    """Yes (1) or no (0), None for another word; an empty cell says no."""
    word = text.casefold()
    return 1.0 if word in _YES else 0.0 if word in _NO else None


def as_score(text: str) -> float | None:
    """A finite number; None for anything else."""
    number = as_number(text)
    return None if number is None or not math.isfinite(number) else number


def as_weight(text: str) -> float | None:
    """A positive finite number; None for anything else."""
    number = as_score(text)
    return None if number is None or number <= 0 else number


def as_order(text: str) -> float | None:
    """A number; ∞ for who did not arrive, NaN for who did not start; None for another word."""
    word = text.casefold().rstrip(".")
    if word in RETIRED:
        return math.inf
    if word in NOT_STARTED:
        return math.nan
    return as_score(text)


def as_place(text: str) -> float | None:
    """A place; ∞ for who did not arrive, NaN for who did not start; None for another word."""
    number = as_order(text)
    if number is None or not math.isfinite(number):
        return number
    return None if number < 0 or number != round(number) else number


def as_days(text: str) -> float | None:
    """Days since the beginning of 1970 of an ISO date (20240531, too); a plain number; None for neither."""
    if _DIGITS.fullmatch(text):
        text = f"{text[:4]}-{text[4:6]}-{text[6:]}"
    elif (number := as_score(text)) is not None:
        return number
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    when = when if when.tzinfo is None else when.astimezone(UTC).replace(tzinfo=None)
    return (when - datetime(1970, 1, 1)) / timedelta(days=1)


def is_date(text: str) -> bool:
    """Whether a text that `as_days` takes is a date and no plain number."""
    return bool(_DIGITS.fullmatch(text)) or as_score(text) is None
