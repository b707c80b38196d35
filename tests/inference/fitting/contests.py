"""Contests for tests of expectation propagation: duels of sums of states of chains, and histories of them."""

import math
from collections.abc import Sequence

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from scipy import stats
from torch import Tensor

from ppl_vae.inference.fitting.propagation.factors import factors_of
from ppl_vae.inference.fitting.propagation.loop import Propagated, propagate
from ppl_vae.models.skills.duel_moments import probit_moments
from ppl_vae.models.skills.links import Duel, duel_log_prob
from ppl_vae.program.chain_prior import ChainPrior
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from ppl_vae.program.factors import Tilted

TTT = (25.0, 25.0 / 3, 25.0 / 6)
# Twice the error of its normal distribution function: the rational approximation of Numerical Recipes, whose
# relative error is 1.2e-7.
OF_TTT = 1e-6


class Contests(PyroModule):
    """States of chains, of which every game shows a weighted sum to a duel."""

    def __init__(
        self,
        chains: Chains,
        states: Sequence[Sequence[int]],
        weights: Sequence[Sequence[float]] | None = None,
        scale: float = math.sqrt(2.0),
        margin: float = 0.0,
        link: str = "probit",
    ) -> None:
        super().__init__("contests")
        self.chains, self.scale, self.margin, self.link = chains, scale, margin, link
        self.states = torch.tensor(states)
        signs = [[1.0, -1.0]] * len(states) if weights is None else weights
        self.weights = torch.tensor(signs, dtype=torch.float64)

    def forward(self, outcome: Tensor) -> None:
        skill = pyro.sample("skill", ChainPrior(self.chains))
        with pyro.plate("game", len(outcome)) as i:
            # Particles come with a dimension for the plate of games.
            skill = skill.squeeze(-2) if skill.dim() > 1 else skill
            ahead = (self.weights[i] * skill[..., self.states[i]]).sum(-1)
            pyro.sample("outcome", Duel(ahead, self.scale, self.margin, self.link), obs=outcome[i])

    def normal_prior(self) -> tuple[str, Chains]:
        return "skill", self.chains

    def rows(self, outcome: Tensor) -> Design:
        return Design.of_entries(self.states, self.weights, outcome)

    def log_likelihood(self, predictor: Tensor, outcome: Tensor) -> Tensor:
        return duel_log_prob(predictor, outcome, self.scale, self.margin, self.link)


class Closed(Contests):
    """The same, by formulas."""

    def tilted(self, mean: Tensor, variance: Tensor, outcome: Tensor) -> Tilted:
        return probit_moments(mean, variance, outcome, self.scale, self.margin)


class Sides(Contests):
    """The same duels as rankings of two sides, a row a side."""

    def rankings(self, outcome: Tensor) -> tuple[Design, Tensor]:
        whole = Design.of_entries(self.states.reshape(-1, 1), self.weights.abs().reshape(-1, 1))
        return whole, torch.full((len(outcome),), 2)

    def ranking_moments(self, mean: Tensor, variance: Tensor, outcome: Tensor) -> Tilted:
        ahead, spread = mean[::2] - mean[1::2], variance[::2] + variance[1::2]
        found = probit_moments(ahead, spread, outcome, self.scale, self.margin)
        slope = torch.stack([found.slope, -found.slope], 1).reshape(-1)
        return Tilted(found.log_normaliser, slope, found.curvature.repeat_interleave(2))


def static(num_players: int, mean: float = 0.0, sd: float = 1.0) -> Chains:
    return Chains.static(
        torch.full((num_players,), mean).double(), torch.full((num_players,), sd**2).double()
    )


def solved(model: Contests, outcome: Sequence[float], **options: float) -> tuple[Tensor, Tensor, Propagated]:
    """Means and standard deviations of the states."""
    data = torch.tensor(outcome, dtype=torch.float64)
    found = propagate(factors_of(model, data, num_nodes=64), **options)  # type: ignore[arg-type]
    assert found.converged
    return found.sites.mean, found.around.variance.sqrt(), found


def by_rounds(
    player: Sequence[int], time: Sequence[float], sd: float, drift: float, mean: float = 0.0
) -> tuple[Chains, dict[tuple[int, float], int]]:
    """Random walks between each player's own dates, and where each state is."""
    dates = {p: sorted({t for q, t in zip(player, time, strict=True) if q == p}) for p in set(player)}
    longest_first = sorted(dates, key=lambda p: -len(dates[p]))
    where: dict[tuple[int, float], int] = {}
    rounds, variance = [0], []
    for step in range(len(dates[longest_first[0]])):
        for p in (p for p in longest_first if len(dates[p]) > step):
            where[p, dates[p][step]] = len(where)
            gap = dates[p][step] - dates[p][step - 1]
            variance.append(drift**2 * gap if step else sd**2)
        rounds.append(len(where))
    size = len(where)
    chains = Chains(
        torch.full((size,), mean).double(), torch.tensor(variance).double(), torch.ones(size).double(),
        tuple(rounds),
    )  # fmt: skip
    return chains, where


def normal(deviation: Tensor, variance: float) -> Tensor:
    """The normal density, in the precision of its argument."""
    return (-(deviation**2) / (2 * variance)).exp() / math.sqrt(2 * math.pi * variance)


def margin_of(probability: float, sd: float) -> float:
    """What games of equals are drawn within, with this probability."""
    return float(stats.norm.ppf((1 + probability) / 2)) * sd


def season(seed: int, num_players: int, num_games: int) -> tuple[list[tuple[int, int]], list[float]]:
    """Games of players whose skills lie one apart, with draws within half a point."""
    rng = np.random.default_rng(seed)
    pairs = [tuple(int(p) for p in rng.choice(num_players, 2, replace=False)) for _ in range(num_games)]
    ahead = [rng.normal(i - j, math.sqrt(2.0)) for i, j in pairs]
    return pairs, [0.5 if abs(d) < 0.5 else float(d > 0) for d in ahead]


# What TrueSkillThroughTime 1.1.0 gives for the history below when it moves no more: means at players' dates.
HISTORY = {
    0: [-1.9459413, -2.14252348, -2.478814173, -2.626519062],
    1: [-1.01134857, -1.067028747, -1.06793366, -0.855816131, -0.5860864, -0.342036716],
    2: [-0.353924701, -0.075081631, 0.186364746],
    3: [1.254207487, 1.129172399, 0.884762356, 0.133236268],
    4: [2.057007084, 2.201235507, 2.323268157, 2.28919549, 2.517828824],
}
HISTORY_SDS = {
    2: [1.066125519, 0.946651162, 1.049399712],
    3: [1.05203049, 1.007421178, 0.986030669, 1.203033107],
}


def history() -> tuple[Chains, list[list[int]], list[float], dict[tuple[int, float], int]]:
    """Sixteen games of five players on eight days, with draws."""
    games = [(1, 4), (4, 0), (4, 0), (4, 1), (1, 3), (3, 1), (1, 4), (0, 4), (1, 0), (2, 3), (4, 3), (3, 4),
             (1, 2), (1, 2), (3, 2), (4, 2)]  # fmt: skip
    outcome = [0, 1, 1, 1, 0, 1, 0, 0, 1, 0, 0.5, 0, 0.5, 0.5, 0, 1]
    times = [3.0 * (k // 2) for k in range(16)]
    players = [p for game in games for p in game]
    chains, where = by_rounds(players, [t for t in times for _ in range(2)], 2.0, 0.4)
    states = [[where[p, t] for p in game] for game, t in zip(games, times, strict=True)]
    return chains, states, outcome, where


MARGIN = 0.5449254107994428


class Measured(Contests):
    """Every state is measured once, with normal errors."""

    def log_likelihood(self, predictor: Tensor, outcome: Tensor) -> Tensor:
        found: Tensor = dist.Normal(predictor, self.scale).log_prob(outcome)
        return found
