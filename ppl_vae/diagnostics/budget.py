"""A time budget: what is left of it."""

import time
from dataclasses import dataclass, field

from ppl_vae.errors import InputError

__all__ = ["Clock", "seconds_of"]

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Clock:
    """Seconds that may be spent from now on."""

    budget: float
    start: float = field(default_factory=time.perf_counter)

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.start

    @property
    def left(self) -> float:
        """Seconds that remain, never below zero."""
        return max(0.0, self.budget - self.spent)


def seconds_of(text: str) -> float:
    """A duration such as 90s, 2m, 1.5h, or plain seconds.

    Raises:
        InputError: for anything else.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        seconds = float(number) * UNITS[unit]
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"a budget of {text!r} is no time; it is such as 90s, 2m or 1h")
    return seconds
