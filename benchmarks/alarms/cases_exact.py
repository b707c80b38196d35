"""More posteriors in closed form, each with the guide that is exact by construction."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.alarms.problems import Problem
from ppl_vae import data as data_sets
from ppl_vae.base.seeds import seeded
from ppl_vae.data import Rows
from ppl_vae.program.pair import Program

__all__ = ["PROBLEMS", "linear", "linear_problem"]

DRAWS = 10_000
DOUBLE = torch.float64
GOOD = ("full-rank", "almost")
BAD = ("narrow", "wide")


def linear(design: Tensor, y: Tensor, prior_sd: Tensor, noise: Tensor) -> None:
    """β ~ N(0, diag(prior_sd²)), y_n ~ N(x_n β, noise²)."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros_like(prior_sd), prior_sd).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal((beta * design).sum(-1), noise), obs=y)


def linear_problem(
    name: str, family: str, design: Tensor, y: Tensor, prior_sd: Tensor | float, noise: float,
    guides: tuple[str, ...] = (*GOOD, *BAD, "shifted"),
) -> Problem:  # fmt: skip
    """A linear-Gaussian model, its normal posterior, and the guide that is this normal."""
    sd = torch.as_tensor(prior_sd, dtype=DOUBLE).expand(design.shape[1]).clone()
    precision = design.T @ design / noise**2 + torch.diag(sd**-2)
    mean = torch.linalg.solve(precision, design.T @ y) / noise**2
    exact = dist.MultivariateNormal(mean, precision_matrix=precision)
    arguments = (design, y, sd, torch.tensor(noise, dtype=DOUBLE))
    own = {"exact": lambda p: _everywhere("beta", exact)}
    return Problem(name, family, linear, arguments, {"beta": _draws(exact)}, guides, own)


def _everywhere(site: str, posterior: Any) -> Program:
    def guide(*data: Any) -> None:
        pyro.sample(site, posterior)

    return guide


def _draws(distribution: Any, seed: int = 4) -> Tensor:
    with seeded(seed), torch.no_grad():
        drawn: Tensor = distribution.sample(torch.Size([DRAWS]))
    return drawn


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _cubic() -> Problem:
    """Powers of one variable: coefficients that all but determine each other."""
    x = torch.linspace(-1, 1, 20, dtype=DOUBLE)
    y = 0.5 - x + 2 * x**3 + 0.3 * torch.from_numpy(_rng(21).normal(size=20))
    return linear_problem("cubic", "linear", torch.stack([x**k for k in range(4)], -1), y, 3.0, 0.3)


def _wine() -> Problem:
    """Alcohol from four other measurements of the same wines, standardised."""
    wine = data_sets.load("wine")
    assert isinstance(wine, Rows)
    values = torch.as_tensor(wine.values, dtype=DOUBLE)
    values = (values - values.mean(0)) / values.std(0)
    return linear_problem("wine_alcohol", "linear", values[:, [1, 4, 6, 9]], values[:, 0], 1.0, 0.7)


def _orthogonal() -> Problem:
    """Coefficients that know nothing of each other: a mean-field guide is exact."""
    design = torch.linalg.qr(torch.from_numpy(_rng(22).normal(size=(40, 6)))).Q * math.sqrt(40)
    y = design @ torch.linspace(-1, 1, 6, dtype=DOUBLE) + torch.from_numpy(_rng(23).normal(size=40))
    guides = (*GOOD, "mean-field", "mean-field optimum", *BAD, "shifted")
    return linear_problem("orthogonal_six", "linear", design, y, 10.0, 1.0, guides)


def _level() -> Problem:
    """A random walk of twelve steps seen through noise, in its increments."""
    walk = torch.tril(torch.ones(12, 12, dtype=DOUBLE))
    y = walk @ torch.from_numpy(_rng(24).normal(0, 0.5, 12)) + torch.from_numpy(_rng(25).normal(0, 0.8, 12))
    return linear_problem("local_level", "state space", walk, y, 0.5, 0.8)


def _function() -> Problem:
    """A Gaussian process at eight places, in the white coordinates of its kernel's Cholesky factor."""
    x = torch.linspace(0, 3, 8, dtype=DOUBLE)
    kernel = torch.exp(-0.5 * (x[:, None] - x).square()) + 1e-6 * torch.eye(8, dtype=DOUBLE)
    y = torch.sin(2 * x) + 0.3 * torch.from_numpy(_rng(26).normal(size=8))
    return linear_problem("gp_values", "Gaussian process", torch.linalg.cholesky(kernel), y, 1.0, 0.3)


def _groups() -> Problem:
    """A grand mean and five effects that share it: correlations of −0.4 and less."""
    member = torch.eye(5, dtype=DOUBLE).repeat_interleave(6, 0)
    design = torch.cat([torch.ones(30, 1, dtype=DOUBLE), member], 1)
    y = 2 + member @ torch.tensor([1.0, -1, 0, 0.5, 2], dtype=DOUBLE)
    y = y + torch.from_numpy(_rng(27).normal(size=30))
    sd = torch.tensor([5.0, 1, 1, 1, 1, 1], dtype=DOUBLE)
    return linear_problem("five_groups", "linear", design, y, sd, 1.0)


def _lagged() -> Problem:
    """y_t = a + b y_{t−1} + N(0, 1)."""
    steps = _rng(28).normal(size=50)
    y = [0.0]
    for step in steps:
        y.append(0.5 + 0.7 * y[-1] + step)
    series = torch.tensor(y, dtype=DOUBLE)
    design = torch.stack([torch.ones(50, dtype=DOUBLE), series[:-1]], -1)
    return linear_problem("ar_one", "time series", design, series[1:], 10.0, 1.0)


# One latent number and its conjugate posterior.


def _model(site: str, prior: Callable[[Tensor], Any], likelihood: Callable[[Tensor], Any]) -> Program:
    def model(x: Tensor) -> None:
        latent = pyro.sample(site, prior(x))
        with pyro.plate("data", len(x)):
            pyro.sample("x", likelihood(latent), obs=x)

    return model


def _conjugate(
    name: str, family: str, model: Program, x: Tensor, site: str, posterior: Any,
    guides: tuple[str, ...] = (*GOOD, *BAD),
) -> Problem:  # fmt: skip
    own = {"exact": lambda p: _everywhere(site, posterior)}
    return Problem(name, family, model, (x,), {site: _draws(posterior)}, guides, own)


def _waiting() -> Problem:
    """Exponential waiting times."""
    x = torch.tensor([0.3, 1.2, 0.7, 2.5, 0.1, 0.9, 1.8], dtype=DOUBLE)
    model = _model("rate", lambda x: dist.Gamma(x.new_tensor(3.0), 2.0), dist.Exponential)
    return _conjugate("waiting", "rates", model, x, "rate", dist.Gamma(3 + 7.0, 2 + x.sum()))


def _until() -> Problem:
    """Failures before the first success."""
    x = torch.tensor([0.0, 3, 1, 0, 5, 2, 2, 1, 0, 4], dtype=DOUBLE)
    model = _model("p", lambda x: dist.Beta(x.new_tensor(2.0), 3.0), dist.Geometric)
    return _conjugate("until", "chances", model, x, "p", dist.Beta(2 + 10.0, 3 + x.sum()))


def _noise() -> Problem:
    """The precision of normals of mean zero."""
    x = torch.from_numpy(_rng(31).normal(0, 2, 15))
    model = _model("precision", lambda x: dist.Gamma(x.new_tensor(2.0), 2.0),
                   lambda value: dist.Normal(0.0, value.rsqrt()))  # fmt: skip
    return _conjugate(
        "noise", "rates", model, x, "precision", dist.Gamma(2 + 7.5, 2 + 0.5 * x.square().sum())
    )


def _tails() -> Problem:
    """The index of a power law above 1."""
    x = torch.from_numpy(1 + _rng(32).pareto(2.5, 25))
    model = _model("index", lambda x: dist.Gamma(x.new_tensor(2.0), 1.0),
                   lambda value: dist.Pareto(torch.ones_like(value), value))  # fmt: skip
    return _conjugate("power_law", "rates", model, x, "index", dist.Gamma(2 + 25.0, 1 + x.log().sum()))


def _shares() -> Problem:
    """Shares of four kinds: a simplex."""
    x = torch.tensor([0.0] * 9 + [1.0] * 5 + [2.0] * 14 + [3.0] * 3, dtype=DOUBLE)
    counts = torch.bincount(x.long(), minlength=4).double()
    model = _model("share", lambda x: dist.Dirichlet(2 * x.new_ones(4)), lambda p: dist.Categorical(probs=p))
    return _conjugate("shares", "chances", model, x, "share", dist.Dirichlet(2 + counts))


def _largest() -> Problem:
    """The end of a uniform: the posterior begins at the largest datum, where no start of NUTS may lie."""
    x = torch.tensor([12.0, 47, 21, 33, 40], dtype=DOUBLE)

    def model(x: Tensor) -> None:
        end = pyro.sample("end", dist.Pareto(x.new_tensor(10.0), 1.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Uniform(torch.zeros_like(end), end), obs=x)

    exact = dist.Pareto(torch.tensor(47.0, dtype=DOUBLE), torch.tensor(6.5, dtype=DOUBLE))

    def wide(problem: Problem) -> Program:
        return _everywhere("end", dist.Pareto(torch.tensor(47.0, dtype=DOUBLE), 3.25))

    own = {"exact": lambda p: _everywhere("end", exact), "wide": wide}
    return Problem("largest", "chances", model, (x,), {"end": _draws(exact)}, (), own)


def _two_rates() -> Problem:
    """Two rates of two groups of counts, each exact alone: two sites."""
    x = torch.tensor([3.0, 1, 4, 2, 9, 7, 8, 11], dtype=DOUBLE)

    def model(x: Tensor) -> None:
        first = pyro.sample("first", dist.Gamma(x.new_tensor(2.0), 0.5))
        second = pyro.sample("second", dist.Gamma(x.new_tensor(2.0), 0.5))
        early = (torch.arange(len(x)) < 4).to(x)
        rates = early * first + (1 - early) * second
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rates), obs=x)

    parts = {
        name: dist.Gamma(2 + counts.sum(), torch.tensor(4.5, dtype=DOUBLE))
        for name, counts in (("first", x[:4]), ("second", x[4:]))
    }

    def exact(problem: Problem) -> Program:
        def guide(x: Tensor) -> None:
            for name, part in parts.items():
                pyro.sample(name, part)

        return guide

    draws = {name: _draws(part, k) for k, (name, part) in enumerate(parts.items())}
    guides = (*GOOD, "mean-field", *BAD, "shifted")
    return Problem("two_rates", "rates", model, (x,), draws, guides, {"exact": exact})


# Latents of every row.


def _per_row(
    name: str, model: Program, data: tuple[Tensor, ...], site: str, posterior: Callable[..., Any],
    guides: tuple[str, ...] = ("mean-field", "almost", *BAD),
) -> Problem:  # fmt: skip
    """`posterior` gives rows' posteriors from the data of these rows."""

    def exact(problem: Problem) -> Program:
        def guide(*data: Tensor) -> None:
            with pyro.plate("row", len(data[0])) as i:
                pyro.sample(site, posterior(*(values[i] for values in data)))

        return guide

    truth = {site: _draws(posterior(*data))}
    return Problem(name, "rows", model, data, truth, guides, {"exact": exact})


def _row_chances() -> Problem:
    """One chance a row, and ten trials of it."""

    def model(wins: Tensor) -> None:
        with pyro.plate("row", len(wins)) as i:
            p = pyro.sample("p", dist.Beta(wins.new_tensor(3.0), 3.0))
            pyro.sample("wins", dist.Binomial(10, p), obs=wins[i])

    wins = torch.tensor([3.0, 7, 5, 2, 6, 8, 4, 5], dtype=DOUBLE)
    return _per_row("row_chances", model, (wins,), "p", lambda w: dist.Beta(3 + w, 13 - w))


def _row_means() -> Problem:
    """Measurements with errors of their own, shrunk."""

    def model(y: Tensor, error: Tensor) -> None:
        with pyro.plate("row", len(y)) as i:
            z = pyro.sample("z", dist.Normal(y.new_zeros(()), 2.0))
            pyro.sample("y", dist.Normal(z, error[i]), obs=y[i])

    y = torch.tensor([2.8, 0.8, -0.3, 0.7, -1.0, 1.0, 1.8, 1.2], dtype=DOUBLE)
    error = torch.tensor([1.5, 1.0, 1.6, 1.1, 0.9, 1.1, 1.0, 1.8], dtype=DOUBLE)

    def posterior(y: Tensor, error: Tensor) -> Any:
        precision = 0.25 + error**-2
        return dist.Normal(y / error**2 / precision, precision.rsqrt())

    return _per_row("row_means", model, (y, error), "z", posterior)


def _row_exposures() -> Problem:
    """Counts over unequal times."""

    def model(count: Tensor, time: Tensor) -> None:
        with pyro.plate("row", len(count)) as i:
            rate = pyro.sample("rate", dist.Gamma(count.new_tensor(4.0), 2.0))
            pyro.sample("count", dist.Poisson(rate * time[i]), obs=count[i])

    count = torch.tensor([5.0, 1, 5, 14, 3, 19, 1, 4], dtype=DOUBLE)
    time = torch.tensor([4.0, 1.5, 3.0, 6.0, 2.0, 8.0, 1.0, 2.0], dtype=DOUBLE)
    return _per_row("row_exposures", model, (count, time), "rate", lambda c, t: dist.Gamma(4 + c, 2 + t))


def _row_factors() -> Problem:
    """Two factors a row behind three measurements, which correlate them."""
    loading = torch.tensor([[1.0, 0.8], [0.9, 1.0], [0.2, -0.5]], dtype=DOUBLE)
    precision = torch.eye(2, dtype=DOUBLE) + loading.T @ loading / 0.25

    def model(x: Tensor) -> None:
        with pyro.plate("row", len(x)) as i:
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ loading.T, 0.5).to_event(1), obs=x[i])

    x = torch.from_numpy(_rng(33).normal(size=(8, 2))) @ loading.T
    x = x + 0.5 * torch.from_numpy(_rng(34).normal(size=(8, 3)))

    def posterior(x: Tensor) -> Any:
        centre = torch.linalg.solve(precision, loading.T @ (x / 0.25).T).T
        return dist.MultivariateNormal(centre, precision_matrix=precision)

    guides = ("full-rank", "almost", *BAD, "mean-field")
    return _per_row("row_factors", model, (x,), "z", posterior, guides)


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "cubic": _cubic,
    "wine_alcohol": _wine,
    "orthogonal_six": _orthogonal,
    "local_level": _level,
    "gp_values": _function,
    "five_groups": _groups,
    "ar_one": _lagged,
    "waiting": _waiting,
    "until": _until,
    "noise": _noise,
    "power_law": _tails,
    "shares": _shares,
    "largest": _largest,
    "two_rates": _two_rates,
    "row_chances": _row_chances,
    "row_means": _row_means,
    "row_exposures": _row_exposures,
    "row_factors": _row_factors,
}
