"""The one error that a user's own input can cause."""

from collections.abc import Iterable

__all__ = ["InputError", "brief", "listed"]


class InputError(ValueError):
    """What was asked cannot be done as asked.

    The message is one sentence: what was wrong, where (file, row, column or argument) and what is
    accepted. The command line prints it without a traceback and ends with exit code 2.
    """


def brief(text: str, most: int = 60) -> str:
    """A text from a file as a sentence may quote it: in one line, and not longer than ``most`` letters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + "…"


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names as a sentence lists them, the first few."""
    every = [brief(str(name)) for name in names]
    return ", ".join(every[:most]) + (", …" if len(every) > most else "")
