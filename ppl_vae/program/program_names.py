"""What a user calls a program."""

from typing import Any

from torch import nn

__all__ = ["name_of"]


def name_of(program: Any) -> str:
    """What sentences call a model: its class's ``name``, which the command line takes, else Python's.

    Subclasses that a model makes of itself for some data have the name of the model that was asked for.
    """
    name = getattr(type(program), "name", "")
    if isinstance(name, str) and name:
        return name
    if isinstance(program, nn.Module):
        return type(program).__name__
    called = str(getattr(program, "__name__", ""))
    return called if called.isidentifier() else "this program"
