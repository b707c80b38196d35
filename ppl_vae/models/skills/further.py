"""A model of skills at further dates and of further players, its parameters and its states as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.models.skills.lineup import Lineup
from ppl_vae.models.skills.roster import Roster
from ppl_vae.models.skills.schedule import Schedule, States
from ppl_vae.program.design import Design

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from ppl_vae.models.skills.numbers import Numbers

__all__ = ["extended_lineup", "level_rows", "lineup_of", "matrix_of", "places_in", "side_rows"]


def extended_lineup(
    lineup: Lineup, players: Sequence[str], player: NDArray[np.int64], time: NDArray[np.float64]
) -> Lineup:
    """The states of these appearances beside those that there are; see `KnowsOutcomes.extended`."""
    states, num_players = lineup.schedule.states_by_rounds, lineup.schedule.num_players
    own = states.chain < num_players if lineup.schedule.dated else np.zeros(states.num_states, dtype=bool)
    chain, when = np.concatenate([states.chain[own], player]), np.concatenate([states.time[own], time])
    return lineup_of(lineup, players, chain, when)


def lineup_of(
    lineup: Lineup, players: Sequence[str], player: NDArray[np.int64], time: NDArray[np.float64]
) -> Lineup:
    """The states of these appearances alone; see `KnowsOutcomes.of_appearances`."""
    fixed, dated = len(lineup.effects.names), lineup.schedule.dated
    num_players = len(players)
    states = States.of(player, time, num_players, fixed) if dated else States.static(num_players + fixed)
    schedule = Schedule(states, num_players, dated=dated)
    return Lineup(schedule, _with_new(lineup.roster, players), lineup.effects, lineup.columns)


def _with_new(roster: Roster, players: Sequence[str]) -> Roster:
    """Players of whom nothing is known behind those of a roster."""
    new = Roster.of(players[len(roster.names) :])
    mean, sd, group = (
        np.concatenate([getattr(roster, name), getattr(new, name)]) for name in ("mean", "sd", "group")
    )
    covariate = np.zeros((len(players), roster.covariate.shape[1]))
    covariate[: len(roster.names)] = roster.covariate
    return replace(roster, names=tuple(players), mean=mean, sd=sd, group=group, covariate=covariate)


def places_in(model: Numbers, larger: Numbers) -> Tensor:
    """See `KnowsOutcomes.places_in`."""
    own, states = model.lineup.schedule, model.lineup.schedule.states_by_rounds
    found = torch.empty(states.num_states, dtype=torch.int64)
    players = np.flatnonzero(states.chain < own.num_players)
    found[torch.as_tensor(players)] = larger.lineup.schedule.states(
        torch.as_tensor(states.chain[players])[:, None, None], torch.as_tensor(states.time[players])
    ).flatten()
    found[list(model.lineup.rows)] = torch.tensor(larger.lineup.rows, dtype=torch.int64)
    return found


def level_rows(model: Numbers, player: NDArray[np.int64], time: NDArray[np.float64]) -> csr_array:
    """See `KnowsOutcomes.level_rows`: skills, with the means of groups and what is known of players."""
    alone = torch.as_tensor(player)[:, None, None]
    when = torch.as_tensor(time, dtype=torch.float64)
    nothing = torch.zeros(len(player), 1, max([0, *model.lineup.columns]) + 1, dtype=torch.float64)
    return side_rows(model.lineup, alone, torch.ones(alone.shape, dtype=torch.float64), when, nothing)


def side_rows(lineup: Lineup, *data: Tensor) -> csr_array:
    """Strengths of sides as sums of states, shape (G K, N), the base rate left out; zero where no side is.

    Args:
        lineup: of the model.
        data: players, weight, time and covariate, as for `Lineup.strengths`.
    """
    states, part, amount = lineup.entries(*data)
    effects = torch.tensor(lineup.rows, dtype=torch.int64)[: amount.shape[-1]]
    column = torch.cat([states, effects.expand(*states.shape[:2], -1)], -1).flatten(0, 1)
    value = torch.cat([part.double(), amount.double()], -1).flatten(0, 1)
    return matrix_of(Design.of_entries(column, value), lineup.schedule.num_states)


def matrix_of(rows: Design, num_states: int) -> csr_array:
    """A as SciPy's sparse matrix, shape (R, N)."""
    from scipy.sparse import csr_array

    parts = (part.numpy(force=True) for part in (rows.value.double(), rows.column, rows.pointer))
    found = csr_array(tuple(parts), (rows.num_rows, num_states))
    found.sum_duplicates()
    found.eliminate_zeros()
    return found
