"""Time budgets: what is left of one, and loops that end when it is spent."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from ppl_vae.base.errors import InputError

__all__ = [
    "Clock",
    "OutOfTime",
    "TooLittleTime",
    "check_time",
    "deadline",
    "no_deadline",
    "seconds_of",
    "time_left",
]

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
# When the innermost deadline passes, by `time.perf_counter`. A context variable: each thread has its own.
_ends: ContextVar[float] = ContextVar("ppl_vae_deadline", default=float("inf"))


class OutOfTime(BaseException):
    """The deadline around a piece of work has passed.

    As Ctrl-C it is no `Exception`: what catches whatever a program may raise must let it through.
    """


class TooLittleTime(InputError):
    """A budget in which the least that would say anything cannot be done."""


@dataclass(frozen=True)
class Clock:
    """Seconds that may be spent from its start on.

    Attributes:
        budget: how many.
        start: when they began, by `time.perf_counter`.
        reserve: how many of them are for what comes after the work that looks at this clock.
    """

    budget: float
    start: float = field(default_factory=lambda: time.perf_counter())
    reserve: float = 0.0

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.start

    @property
    def left(self) -> float:
        """Seconds that remain before the reserve, never below zero."""
        return max(0.0, self.budget - self.reserve - self.spent)

    def too_short(self) -> "TooLittleTime":
        """What to raise where the budget was spent before anything could be checked."""
        least = max(2.0, 3 * (self.spent + self.reserve))
        spent = f"{self.spent:.{0 if self.spent >= 10 else 1}f}"
        return TooLittleTime(
            f"a budget of {self.budget:g} s is too short for any check: {spent} s were over "
            f"before the first could begin; give it {least:.0f} s or more"
        )


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let the loops of a block raise `OutOfTime` once so many seconds have passed.

    An earlier deadline around the block stays in force. Loops look when they report their progress
    (`progress.progress_bar`), and every evaluation of a program when it begins; single evaluations that may
    be long are run inside `watch.watched`, which looks at every operation.
    """
    token = _ends.set(min(_ends.get(), time.perf_counter() + seconds))
    try:
        yield
    finally:
        _ends.reset(token)


@contextmanager
def no_deadline() -> Iterator[None]:
    """Let a block end that tidies up after a deadline, however long it takes."""
    token = _ends.set(float("inf"))
    try:
        yield
    finally:
        _ends.reset(token)


def time_left() -> float:
    """Seconds until the innermost deadline; infinite without one, negative after it."""
    return _ends.get() - time.perf_counter()


def check_time() -> None:
    """Go on, or end here.

    Raises:
        OutOfTime: if the deadline has passed.
    """
    if time_left() < 0:
        raise OutOfTime


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
