"""What is known of players after some games: forecasts of further games, and levels at any date.

A model that knows outcomes (`KnowsOutcomes`), its posterior over states and the games that both were learnt
from. Further games, and dates at which nobody plays, are further states of the same chains (`states`). A
player whom no game has shown has the prior; one whose game lies before its first has it too, since nothing
was known of it at that time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.data.game_joining import numbered_like
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.states import ChainStates, DenseStates, DrawnStates, States
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.guides.joint_normal import MOST_DENSE, JointNormal
from ppl_vae.inference.samplers import guide as guide_method
from ppl_vae.program.chains import Chains
from ppl_vae.program.outcomes import KnowsOutcomes, KnowsPlaces, KnowsScores
from ppl_vae.program.pair import Pair

__all__ = ["Expected", "Standing", "as_fixtures", "expected_of", "prior_chains", "states_of"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

# Φ(1): the quantile that is one standard deviation above the median.
NORMAL_CDF_1 = 0.8413447460685429
# Draws of guides whose moments are not known by formula.
NUM_DRAWS = 4000


@dataclass(frozen=True, eq=False)
class Expected:
    """What is expected of some games.

    Attributes:
        probability: of the outcomes, shape (games, outcomes); of every side to come first where they have no
            names.
        outcomes: their names.
        outcome: which one happened, shape (games,); −1 for none of them. Of fixtures it says nothing.
        size: how many outcomes each game has, shape (games,).
        unseen: players whom no earlier game has shown.
        games: these games, players numbered as the model's.
        mean, covariance: of what each side's outcome hangs on, shapes (games, K) and (games, K, K).
        model: of these games too.
        data: its arguments.
    """

    probability: Floats
    outcomes: tuple[str, ...]
    outcome: Whole
    size: Whole
    unseen: tuple[str, ...]
    games: Games
    mean: Tensor
    covariance: Tensor
    model: KnowsOutcomes
    data: tuple[Tensor, ...]

    def places(self, seed: int = 0) -> Floats:
        """P(side k finishes on place r), shape (games, K, K).

        Raises:
            InputError: for a model that knows no places.
        """
        return self._knowing_places().place_probabilities(
            self.mean, self.covariance, *self.data, seed=seed
        ).numpy()  # fmt: skip

    def pairs(self) -> Floats:
        """P(side i finishes ahead of side j), shape (games, K, K).

        Raises:
            InputError: for a model that knows no places.
        """
        return self._knowing_places().pair_probabilities(self.mean, self.covariance, *self.data).numpy()

    def scores(self) -> Floats | None:
        """P(i points to j), shape (games, most + 1, most + 1); None for a model that knows no scores."""
        if not isinstance(self.model, KnowsScores):
            return None
        return self.model.score_probabilities(self.mean, self.covariance, *self.data).numpy()

    def _knowing_places(self) -> KnowsPlaces:
        if not isinstance(self.model, KnowsPlaces):
            raise InputError("places are of games with more than two sides, which this model was not made of")
        return self.model


@dataclass(frozen=True, eq=False)
class Standing:
    """A model of games, and what is known of its players' states.

    Attributes:
        model: with the parameters learnt.
        states: the posterior of its states.
        games: what both were learnt from.
    """

    model: KnowsOutcomes
    states: States
    games: Games

    @property
    def last(self) -> float:
        """The date of the last game, −∞ where games have none."""
        return -np.inf if self.games.time is None else float(self.games.time.max())

    def towards(self, games: Games) -> tuple[Standing, Games]:
        """This standing with the states of further games, and these with their players so numbered.

        Args:
            games: of any date; of an early game a player is counted as a new one, whose name says so.

        Raises:
            InputError: where they lack a date or a column that the model needs.
        """
        later = self._without_early(numbered_like(games, self.games))
        count = np.diff(later.entry_ptr[later.side_ptr])
        time = np.zeros(later.num_games) if later.time is None else later.time
        return self._extended(later.players, later.player, np.repeat(time, count)), later

    def expect(self, games: Games) -> Expected:
        """What is expected of further games, whose own outcomes are not read.

        Raises:
            InputError: where they lack a date or a column that the model needs.
        """
        standing, later = self.towards(as_fixtures(games, self.games, self.model))
        return expected_of(standing.model, standing.states, later, self.games.num_players)

    def levels(
        self, date: float | None = None, *, num_draws: int = NUM_DRAWS, seed: int = 0
    ) -> tuple[Floats, Floats, Floats]:
        """Levels of all players at a date.

        Args:
            date: that of the last game by default; without dates there is but one.
            num_draws: joint draws.
            seed: of them.

        Returns:
            Means and sds, each of shape (players,), and draws, (draws, players).
        """
        when = self.last if date is None else date
        return self.curve(
            np.arange(self.games.num_players),
            np.full(self.games.num_players, when if np.isfinite(when) else 0.0),
            num_draws, seed,
        )  # fmt: skip

    def curve(
        self, player: Whole, time: Floats, num_draws: int = 0, seed: int = 0
    ) -> tuple[Floats, Floats, Floats]:
        """Levels of players at dates.

        Args:
            player: positions, shape (appearances,).
            time: dates, of the same shape; not before a player's first game.
            num_draws: joint draws of all of them.
            seed: of them.

        Returns:
            Means and sds, each of shape (appearances,), and draws, (draws, appearances).
        """
        standing = self._extended(self.games.players, player, time)
        rows = standing.model.level_rows(player, time)
        mean, covariance = standing.states.moments(rows)
        draws = np.zeros((0, len(player)))
        if num_draws:
            draws = standing.states.level_draws(rows, num_draws, seed)
        return mean[:, 0].numpy(), covariance[:, 0, 0].clamp_min(0.0).sqrt().numpy(), draws

    @property
    def first_games(self) -> Floats:
        """The date of every player's first game, shape (players,); ∞ for those who have none."""
        found = np.full(self.games.num_players, np.inf)
        if self.games.time is not None:
            games = np.repeat(self.games.time, np.diff(self.games.entry_ptr[self.games.side_ptr]))
            np.minimum.at(found, self.games.player, games)
        return found

    def _extended(self, players: Sequence[str], player: Whole, time: Floats) -> Standing:
        model = self.model.extended(players, player, time)
        chains = prior_chains(model)
        states = self.states.extended(chains, self.model.places_in(model))
        return replace(self, model=model, states=states)

    def _without_early(self, games: Games) -> Games:
        """Games in which players before their own first game are other, new players."""
        if games.time is None:
            return games
        when = np.repeat(games.time, np.diff(games.entry_ptr[games.side_ptr]))
        begin = np.concatenate(
            [self.first_games, np.full(len(games.players) - self.games.num_players, -np.inf)]
        )
        early = when < begin[games.player]
        early &= np.isfinite(begin[games.player])
        if not early.any():
            return games
        new, number = np.unique(games.player[early], return_inverse=True)
        player = games.player.copy()
        player[early] = len(games.players) + number
        names = tuple(f"{games.players[at]} (before its first game)" for at in new)
        return replace(games, players=(*games.players, *names), player=player)


def expected_of(
    model: KnowsOutcomes, states: States, later: Games, num_known: int, data: tuple[Tensor, ...] | None = None
) -> Expected:
    """What is expected of games, all of whose states are known.

    Args:
        model, states: of these games, and what is known of its states.
        later: the games, players numbered as the model's.
        num_known: how many players earlier games have shown, who are the first ones.
        data: the model's arguments of the games, where they were made already.
    """
    data = model.arguments_of(later) if data is None else data
    width = int(later.sides.max())
    mean, covariance = states.moments(model.predictor_rows(*data), width)
    chances = model.outcome_probabilities(mean, covariance, *data).numpy()
    size = later.sides if not model.outcomes else np.full(later.num_games, len(model.outcomes))
    unseen = tuple(later.players[at] for at in np.unique(later.player) if at >= num_known)
    happened = model.outcome_numbers(*data).numpy()
    return Expected(chances, model.outcomes, happened, size, unseen, later, mean, covariance, model, data)


def as_fixtures(games: Games, first: Games, model: KnowsOutcomes) -> Games:
    """Games with the columns of others that no forecast hangs on: scores, and what the model ignores.

    Args:
        games: later ones.
        first: those that the model was learnt from.
        model: of them.
    """
    idle = {*first.covariates} - {*games.covariates, *model.side_columns}
    nothing = np.zeros(len(games.place))
    return replace(
        games,
        score=nothing if games.score is None and first.score is not None else games.score,
        covariates={**games.covariates, **dict.fromkeys(sorted(idle), nothing)},
    )


def states_of(pair: Pair, *data: Any, num_draws: int = NUM_DRAWS, seed: int = 0) -> States:
    """The guide's posterior of the model's states.

    It is exact where the guide is of independent chains, as prior and posterior; of any other guide it is
    that of draws.

    Args:
        pair: a model that knows outcomes, with its guide.
        data: what the guide was fitted to.
        num_draws: where draws are needed.
        seed: of them.

    Raises:
        InputError: for a model of another kind.
    """
    if not isinstance(pair.model, KnowsOutcomes):
        raise InputError("forecasts of games are made by models of games, which this one is not")
    site, chains = pair.model.normal_prior()[0], prior_chains(pair.model)
    guide = pair.guide
    if isinstance(guide, AutoNormal) and len(chains.rounds) == 2:
        return _mean_field(guide, site, chains)
    if isinstance(guide, ChainNormal):
        mean, precision = (part.detach().double().clone() for part in (guide.loc, guide.site_precision))
        return ChainStates(chains, mean, precision)
    if isinstance(guide, JointNormal) and chains.num_states <= MOST_DENSE:
        found = guide.posterior(*data)[1]
        return DenseStates(found.mean.detach().double(), found.covariance_matrix.detach().double())
    drawn = guide_method.draws(pair, *data, num_draws=num_draws, seed=seed)
    values = drawn.draws[site].transpose("chain", "draw", ...).to_numpy()
    return DrawnStates(torch.as_tensor(values.reshape(-1, chains.num_states)).double())


def prior_chains(model: KnowsOutcomes) -> Chains:
    """The prior of a model's states, without gradients."""
    chains: Chains = model.normal_prior()[1].detach()
    return chains


def _mean_field(guide: AutoNormal, site: str, chains: Chains) -> ChainStates:
    """Independent normals, each of which is a chain of one state: what data add to the prior's precision."""
    median, upper = (torch.as_tensor(found).double() for found in guide.quantiles([0.5, NORMAL_CDF_1])[site])
    precision = (upper - median).square().reciprocal() - chains.variance.reciprocal()
    return ChainStates(chains, median, precision.clamp_min(0.0))
