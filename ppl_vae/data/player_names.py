"""Names of players as numbers, in order of first appearance; those that look alike are named in a warning."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError

__all__ = ["look_alikes", "normal", "numbered_players"]

_NAMED_AT_MOST = 5
# Names, below which pandas takes longer to import than it saves.
FEW = 10**5


def numbered_players(name: str, names: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Every name's position among the players, and the players in order of first appearance.

    Args:
        name: of the games, for the sentence.
        names: shape (n,), text or numbers; names are compared in composed Unicode (NFC), and white space
            around a name is no part of it.

    Raises:
        InputError: where a name is missing (None or NaN).
    """
    codes, raw = _numbered(names)
    if (codes < 0).any() or any(player is None or player != player for player in raw):
        raise InputError(f"{name or 'the games'}: a player's name is missing")
    # Normalising the few distinct names is cheaper than normalising every cell, but may merge some.
    merged, players = _numbered(np.array([normal(str(player)) for player in raw], dtype=object))
    same = len(players) == len(raw)
    return codes if same else merged[codes], tuple(str(player) for player in players)


def _numbered(names: NDArray[Any]) -> tuple[NDArray[np.int64], Sequence[Any]]:
    if len(names) < FEW:
        seen: dict[Any, int] = {}
        return np.array([seen.setdefault(name, len(seen)) for name in names], dtype=np.int64), list(seen)
    import pandas as pd

    return pd.factorize(names)


def normal(player: str) -> str:
    """A name in composed Unicode, without white space around it."""
    return unicodedata.normalize("NFC", player).strip()


def look_alikes(players: Sequence[str]) -> tuple[str, ...]:
    """A warning that names players whom a reader would take for one.

    They have other case or spaces, compatible letters, invisible characters, or are 2 and 2.0.
    """
    alike: dict[str, list[str]] = {}
    for player in players:
        alike.setdefault(_appearance(player), []).append(player)
    groups = [group for group in alike.values() if len(group) > 1]
    if not groups:
        return ()
    shown = "; ".join(" and ".join(repr(player) for player in group) for group in groups[:_NAMED_AT_MOST])
    more = f"; and {len(groups) - _NAMED_AT_MOST} more" if len(groups) > _NAMED_AT_MOST else ""
    return (f"these players look alike and count as different ones: {shown}{more}",)


def _appearance(player: str) -> str:
    """What names that look the same have in common."""
    folded = unicodedata.normalize("NFKC", player).casefold()
    visible = "".join(letter for letter in folded if unicodedata.category(letter) != "Cf")
    text = " ".join(visible.split())
    # An identifier that a spreadsheet wrote as a real number.
    return text[: -len(".0")] if text.endswith(".0") and text[: -len(".0")].isdigit() else text
