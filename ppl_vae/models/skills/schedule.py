"""When players play: the states of their chains, stored by rounds, and which state a player has at a date."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Schedule", "States"]


@dataclass(frozen=True, eq=False)
class States:
    """Chains of states by rounds, in NumPy.

    Chains are sorted by length, longest first, those of one length by number; the r-th states of all chains
    that have one are contiguous, in that order: the predecessor of row ``rounds[r] + k`` is row
    ``rounds[r - 1] + k``.

    Attributes:
        chain: the chain of each state, int64 of shape (N,).
        time: its date, shape (N,); NaN in chains of things that have none.
        gap: the time since its predecessor, shape (N,); 0 for a chain's first state.
        rounds: where each round begins, and at last N.
        last: the last state of each chain, int64 of shape (chains,).
    """

    chain: NDArray[np.int64]
    time: NDArray[np.float64]
    gap: NDArray[np.float64]
    rounds: tuple[int, ...]
    last: NDArray[np.int64]

    @property
    def num_states(self) -> int:
        """N."""
        return len(self.chain)

    @classmethod
    def static(cls, num_chains: int) -> Self:
        """One state a chain, without dates."""
        chain = np.arange(num_chains)
        return cls(chain, np.full(num_chains, np.nan), np.zeros(num_chains), (0, num_chains), chain)

    @classmethod
    def of(
        cls, player: NDArray[np.int64], time: NDArray[np.float64], num_players: int, num_fixed: int = 0
    ) -> Self:
        """A state for each distinct pair of a player and a date.

        Args:
            player: who plays, shape (entries,).
            time: when, shape (entries,).
            num_players: players without games get one state, at the earliest date.
            num_fixed: chains of one state without a date, numbered after the players.
        """
        idle = np.setdiff1d(np.arange(num_players), player)
        begin = time.min() if len(time) else 0.0
        chain = np.concatenate([player, idle, num_players + np.arange(num_fixed)]).astype(np.int64)
        when = np.concatenate([time, np.full(len(idle), begin), np.full(num_fixed, begin)])
        order = np.lexsort((when, chain))
        chain, when = chain[order], when[order]
        new = np.ones(len(chain), dtype=bool)
        new[1:] = (chain[1:] != chain[:-1]) | (when[1:] != when[:-1])
        return cls._by_rounds(chain[new], when[new], num_players, num_fixed)

    @classmethod
    def _by_rounds(
        cls, chain: NDArray[np.int64], time: NDArray[np.float64], num_players: int, num_fixed: int
    ) -> Self:
        """From states that are sorted by chain and date."""
        length = np.bincount(chain, minlength=num_players + num_fixed)
        begin = np.concatenate([[0], np.cumsum(length)[:-1]])
        rank = np.arange(len(chain)) - begin[chain]
        place = np.empty(len(length), dtype=np.int64)
        place[np.argsort(-length, kind="stable")] = np.arange(len(length))
        rounds = np.concatenate([[0], np.cumsum(np.bincount(rank))])
        row = rounds[rank] + place[chain]
        gap = np.diff(time, prepend=np.nan)
        gap[rank == 0] = 0.0
        time = np.where(chain >= num_players, np.nan, time)
        inverse = np.empty(len(row), dtype=np.int64)
        inverse[row] = np.arange(len(row))
        return cls(
            chain[inverse], time[inverse], gap[inverse], tuple(int(at) for at in rounds),
            row[begin + length - 1],
        )  # fmt: skip


class Schedule(nn.Module):
    """Which state a player has at a date, as tensors that a graph can look up.

    Args:
        states: of the chains.
        num_players: the first so many chains are players'.
        dated: whether skills hang on dates; where not, a player's state is that of the same number.
    """

    times: Tensor
    codes: Tensor
    rows: Tensor

    def __init__(self, states: States, num_players: int, *, dated: bool) -> None:
        super().__init__()
        self.states_by_rounds, self.num_players, self.dated = states, num_players, dated
        at = np.flatnonzero(states.chain < num_players)
        times, rank = np.unique(states.time[at], return_inverse=True)
        codes = states.chain[at] * len(times) + rank
        order = np.argsort(codes)
        # Whole numbers are compared; dates only once, with those that there are.
        for name, values in (("times", times), ("codes", codes[order]), ("rows", at[order])):
            self.register_buffer(name, torch.as_tensor(values), persistent=False)

    @property
    def num_states(self) -> int:
        """The number of states, those of other chains than players' included."""
        return self.states_by_rounds.num_states

    def states(self, players: Tensor, time: Tensor) -> Tensor:
        """The states of players at the dates of their games, N where no player is.

        Args:
            players: int64 of shape (G, K, M), −1 where nobody is.
            time: shape (G,).

        Returns:
            int64 of shape (G, K, M). Of a player at a date without a state it is some other state: `unknown`
            tells.
        """
        if not self.dated:
            return torch.where(players < 0, self.num_states, players)
        _, at = self._positions(players, time)
        return torch.where(players < 0, self.num_states, self.rows[at])

    def unknown(self, players: Tensor, time: Tensor) -> Tensor:
        """Which entries of ``players`` have no state at the dates of their games, booleans of its shape."""
        if not self.dated:
            return players >= self.num_players
        code, at = self._positions(players, time)
        off = self.times[torch.searchsorted(self.times, time).clamp(max=len(self.times) - 1)] != time
        return (players >= 0) & ((self.codes[at] != code) | off[:, None, None])

    def _positions(self, players: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        rank = torch.searchsorted(self.times, time.to(self.times.dtype)).clamp(max=len(self.times) - 1)
        code = players * len(self.times) + rank[:, None, None]
        return code, torch.searchsorted(self.codes, code.contiguous()).clamp(max=len(self.codes) - 1)
