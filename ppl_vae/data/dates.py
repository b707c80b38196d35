"""Dates as games have them, days since the beginning of 1970, and as people write them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ppl_vae.base.errors import InputError, brief

__all__ = ["are_dates", "as_days", "date_in_words", "dates_in_words"]

# Between 1853 and 2243: numbers such as these are dates; smaller ones are plain numbers.
EARLIEST, LATEST, TODAY = -42_700.0, 100_000.0, 3000.0


def are_dates(time: ArrayLike) -> bool:
    """Whether times are days since the beginning of 1970, as far as their size tells: the last lies after
    1978, and before 2243."""
    when = np.asarray(time, dtype=np.float64)
    there = when[np.isfinite(when)]
    return bool(there.size and TODAY < there.max() < LATEST and there.min() > EARLIEST)


def dates_in_words(time: ArrayLike, like: ArrayLike | None = None) -> list[str]:
    """Times as they are written, 2024-05-01, with hours where there are any; plain numbers as they are.

    Args:
        time: days since the beginning of 1970, or plain numbers.
        like: the times that tell which of both they are; ``time`` by default.
    """
    when = np.atleast_1d(np.asarray(time, dtype=np.float64))
    if not are_dates(when if like is None else like):
        return [f"{each:g}" for each in when]
    seconds = (np.nan_to_num(when) * 86_400).round().astype("datetime64[s]")
    return [str(each).removesuffix("T00:00:00") for each in seconds]


def date_in_words(time: float, like: ArrayLike | None = None) -> str:
    """One time as it is written; see `dates_in_words`."""
    return dates_in_words([time], like)[0]


def as_days(text: str, like: Sequence[float] | ArrayLike) -> float:
    """A date as games have it.

    Args:
        text: 2024-05-01, 2024-05-01T15:30, or a number in the units of plain times.
        like: times of games, which tell which of both is asked for.

    Raises:
        InputError: for what is none.
    """
    dated = are_dates(like)
    try:
        if dated:
            return float((np.datetime64(text.strip(), "s") - np.datetime64(0, "s")) / np.timedelta64(1, "D"))
        return float(text)
    except ValueError:
        wanted = "a date such as 2024-05-01" if dated else "a number, as the games' own times are"
        raise InputError(f"the date is {brief(text)!r}; it is {wanted}") from None
