"""Five models whose truth comes from long runs of NumPyro: see `other_sampler`, which kept summaries of them.

Draws are made of the summaries: correlated normal scores, carried over to the quantiles of every number.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from scipy.stats import norm
from torch import Tensor

from benchmarks.alarms.other_data import DATA
from benchmarks.alarms.problems import Problem
from ppl_vae.program.pair import Program

__all__ = ["PROBLEMS", "redrawn", "summaries"]

DRAWS = 10_000
GUIDES = ("full-rank", "almost", "narrow", "wide", "shifted", "mean-field", "mean-field optimum", "AutoDelta")
POSITIVE = ("spread", "sigma", "size", "local", "tau", "move")
CHANCES = ("news", "memory")


def summaries() -> dict[str, Any]:
    """What the other sampler left, by model."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("other_sampler.json").read_text())
    return found


def redrawn(kept: Mapping[str, Any], probabilities: list[float], seed: int = 81) -> dict[str, Tensor]:
    """Draws in unconstrained coordinates by site, each of shape (draws,) or (draws, size)."""
    size = len(kept["mean"])
    correlation = np.eye(size)
    correlation[np.tril_indices(size, -1)] = kept["correlation"]
    correlation += np.tril(correlation, -1).T
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0))
    scores = np.random.default_rng(seed).normal(size=(DRAWS, size)) @ root.T
    at = norm.ppf(probabilities)
    columns = [_along(scores[:, k], at, np.array(kept["quantiles"][k])) for k in range(size)]
    flat = torch.from_numpy(np.stack(columns, -1))
    parts = flat.split([max(1, count) for count in kept["sites"].values()], -1)
    return {
        name: part[:, 0] if count == 1 else part
        for (name, count), part in zip(kept["sites"].items(), parts, strict=True)
    }


def _along(scores: np.ndarray, at: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Linear between the quantiles' normal scores, and on beyond the last."""
    ends = np.array([at[0] - 3, at[-1] + 3])
    slopes = np.diff(quantiles)[[0, -1]] / np.diff(at)[[0, -1]]
    reached = np.array([quantiles[0] - 3 * slopes[0], quantiles[-1] + 3 * slopes[1]])
    found: np.ndarray = np.interp(
        scores, np.r_[ends[0], at, ends[1]], np.r_[reached[0], quantiles, reached[1]]
    )
    return found


def mixed(x: Tensor, y: Tensor, member: Tensor) -> None:
    """Random intercepts of eight groups, in units of their spread."""
    zero = y.new_zeros(())
    a, b = pyro.sample("a", dist.Normal(zero, 5.0)), pyro.sample("b", dist.Normal(zero, 5.0))
    spread = pyro.sample("spread", dist.HalfNormal(zero + 2))
    sigma = pyro.sample("sigma", dist.HalfNormal(zero + 2))
    u = pyro.sample("u", dist.Normal(y.new_zeros(8), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        effect = (u * member).sum(-1)
        pyro.sample("y", dist.Normal(a + b * x + spread * effect, sigma), obs=y)


def garch(y: Tensor) -> None:
    """GARCH(1,1) from a variance of 0.5: the recursion is linear, and written out as a sum over the past."""
    zero = y.new_zeros(())
    mu, size = pyro.sample("mu", dist.Normal(zero, 1.0)), pyro.sample("size", dist.LogNormal(zero - 1, 1.0))
    news = pyro.sample("news", dist.Beta(zero + 2, 6.0))
    memory = pyro.sample("memory", dist.Beta(zero + 6, 4.0))
    steps = torch.arange(len(y)).to(y)
    lag = steps[:, None] - 1 - steps
    faded = torch.where(lag >= 0, memory[..., None] ** lag.clamp(min=0), 0.0)
    entered = size + news * (y - mu).square()
    variance = 0.5 * memory**steps + (faded * entered[..., None, :]).sum(-1)
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(mu, variance.sqrt()), obs=y)


def censored(x: Tensor, y: Tensor, late: Tensor) -> None:
    """Log-normal survival; of the late it is known that they outlived the study."""
    zero = y.new_zeros(())
    a, b = pyro.sample("a", dist.Normal(zero, 5.0)), pyro.sample("b", dist.Normal(zero, 5.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(zero + 2))
    early, gone = late == 0, late == 1
    with pyro.plate("seen", int(early.sum())):
        pyro.sample("y", dist.Normal(a + b * x[early], sigma), obs=y[early])
    with pyro.plate("not seen", int(gone.sum())):
        beyond = torch.special.ndtr((a + b * x[gone] - y[gone]) / sigma)
        pyro.sample("late", dist.Bernoulli(beyond.clamp(1e-300, 1 - 1e-15)), obs=late[gone])


def horseshoe(x: Tensor, y: Tensor) -> None:
    """Six coefficients, each with a scale of its own, and one for all."""
    zero = y.new_zeros(())
    z = pyro.sample("z", dist.Normal(y.new_zeros(6), 1.0).to_event(1))
    local = pyro.sample("local", dist.HalfCauchy(y.new_ones(6)).to_event(1))
    tau = pyro.sample("tau", dist.HalfCauchy(zero + 0.3))
    sigma = pyro.sample("sigma", dist.HalfNormal(zero + 2))
    with pyro.plate("data", len(y)):
        mean = tau * (z * local * x).sum(-1)
        pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def unknown_level(y: Tensor) -> None:
    """A random walk seen through noise, the sizes of both unknown."""
    zero = y.new_zeros(())
    start = pyro.sample("start", dist.Normal(zero, 5.0))
    move = pyro.sample("move", dist.LogNormal(zero - 0.7, 0.5))
    sigma = pyro.sample("sigma", dist.LogNormal(zero - 0.7, 0.5))
    steps = pyro.sample("steps", dist.Normal(y.new_zeros(len(y)), 1.0).to_event(1))
    walk = torch.tril(torch.ones(len(y), len(y)).to(y))
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(start + move * (steps * walk).sum(-1), sigma), obs=y)


def _coefficients(draws: xr.Dataset) -> xr.Dataset:
    """What a user of the horseshoe reads: the coefficients, and the two scales as logarithms."""
    tau, local, z = (draws[name].transpose("chain", "draw", ...) for name in ("tau", "local", "z"))
    beta = (z.to_numpy() * local.to_numpy()) * tau.to_numpy()[..., None]
    found = {"beta": (("chain", "draw", "predictor"), beta)}
    return xr.Dataset({**found, "log tau": np.log(tau), "log sigma": np.log(draws["sigma"])})


def _problem(
    name: str, family: str, program: Program,
    identifiable: Callable[[xr.Dataset], xr.Dataset] | None = None,
) -> Problem:  # fmt: skip
    every = summaries()
    free = redrawn(every[name], every["probabilities"])
    sites = {key: _constrained(key, values) for key, values in free.items() if key != "beta"}
    answers = None
    if identifiable is not None:
        answers = {"beta": free["beta"], "log tau": free["tau"], "log sigma": free["sigma"]}
    data = tuple(torch.from_numpy(values) for values in DATA[name]().values())
    return Problem(
        name, family, program, data, sites, GUIDES, identifiable=identifiable, answers=answers,
        group="another sampler's", draws=2000 if name == "garch" else DRAWS,
    )  # fmt: skip


def _constrained(name: str, values: Tensor) -> Tensor:
    return values.exp() if name in POSITIVE else values.sigmoid() if name in CHANCES else values


PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    "mixed": partial(_problem, "mixed", "mixed model", mixed),
    "garch": partial(_problem, "garch", "GARCH", garch),
    "censored": partial(_problem, "censored", "censored", censored),
    "horseshoe": partial(_problem, "horseshoe", "horseshoe", horseshoe, _coefficients),
    "unknown_level": partial(_problem, "unknown_level", "state space", unknown_level),
}
