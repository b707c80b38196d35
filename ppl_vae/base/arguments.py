"""Numbers that callers give: whole or real, within their range, or refused in one sentence."""

from collections.abc import Callable
from operator import index
from typing import Any

from ppl_vae.base.errors import InputError

__all__ = ["PROBABILITY", "check_real", "check_whole"]

# More of anything fits into no machine, and numbers far beyond are none to the libraries below.
MOST = 10**12
PROBABILITY = "is a probability between 0 and 1"


def check_whole(least: int, **given: Any) -> None:
    """Refuse, by name, what is no whole number of at least ``least``, or more than any machine holds.

    Raises:
        InputError: naming the first.
    """
    for name, value in given.items():
        try:
            whole = None if isinstance(value, bool) else index(value)
        except TypeError:
            whole = None
        if whole is None:
            raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}")
        if whole < least:
            raise InputError(f"{name} is {value}; it must be at least {least}")
        if whole > MOST:
            raise InputError(f"{name} is {value}; it must be at most {MOST:,}")


def check_real(inside: Callable[[float], bool], words: str, **given: Any) -> None:
    """Refuse, by name, what is no real number of a range.

    Args:
        inside: whether a number is in the range; NaN should not be.
        words: what the number must be, after "it": "must be a positive number".
        given: the numbers by name.

    Raises:
        InputError: naming the first.
    """
    for name, value in given.items():
        try:
            fine = not isinstance(value, str | bytes | bool) and inside(float(value))
        except (TypeError, ValueError, OverflowError):
            fine = False
        if not fine:
            raise InputError(f"{name} is {value!r}; it {words}")
