"""What is fitted: posteriors with their data, and fits with their CPU times."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors import Entry
from ppl_vae import Pair
from ppl_vae.guides.named import named_guide
from ppl_vae.inference.fitting.fit_result import Fit
from ppl_vae.program.pair import Program

__all__ = ["Case", "Timed", "case_of", "exact_log_evidence", "made_regression", "timed", "warm_up"]


@dataclass(frozen=True, eq=False)
class Case:
    """A model with its data.

    Attributes:
        name: posteriordb's, or one of our own.
        model: a Pyro program.
        data: its arguments.
    """

    name: str
    model: Program
    data: tuple[Any, ...]

    def pair(self, family: str) -> Pair:
        """A fresh pair with Pyro's guide of that family, where Pyro starts it."""
        pyro.set_rng_seed(0)
        return Pair(self.model, named_guide(family, self.model))


def case_of(entry: Entry) -> Case:
    """A posterior with its own data and flat priors."""
    return Case(entry.name, entry.model, entry.data())


@dataclass(frozen=True, eq=False)
class Timed:
    """A fit, the pair whose guide it changed, and the CPU seconds of both."""

    pair: Pair
    fit: Fit
    seconds: float


def timed(case: Case, family: str, fit: Callable[..., Fit], **options: Any) -> Timed:
    """From the guide's making to the fit's end."""
    start = time.process_time()
    pair = case.pair(family)
    found = fit(pair, *case.data, progress=False, **options)
    return Timed(pair, found, time.process_time() - start)


def warm_up(*fits: Callable[..., Fit]) -> None:
    """Fit a normal's mean, so that what Python imports on the way is imported."""

    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)

    for fit in fits:
        timed(Case("normal", model, (torch.zeros(3, 2, dtype=torch.float64),)), "mean-field", fit)


# A regression whose log p(x) is known -----------------------------------------------------------------

PRIOR_SD, NOISE_SD = 100.0, 18.0


def made_regression(seed: int = 0) -> Case:
    """200 rows of y = 25 + .6 a − 10 b + .2 a b + noise, a ~ N(100, 15²), b binary; weights N(0, 100²)."""
    generator = torch.Generator().manual_seed(seed)
    a = 100 + 15 * torch.randn(200, generator=generator, dtype=torch.float64)
    b = (torch.rand(200, generator=generator) < 0.5).double()
    x = torch.stack([torch.ones_like(a), a, b, a * b], -1)
    noise = NOISE_SD * torch.randn(200, generator=generator, dtype=torch.float64)
    y = x @ x.new_tensor([25.0, 0.6, -10.0, 0.2]) + noise

    def model(x: Tensor, y: Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(x.new_zeros(4), PRIOR_SD).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal((beta * x).sum(-1), NOISE_SD), obs=y)

    return Case("made regression", model, (x, y))


def exact_log_evidence(x: Tensor, y: Tensor) -> float:
    """log N(y; 0, σ² I + s² x xᵀ), by the posterior's precision."""
    rows, size = x.shape
    precision = x.T @ x / NOISE_SD**2 + torch.eye(size).to(x) / PRIOR_SD**2
    pulled = x.T @ y / NOISE_SD**2
    square = float(y @ y) / NOISE_SD**2 - float(pulled @ torch.linalg.solve(precision, pulled))
    volume = rows * math.log(2 * math.pi * NOISE_SD**2) + size * math.log(PRIOR_SD**2)
    return -0.5 * (volume + float(torch.logdet(precision)) + square)
