"""Models whose units have several latents, and their exact answers by linear algebra and quadrature.

Every one is given as a jointly Gaussian vector (z, x) of a unit, or as a sum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

from ppl_vae.guides import PerDatumNormal

DOUBLE = torch.float64


@dataclass(frozen=True)
class Linear:
    """z ~ N(0, P), x | z ~ N(H z + m, R) for every unit: what there is to know in closed form.

    Attributes:
        model: the Pyro program; its sites, one after another, are z.
        data: its data, for which ``x`` of shape (units, d) is what they observe, and ``mean`` is m.
        prior: P.
        slope: H.
        noise: R.
    """

    model: Callable[..., Any]
    data: tuple[Tensor, ...]
    x: np.ndarray
    mean: np.ndarray
    prior: np.ndarray
    slope: np.ndarray
    noise: np.ndarray

    @property
    def log_evidence(self) -> np.ndarray:
        cov = self.slope @ self.prior @ self.slope.T + self.noise
        return stats.multivariate_normal(np.zeros(len(cov)), cov).logpdf(self.x - self.mean)

    @property
    def precision(self) -> np.ndarray:
        """Of the posterior (Bishop 2006, section 3.3)."""
        return np.linalg.inv(self.prior) + self.slope.T @ np.linalg.solve(self.noise, self.slope)

    @property
    def means(self) -> np.ndarray:
        """Of the posterior, shape (units, q)."""
        right = self.slope.T @ np.linalg.solve(self.noise, (self.x - self.mean).T)
        return np.linalg.solve(self.precision, right).T

    @property
    def mean_field_gap(self) -> float:
        """log p(x) − ELBO of the best mean-field Gaussian, ½ (Σ ln Λ_kk − ln det Λ) (section 10.1.2)."""
        precision = self.precision
        return 0.5 * float(np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])


def two_layers(num_units: int = 12) -> Linear:
    """z2 ~ N(0, I₂), z1 | z2 ~ N(A z2, S), x | z1 ~ N(W z1 + μ, σ² I)."""
    rng = np.random.default_rng(3)
    a, w, mu = rng.normal(size=(3, 2)), rng.normal(size=(4, 3)), rng.normal(size=4)
    s, sigma = np.array([0.5, 0.8, 0.3]), 0.6
    top = rng.normal(size=(num_units, 2))
    low = top @ a.T + rng.normal(size=(num_units, 3)) * s
    x = low @ w.T + mu + sigma * rng.normal(size=(num_units, 4))
    a_, w_, mu_, s_ = (torch.as_tensor(value) for value in (a, w, mu, s))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2 @ a_.T, s_).to_event(1))
            pyro.sample("x", dist.Normal(z1 @ w_.T + mu_, sigma).to_event(1), obs=x[i])

    prior = np.block([[np.eye(2), a.T], [a, a @ a.T + np.diag(s**2)]])
    slope = np.hstack([np.zeros((4, 2)), w])
    return Linear(model, (torch.as_tensor(x),), x, mu, prior, slope, sigma**2 * np.eye(4))


def random_walk(num_units: int = 9) -> Linear:
    """z_t ~ N(0.9 z_{t−1}, 0.7²) for four steps from N(0, 1), x_t ~ N(z_t, 0.5²): one site a step."""
    rng = np.random.default_rng(4)
    steps, noise = 4, 0.5
    lower = np.eye(steps)
    for t in range(1, steps):
        lower[t] += 0.9 * lower[t - 1]
    prior = lower @ np.diag([1.0, *[0.49] * (steps - 1)]) @ lower.T
    x = rng.multivariate_normal(np.zeros(steps), prior + noise**2 * np.eye(steps), num_units)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z_0", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
            for t in range(steps):
                if t:
                    z = pyro.sample(f"z_{t}", dist.Normal(0.9 * z, 0.7))
                pyro.sample(f"x_{t}", dist.Normal(z, noise), obs=x[i, t])

    return Linear(
        model, (torch.as_tensor(x),), x, np.zeros(steps), prior, np.eye(steps), noise**2 * np.eye(steps)
    )


def inner_plate(num_units: int = 8) -> Linear:
    """A unit's level b ~ N(0, 1), three z_j ~ N(b, 0.6²) in an inner plate, x_j ~ N(z_j, 0.4²)."""
    rng = np.random.default_rng(5)
    size = 3
    prior = np.ones((1 + size, 1 + size))
    prior[1:, 1:] += 0.36 * np.eye(size)
    slope = np.hstack([np.zeros((size, 1)), np.eye(size)])
    noise = 0.16 * np.eye(size)
    x = rng.multivariate_normal(np.zeros(size), slope @ prior @ slope.T + noise, num_units)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2) as i:
            b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
            with pyro.plate("parts", size, dim=-1) as j:
                z = pyro.sample("z", dist.Normal(b, 0.6))
                pyro.sample("x", dist.Normal(z, 0.4), obs=x[i][:, j])

    return Linear(model, (torch.as_tensor(x),), x, np.zeros(size), prior, slope, noise)


def labelled(num_units: int = 10) -> Linear:
    """z ~ N(0, I₂), x | z, y ~ N(W z + m_y, 0.5² I): conditioned on labels, the second data tensor."""
    rng = np.random.default_rng(6)
    w, means = rng.normal(size=(3, 2)), 2 * rng.normal(size=(3, 3))
    y = rng.integers(0, 3, num_units)
    x = rng.normal(size=(num_units, 2)) @ w.T + means[y] + 0.5 * rng.normal(size=(num_units, 3))
    w_, means_ = torch.as_tensor(w), torch.as_tensor(means)

    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ w_.T + means_[y[i]], 0.5).to_event(1), obs=x[i])

    return Linear(
        model, (torch.as_tensor(x), torch.as_tensor(y)), x, means[y], np.eye(2), w, 0.25 * np.eye(3)
    )


def gamma_poisson(x: Tensor) -> None:
    """A positive latent: λ ~ Gamma(2, 1/2), x ~ Poisson(λ)."""
    with pyro.plate("data", len(x)) as i:
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0, dtype=DOUBLE), 0.5))
        pyro.sample("x", dist.Poisson(rate), obs=x[i])


def gamma_poisson_log_evidence(x: np.ndarray) -> np.ndarray:
    """A negative binomial."""
    return stats.nbinom(2, 0.5 / 1.5).logpmf(x)


def gamma_poisson_best_lognormal(x: np.ndarray) -> np.ndarray:
    """The ELBO of the best LogNormal(m, s²): with λ's posterior Gamma(a, b), a = 2 + x and b = 3/2,

    log p(x) + E[a ln λ − b λ] + H with E ln λ = m, E λ = e^{m + s²/2}; m = ln(a/b) − s²/2 and s² = 1/a.
    """
    a, b = 2 + x, 1.5
    var = 1 / a
    m = np.log(a / b) - var / 2
    normaliser = special.gammaln(a) - a * np.log(b)
    value = a * m - b * np.exp(m + var / 2) + 0.5 * np.log(2 * np.pi * np.e * var)
    return gamma_poisson_log_evidence(x) + value - normaliser


def mixed(x: Tensor) -> None:
    """A component c ∈ {0, 1} that is summed out, beside z ~ N(0, 1): x ~ N(z + 3 c − 1, 0.7²), c ~ 0.3."""
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3, dtype=DOUBLE)), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(z + 3 * c - 1, 0.7), obs=x[i])


def mixed_log_evidence(x: np.ndarray) -> np.ndarray:
    sd = np.sqrt(1.49)
    return np.logaddexp(np.log(0.7) + stats.norm.logpdf(x, -1, sd), np.log(0.3) + stats.norm.logpdf(x, 2, sd))


def components(x: Tensor) -> None:
    """A latent whose prior is a mixture: c ~ 0.3 is summed out, z ~ N(3 c, 1), x ~ N(z, 0.7²)."""
    with pyro.plate("data", len(x)) as i:
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3, dtype=DOUBLE)), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(3 * c, 1.0))
        pyro.sample("x", dist.Normal(z, 0.7), obs=x[i])


def components_log_evidence(x: np.ndarray) -> np.ndarray:
    sd = np.sqrt(1.49)
    return np.logaddexp(np.log(0.7) + stats.norm.logpdf(x, 0, sd), np.log(0.3) + stats.norm.logpdf(x, 3, sd))


def exact_guide(case: Linear, guide: PerDatumNormal) -> PerDatumNormal:
    """A guide with full covariance put at the posterior."""
    q = len(case.prior)
    factor = np.linalg.cholesky(np.linalg.inv(case.precision))
    rows, columns = np.tril_indices(q, -1)
    spread = np.concatenate([np.log(np.expm1(np.diag(factor) ** 2 - guide.floor)), factor[rows, columns]])
    with torch.no_grad():
        guide.raw[:, :q] = torch.as_tensor(case.means)
        guide.raw[:, q:] = torch.as_tensor(spread)
    return guide
