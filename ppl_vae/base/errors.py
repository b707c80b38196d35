"""The one error that a user's own input can cause."""

__all__ = ["InputError", "brief"]


class InputError(ValueError):
    """What was asked cannot be done as asked.

    The message is one sentence: what was wrong, where (file, row, column or argument) and what is
    accepted. The command line prints it without a traceback and ends with exit code 2.
    """


def brief(text: str, most: int = 60) -> str:
    """A text from a file as a sentence may quote it: in one line, and not longer than ``most`` letters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most] + "…"
