"""The problems that the rows are about: models of the suite with their data, made the same way every time."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from examples import own_model_eight_schools as schools
from ppl_vae import PPCA, VAE, BayesianPPCA, Pair, TrueSkill, data

__all__ = ["Draws", "Fitting", "Sampling", "bayesian_ppca", "decoder", "eight_schools", "ppca", "skills"]

Draws = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Fitting:
    """A pair to be fitted by SVI.

    Attributes:
        model, guide: the pair's programs; `fresh` copies them, so that sides do not share parameters.
        data: of the programs.
        lr: learning rate.
        batch_size: of the data plate, or None for all of it.
    """

    model: nn.Module
    guide: nn.Module
    data: tuple[Tensor, ...]
    lr: float = 0.01
    batch_size: int | None = None

    def fresh(self) -> Pair:
        """A pair of its own at the starting parameters."""
        return Pair(*copy.deepcopy((self.model, self.guide)))


@dataclass(frozen=True, eq=False)
class Sampling:
    """A model to be sampled by NUTS in float64.

    Attributes:
        name: of the NumPyro twin in `benchmarks.peers.numpyro_models`.
        model: a Pyro program.
        data: its data.
        identifiable: the quantities whose effective sample size counts.
    """

    name: str
    model: Callable[..., Any]
    data: tuple[Tensor, ...]
    identifiable: Callable[[Draws], Draws] = field(default=lambda draws: draws)


def simulated_games(num_players: int, num_games: int, seed: int = 0) -> Tensor:
    """(winner, loser) rows of a league with skills N(0, 1) and the logistic link."""
    random = np.random.default_rng(seed)
    skill = random.standard_normal(num_players)
    first = random.integers(num_players, size=num_games)
    second = (first + random.integers(1, num_players, size=num_games)) % num_players
    first_wins = random.random(num_games) < 1 / (1 + np.exp(skill[second] - skill[first]))
    games = np.where(first_wins[:, None], np.stack([first, second], 1), np.stack([second, first], 1))
    return torch.from_numpy(games)


def skills(num_players: int = 107, num_games: int = 1801) -> Fitting:
    """Mean-field skills."""
    games = simulated_games(num_players, num_games)
    model = TrueSkill(num_players, link="logistic")
    guide = TrueSkill.guides["mean-field"](model, games)
    # AutoGuides have no parameters until they have been called once; Pyro's store is left alone.
    with pyro.get_param_store().scope():
        guide(torch.ones(num_games).double(), games)
    return Fitting(model, guide, (torch.ones(num_games).double(), games))


def wine() -> Tensor:
    """Standardised, 178 × 13, float64."""
    (x,) = data.standardise(data.load("wine")).tensors(torch.float64)
    return x


def ppca() -> Fitting:
    """PPCA with two components on wine and a linear guide of full covariance."""
    x = wine()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PPCA(13, 2)
        return Fitting(model, PPCA.guides["linear"](model, x), (x,))


def vae(num_rows: int = 2_560) -> Fitting:
    """784-400-20 in float32, batches of 128, random black-and-white images: few, since every fit ends with an
    evaluation on all of them, which a step's time must stand out from."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images = torch.bernoulli(torch.full((num_rows, 784), 0.2))
        model = VAE(784, 20, hidden=(400,))
        return Fitting(model, model.encoder_guide(), (images,), lr=1e-3, batch_size=128)


def decoder(num_images: int) -> tuple[Pair, Tensor]:
    """A 784-200-200-50 VAE and as many images, drawn from it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(784, 50, hidden=(200, 200))
        pair = Pair(model, model.encoder_guide())
        return pair, model.sample(num_images, draw=True)


def sampled_skills() -> Sampling:
    """The skills of 107 players from 1,801 games, as a posterior to be sampled."""
    problem = skills()
    return Sampling("skills", problem.model, problem.data)


def eight_schools() -> Sampling:
    """Eight schools in its non-centred form."""
    return Sampling("eight_schools", schools.model, (schools.EFFECT, schools.ERROR))


def bayesian_ppca() -> Sampling:
    """Bayesian PPCA with two components on wine; W itself is known only up to signs and rotations."""
    return Sampling("bayesian_ppca", BayesianPPCA(13, 2), (wine(),), _without_rotation)


def _without_rotation(draws: Draws) -> Draws:
    columns = draws["loadings"]
    product = np.einsum("abki,abkj->abij", columns, columns)
    upper = product[..., *np.triu_indices(product.shape[-1])]
    return {"covariance": upper, "mean": draws["mean"], "noise_scale": draws["noise_scale"]}
