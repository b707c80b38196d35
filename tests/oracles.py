"""Exact answers to test against: closed forms and quadrature in NumPy, and nothing of ours.

Monte Carlo estimates are judged by z-scores, with the threshold corrected for the number of comparisons.
Some two hundred tests do so: at ``LEVEL`` each, one run in a thousand fails by chance.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from scipy import optimize, special, stats

Array = np.ndarray


LEVEL = 5e-6


def z_limit(comparisons: int = 1, level: float = LEVEL) -> float:
    """How large the largest of so many |z|-scores may be (Bonferroni)."""
    return float(stats.norm.isf(level / (2 * comparisons)))


def t_limit(freedom: int, comparisons: int = 1, level: float = LEVEL) -> float:
    """The same where each score's error was estimated from few values, with so many degrees of freedom."""
    return float(stats.t.isf(level / (2 * comparisons), freedom))


def spread_limits(freedom: int, comparisons: int = 1, level: float = LEVEL) -> tuple[float, float]:
    """Between which the sample variance of normal values may lie, over the true one."""
    tail = level / (2 * comparisons)
    return float(stats.chi2.ppf(tail, freedom) / freedom), float(stats.chi2.isf(tail, freedom) / freedom)


@contextmanager
def nothing_global_changes() -> Iterator[None]:
    """Global generators, parameter store, default dtype, threads and validation stay as they are."""
    pyro.param("someone_elses", torch.tensor([1.0, 2.0]))
    before = _globals()
    yield
    after = _globals()
    for name, value in before.items():
        assert value == after[name], f"{name} changed"


def _globals() -> dict[str, object]:
    store = pyro.get_param_store()
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "NumPy's generator": str(np.random.get_state()),  # noqa: NPY002
        "the parameter store": {name: store[name].tolist() for name in store},
        "the default dtype": torch.get_default_dtype(),
        "the number of threads": torch.get_num_threads(),
        "validation": torch.distributions.Distribution._validate_args,
        "gradient mode": torch.is_grad_enabled(),
    }


def contradictions(flags: Sequence[str]) -> list[float]:
    """How many standard errors the values of log p(x) that contradict each other are apart.

    Honest ones are called so beyond three errors: of several pairs in a test, one may be by chance.
    """
    words = (flag.partition(" standard errors")[0] for flag in flags if "one of them is wrong" in flag)
    return [float(word.rpartition(" ")[2]) for word in words]


# Probabilistic PCA -------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaximumLikelihood:
    """The closed-form solution of Tipping and Bishop (1999); W up to a rotation."""

    loadings: Array
    mean: Array
    noise: float
    log_likelihood_per_row: float


def ppca_maximum_likelihood(x: Array, latent_dim: int) -> MaximumLikelihood:
    """σ² is the mean discarded eigenvalue of the 1/N covariance."""
    d = x.shape[1]
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = float(values[latent_dim:].mean())
    loadings = vectors[:, :latent_dim] * np.sqrt(values[:latent_dim] - noise)
    log_determinant = np.log(values[:latent_dim]).sum() + (d - latent_dim) * np.log(noise)
    value = -0.5 * (d * np.log(2 * np.pi) + log_determinant + d)
    return MaximumLikelihood(loadings, x.mean(0), noise, float(value))


def ppca_log_likelihood(x: Array, loadings: Array, mean: Array, noise: float) -> Array:
    """log N(x_n; μ, WWᵀ + σ²I) of every row."""
    covariance = loadings @ loadings.T + noise * np.eye(len(mean))
    return stats.multivariate_normal(mean, covariance).logpdf(x)


def rotation(degrees: float) -> torch.Tensor:
    """A 2 × 2 rotation."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return torch.tensor([[c, -s], [s, c]])


# Skills ------------------------------------------------------------------------------------------

Link = Callable[[Array], Array]


def logistic(difference: Array) -> Array:
    """log σ(s_i − s_j)."""
    return -np.logaddexp(0.0, -difference)


def probit(performance_sd: float, margin: float = 0.0) -> Link:
    """log Φ((s_i − s_j − ε)/(√2 β))."""
    return lambda difference: special.log_ndtr((difference - margin) / (np.sqrt(2) * performance_sd))


@dataclass(frozen=True)
class Skills:
    """Exact posterior of skills with iid N(μ0, σ0²) priors."""

    log_evidence: float
    mean: Array
    sd: Array
    above: Array
    """P(s_i > s_j) by (i, j)."""


def won(games: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a program of duels takes, for a table of winners and losers: outcomes and players."""
    players = torch.as_tensor(games)
    return torch.ones(len(players), dtype=torch.float64), players


def skills(
    games: list[tuple[int, int]], num_players: int, link: Link, prior_mean: float, prior_sd: float
) -> Skills:
    """By the trapezoidal rule, spectrally accurate here, over the differences' subspace.

    The common mean is independent of all differences and keeps its prior N(μ0, σ0²/n).
    """
    # Rows: an orthonormal basis of the contrasts between players.
    basis = np.linalg.svd(np.eye(num_players) - 1 / num_players)[0][:, : num_players - 1].T
    size = {1: 20001, 2: 301, 3: 61, 4: 31}[num_players - 1]
    grid = np.linspace(-8, 8, size) if num_players == 2 else np.linspace(-6, 6, size)
    axes = np.meshgrid(*[grid] * (num_players - 1), indexing="ij")
    at = np.stack([axis.ravel() for axis in axes], axis=1)
    contrast = prior_sd * at @ basis
    log_density = -0.5 * (at**2).sum(1) + (num_players - 1) * np.log((grid[1] - grid[0]) / np.sqrt(2 * np.pi))
    for winner, loser in games:
        log_density = log_density + link(contrast[:, winner] - contrast[:, loser])
    log_evidence = float(special.logsumexp(log_density))
    weights = np.exp(log_density - log_evidence)
    mean = weights @ contrast
    variance = weights @ (contrast - mean) ** 2 + prior_sd**2 / num_players
    above = np.full((num_players, num_players), np.nan)
    for i, j in itertools.permutations(range(num_players), 2):
        difference = contrast[:, i] - contrast[:, j]
        # A grid point on the border belongs half to each side.
        above[i, j] = weights @ np.heaviside(np.where(np.abs(difference) < 1e-9, 0.0, difference), 0.5)
    return Skills(log_evidence, prior_mean + mean, np.sqrt(variance), above)


def skill_mean_field_elbo(wins: int, losses: int, loc: Array, scale: Array) -> float:
    """ELBO of q = N(loc, diag scale²) for two players, N(0, 1) priors and the logistic link."""
    nodes = np.linspace(-10, 10, 4001)
    weights = stats.norm.pdf(nodes) * (nodes[1] - nodes[0])
    difference = loc[0] - loc[1] + np.hypot(*scale) * nodes
    fit = weights @ (wins * logistic(difference) + losses * logistic(-difference))
    return float(fit - 0.5 * np.sum(loc**2 + scale**2 - 1 - 2 * np.log(scale)))


def skill_mean_field_optimum(wins: int, losses: int) -> tuple[float, Array, Array]:
    """The best mean-field Gaussian for two players: ELBO, means, standard deviations."""

    def loss(at: Array) -> float:
        return -skill_mean_field_elbo(wins, losses, at[:2], np.exp(at[2:]))

    found = optimize.minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-7})
    return -float(found.fun), found.x[:2], np.exp(found.x[2:])


# Eight schools -----------------------------------------------------------------------------------

SCHOOL_EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SCHOOL_ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools() -> dict[str, Array]:
    """Posterior means with μ ~ N(0, 5²), τ ~ HalfCauchy(5), by quadrature over τ.

    Given τ, μ and θ are Gaussian (Gelman et al., Bayesian Data Analysis, section 5.4).
    """
    # t = tan: the substitution τ = 5 tan(u) makes the half-Cauchy prior uniform in u.
    u = (np.arange(200_000) + 0.5) / 200_000 * np.pi / 2
    tau = 5 * np.tan(u)[:, None]
    spread = SCHOOL_ERRORS**2 + tau**2
    precision = 1 / 25 + (1 / spread).sum(1)
    mu = (SCHOOL_EFFECTS / spread).sum(1) / precision
    quadratic = (SCHOOL_EFFECTS**2 / spread).sum(1) - precision * mu**2
    log_weight = -0.5 * (np.log(spread).sum(1) + np.log(precision) + quadratic)
    weight = np.exp(log_weight - special.logsumexp(log_weight))
    shrink = tau**2 / spread
    theta = shrink * SCHOOL_EFFECTS + (1 - shrink) * mu[:, None]
    return {"mu": weight @ mu, "tau": weight @ tau[:, 0], "theta": weight @ theta}
