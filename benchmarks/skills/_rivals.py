"""Other packages on the games that ours is scored on: trueskill, openskill, TrueSkillThroughTime and choix.

Each is used as its documentation has it, at its defaults; what is set beside them `Rival.said` tells. None
comes with this package (the extra ``bench`` brings them), and what is not there is left out by name.
TrueSkill's two packages have no function for win, draw and loss; the formula is that of their own model,
Φ((m ∓ ε) / √(Σ(σ² + β²))), the sum over everybody who plays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy.special import expit, ndtr, ndtri

from ppl_vae.data.game_joining import joined_games
from ppl_vae.data.games import Games

__all__ = ["Choix", "OpenSkill", "Rival", "ThroughTime", "TrueSkill", "draw_rate", "installed", "lineups"]

Sides = list[list[str]]
# A side's mean, and its variance with that of its performance.
Level = tuple[float, float]


class Rival:
    """One package: it learns games in the order of their dates, and says what it expects of others.

    Attributes:
        said: what it is called, and what is set beside its defaults.
    """

    package = ""
    said = ""

    def learn(self, games: Games) -> None:
        """Learn further games, all later than those before."""
        raise NotImplementedError

    def walk(self, before: Games, after: Games) -> Iterator[np.ndarray]:
        """Stand before each date of later games in turn: their positions, which what is asked then is of."""
        self.learn(before)
        for at in dates_of(after):
            yield at
            self.learn(after.take(at))

    def results(self, games: Games) -> np.ndarray:
        """P(win), P(draw) and P(loss) of the first of two sides, shape (games, 3)."""
        raise NotImplementedError

    def ahead(self, sides: Sides, time: float) -> np.ndarray:
        """P(side i finishes ahead of side j) of one game, shape (sides, sides)."""
        raise NotImplementedError


def installed(rival: type[Rival]) -> bool:
    """Whether the package is there."""
    return find_spec(rival.package) is not None


def dates_of(games: Games) -> list[np.ndarray]:
    """The positions of each date's games, in the order of dates."""
    assert games.time is not None
    return [np.flatnonzero(games.time == date) for date in np.unique(games.time)]


def lineups(games: Games) -> Iterator[tuple[Sides, list[int], float]]:
    """The players of each side, the sides' places, and the date, game by game."""
    names = [games.players[at] for at in games.player]
    entry, place = games.entry_ptr.tolist(), games.place.tolist()
    time = [0.0] * games.num_games if games.time is None else games.time.tolist()
    for number, (begin, end) in enumerate(
        zip(games.side_ptr[:-1].tolist(), games.side_ptr[1:].tolist(), strict=True)
    ):
        sides = [names[entry[side] : entry[side + 1]] for side in range(begin, end)]
        yield sides, place[begin:end], time[number]


def draw_rate(games: Games) -> float:
    """The share of games of two sides that were drawn."""
    first = games.side_ptr[:-1]
    return float((games.place[first] == games.place[first + 1]).mean())


def _three(levels: Sequence[Level], margin: float) -> tuple[float, float, float]:
    """Win, draw and loss of two sides whose performances are normal."""
    (first, one), (second, other) = levels
    scale = math.sqrt(one + other)
    win, loss = (float(ndtr((sign * (first - second) - margin) / scale)) for sign in (1, -1))
    return win, 1 - win - loss, loss


def _ahead(levels: Sequence[Level]) -> np.ndarray:
    mean, variance = np.array(levels).T
    return ndtr((mean[:, None] - mean) / np.sqrt(variance[:, None] + variance))


class _Filter(Rival):
    """One of the two packages of the same interface, which rate one game after another."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.ratings: dict[str, Any] = {}

    def learn(self, games: Games) -> None:
        for sides, places, _ in lineups(games):
            for side, after in zip(sides, self.own.rate(self._rated(sides), ranks=places), strict=True):
                self.ratings.update(zip(side, after, strict=True))

    def _rated(self, sides: Sides) -> list[Any]:
        """What is known of the players of each side, as the package takes it."""
        raise NotImplementedError


class TrueSkill(_Filter):
    """The package trueskill: expectation propagation in each game, one game after another."""

    package = "trueskill"

    def __init__(self, draws: float | None = None) -> None:
        given = {} if draws is None else {"draw_probability": draws}
        super().__init__(import_module(self.package).TrueSkill(**given))
        self.said = "trueskill, at defaults"
        if draws is not None:
            self.said = f"trueskill, draw probability {draws:.3f} as before"

    def results(self, games: Games) -> np.ndarray:
        found = []
        for sides, _, _ in lineups(games):
            margin = (
                ndtri((self.own.draw_probability + 1) / 2) * math.sqrt(sum(map(len, sides))) * self.own.beta
            )
            found.append(_three(self._levels(sides), margin))
        return np.array(found)

    def ahead(self, sides: Sides, time: float) -> np.ndarray:
        return _ahead(self._levels(sides))

    def _rated(self, sides: Sides) -> list[tuple[Any, ...]]:
        start = self.own.create_rating
        return [tuple(self.ratings.get(name) or start() for name in side) for side in sides]

    def _levels(self, sides: Sides) -> list[Level]:
        beta = self.own.beta
        return [
            (sum(r.mu for r in side), sum(r.sigma**2 + beta**2 for r in side)) for side in self._rated(sides)
        ]


class OpenSkill(_Filter):
    """The package openskill: Weng and Lin's single step a game, with its own predictions.

    Draws are as probable as they were before, or, where that is not given, as its own function of the number
    of players has it; what is left is shared as its chances of a win are.
    """

    package = "openskill"

    def __init__(self, law: str = "PlackettLuce", draws: float | None = None) -> None:
        super().__init__(getattr(import_module("openskill.models"), law)())
        self.draws = draws
        self.said = f"openskill, {law}, at defaults"
        if draws is not None:
            self.said += f", draw probability {draws:.3f} as before"

    def results(self, games: Games) -> np.ndarray:
        found = []
        for sides, _, _ in lineups(games):
            rated = self._rated(sides)
            win, loss = self.own.predict_win(rated)
            draw = self.own.predict_draw(rated) if self.draws is None else self.draws
            found.append(((1 - draw) * win, draw, (1 - draw) * loss))
        return np.array(found)

    def ahead(self, sides: Sides, time: float) -> np.ndarray:
        # Its predict_win of two sides; its own digits end where a chance is below 1e-16.
        beta = self.own.beta
        return _ahead([(side[0].mu, side[0].sigma ** 2 + beta**2) for side in self._rated(sides)])

    def _rated(self, sides: Sides) -> list[list[Any]]:
        return [[self.ratings.get(name) or self.own.rating() for name in side] for side in sides]


@dataclass
class _Known:
    """What TrueSkillThroughTime knows of a player at its last date."""

    mean: float
    variance: float
    time: float


class ThroughTime(Rival):
    """The package TrueSkillThroughTime: smoothing over all dates, in days; sweeps until it comes to rest.

    Its games of many sides are handed over from the first to the last: else release 1.1.0 gives players what
    others won. Where it is asked, the side at home has one more player, whose strength is the advantage.
    """

    package = "trueskillthroughtime"
    AT_HOME = "(at home)"

    def __init__(self, draws: float = 0.0, home: bool = False, sweeps: int | None = None) -> None:
        self.own = import_module(self.package)
        self.draws, self.home = draws, home
        self.sweeps = self.own.ITERATIONS if sweeps is None else sweeps
        self.said = "TrueSkillThroughTime, at defaults"
        if draws:
            self.said = f"TrueSkillThroughTime, draw probability {draws:.3f} as before"
        self.said += ", a player for home" if home else ""
        self.known: dict[str, _Known] = {}

    def learn(self, games: Games) -> None:
        history = self._history(games)
        history.convergence(iterations=self.sweeps, verbose=False)
        for batch in history.batches:
            for name in batch.skills:
                found = batch.posterior(name)
                self.known[name] = _Known(found.mu, found.sigma**2, batch.time)

    def walk(self, before: Games, after: Games) -> Iterator[np.ndarray]:
        """By its first pass alone, which knows what came before a date: sweeps at each take hours."""
        dates = dates_of(after)
        history = self._history(joined_games(before, after))
        for at, batch in zip(dates, history.batches[-len(dates) :], strict=True):
            for name, skill in batch.skills.items():
                self.known[name] = _Known(skill.forward.mu, skill.forward.sigma**2, batch.time)
            yield at

    def _history(self, games: Games) -> Any:
        own, at_home, sides, results, times = self.own, self._at_home(games), [], [], []
        for number, (members, places, time) in enumerate(lineups(games)):
            order = np.argsort(places, kind="stable")
            sides.append([members[side] + [self.AT_HOME] * at_home[number][side] for side in order])
            results.append([len(places) - places[side] for side in order])
            times.append(time)
        # Without dates one game comes after another.
        given = {} if len({*times}) == 1 else {"times": times}
        prior = own.Player(own.Gaussian(own.MU, own.SIGMA), beta=0.0, gamma=0.0)
        return own.History(sides, results, p_draw=self.draws, priors={self.AT_HOME: prior}, **given)

    def results(self, games: Games) -> np.ndarray:
        found, at_home = [], self._at_home(games)
        for number, (sides, _, time) in enumerate(lineups(games)):
            margin = -ndtri(0.5 - self.draws / 2) * math.sqrt(sum(map(len, sides))) * self.own.BETA
            levels = [
                self._level(members + [self.AT_HOME] * here, time)
                for members, here in zip(sides, at_home[number], strict=True)
            ]
            found.append(_three(levels, margin))
        return np.array(found)

    def ahead(self, sides: Sides, time: float) -> np.ndarray:
        return _ahead([self._level(side, time) for side in sides])

    def _at_home(self, games: Games) -> list[list[int]]:
        column = games.covariates.get("home") if self.home else None
        if column is None:
            return [[0] * int(count) for count in games.sides]
        return [
            column[a:b].astype(int).tolist()
            for a, b in zip(games.side_ptr[:-1], games.side_ptr[1:], strict=True)
        ]

    def _level(self, side: list[str], time: float) -> Level:
        mean, variance = 0.0, 0.0
        for name in side:
            fixed = name == self.AT_HOME
            known = self.known.get(name) or _Known(self.own.MU, self.own.SIGMA**2, time)
            mean += known.mean
            walked = 0.0 if fixed else self.own.BETA**2 + self.own.GAMMA**2 * max(0.0, time - known.time)
            variance += known.variance + walked
        return mean, variance


class Choix(Rival):
    """The package choix: Plackett and Luce's model of single players at rest, by its optimiser."""

    package = "choix"

    def __init__(self) -> None:
        self.own = import_module(self.package)
        self.said = "choix, opt_rankings, at defaults, learnt anew each year"
        self.numbers: dict[str, int] = {}
        self.strength = np.zeros(0)

    def learn(self, games: Games) -> None:
        rankings = []
        for sides, places, _ in lineups(games):
            order = np.argsort(places, kind="stable")
            rankings.append([self.numbers.setdefault(sides[at][0], len(self.numbers)) for at in order])
        start = np.zeros(len(self.numbers))
        start[: len(self.strength)] = self.strength
        self.strength = self.own.opt_rankings(len(self.numbers), rankings, initial_params=start)

    def walk(self, before: Games, after: Games) -> Iterator[np.ndarray]:
        """All games again before the first date of each year, from where the last answer was."""
        known, learnt = before, -np.inf
        for at in dates_of(after):
            assert after.time is not None
            year = int(1970 + after.time[at[0]] / 365.25)
            if year > learnt:
                self.learn(known)
                learnt = year
            yield at
            known = joined_games(known, after.take(at))

    def ahead(self, sides: Sides, time: float) -> np.ndarray:
        known = [self.numbers.get(side[0]) for side in sides]
        strength = np.array([0.0 if at is None else self.strength[at] for at in known])
        return expit(strength[:, None] - strength)
