"""Small conjugate programs, written as a user would write them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor


@dataclass(frozen=True)
class Conjugate:
    """z_n ~ N(0, 1), x_n ~ N(z_n, 0.5²), with the guide N(slope x_n, scale²) as plain functions.

    The exact posterior is N(0.8 x_n, 0.2) and the marginal N(0, 1.25).
    """

    model: Callable[[Tensor], None]
    guide: Callable[[Tensor], None]

    def log_evidence(self, x: Tensor) -> np.ndarray:
        return stats.norm(0, np.sqrt(1.25)).logpdf(x.numpy())


def _model(x: Tensor) -> None:
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x[i])


def _guide(x: Tensor) -> None:
    slope = pyro.param("slope", lambda: torch.tensor(0.3, dtype=x.dtype))
    scale = pyro.param(
        "scale", lambda: torch.tensor(1.0, dtype=x.dtype), constraint=dist.constraints.positive
    )
    with pyro.plate("data", len(x)) as i:
        pyro.sample("z", dist.Normal(slope * x[i], scale))


@pytest.fixture
def conjugate() -> Conjugate:
    return Conjugate(_model, _guide)


@pytest.fixture
def x() -> Tensor:
    return torch.as_tensor(np.random.default_rng(0).normal(0, np.sqrt(1.25), 40))
