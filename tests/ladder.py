"""A small model of sparse linear predictors of Gaussian chains, for tests: players over time, in teams."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.guides.joint_normal import JointNormal
from ppl_vae.inference import natural
from ppl_vae.inference.fitting.fit_result import Fit
from ppl_vae.program.chain_prior import ChainPrior
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from ppl_vae.program.pair import Pair

GAPS = [[0.0, 0.5, 1.0], [0.0, 2.0], [0.0, 0.3], [0.0]]


class Ladder(PyroModule):
    """Players' strengths are random walks; a game's score is N(d, noise²), or it is won with σ(d).

    Every state is (player, time); games are rows of states and weights, ``-1`` where there is none.
    """

    def __init__(
        self, gaps: list[list[float]], *, drift: float = 0.4, sd: float = 1.2, link: str = "score"
    ) -> None:
        super().__init__()
        order = sorted(range(len(gaps)), key=lambda k: -len(gaps[k]))
        sizes = [sum(len(own) > r for own in gaps) for r in range(max(map(len, gaps)))]
        rounds = [[gaps[k][r] for k in order[:size]] for r, size in enumerate(sizes)]
        self.rounds = (0, *np.cumsum(sizes).tolist())
        self.gap = torch.tensor([gap for own in rounds for gap in own], dtype=torch.float64)
        self.first = torch.arange(self.rounds[-1]) < sizes[0]
        self.drift = PyroParam(torch.tensor(drift, dtype=torch.float64), constraints.positive)
        self.sd = PyroParam(torch.tensor(sd, dtype=torch.float64), constraints.positive)
        self.noise = PyroParam(torch.tensor(0.7, dtype=torch.float64), constraints.positive)
        self.link = link

    def forward(self, outcome: Tensor, states: Tensor, weight: Tensor) -> None:
        _, chains = self.normal_prior()
        skill = pyro.sample("skill", ChainPrior(chains))
        padded = torch.cat([skill, torch.zeros_like(skill[..., :1])], -1)
        with pyro.plate("game", len(outcome)) as i:
            predictor = (weight[i] * padded[..., states[i]]).sum(-1)
            fn = dist.Normal(predictor, self.noise)
            if self.link == "logistic":
                fn = dist.Bernoulli(logits=predictor / self.noise)
            pyro.sample("outcome", fn, obs=outcome[i])

    def normal_prior(self) -> tuple[str, Chains]:
        variance = torch.where(self.first, self.sd**2, self.drift**2 * self.gap)
        mean = torch.full_like(variance, 0.3)
        return "skill", Chains(mean, variance, (~self.first).double(), self.rounds)

    def rows(self, outcome: Tensor, states: Tensor, weight: Tensor) -> Design:
        there = states >= 0
        lengths = there.sum(1)
        pointer = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        return Design(pointer, states[there], weight[there], (outcome,))

    def log_likelihood(self, predictor: Tensor, *observed: Tensor) -> Tensor:
        if self.link == "logistic":
            return torch.nn.functional.logsigmoid((2 * observed[0] - 1) * predictor / self.noise)
        found: Tensor = dist.Normal(predictor, self.noise).log_prob(observed[0])
        return found


def player_of(model: Ladder) -> Tensor:
    """The chain of every state, in the order of the first round."""
    offsets = torch.tensor(model.rounds)
    states = torch.arange(model.rounds[-1])
    return states - offsets[torch.searchsorted(offsets, states, right=True) - 1]


def dense_prior(model: Ladder) -> Any:
    """The prior's mean and covariance, from the walk's definition: variances add up along a chain."""
    _, chains = model.normal_prior()
    player, size = player_of(model), chains.num_states
    covariance = torch.zeros(size, size, dtype=torch.float64)
    for first in range(size):
        for second in range(size):
            if player[first] == player[second]:
                shared = (player == player[first]) & (torch.arange(size) <= min(first, second))
                covariance[first, second] = chains.variance[shared].sum()
    return chains.mean, covariance


def games(
    model: Ladder, num_games: int, *, teams: int = 1, alone: bool = False, seed: int = 0
) -> tuple[Tensor, ...]:
    """Random games: outcomes, states and weights, of players that are all different.

    Args:
        teams: players a side; every third game lacks its last player.
        alone: whether a row reads one state only.
    """
    generator = torch.Generator().manual_seed(seed)
    player = player_of(model)
    rows = []
    for _ in range(num_games):
        chosen = torch.randperm(int(player.max()) + 1, generator=generator)[: 1 if alone else 2 * teams]
        row = []
        for who in chosen.tolist():
            own = (player == who).nonzero()[:, 0]
            row.append(int(own[int(torch.randint(len(own), (), generator=generator))]))
        rows.append(row)
    states = torch.tensor(rows)
    if teams > 1:
        states[::3, -1] = -1
    weight = torch.ones(states.shape, dtype=torch.float64)
    if not alone:
        weight[:, teams:] = -1
        weight[:, 0] = 0.5 if teams > 1 else 1
    weight[states < 0] = 0
    outcome = torch.randn(num_games, generator=generator, dtype=torch.float64)
    if model.link == "logistic":
        outcome = (outcome > -0.4).double()
    return outcome, states, weight


def dense_rows(model: Ladder, states: Tensor, weight: Tensor) -> Tensor:
    """A as a dense matrix."""
    found = torch.zeros(len(states), model.rounds[-1] + 1, dtype=torch.float64)
    found.scatter_add_(1, states % found.shape[1], weight)
    return found[:, :-1]


GUIDES: dict[str, Callable[[Ladder], object]] = {
    "markov": ChainNormal,
    "joint": JointNormal,
    "full-rank": AutoMultivariateNormal,
    "mean-field": AutoNormal,
}


def fitted(model: Ladder, guide: str, data: tuple[Tensor, ...], **options: object) -> tuple[Pair, Fit]:
    """A guide of the ladder at its optimum, and the fit."""
    pair = Pair(model, GUIDES[guide](model))
    return pair, natural.fit(pair, *data, tolerance=1e-9, num_nodes=32, progress=False, **options)
