"""Cases whose posterior is known in closed form: the truth is drawn from it."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.alarms.problems import GLOBAL_GUIDES, Problem
from ppl_vae.base.seeds import seeded
from ppl_vae.program.pair import Program

__all__ = ["PROBLEMS"]

DRAWS = 10_000
UNCORRELATED = tuple(name for name in GLOBAL_GUIDES if name != "mean-field optimum")
ONE_NUMBER = ("full-rank", "almost", "narrow", "wide", "shifted", "few steps", "fitted mean-field")
DOUBLE = torch.float64


def normal_mean(x: Tensor) -> None:
    """μ ~ N(0, 10²), x_n ~ N(μ, 1)."""
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def regression(design: Tensor, y: Tensor) -> None:
    """β ~ N(0, 10² I), y_n ~ N(x_n β, 1)."""
    beta = pyro.sample("beta", dist.Normal(design.new_zeros(design.shape[1]), 10.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal((beta * design).sum(-1), 1.0), obs=y)


def normal_gamma(x: Tensor) -> None:
    """λ ~ Gamma(2, 2), μ | λ ~ N(0, 1/(0.1 λ)), x_n ~ N(μ, 1/λ)."""
    precision = pyro.sample("precision", dist.Gamma(x.new_tensor(2.0), 2.0))
    mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), (0.1 * precision).rsqrt()))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, precision.rsqrt()), obs=x)


def beta_binomial(wins: Tensor) -> None:
    """p ~ Beta(2, 2), each of the trials won with probability p."""
    p = pyro.sample("p", dist.Beta(wins.new_tensor(2.0), 2.0))
    with pyro.plate("trial", len(wins)):
        pyro.sample("win", dist.Bernoulli(p), obs=wins)


def gamma_poisson(counts: Tensor) -> None:
    """rate ~ Gamma(2, 0.5), counts ~ Poisson(rate)."""
    rate = pyro.sample("rate", dist.Gamma(counts.new_tensor(2.0), 0.5))
    with pyro.plate("data", len(counts)):
        pyro.sample("count", dist.Poisson(rate), obs=counts)


def group_rates(counts: Tensor) -> None:
    """rate_g ~ Gamma(2, 0.5) for every group, and one count of each: a latent for every datum."""
    with pyro.plate("group", len(counts)) as i:
        rate = pyro.sample("rate", dist.Gamma(counts.new_tensor(2.0), 0.5))
        pyro.sample("count", dist.Poisson(rate), obs=counts[i])


def _normal_mean() -> Problem:
    x = torch.from_numpy(np.random.default_rng(1).normal(1.5, 1.0, 12))
    precision = len(x) + 0.01
    exact = dist.Normal(x.sum() / precision, precision**-0.5)
    return _one_site("normal_mean", "conjugate normal", normal_mean, x, "mu", exact, ONE_NUMBER[:-1])


def _regression(name: str, correlation: float, *, size: int = 60) -> Problem:
    generator = np.random.default_rng(2)
    covariance = np.full((3, 3), correlation) + (1 - correlation) * np.eye(3)
    design = torch.from_numpy(generator.multivariate_normal(np.zeros(3), covariance, size))
    if not correlation:
        design = torch.linalg.qr(design).Q * math.sqrt(size)
    y = design @ torch.tensor([1.0, -0.5, 0.2], dtype=DOUBLE) + torch.from_numpy(generator.normal(size=size))
    precision = design.T @ design + 0.01 * torch.eye(3, dtype=DOUBLE)
    exact = dist.MultivariateNormal(torch.linalg.solve(precision, design.T @ y), precision_matrix=precision)
    return Problem(
        name, "conjugate regression", regression, (design, y), {"beta": _draws(exact)},
        (*(GLOBAL_GUIDES if correlation else UNCORRELATED), "fitted full-rank"),
    )  # fmt: skip


def _normal_gamma() -> Problem:
    x = torch.from_numpy(np.random.default_rng(3).normal(0.7, 1.5, 9))
    n, mean = len(x), x.mean()
    strength = n + 0.1
    rate = 2 + 0.5 * (x - mean).square().sum() + 0.5 * 0.1 * n / strength * mean.square()
    gamma = dist.Gamma(torch.tensor(2 + n / 2, dtype=DOUBLE), rate)
    centre = n * mean / strength
    precision = _draws(gamma)
    with seeded(5):
        mu = centre + (strength * precision).rsqrt() * torch.randn(DRAWS, dtype=DOUBLE)

    def exact(problem: Problem) -> Program:
        def guide(x: Tensor) -> None:
            drawn = pyro.sample("precision", gamma)
            pyro.sample("mu", dist.Normal(centre, (strength * drawn).rsqrt()))

        return guide

    return Problem(
        "normal_gamma", "conjugate normal", normal_gamma, (x,), {"precision": precision, "mu": mu},
        (*UNCORRELATED, "fitted mean-field", "fitted full-rank"), {"exact": exact},
    )  # fmt: skip


def _beta_binomial(name: str, wins: int, trials: int) -> Problem:
    outcomes = torch.zeros(trials, dtype=DOUBLE)
    outcomes[:wins] = 1
    posterior = dist.Beta(torch.tensor(2.0 + wins, dtype=DOUBLE), 2.0 + trials - wins)
    return _one_site(name, "beta-binomial", beta_binomial, outcomes, "p", posterior)


def _gamma_poisson() -> Problem:
    counts = torch.tensor([3.0, 1, 4, 1, 5, 2, 6, 2], dtype=DOUBLE)
    posterior = dist.Gamma(2 + counts.sum(), 0.5 + len(counts))
    return _one_site("gamma_poisson", "gamma-Poisson", gamma_poisson, counts, "rate", posterior)


def _group_rates() -> Problem:
    counts = torch.tensor([9.0, 14, 4, 7, 11, 5, 8, 17], dtype=DOUBLE)
    posterior = dist.Gamma(2 + counts, torch.tensor(1.5, dtype=DOUBLE))

    def exact(problem: Problem) -> Program:
        def guide(counts: Tensor) -> None:
            with pyro.plate("group", len(counts)) as i:
                pyro.sample("rate", dist.Gamma(2 + counts[i], 1.5))

        return guide

    guides = ("mean-field", "almost", "narrow", "wide", "shifted", "few steps", "fitted mean-field")
    rates = {"rate": _draws(posterior)}
    return Problem("group_rates", "gamma-Poisson", group_rates, (counts,), rates, guides, {"exact": exact})


def _one_site(
    name: str,
    family: str,
    model: Program,
    x: Tensor,
    site: str,
    posterior: dist.TorchDistribution,
    guides: tuple[str, ...] = ONE_NUMBER,
) -> Problem:
    def exact(problem: Problem) -> Program:
        return lambda x: pyro.sample(site, posterior)

    return Problem(name, family, model, (x,), {site: _draws(posterior)}, guides, {"exact": exact})


def _draws(distribution: dist.TorchDistribution) -> Tensor:
    with seeded(4), torch.no_grad():
        drawn: Tensor = distribution.sample(torch.Size([DRAWS]))
    return drawn


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "normal_mean": _normal_mean,
    "regression_orthogonal": lambda: _regression("regression_orthogonal", 0.0),
    "regression_correlated": lambda: _regression("regression_correlated", 0.9),
    "normal_gamma": _normal_gamma,
    "beta_binomial": lambda: _beta_binomial("beta_binomial", 9, 30),
    "beta_binomial_few": lambda: _beta_binomial("beta_binomial_few", 0, 4),
    "gamma_poisson": _gamma_poisson,
    "group_rates": _group_rates,
}
