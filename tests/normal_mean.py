"""A normal mean with a normal prior: the smallest program with an exact posterior."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
from scipy import stats
from torch import Tensor

Program = Callable[..., Any]


def normal_evidence(x: np.ndarray) -> float:
    """log p(x) of x_i ~ N(mu, 1), mu ~ N(0, 1)."""
    return float(stats.multivariate_normal(np.zeros(len(x)), np.eye(len(x)) + 1).logpdf(x))


def mu_given(x: np.ndarray) -> tuple[float, float]:
    """Mean and sd of mu given those."""
    precision = 1 + len(x)
    return float(x.sum() / precision), precision**-0.5


def fixed(mean: float, sd: float, name: str = "mu") -> Program:
    """A guide without parameters."""

    def guide(*_: Any) -> None:
        pyro.sample(name, dist.Normal(mean, sd))

    return guide


def normal_mean(x: Tensor) -> None:
    """x_i ~ N(mu, 1), mu ~ N(0, 1)."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])
