"""Games between two players: the data of skill models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["Games", "games_between"]


@dataclass(frozen=True, eq=False)
class Games:
    """Who beat whom, game by game.

    Attributes:
        name: the data set's name, or the file's.
        winners: shape (num_games,), int64 positions in `players`.
        losers: shape (num_games,), int64 positions in `players`.
        players: names, in order of first appearance.

    Raises:
        ValueError: the shapes do not agree, or a position is no player's.
    """

    name: str
    winners: NDArray[np.int64]
    losers: NDArray[np.int64]
    players: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.winners.ndim != 1 or self.winners.shape != self.losers.shape:
            raise ValueError(f"winners {self.winners.shape} and losers {self.losers.shape} are no pairs.")
        for side in (self.winners, self.losers):
            if side.size and not 0 <= side.min() <= side.max() < len(self.players):
                raise ValueError(f"{self.name} names players outside 0..{len(self.players) - 1}.")

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

    Args:
        name: what to call the games.
        winners: names, shape (num_games,); white space around a name is no part of it.
        losers: names, shape (num_games,).
    """
    import pandas as pd

    # Interleaved, so that "first" runs through the games and not through one column after the other.
    both = np.stack([np.asarray(winners, dtype=object), np.asarray(losers, dtype=object)], axis=1)
    codes, raw = pd.factorize(both.ravel())
    # Stripping the few distinct names is cheaper than stripping every cell, but may merge some.
    merged, players = pd.factorize(np.array([str(player).strip() for player in raw], dtype=object))
    pairs = merged[codes].astype(np.int64).reshape(-1, 2)
    return Games(name, pairs[:, 0].copy(), pairs[:, 1].copy(), tuple(str(player) for player in players))
