"""The one error that a user's own input can cause."""

__all__ = ["InputError"]


class InputError(ValueError):
    """What was asked cannot be done as asked.

    The message is one sentence: what was wrong, where (file, row, column or argument) and what is
    accepted. The command line prints it without a traceback and ends with exit code 2.
    """
