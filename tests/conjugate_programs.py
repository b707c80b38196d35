"""Small conjugate programs, written as a user would write them, as fixtures for all tests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from scipy import stats
from torch import Tensor, nn

from ppl_vae.base.seeds import seeded
from ppl_vae.inference.fitting.objective import LossAndGradients, TraceELBO
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import layout


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


# Graphs and their programs -------------------------------------------------------------------------


class _Linear(PyroModule):
    """z_n ~ N(0, 1), x_n ~ N(w z_n + c, 1), with a buffer c."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64))
        self.register_buffer("centre", torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            mean = z[..., None] * self.weight + self.centre
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x[i])


def _linear_guide(x: Tensor) -> None:
    slope = pyro.param("slope", lambda: torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64))
    scale = pyro.param(
        "scale", lambda: torch.tensor(0.8, dtype=torch.float64), constraint=dist.constraints.positive
    )
    with pyro.plate("data", len(x)) as i:
        pyro.sample("z", dist.Normal(x[i] @ slope, scale))


def _objective(model: Any = None, guide: Any = _linear_guide, **changes: Any) -> LossAndGradients:
    """A step on a minibatch of four of ten data, with two particles and all that may change as inputs."""
    x = torch.randn(10, 3, dtype=torch.float64)
    pair = Pair(_Linear() if model is None else model, guide).initialise(x)
    shape = layout(pair, x)
    task = LossAndGradients(
        Problem(pair, (x,), shape), tuple(pair.parameters().values()), TraceELBO(2),
        index=torch.tensor([7, 2, 5, 0]), scale=torch.tensor(2.5, dtype=torch.float64),
        beta=torch.tensor(0.7, dtype=torch.float64), precision=None,
    )  # fmt: skip
    return replace(task, **changes)


@pytest.fixture
def objective() -> Callable[..., LossAndGradients]:
    """Makes the objective of a linear model, or of a model and guide of 10 × 3 data."""
    return _objective


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As the engine runs: Pyro's checks read numbers out of tensors."""
    with pyro.validation_enabled(False):
        yield


def _agree(run: Callable[..., Any], program: Callable[..., Any], *inputs: Tensor, seed: int = 3) -> None:
    with seeded(seed):
        expected, after = program(*inputs), torch.rand(())
    with seeded(seed):
        found, then = run(*inputs), torch.rand(())
    assert after == then
    for a, b in zip(expected, found, strict=True):
        # Rounding of a few float64 operations on values of order ten.
        torch.testing.assert_close(b, a.detach(), rtol=1e-12, atol=1e-12)


@pytest.fixture
def agree() -> Callable[..., None]:
    """The same seed gives the same numbers to rounding, and leaves the generator at the same place."""
    return _agree


@pytest.fixture
def x20() -> Tensor:
    return torch.as_tensor(np.random.default_rng(5).normal(1, 1, 20), dtype=torch.float32)
