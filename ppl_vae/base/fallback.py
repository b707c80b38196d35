"""What cannot be traced or compiled, and saying once that something runs otherwise than it was meant to."""

import warnings

__all__ = ["Untraceable", "fall_back"]

_said: set[str] = set()


class Untraceable(Exception):
    """A program cannot be turned into a graph, or the graph cannot be compiled; the text says why."""


def fall_back(what: str, reason: Untraceable, instead: str = "runs through stock Pyro, uncompiled") -> None:
    """Say, once for each reason, that something runs otherwise than it was meant to."""
    sentence = f"{what} {instead}: {reason}"
    if sentence not in _said:
        _said.add(sentence)
        warnings.warn(sentence, RuntimeWarning, stacklevel=3)
