"""Time series: two with Gaussian errors, and one of hidden states that are summed out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors.entry import Entry, Settings, columns
from benchmarks.posteriors.priors import PositiveOrdered
from ppl_vae.program.pair import Program

__all__ = ["ENTRIES", "product", "recursion"]


def _ar5(flat: bool) -> Program:
    """Order 5 (arK.stan): the first five values start it."""

    def model(y: Tensor) -> None:
        zero = y.new_zeros(())
        alpha = pyro.sample("alpha", dist.Normal(zero, 10.0))
        beta = pyro.sample("beta", dist.Normal(y.new_zeros(5), 10.0).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfCauchy(zero + 2.5))
        lagged = torch.stack([y[5 - k : len(y) - k] for k in range(1, 6)], -1)
        with pyro.plate("time", len(y) - 5):
            mean = alpha + (beta * lagged).sum(-1)
            pyro.sample("y", dist.Normal(mean, sigma), obs=y[5:])

    return model


def _arma(flat: bool) -> Program:
    """err_t = y_t − μ − φ y_{t−1} − θ err_{t−1} from err₋₁ = 0 and y₋₁ = μ."""

    def model(now: Tensor, before: Tensor, first: Tensor) -> None:
        zero = now.new_zeros(())
        mu = pyro.sample("mu", dist.Normal(zero, 10.0))
        phi = pyro.sample("phi", dist.Normal(zero, 2.0))
        theta = pyro.sample("theta", dist.Normal(zero, 2.0))
        sigma = pyro.sample("sigma", dist.HalfCauchy(zero + 2.5))
        # μ φ stands in for φ y₋₁ at the first step.
        error = recursion(now - mu - phi * (before + mu * first), -theta)
        with pyro.plate("time", len(now)):
            pyro.sample("err", dist.Normal(error, sigma), obs=torch.zeros(len(now)).to(now))

    return model


def recursion(fresh: Tensor, factor: Tensor) -> Tensor:
    """x_t = fresh_t + factor x_{t−1} from x₋₁ = 0, shape (…, time).

    By doubling: 1 / (1 − a) = (1 + a) (1 + a²) (1 + a⁴) …

    Args:
        fresh: shape (…, time).
        factor: a scalar, or of shape (…, 1).
    """
    found, lag = fresh, 1
    while lag < fresh.shape[-1]:
        late = torch.cat([torch.zeros_like(found[..., :lag]), found[..., :-lag]], -1)
        found, factor, lag = found + factor * late, factor.square(), 2 * lag
    return found


def _before(data: Mapping[str, Any]) -> tuple[Any, ...]:
    """y, the y before it, and whether that is y₋₁."""
    y = np.asarray(data["y"], float)
    return y, np.append(0.0, y[:-1]), np.append(1.0, np.zeros(len(y) - 1))


def _drives(flat: bool) -> Program:
    """A hidden Markov model of two states with exponential observations, its states summed out."""

    def model(seen: Tensor, alpha: Tensor) -> None:
        rows = [pyro.sample(f"theta{k + 1}", dist.Dirichlet(alpha[k])) for k in range(2)]
        loc = seen.new_tensor([0.0, 3.0])
        rates = [pyro.sample(name, PositiveOrdered(loc)) for name in ("phi", "lambda")]
        log_likelihood = sum(
            dist.Exponential(rate[..., None, :]).log_prob(seen[:, k, None]) for k, rate in enumerate(rates)
        )
        steps = torch.stack(rows, -2).log()[..., None, :, :] + log_likelihood[..., 1:, None, :]
        total = (log_likelihood[..., 0, :, None] + product(steps)).logsumexp((-2, -1))
        pyro.factor("series", total)

    return model


def product(steps: Tensor) -> Tensor:
    """The product in log space of matrices (…, time, 2, 2), neighbours first."""
    while steps.shape[-3] > 1:
        odd = steps[..., -1:, :, :] if steps.shape[-3] % 2 else None
        pairs = steps.shape[-3] // 2 * 2
        left, right = steps[..., 0:pairs:2, :, :], steps[..., 1:pairs:2, :, :]
        merged = (left[..., :, :, None] + right[..., None, :, :]).logsumexp(-2)
        steps = merged if odd is None else torch.cat([merged, odd], -3)
    return steps[..., 0, :, :]


def _moves(data: Mapping[str, Any]) -> tuple[Any, ...]:
    return np.stack([data["u"], data["v"]], -1), data["alpha"]


ENTRIES = (
    Entry("arK-arK", "time series", _ar5, columns("y"), settings=Settings(mass="low-rank")),
    Entry("arma-arma11", "time series", _arma, _before),
    Entry("bball_drive_event_0-hmm_drive_0", "hidden Markov", _drives, _moves),
)
