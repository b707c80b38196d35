"""Games between two players, a reader of data sets: what skill models take."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ppl_vae.base.errors import InputError
from ppl_vae.data.dataset import Columns, Dataset, Variable

if TYPE_CHECKING:
    import torch

__all__ = ["Games", "games_between"]

_NAMED_AT_MOST = 5
# Names, below which pandas takes longer to import than it saves.
FEW = 10**5


@dataclass(frozen=True, eq=False)
class Games:
    """Who beat whom, game by game.

    A view of a `Dataset` of the columns winner and loser: `Games.of(dataset)` reads it, `games.dataset`
    gives it back.

    Attributes:
        name: the data set's name, or the file's.
        winners: shape (num_games,), int64 positions in `players`.
        losers: shape (num_games,), int64 positions in `players`.
        players: names, in order of first appearance.
        warnings: what the user should know about it, one sentence each.

    Raises:
        ValueError: the shapes do not agree, or a position is no player's.
    """

    name: str
    winners: NDArray[np.int64]
    losers: NDArray[np.int64]
    players: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.winners.ndim != 1 or self.winners.shape != self.losers.shape:
            raise ValueError(f"winners {self.winners.shape} and losers {self.losers.shape} are no pairs.")
        for side in (self.winners, self.losers):
            if side.size and not 0 <= side.min() <= side.max() < len(self.players):
                raise ValueError(f"{self.name} names players outside 0..{len(self.players) - 1}.")

    @classmethod
    def of(cls, dataset: Dataset, columns: Columns | None = None) -> Self:
        """The games in a data set.

        Raises:
            InputError: where it lacks the columns winner and loser, or a player's name is missing.
        """
        from ppl_vae.data import inputs
        from ppl_vae.data.matching import resolve

        ready = resolve(dataset, {"games": inputs.Duels()}, columns)
        games = ready["games"]
        winners, losers = (np.ascontiguousarray(side) for side in games.values.T)
        return cls(dataset.name, winners, losers, games.levels, ready.warnings)

    @property
    def dataset(self) -> Dataset:
        """The data set that these games are a view of."""
        sides = {"winner": self.winners, "loser": self.losers}
        columns = {name: Variable(values, "index", levels=self.players) for name, values in sides.items()}
        return Dataset(self.name, columns, warnings=self.warnings, unit="game")

    @property
    def num_games(self) -> int:
        """The number of games."""
        return len(self.winners)

    @property
    def num_players(self) -> int:
        """The number of players."""
        return len(self.players)

    def tensors(self, dtype: torch.dtype | None = None) -> tuple[torch.Tensor]:
        """The data as a program receives them: one long tensor of shape (num_games, 2), the winner's
        column first.

        Args:
            dtype: ignored, since positions are whole numbers; there so that games and rows are asked alike.
        """
        import torch

        return (torch.as_tensor(np.stack([self.winners, self.losers], axis=1)),)


def games_between(
    name: str, winners: Sequence[str] | NDArray[Any], losers: Sequence[str] | NDArray[Any]
) -> Games:
    """Number the players of games given by name, in order of first appearance.

    Names are compared in composed Unicode (NFC). Those that still look alike stay apart and are named in
    `warnings`: other case or spaces, compatible letters, invisible characters, 2 and 2.0.

    Args:
        name: what to call the games.
        winners: names, shape (num_games,); white space around a name is no part of it.
        losers: names, shape (num_games,).

    Raises:
        InputError: where a name is missing (None or NaN).
    """
    # Interleaved, so that "first" runs through the games and not through one column after the other.
    both = np.stack([np.asarray(winners, dtype=object), np.asarray(losers, dtype=object)], axis=1)
    codes, raw = _numbered(both.ravel())
    if (codes < 0).any() or any(player is None or player != player for player in raw):
        raise InputError(f"{name or 'the games'}: a player's name is missing")
    # Normalising the few distinct names is cheaper than normalising every cell, but may merge some.
    merged, players = _numbered(np.array([_normal(str(player)) for player in raw], dtype=object))
    pairs = merged[codes].astype(np.int64).reshape(-1, 2)
    named = tuple(str(player) for player in players)
    return Games(name, pairs[:, 0].copy(), pairs[:, 1].copy(), named, _look_alikes(named))


def _numbered(names: NDArray[Any]) -> tuple[NDArray[np.int64], Sequence[Any]]:
    """Every name's number, and the names in order of first appearance."""
    if len(names) < FEW:
        seen: dict[Any, int] = {}
        return np.array([seen.setdefault(name, len(seen)) for name in names], dtype=np.int64), list(seen)
    import pandas as pd

    return pd.factorize(names)


def _normal(player: str) -> str:
    return unicodedata.normalize("NFC", player).strip()


def _look_alikes(players: Sequence[str]) -> tuple[str, ...]:
    """A warning that names players whom a reader would take for one."""
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
