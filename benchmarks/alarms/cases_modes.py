"""Posteriors with two modes, by quadrature on a line."""

from collections.abc import Callable, Mapping

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.alarms.guides import RECIPES, moments, normal_guide
from benchmarks.alarms.problems import Problem
from ppl_vae.program.pair import Program

__all__ = ["PROBLEMS", "on_a_grid"]

DRAWS = 10_000


def squared(x: Tensor) -> None:
    """z ~ N(0, 1), x_n ~ N(z², 1): data cannot tell z from −z."""
    z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z.square(), 1.0), obs=x)


def tilted(x: Tensor) -> None:
    """The same with z ~ N(0.25, 1): the modes have unequal weight."""
    z = pyro.sample("z", dist.Normal(x.new_tensor(0.25), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z.square(), 1.0), obs=x)


def two_witnesses(x: Tensor) -> None:
    """z ~ N(0, 10²), x_n ~ Cauchy(z, 0.5): two groups of data, each of which may be the outliers."""
    z = pyro.sample("z", dist.Normal(x.new_zeros(()), 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Cauchy(z, 0.5), obs=x)


def on_a_grid(log_density: Tensor, points: Tensor, width: Tensor, num_draws: int, seed: int = 6) -> Tensor:
    """Draws from a density known at the centres of cells: cells by their mass, uniform within.

    Args:
        log_density: shape (cells,), unnormalised.
        points: the centres, shape (cells, d).
        width: of a cell along each axis, shape (d,).
        num_draws: how many.
        seed: of the draws.

    Returns:
        Shape (num_draws, d).
    """
    generator = torch.Generator().manual_seed(seed)
    mass = (log_density.double() - log_density.double().max()).exp()
    cells = torch.multinomial(mass, num_draws, replacement=True, generator=generator)
    jitter = torch.rand(num_draws, len(width), generator=generator, dtype=torch.float64) - 0.5
    return points[cells].double() + jitter * width


def _normal(value: Tensor, loc: Tensor | float, scale: float) -> Tensor:
    return -0.5 * ((value - loc) / scale).square()


def _problem(
    name: str,
    model: Program,
    log_density: Callable[[Tensor], Tensor],
    x: Tensor,
    reach: float,
    split: float = 0.0,
) -> Problem:
    """Args: log_density: of z given x up to a constant, for z of shape (cells, 1), summed over data."""
    grid = torch.linspace(-reach, reach, 40_001, dtype=torch.float64)[:, None]
    z = on_a_grid(log_density(grid), grid, grid[1] - grid[0], DRAWS)[:, 0]
    own: dict[str, Callable[[Problem], Program]] = {
        "one mode": lambda p: _one_mode(p, split),
        "one mode, narrow": lambda p: _one_mode(p, split, 0.5),
        "both modes": lambda p: _both_modes(p, split),
        "fitted": lambda p: RECIPES["fitted mean-field"](p),
    }
    return Problem(name, "two modes", model, (x,), {"z": z}, ("full-rank", "wide"), own)


def _one_mode(problem: Problem, split: float, scale: float = 1.0) -> Program:
    z = problem.reference["z"]
    return normal_guide(problem, moments(z[z > split][:, None, None]).scaled(scale))


def _both_modes(problem: Problem, split: float) -> Program:
    z = problem.reference["z"]
    parts = [z[z <= split], z[z > split]]
    share = torch.tensor([len(part) / len(z) for part in parts], dtype=z.dtype)
    loc, scale = (torch.stack([f(part) for part in parts]) for f in (torch.mean, torch.std))

    def guide(x: Tensor) -> None:
        mixture = dist.MixtureSameFamily(dist.Categorical(probs=share), dist.Normal(loc, scale))
        pyro.sample("z", mixture)

    return guide


SQUARES = torch.tensor([2.5, 1.6, 3.1, 2.2], dtype=torch.float64)
WITNESSES = torch.from_numpy(np.concatenate([np.linspace(-4.6, -3.4, 4), np.linspace(3.5, 4.5, 4)]))


def _squared(prior_mean: float) -> Callable[[Tensor], Tensor]:
    return lambda z: _normal(z, prior_mean, 1.0)[:, 0] + _normal(SQUARES, z.square(), 1.0).sum(1)


def _cauchy(z: Tensor) -> Tensor:
    return _normal(z, 0.0, 10.0)[:, 0] - torch.log1p(((WITNESSES - z) / 0.5).square()).sum(1)


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "squared": lambda: _problem("squared", squared, _squared(0.0), SQUARES, 5.0),
    "squared_tilted": lambda: _problem("squared_tilted", tilted, _squared(0.25), SQUARES, 5.0),
    "two_witnesses": lambda: _problem("two_witnesses", two_witnesses, _cauchy, WITNESSES, 15.0),
}
