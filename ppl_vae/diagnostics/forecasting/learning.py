"""A standing after further games: what is known already is the start, and a few iterations arrive.

The posterior of the games so far, carried on to the states of the new ones, is the best of the guide's family
up to what the new games say. Natural gradients go on from there with all games, old ones too: what new games
say of a player changes what its old opponents' results meant. So they end where a fit from nothing ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.data.dates import date_in_words
from ppl_vae.data.game_joining import joined_games
from ppl_vae.data.games import Games
from ppl_vae.diagnostics.forecasting.live import Live
from ppl_vae.diagnostics.forecasting.standing import Expected, Standing, states_of
from ppl_vae.diagnostics.forecasting.states import ChainStates, States
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.inference.fitting import natural
from ppl_vae.inference.fitting.factors.expectations import Factors
from ppl_vae.inference.fitting.factors.guides import guide_of
from ppl_vae.inference.fitting.fit_result import Fit
from ppl_vae.inference.fitting.growing.carrying import carry, check_carried
from ppl_vae.program.factors import LinearFactors, RankingFactors
from ppl_vae.program.outcomes import KnowsOutcomes
from ppl_vae.program.pair import Pair
from ppl_vae.program.probe import check_data

__all__ = ["Learnt", "assumed", "carried_on", "learnt", "refuse_earlier", "walk"]

MakeGuide = Callable[..., Any]


def refuse_earlier(before: Games, games: Games) -> None:
    """Refuse games before the last that was learnt: the past would be told by those who knew the future.

    Args:
        before: those that were learnt.
        games: further ones.

    Raises:
        InputError: naming the first such game, counted from 1, and both dates.
    """
    known = before.time
    if known is None or games.time is None or not (early := games.time < known.max()).any():
        return
    game = int(early.argmax())
    raise InputError(
        f"game {game + 1} of {games.name} is of {date_in_words(games.time[game], known)}, before the last "
        f"fit's last game of {date_in_words(float(known.max()), known)}; earlier games take a fit of "
        "all games from nothing"
    )


@dataclass(frozen=True, eq=False)
class Learnt:
    """A standing after further games.

    Attributes:
        standing: what is known now.
        pair: the model of all games, with a guide at what is known.
        fit: what the natural gradients did.
    """

    standing: Standing
    pair: Pair
    fit: Fit


def learnt(
    standing: Standing,
    games: Games,
    *,
    make_guide: MakeGuide = lambda model, *data: ChainNormal(model),
    tolerance: float = 1e-4,
) -> Learnt:
    """The standing after further games; the model's own numbers are held.

    Args:
        standing: of a guide of independent chains.
        games: later ones, with outcomes.
        make_guide: from the model of all games and its arguments, a guide of independent chains.
        tolerance: rise of the ELBO at which to stop, in nats for all games.

    Raises:
        InputError: for earlier games, games that lack what the model needs, or another guide.
    """
    if not isinstance(standing.states, ChainStates):
        raise InputError(
            "a standing alone goes on from the guide of independent chains (markov); others need their guide"
        )
    _check_linear(standing.model)
    refuse_earlier(standing.games, games)
    every = joined_games(standing.games, games)
    further, _ = standing.towards(games)
    model = further.model
    data = model.arguments_of(every)
    pair = Pair(model, make_guide(model, *data))
    pair.initialise(*data)
    _set(pair, further.states, data)
    fit = natural.fit(pair, *data, tolerance=tolerance, progress=False)
    return Learnt(Standing(model, states_of(pair, *data), every), pair, fit)


def carried_on(pair: Pair, before: Games, games: Games, make_guide: MakeGuide) -> Learnt:
    """A guide of any Gaussian family after further games: from where it stands, with all games.

    Args:
        pair: a model of linear predictors, whose numbers are held, and its guide.
        before: what it was fitted to.
        games: later ones, with outcomes.
        make_guide: from the model of all games and its arguments, a guide of the same type.

    Raises:
        InputError: as `learnt` does, and for guides that are not carried (`growing.carrying`).
    """
    check_carried(pair.guide)
    _check_linear(pair.model)
    refuse_earlier(before, games)
    every, first = joined_games(before, games), cast(KnowsOutcomes, pair.model)
    new, at = every.take(np.arange(before.num_games, every.num_games)), len(before.player)
    time = np.zeros(new.num_games) if new.time is None else new.time
    when = np.repeat(time, np.diff(new.entry_ptr[new.side_ptr]))
    model = first.extended(every.players, every.player[at:], when)
    data = model.arguments_of(every)
    after = Pair(model, make_guide(model, *data))
    after.initialise(*data)
    carry(pair, after, first.places_in(model))
    fit = natural.fit(after, *data, progress=False)
    return Learnt(Standing(model, states_of(after, *data), every), after, fit)


def _check_linear(model: Any) -> None:
    if not isinstance(model, LinearFactors):
        raise InputError(
            "further games are learnt by natural gradients of models of linear predictors, such as skills of "
            "two sides; fit other models to all games from nothing"
        )


def assumed(standing: Standing, games: Games) -> Standing:
    """The standing after further rankings, what was learnt before being the prior: assumed-density filtering.

    Moments of whole rankings given it are matched; factors of old games are kept as they are, so that the
    answer is not quite that of all games from nothing, at a fraction of the time. Levels before are carried
    back along each chain. Games of one date are matched one beside the other.

    Source: Opper, "A Bayesian approach to on-line learning" (1998); Herbrich, Minka and Graepel (2007),
    section 5, for games.

    Args:
        standing: of a guide of independent chains, and a model of rankings.
        games: later ones, with outcomes.

    Raises:
        InputError: for earlier games, games that lack what the model needs, or another guide or model.
    """
    if not isinstance(standing.states, ChainStates) or not isinstance(standing.model, RankingFactors):
        raise InputError(
            "rankings are learnt one after another from the guide of independent chains, by models that know "
            "their moments"
        )
    refuse_earlier(standing.games, games)
    every = joined_games(standing.games, games)
    further, later = standing.towards(games)
    states, model = further.states, further.model
    assert isinstance(states, ChainStates)
    assert isinstance(model, RankingFactors)
    data = model.arguments_of(later)
    check_data(model, *data)
    found = _matched(states, model, data)
    return Standing(further.model, found, every)


def _matched(states: ChainStates, model: RankingFactors, data: tuple[Any, ...]) -> ChainStates:
    """States after one factor a ranking: a site for each entry of each side, of the same moments."""
    found = model.rankings(*data)
    assert found is not None
    rows, _ = found
    matrix = rows.csr(states.chains.num_states)
    variance, deviation = states.variance, states.mean - states.chains.mean
    mean = torch.as_tensor(matrix @ states.mean.numpy())
    spread = torch.as_tensor(matrix.multiply(matrix) @ variance.numpy())
    tilted = model.ranking_moments(mean, spread, *data)
    row = torch.as_tensor(np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)))
    state, amount = torch.as_tensor(matrix.indices).long(), torch.as_tensor(matrix.data)
    own = variance[state]
    after = own * (1 - own * amount.square() * tilted.curvature[row])
    precision = after.reciprocal() - own.reciprocal()
    pull = (deviation[state] + own * amount * tilted.slope[row]) / after - deviation[state] / own
    said = states.chains.precision_times(deviation) + states.site_precision * deviation
    total = states.site_precision.index_add(0, state, precision)
    moved = states.chains.smoother(total).solve(said.index_add(0, state, pull))
    return ChainStates(states.chains, states.chains.mean + moved, total)


def _set(pair: Pair, states: States, data: tuple[Any, ...]) -> None:
    """Put a guide of independent chains where a posterior is."""
    assert isinstance(states, ChainStates)
    factors = Factors.of(cast(LinearFactors, pair.model), *data)
    spread = states.chains.smoother(states.site_precision)
    guide_of(pair, factors).write(factors, states.mean, states.site_precision, spread)


def walk(
    standing: Standing,
    games: Games,
    advance: Callable[[], object] = lambda: None,
    *,
    guided: tuple[Pair, MakeGuide] | None = None,
) -> Expected:
    """What was expected of each game from all games of earlier dates, and not from others of its own date.

    Args:
        standing: before the first of them.
        games: later ones, with dates and outcomes.
        advance: is called after each date.
        guided: the pair that the standing is of, and what makes its guide, as for `carried_on`: of guides
            that leave chains together.

    Raises:
        InputError: as `learnt` does, and for games without dates.
    """
    if games.time is None or standing.games.time is None:
        raise InputError("walking forward goes from date to date, and the games have none")
    refuse_earlier(standing.games, games)
    last = standing.expect(games)
    check_data(last.model, *last.data)
    width, found = int(games.sides.max()), [np.empty(0)] * games.num_games
    mean = torch.zeros(games.num_games, width, dtype=torch.float64)
    covariance = torch.zeros(games.num_games, width, width, dtype=torch.float64)
    unseen: list[str] = []
    going = _Going(standing, guided)
    for date in np.unique(games.time):
        at = np.flatnonzero(games.time == date)
        today = games.take(at)
        expected = going.expect(today)
        size = expected.mean.shape[1]
        mean[at, :size], covariance[at, :size, :size] = expected.mean, expected.covariance
        for game, row in zip(at, expected.probability, strict=True):
            found[game] = row
        unseen += expected.unseen
        going.learn(today)
        advance()
    columns = max(map(len, found))
    chances = np.stack([np.pad(row, (0, columns - len(row))) for row in found])
    return replace(last, probability=chances, mean=mean, covariance=covariance, unseen=tuple(unseen))


class _Going:
    """A standing on its way through dates: live where that goes, else learnt anew with each.

    Args:
        standing: at the start.
        guided: as for `walk`.
    """

    def __init__(self, standing: Standing, guided: tuple[Pair, MakeGuide] | None = None) -> None:
        self.standing, self.guided = standing, guided
        self.live = _living(standing)

    def expect(self, games: Games) -> Expected:
        """What is expected of games of the next date."""
        return (self.live or self.standing).expect(games)

    def learn(self, games: Games) -> None:
        """Learn from them."""
        if self.live is None:
            self.standing = self._learnt(games)
            return
        try:
            arrived = self.live.add(games).converged
        except FloatingPointError:
            arrived = False
        if not arrived:  # steps that are not searched along may fail, where likelihoods are not concave
            self.standing = learnt(self.standing, self.live.added).standing
            self.live = _living(self.standing)

    def _learnt(self, games: Games) -> Standing:
        standing = self.standing
        if not isinstance(standing.model, LinearFactors):
            return assumed(standing, games)
        if isinstance(standing.states, ChainStates) or self.guided is None:
            return learnt(standing, games).standing
        pair, make_guide = self.guided
        found = carried_on(pair, standing.games, games, make_guide)
        self.guided = found.pair, make_guide
        return found.standing


def _living(standing: Standing) -> Live | None:
    try:
        return Live(standing) if Live.takes(standing) else None
    except FloatingPointError:
        return None
