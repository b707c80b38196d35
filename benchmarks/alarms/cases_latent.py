"""Cases of the suite's own models: PPCA, skills and a small VAE."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import product

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from benchmarks.alarms.cases_modes import on_a_grid
from benchmarks.alarms.guides import Normals, moments, normal_guide
from benchmarks.alarms.problems import GLOBAL_GUIDES, Problem
from ppl_vae import PPCA, VAE, Pair, TrueSkill, data, nuts, svi
from ppl_vae.base.seeds import seeded
from ppl_vae.data import Games, Rows
from ppl_vae.guides import AmortisedNormal
from ppl_vae.program.pair import Program

__all__ = ["PROBLEMS"]

DRAWS = 10_000
DOUBLE = torch.float64
FITTED = ("fitted mean-field", "fitted full-rank")
# A rotation of PPCA's latents that correlates them given the data.
TURN = math.radians(40)
# Where the VAE's latents can be, and how finely that is looked at.
REACH, CELLS = 4.5, 226


def _ppca(name: str, rows: int, latent_dim: int, angle: float) -> Problem:
    iris = data.load("iris")
    assert isinstance(iris, Rows)
    values = torch.as_tensor(iris.values, dtype=DOUBLE)
    with seeded(0):
        model = PPCA(values.shape[1], latent_dim)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    model.set_maximum_likelihood(values, turn)
    x = values[:: len(values) // rows][:rows]
    with seeded(1), torch.no_grad():
        z = model.exact_posterior(x)["z"].sample(torch.Size([DRAWS]))
    guides = (*GLOBAL_GUIDES, "fitted mean-field")
    return Problem(name, "PPCA", model, (x,), {"z": z}, guides, lr=0.05)


def _two_players(name: str, wins: int, losses: int) -> Problem:
    games = torch.tensor([[0, 1]] * wins + [[1, 0]] * losses)
    model = TrueSkill(2, link="logistic", players=("first", "second"))
    # The mean skill keeps its prior; the difference is known on a line.
    line = torch.linspace(-9, 9, 20_001, dtype=DOUBLE)[:, None]
    log_likelihood = -wins * torch.log1p((-line).exp()) - losses * torch.log1p(line.exp())
    log_density = (-0.25 * line.square() + log_likelihood)[:, 0]
    half = 0.5 * on_a_grid(log_density, line, line[1] - line[0], DRAWS)[:, 0]
    with seeded(2):
        mean = math.sqrt(0.5) * torch.randn(DRAWS, dtype=DOUBLE)
    skill = torch.stack([mean + half, mean - half], -1)
    return _skills(name, model, games, skill, 0.05)


def _skills(name: str, model: TrueSkill, games: Tensor, skill: Tensor, lr: float) -> Problem:
    """Judged by all that is shown of skills: their differences, and the skills themselves."""

    def shown(draws: xr.Dataset) -> xr.Dataset:
        return model.identifiable(draws).assign(skill=draws["skill"])

    own: dict[str, Callable[[Problem], Program]] = {
        "sum narrow": lambda p: _sum_changed(p, 0.4),
        "sum wide": lambda p: _sum_changed(p, 2.5),
        "sum shifted": lambda p: _sum_changed(p, 1.0, 1.5),
    }
    guides = (*GLOBAL_GUIDES, *FITTED)
    data = torch.ones(len(games), dtype=DOUBLE), games
    return Problem(name, "skills", model, data, {"skill": skill}, guides, own, lr=lr, shown=shown)


def _sum_changed(problem: Problem, factor: float, by: float = 0.0) -> Program:
    """Right in every difference; the mean skill's spread times a factor, its mean off by so many sd."""
    right = moments(problem.unconstrained())
    size = right.loc.shape[-1]
    change = torch.eye(size, dtype=DOUBLE) + (factor - 1) / size
    spread = right.covariance.mean((-2, -1)).sqrt()
    wrong = Normals(right.loc + by * spread[:, None], change @ right.covariance @ change.T)
    return normal_guide(problem, wrong)


def _league(name: str, players: int, rounds: int, link: str) -> Problem:
    """Everybody plays everybody else; the truth by long chains of NUTS."""
    generator = np.random.default_rng(7)
    skill = generator.normal(size=players)
    pairs = [(i, j) for i, j in product(range(players), repeat=2) if i < j] * rounds
    chance = 1 / (1 + np.exp(-np.array([skill[i] - skill[j] for i, j in pairs])))
    games = [pair if generator.random() < p else pair[::-1] for pair, p in zip(pairs, chance, strict=True)]
    names = tuple("ABCDEFGH"[:players])
    model = TrueSkill(players, link=link, players=names)
    return _by_nuts(name, model, torch.tensor(games))


def _al_east() -> Problem:
    league = data.load("al-east-1987")
    assert isinstance(league, Games)
    model = TrueSkill.from_data(league, link="logistic")
    return _by_nuts("al_east_1987", model, torch.as_tensor(np.stack([league.winners, league.losers], -1)))


def _by_nuts(name: str, model: TrueSkill, games: Tensor) -> Problem:
    outcome = torch.ones(len(games), dtype=DOUBLE)
    truth = nuts.sample(model, outcome, games, num_draws=2500, chains=4, warmup=500, seed=23, progress=False)
    skill = torch.from_numpy(truth.draws["skill"].to_numpy()).reshape(-1, model.num_players)
    # A point without enough games is skewed; the guides start from its moments all the same.
    return _skills(name, model, games, skill, 0.05 if model.link == "logistic" else 0.1)


@lru_cache(maxsize=1)
def _trained() -> tuple[VAE, AmortisedNormal, Tensor]:
    """A VAE of two latents for digits of one bit a pixel, its encoder, and the digits."""
    digits = data.load("digits")
    assert isinstance(digits, Rows)
    x = torch.as_tensor(digits.values, dtype=torch.float32)
    x = (x > 0.5 * x.max()).float()
    with seeded(0):
        model = VAE(x.shape[1], 2, hidden=(24,), activation="tanh")
        guide = model.encoder_guide("full")
    svi.fit(Pair(model, guide), x, num_steps=1500, batch_size=128, lr=5e-3, progress=False)
    return model, guide, x


def _vae(rows: int = 12) -> Problem:
    model, guide, every = _trained()
    x = every[5 : 5 + rows]
    axis = torch.linspace(-REACH, REACH, CELLS)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        logits = model.decoder(points).double()
    log_prior = -0.5 * points.double().square().sum(-1)
    log_density = log_prior + x.double() @ logits.T - torch.nn.functional.softplus(logits).sum(-1)
    width = (axis[1] - axis[0]).double().expand(2)
    drawn = [on_a_grid(row, points, width, DRAWS, 30 + k) for k, row in enumerate(log_density)]
    z = torch.stack(drawn, 1).float()
    guides = tuple(name for name in GLOBAL_GUIDES if name != "mean-field optimum")
    own: dict[str, Callable[[Problem], Program]] = {
        "amortised": lambda p: guide,
        "few steps": _hardly_trained,
    }
    return Problem("vae_digits", "VAE", model, (x,), {"z": z}, guides, own)


def _hardly_trained(problem: Problem) -> Program:
    """An encoder that has seen ten batches, the decoder held."""
    model, _, every = _trained()
    with seeded(3):
        guide = model.encoder_guide("diagonal")
    svi.fit(Pair(model, guide), every, num_steps=10, batch_size=128, lr=5e-3, train="guide", progress=False)
    return guide


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "ppca_iris": lambda: _ppca("ppca_iris", 30, 2, 0.0),
    "ppca_iris_turned": lambda: _ppca("ppca_iris_turned", 30, 2, TURN),
    "two_players": lambda: _two_players("two_players", 4, 1),
    "two_players_many_games": lambda: _two_players("two_players_many_games", 40, 25),
    "league_of_five": lambda: _league("league_of_five", 5, 2, "logistic"),
    "league_of_four": lambda: _league("league_of_four", 4, 1, "probit"),
    "al_east_1987": _al_east,
    "vae_digits": _vae,
}
