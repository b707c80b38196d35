"""The matrix A of a model of skills: how strong each side of a game is, given all states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.models.skills.roster import Roster
from ppl_vae.models.skills.schedule import Schedule

__all__ = ["Effects", "Lineup", "is_repeated"]


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

    def entries(
        self, players: Tensor, weight: Tensor, time: Tensor, covariate: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What A's rows are made of: strengths as sums over states.

        Args:
            players, weight, time, covariate: as for `strengths`.

        Returns:
            The states of each side's members, int64 of shape (G, K, M), and how much each of them counts, 0
            where there is none; and how much of each of ``rows`` but the base rate a side has, shape (G, K,
            effects).
        """
        whole, part = bool((players >= 0).all()), weight
        states = players if whole and not self.schedule.dated else self.schedule.states(players, time)
        if not whole:
            there = players >= 0
            states, part = torch.where(there, states, 0), torch.where(there, weight, 0.0)
        amount = covariate[..., self.columns]
        last = len(self.rows) - self.effects.base
        if last > len(self.columns):
            fixed = self.fixed[:, len(self.columns) : last].to(part)
            known = fixed.index_select(0, players.clamp(min=0).reshape(-1)).reshape(*players.shape, -1)
            amount = torch.cat([amount, (part[..., None] * known).sum(-2)], -1)
        return states, part, amount

    def matrix(self, sign: tuple[float, ...], *data: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of both sides' strengths with these signs, as columns and values of a sparse matrix.

        Args:
            sign: of each side of two.
            data: players, weight, time and covariate, as for `strengths`.

        Returns:
            Columns, int64, and values, both of shape (G, entries); values (1, entries) where all games have
            the same, as those that all players play the whole of, without effects.
        """
        states, part, amount = self.entries(*data)
        signs = part.new_tensor(sign)
        if not amount.shape[-1]:
            once = is_repeated(part)
            return states.flatten(1), ((part[:1] if once else part) * signs[:, None]).flatten(1)
        rows = torch.tensor(self.rows, dtype=torch.int64, device=states.device)[: amount.shape[-1]]
        column = torch.cat([states.flatten(1), rows.expand(len(states), -1)], 1)
        total = (amount * signs[:, None]).sum(-2)
        return column, torch.cat([(part * signs[:, None]).flatten(1), total.to(part)], 1)


def is_repeated(values: Tensor) -> bool:
    """Whether all games have the same numbers in memory, as weights that nobody gave."""
    return len(values) > 1 and values.stride(0) == 0


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """``values[..., index]``, 0 where the index is the length: several times as fast."""
    padded = torch.cat([values, torch.zeros_like(values[..., :1])], -1)
    found = padded.index_select(-1, index.reshape(-1))
    return found.reshape(*values.shape[:-1], *index.shape)
