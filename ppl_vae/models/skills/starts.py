"""What a model of skills is made of for given games, and where its learnt numbers begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.base.errors import InputError, listed
from ppl_vae.models.skills.lineup import Effects, Lineup
from ppl_vae.models.skills.options import SkillsOptions, days_of
from ppl_vae.models.skills.roster import Roster
from ppl_vae.models.skills.schedule import Schedule, States

if TYPE_CHECKING:
    from ppl_vae.data.games import Games

__all__ = ["Starts", "check_games", "lineup_for", "starts_for"]

# Of the drift over one unit of time, relative to the prior sd: slow, since what moves fast is soon found out.
START_DRIFT = 0.2
# Share of draws that a margin starts at where there are none, or nothing else.
FEWEST_DRAWS, MOST_DRAWS = 0.01, 0.9


@dataclass(frozen=True)
class Starts:
    """Numbers of the model that the games suggest, in skill units.

    Attributes:
        skill_sd, performance_sd, drift_sd, group_sd, margin: of those that are learnt, where they begin.
        base: mean of the prior of the log rate of goals.
    """

    skill_sd: float
    performance_sd: float
    drift_sd: float
    group_sd: float
    margin: float
    base: float = 0.0


def check_games(games: Games, options: SkillsOptions) -> None:
    """Refuse games that lack what these options need.

    Raises:
        InputError: naming it.
    """
    two = bool((games.sides == 2).all())
    if options.outcome != "result":
        _check_scores(games, options.outcome, two=two)
    elif games.has_ties:
        _check_ties(games, options)
    if options.drift and games.time is None:
        raise InputError(f"{games.name} has no dates, which drift needs: give the games a column date")
    if missing := [name for name in options.columns if name not in games.covariates]:
        there = [name for name in games.covariates if name not in options.columns]
        way_out = f"; covariates={there[0]} (--covariates {there[0]}) takes that" if there else ""
        raise InputError(
            f"{games.name} has no column {missing[0]!r} of its sides: it has "
            f"{listed(games.covariates) or 'none'}{way_out}"
        )
    if not two and options.link == "davidson":
        raise InputError(
            "link 'davidson' belongs to games of two sides; more take probit, logistic or gumbel"
        )


def _check_scores(games: Games, outcome: str, *, two: bool) -> None:
    if games.score is None:
        raise InputError(f"{games.name} has no scores, which outcome {outcome!r} observes")
    if not two:
        game = int((games.sides != 2).argmax())
        raise InputError(
            f"game {game + 1} of {games.name} has {games.sides[game]} sides; outcome {outcome!r} is of two"
        )
    wrong = ~np.isfinite(games.score)
    if outcome == "goals":
        wrong |= (games.score < 0) | (games.score != np.round(games.score))
    if wrong.any():
        side = int(wrong.argmax())
        needed = "finite" if outcome == "score" else "a whole number of goals"
        raise InputError(
            f"game {side // 2 + 1} of {games.name} has the score {games.score[side]:g}; it must be {needed}"
        )


def _check_ties(games: Games, options: SkillsOptions) -> None:
    """Two sides that finish level have drawn; among more, ties may be places that were not told apart."""
    if options.draws:
        return
    first = games.side_ptr[:-1]
    level = (games.sides == 2) & (games.place[first] == games.place[first + 1])
    if level.any():
        raise InputError(
            f"game {int(level.argmax()) + 1} of {games.name} is a draw, and the model has none; ask for them "
            "(draws=True, --draws)"
        )


def lineup_for(games: Games, options: SkillsOptions) -> Lineup:
    """States, players and effects of these games.

    Raises:
        InputError: for a table of players that cannot be read.
    """
    check_games(games, options)
    roster = Roster.read(options.players, games.players) if options.players else Roster.of(games.players)
    effects = Effects(options.columns, roster.covariates, roster.groups, options.outcome == "goals")
    count, fixed = games.num_players, len(effects.names)
    if options.drift:
        assert games.time is not None
        dates = np.repeat(games.time, np.diff(games.entry_ptr[games.side_ptr]))
        states = States.of(games.player, dates, count, fixed)
    else:
        states = States.static(count + fixed)
    names = list(games.covariates)
    columns = tuple(names.index(name) for name in options.columns)
    return Lineup(Schedule(states, count, dated=bool(options.drift)), roster, effects, columns)


def starts_for(games: Games, options: SkillsOptions) -> Starts:
    """Where the numbers begin that are not given: at values that the games' own outcomes suggest."""
    unit = options.performance_sd or 1.0
    base = 0.0
    if options.outcome == "score":
        assert games.score is not None
        spread = float((games.score[::2] - games.score[1::2]).std()) or 1.0
        unit = options.performance_sd or spread / 2
    if options.outcome == "goals":
        assert games.score is not None
        base = float(np.log(max(games.score.mean(), 0.1)))
    skill = options.skill_sd or (0.3 if options.outcome == "goals" else unit)
    return Starts(
        skill_sd=skill, performance_sd=unit, drift_sd=START_DRIFT * skill, group_sd=skill,
        margin=_margin(games, 2**0.5 * (unit**2 + skill**2) ** 0.5), base=base,
    )  # fmt: skip


def _margin(games: Games, sd: float) -> float:
    """The margin at which differences of this sd are drawn as often as the games are."""
    from scipy.special import ndtri

    first = games.side_ptr[:-1][games.sides == 2]
    drawn = float((games.place[first] == games.place[first + 1]).mean()) if len(first) else 0.0
    return sd * float(ndtri((1 + min(max(drawn, FEWEST_DRAWS), MOST_DRAWS)) / 2))


def unit_of_time(options: SkillsOptions) -> float:
    """Of the drift, in the units of the dates."""
    return days_of(options.drift) if options.drift else 1.0
