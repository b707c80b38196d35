"""The matrix A of a model of skills: how strong each side of a game is, given all states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.models.skills.roster import Roster
from ppl_vae.models.skills.schedule import Schedule

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Effects", "Lineup"]


@dataclass(frozen=True)
class Effects:
    """What moves strengths beside the players' own skills: chains of one state, numbered after the players.

    Attributes:
        sides: columns of a side, such as "home", by name.
        players: columns of the table of players.
        groups: of players.
        base: whether there is a level that all sides have in common: the log rate of goals.
    """

    sides: tuple[str, ...] = ()
    players: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    base: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of all of them, in the order of their chains."""
        return (*self.sides, *self.players, *self.groups, *(("base rate",) if self.base else ()))

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each is: "effect", "group" or "base"."""
        effects = len(self.sides) + len(self.players)
        return ("effect",) * effects + ("group",) * len(self.groups) + ("base",) * self.base


class Lineup(nn.Module):
    """Strengths of sides as sums of states: of each member's, by the part of the game that it played, and of
    the effects of its group, of what is known of it, and of what the side had.

    Args:
        schedule: of the states.
        roster: the players.
        effects: beside their skills.
        columns: which columns of the programs' covariates the sides' effects are.
    """

    fixed: Tensor

    def __init__(
        self, schedule: Schedule, roster: Roster, effects: Effects, columns: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.schedule, self.roster = schedule, roster
        self.effects, self.columns = effects, columns
        # Of the chains after the players, which have one state each.
        self.rows = tuple(int(row) for row in schedule.states_by_rounds.last[schedule.num_players :])
        # How much of each effect a player has, whatever it plays in.
        fixed = np.zeros((len(roster.names), len(self.rows)))
        begin = len(effects.sides)
        fixed[:, begin : begin + len(effects.players)] = roster.covariate
        grouped = np.flatnonzero(roster.group >= 0)
        fixed[grouped, begin + len(effects.players) + roster.group[grouped]] = 1.0
        self.has_fixed = bool(fixed.any())
        self.register_buffer("fixed", torch.as_tensor(fixed), persistent=False)

    def strengths(
        self, skill: Tensor, players: Tensor, weight: Tensor, time: Tensor, covariate: Tensor
    ) -> Tensor:
        """How strong each side is, the base rate left out.

        Args:
            skill: the states, shape (…, N).
            players, weight: shape (G, K, M), see `schedule.Schedule.states`.
            time: shape (G,).
            covariate: shape (G, K, C).

        Returns:
            Shape (…, G, K).
        """
        states = self.schedule.states(players, time)
        member = _taken(skill, states)
        if self.has_fixed:
            own = skill[..., self.rows] @ self.fixed.to(skill).T
            member = member + _taken(own, torch.where(players < 0, own.shape[-1], players))
        found = (weight * member).sum(-1)
        if self.columns:
            effects = skill[..., None, None, self.rows[: len(self.columns)]]
            found = found + (covariate[..., self.columns] * effects).sum(-1)
        return found

    def total(self, skill: Tensor) -> Tensor:
        """Players' skills with the means of their groups and what is known of them, at all their states.

        Args:
            skill: shape (…, N).

        Returns:
            Shape (…, N); the states of other chains are as they were.
        """
        if not self.has_fixed:
            return skill
        chain = torch.as_tensor(self.schedule.states_by_rounds.chain, device=skill.device)
        own = skill[..., self.rows] @ self.fixed.to(skill).T
        return skill + _taken(own, torch.where(chain < own.shape[-1], chain, own.shape[-1]))

    def sides(self, players: Tensor, weight: Tensor, time: Tensor, covariate: Tensor) -> csr_array:
        """The rows of A that give all sides' strengths, shape (G K, N), zero for sides that there are not.

        Args:
            players, weight, time, covariate: as for `strengths`.
        """
        from scipy.sparse import coo_array

        num_states, side = self.schedule.num_states, np.arange(players[..., 0].numel())
        states = self.schedule.states(players, time).numpy(force=True).reshape(len(side), -1)
        parts = weight.numpy(force=True).reshape(len(side), -1)
        there = states < num_states
        entries = [(side.repeat(there.sum(1)), states[there], parts[there])]
        if self.has_fixed:
            known = self.fixed.numpy(force=True)[players.numpy(force=True).reshape(len(side), -1).clip(min=0)]
            amount = (np.where(there, parts, 0.0)[..., None] * known).sum(1)
            entries.append(_dense(amount, self.rows))
        if self.columns:
            amount = covariate[..., self.columns].numpy(force=True).reshape(len(side), -1)
            entries.append(_dense(amount, self.rows[: len(self.columns)]))
        row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
        found = coo_array((value, (row, column)), (len(side), num_states)).tocsr()
        found.sum_duplicates()
        return found


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """``values[..., index]``, 0 where the index is the length: several times as fast."""
    padded = torch.cat([values, torch.zeros_like(values[..., :1])], -1)
    found = padded.index_select(-1, index.reshape(-1))
    return found.reshape(*values.shape[:-1], *index.shape)


def _dense(amount: Any, rows: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """The entries of effects that are not zero."""
    row, place = np.nonzero(amount[:, : len(rows)])
    return row, np.asarray(rows, dtype=np.int64)[place], amount[row, place]
