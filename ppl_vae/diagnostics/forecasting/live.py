"""A standing that is kept up to date, game by game, without making anything of all games anew.

It is for models of linear predictors under the guide of independent chains. Forecasts of a date and what its
games say concern a few players, from their last games on: for those a small model is made, whose priors of
further states and whose rows of data join those that there are (`inference.fitting.growing`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.data.game_joining import joined_games, numbered_like
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.standing import (
    Expected,
    Standing,
    as_fixtures,
    expected_of,
    prior_chains,
)
from ppl_vae.diagnostics.forecasting.states import ChainStates
from ppl_vae.inference.fitting.factors.expectations import Factors
from ppl_vae.inference.fitting.factors.guides import refuse_meetings
from ppl_vae.inference.fitting.growing.posterior import TOLERANCE, Growing, Settled
from ppl_vae.program.factors import LinearFactors
from ppl_vae.program.outcomes import KnowsOutcomes
from ppl_vae.program.probe import check_data
from ppl_vae.program.tridiagonal import by_chain

__all__ = ["Live"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
# After so many times that games were added, what the series leave out is looked at; and how much of it, in
# sds and of log variances, may stay.
CHECKED, ALLOWED = 50, 1e-3


@dataclass(frozen=True, eq=False)
class _Frame:
    """A few games, and the model of their players from their last games on.

    Attributes:
        games: numbered as all players are.
        model: of these players' last states and those of these games; others have a state each too.
        states: what is known of them.
        data: the model's arguments.
    """

    games: Games
    model: KnowsOutcomes
    states: ChainStates
    data: tuple[Tensor, ...]


class Live:
    """A standing to which games are added.

    Args:
        standing: of a guide of independent chains, and a model of linear predictors.

    Attributes:
        posterior: of all states, by chain.
        date: of the last game.

    Raises:
        InputError: for another one.
    """

    def __init__(self, standing: Standing) -> None:
        model, states = standing.model, standing.states
        if not self.takes(standing):
            raise InputError(
                "games are added to standings of models of linear predictors under the guide of independent "
                "chains"
            )
        assert isinstance(states, ChainStates)
        assert isinstance(model, LinearFactors)
        self._asked: tuple[Games, _Frame] | None = None
        self._first, self._added, self._model = standing, list[Games](), standing.model
        factors = Factors.of(model, *standing.model.arguments_of(standing.games))
        refuse_meetings(factors)
        self.posterior = Growing(factors, states.mean, states.site_precision)
        self.posterior.settle()
        # One game of them, for the names of players and covariates.
        self._like, self.date = standing.games.take(np.zeros(1, dtype=np.int64)), standing.last
        chain, time = standing.model.appearances()
        order = by_chain(states.chains)
        self._owner, self._time = chain[order], time[order]
        self._num_effects = int(chain.max()) + 1 - len(self.players)
        self._last = np.empty(int(chain.max()) + 1, dtype=np.int64)
        self._last[self._owner] = np.arange(len(chain))  # of each chain's the last one stays

    @staticmethod
    def takes(standing: Standing) -> bool:
        """Whether a standing is one that can be kept so."""
        return isinstance(standing.states, ChainStates) and isinstance(standing.model, LinearFactors)

    @property
    def players(self) -> tuple[str, ...]:
        """Who has played."""
        return self._like.players

    @property
    def added(self) -> Games:
        """All games that were added."""
        return reduce(joined_games, self._added, self._first.games.take(np.zeros(0, dtype=np.int64)))

    def expect(self, games: Games) -> Expected:
        """What is expected of further games, whose own outcomes are not read.

        Raises:
            InputError: as `Standing.expect`, and for games before the last that was added.
        """
        frame = self._frame(as_fixtures(games, self._first.games, self._first.model))
        return expected_of(frame.model, frame.states, frame.games, len(self.players), frame.data)

    def add(self, games: Games, tolerance: float = TOLERANCE) -> Settled:
        """Learn from games.

        Args:
            games: later ones, with outcomes.
            tolerance: see `Growing.settle`.

        Raises:
            InputError: for games before the last that was added, or that lack what the model needs.
            FloatingPointError: as `Growing.settle`.
        """
        frame = self._frame(games)
        model, states = frame.model, frame.states
        assert isinstance(model, LinearFactors)
        check_data(model, *frame.data)
        factors = Factors.of(model, *frame.data)
        refuse_meetings(factors)
        self._lengthen(frame, factors, states.mean)
        self._like = replace(self._like, players=frame.games.players)
        self._added.append(games)
        self._asked = None
        if games.time is not None:
            self.date = float(games.time.max())
        found = self.posterior.settle(tolerance)
        if len(self._added) % CHECKED == 0 and max(self.posterior.check()) > ALLOWED:
            found = self.posterior.renew(tolerance)
        return found

    def standing(self) -> Standing:
        """What is known now, as if it had been found at once."""
        players = len(self.players)
        own = self._owner < players
        model = self._model.of_appearances(self.players, self._owner[own], self._time[own])
        chains = prior_chains(model)
        order = by_chain(chains)
        # Both by chain: only the order of the chains differs.
        theirs = order[np.argsort(model.appearances()[0][order], kind="stable")]
        mine = np.argsort(self._owner, kind="stable")
        mean, sites = torch.empty_like(chains.mean), torch.empty_like(chains.mean)
        mean[theirs] = torch.from_numpy(self.posterior.mean[mine])
        sites[theirs] = torch.from_numpy(self.posterior.sites[mine])
        games = joined_games(self._first.games, self.added)
        return Standing(model, ChainStates(chains, mean, sites), games)

    def _frame(self, games: Games) -> _Frame:
        """A few games, with what is known of their players' last states; made once for both who ask."""
        if self._asked is None or self._asked[0] is not games:
            self._asked = games, self._framed(games)
        return self._asked[1]

    def _framed(self, games: Games) -> _Frame:
        if games.time is not None and self._like.time is not None and (games.time < self.date).any():
            raise InputError("games are added in the order of their dates")
        later = numbered_like(games, self._like)
        known = len(self.players)
        count = np.diff(later.entry_ptr[later.side_ptr])
        time = np.repeat(np.zeros(later.num_games) if later.time is None else later.time, count)
        old = np.unique(later.player[later.player < known])
        model = self._model.of_appearances(
            later.players,
            np.concatenate([old, later.player]),
            np.concatenate([self._time[self._last[old]], time]),
        )
        return _Frame(later, model, self._states(model), model.arguments_of(later))

    def _states(self, model: KnowsOutcomes) -> ChainStates:
        """What is known of the states of a few games' model, of which each chain's first is its last here."""
        chains = prior_chains(model)
        at = self._last_of(model, chains.num_chains)
        known = torch.from_numpy(at >= 0)
        known_states = (self.posterior.mean, self.posterior.variance)
        mean, variance = (torch.from_numpy(part[at]) for part in known_states)
        noise, zero = (mean - chains.mean) / chains.variance.sqrt(), torch.zeros_like(mean)
        # Sites that make this variance of the prior's: less than none where a walk has widened it.
        sites = variance.reciprocal() - chains.variance.reciprocal()
        return ChainStates(
            chains, chains.unwhiten(torch.where(known, noise, zero)), torch.where(known, sites, zero)
        )

    def _last_of(self, model: KnowsOutcomes, num_chains: int) -> Whole:
        """Of each state of a few games' model the state that it is here, −1 where it is a further one."""
        chain, _ = model.appearances()
        first = np.arange(len(chain)) < num_chains
        return np.where(first, self._with_new(int(chain.max()) + 1)[chain], -1)

    def _with_new(self, num_chains: int) -> Whole:
        """The last state of each chain, −1 of further players', who come before what else there is."""
        at = len(self.players)
        return np.concatenate([self._last[:at], np.full(num_chains - len(self._last), -1), self._last[at:]])

    def _lengthen(self, frame: _Frame, factors: Factors, mean: Tensor) -> None:
        """Further states at the ends of their chains, and further rows."""
        size, shift = len(self._owner), len(frame.games.players) - len(self.players)
        # What else there is is numbered after all players.
        self._owner = np.where(self._owner >= len(self.players), self._owner + shift, self._owner)
        chain, time = frame.model.appearances()
        last, known = (
            self._with_new(len(self._last) + shift),
            self._last_of(frame.model, factors.chains.num_chains),
        )
        order = by_chain(factors.chains)
        new = order[known[order] < 0]
        before = np.where(last[chain[new]] < 0, size, last[chain[new]] + 1)
        place = self.posterior.append(factors, known, before, mean)
        self._owner = np.insert(self._owner, before, chain[new])
        self._time = np.insert(self._time, before, time[new])
        last += np.searchsorted(np.sort(before), last, side="right")
        last[chain[order]] = place[order]
        self._last = last
