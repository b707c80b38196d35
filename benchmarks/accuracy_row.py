"""One figure of an accuracy study."""

from dataclasses import dataclass

__all__ = ["Row"]


@dataclass(frozen=True)
class Row:
    """What it is, what was measured, what it should be, and whether it is."""

    name: str
    measured: str
    target: str
    met: bool
