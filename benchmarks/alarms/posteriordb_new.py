"""Eleven more posteriors of posteriordb, with Stan's flat priors as they are.

Source: Magnusson et al., "posteriordb: Testing, Benchmarking and Developing Bayesian Inference Algorithms"
(2025). Every program has two forms: ``flat`` with `ImproperUniform`, as Stan has it, which is what a check is
given; and with a Normal of sd 10⁷ in its place, which can be drawn from and from which guides are made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from benchmarks.alarms.posteriordb import ONE_DRAW, Entry
from ppl_vae.program.pair import Program

__all__ = ["NEW_ENTRIES", "NewEntry"]

WIDE = 1e7
# (−θ)^60 is below 10⁻⁹ for |θ| < 0.7, eleven posterior sd from θ's mean.
MEMORY = 60


def _real(size: int, flat: bool, like: Tensor) -> Any:
    """A flat prior of a vector."""
    if flat:
        return dist.ImproperUniform(constraints.real_vector, (), (size,))
    return dist.Normal(like.new_zeros(size), WIDE).to_event(1)


def _positive(flat: bool, like: Tensor) -> Any:
    if flat:
        return dist.ImproperUniform(constraints.positive, (), ())
    return dist.HalfNormal(like.new_tensor(WIDE))


def _regression(flat: bool, noise: Callable[[Tensor], Any] | None = None) -> Program:
    """β and σ flat, or σ with a prior; y_n ~ N(x_n β, σ²)."""

    def model(x: Tensor, y: Tensor) -> None:
        beta = pyro.sample("beta", _real(x.shape[1], flat, x))
        sigma = pyro.sample("sigma", _positive(flat, y) if noise is None else noise(y))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal((beta * x).sum(-1), sigma), obs=y)

    return model


def _cauchy_noise(flat: bool) -> Program:
    """kidscore_momhs.stan has σ ~ Cauchy⁺(0, 2.5)."""
    return _regression(flat, lambda y: dist.HalfCauchy(y.new_tensor(2.5)))


def kilpisjarvi(flat: bool) -> Program:
    """A line through years near 4,000: intercept and slope all but determine each other."""

    def model(x: Tensor, y: Tensor, prior: Tensor) -> None:
        alpha = pyro.sample("alpha", dist.Normal(prior[0], prior[1]))
        beta = pyro.sample("beta", dist.Normal(prior[2], prior[3]))
        sigma = pyro.sample("sigma", _positive(flat, y))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)

    return model


def arma(flat: bool) -> Program:
    """err_t = y_t − μ − φ y_{t−1} − θ err_{t−1}, written out as a moving average of what came before."""

    def model(now: Tensor, before: Tensor, first: Tensor, seen: Tensor) -> None:
        zero = now.new_zeros(())
        mu = pyro.sample("mu", dist.Normal(zero, 10.0))
        phi = pyro.sample("phi", dist.Normal(zero, 2.0))
        theta = pyro.sample("theta", dist.Normal(zero, 2.0))
        sigma = pyro.sample("sigma", dist.HalfCauchy(zero + 2.5))
        powers = (-theta)[..., None] ** torch.arange(MEMORY).to(now)
        # μ φ stands in for φ y₀ at the first step.
        residual = now - phi[..., None] * (before + mu[..., None] * first) - mu[..., None] * seen
        with pyro.plate("time", len(now)):
            pyro.sample("err", dist.Normal((residual * powers).sum(-1), sigma),
                        obs=torch.zeros(len(now)).to(now))  # fmt: skip

    return model


class PositiveOrdered(dist.TorchDistribution):  # type: ignore[misc]
    """0 < x₁ < … < x_n with the density of independent normals, up to a constant; drawn by sorting."""

    arg_constraints: Mapping[str, Any] = {}
    support = constraints.positive_ordered_vector
    has_rsample = True

    def __init__(self, loc: Tensor, batch_shape: torch.Size = ONE_DRAW) -> None:
        self.loc = loc
        super().__init__(batch_shape, loc.shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "PositiveOrdered":
        """The same for a larger batch."""
        return PositiveOrdered(self.loc, torch.Size(batch_shape))

    def rsample(self, sample_shape: torch.Size = ONE_DRAW) -> Tensor:
        """Magnitudes in order: where the density is, and not exactly from it."""
        drawn = self.loc + torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype)
        return drawn.abs().sort(-1).values

    def log_prob(self, value: Tensor) -> Tensor:
        """Of shape (*batch)."""
        found: Tensor = dist.Normal(self.loc, 1.0).log_prob(value).sum(-1)
        return found


def drives(flat: bool) -> Program:
    """A hidden Markov model of two states with exponential observations, its states summed out."""

    def model(seen: Tensor, alpha: Tensor) -> None:
        rows = [pyro.sample(f"theta{k + 1}", dist.Dirichlet(alpha[k])) for k in range(2)]
        loc = seen.new_tensor([0.0, 3.0])
        rates = [pyro.sample(name, PositiveOrdered(loc)) for name in ("phi", "lambda")]
        log_likelihood = sum(
            dist.Exponential(rate[..., None, :]).log_prob(seen[:, k, None]) for k, rate in enumerate(rates)
        )
        steps = torch.stack(rows, -2).log()[..., None, :, :] + log_likelihood[..., 1:, None, :]
        total = (log_likelihood[..., 0, :, None] + _product(steps)).logsumexp((-2, -1))
        pyro.factor("series", total)

    return model


def _product(steps: Tensor) -> Tensor:
    """The product in log space of matrices (…, time, 2, 2), neighbours first."""
    while steps.shape[-3] > 1:
        odd = steps[..., -1:, :, :] if steps.shape[-3] % 2 else None
        pairs = steps.shape[-3] // 2 * 2
        left, right = steps[..., 0:pairs:2, :, :], steps[..., 1:pairs:2, :, :]
        merged = (left[..., :, :, None] + right[..., None, :, :]).logsumexp(-2)
        steps = merged if odd is None else torch.cat([merged, odd], -3)
    return steps[..., 0, :, :]


def diamonds(flat: bool) -> Program:
    """Twenty-four collinear columns, centred."""

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
        intercept = pyro.sample("Intercept", dist.StudentT(3.0, x.new_tensor(8.0), 10.0))
        sigma = pyro.sample("sigma", dist.FoldedDistribution(dist.StudentT(3.0, x.new_tensor(0.0), 10.0)))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(intercept + (b * x).sum(-1), sigma), obs=y)

    return model


@dataclass(frozen=True)
class NewEntry:
    """One posterior.

    Attributes:
        name: posteriordb's.
        family: of models.
        program: of ``flat``; see above.
        arguments: its data, from posteriordb's.
        improper: whether the two forms differ.
        draws: behind the truth of a guide.
        guides: only these, where a check is dear.
    """

    name: str
    family: str
    program: Callable[[bool], Program]
    arguments: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    improper: bool = True
    draws: int = 10_000
    guides: tuple[str, ...] = ()

    @property
    def entry(self) -> Entry:
        """With a file and draws, as the eight older ones."""
        return Entry(self.name, self.program(False), self.arguments)


def _design(y: str, *columns: str) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    def arguments(data: Mapping[str, Any]) -> tuple[Any, ...]:
        values = [np.asarray(data[name], dtype=float) for name in columns]
        return np.stack([np.ones(len(data[y])), *values], -1).tolist(), data[y]

    return arguments


def _earnings(data: Mapping[str, Any]) -> tuple[Any, ...]:
    height, male = np.asarray(data["height"], float), np.asarray(data["male"], float)
    design = np.stack([np.ones(len(height)), height, male, height * male], -1)
    return design.tolist(), np.log(np.asarray(data["earn"], float)).tolist()


def _children(data: Mapping[str, Any]) -> tuple[Any, ...]:
    school, iq = np.asarray(data["mom_hs"]) - 0.5, np.asarray(data["mom_iq"]) - 100.0
    return np.stack([np.ones(len(iq)), school, iq, school * iq], -1).tolist(), data["kid_score"]


def _voters(data: Mapping[str, Any]) -> tuple[Any, ...]:
    age = np.asarray(data["age_discrete"])
    ages = [(age == k).astype(float) for k in (2, 3, 4)]
    named = {name: np.asarray(data[name], float)
             for name in ("real_ideo", "race_adj", "educ1", "gender", "income")}  # fmt: skip
    columns = [np.ones(len(age)), named["real_ideo"], named["race_adj"], *ages]
    columns += [named["educ1"], named["gender"], named["income"]]
    return np.stack(columns, -1).tolist(), data["partyid7"]


def _years(data: Mapping[str, Any]) -> tuple[Any, ...]:
    return data["x"], data["y"], [data[name] for name in ("pmualpha", "psalpha", "pmubeta", "psbeta")]


def _lags(data: Mapping[str, Any]) -> tuple[Any, ...]:
    """y, the y before it, whether that is y₀, and whether there is a y, all by lag: shape (time, memory)."""
    y = np.asarray(data["y"], float)
    columns = (y, np.append(0.0, y[:-1]), np.append(1.0, np.zeros(len(y) - 1)), np.ones(len(y)))
    return tuple(
        np.stack([np.append(np.zeros(k), column)[: len(y)] for k in range(MEMORY)], -1).tolist()
        for column in columns
    )


def _moves(data: Mapping[str, Any]) -> tuple[Any, ...]:
    return np.stack([data["u"], data["v"]], -1).tolist(), data["alpha"]


def _stones(data: Mapping[str, Any]) -> tuple[Any, ...]:
    x = np.asarray(data["X"], float)[:, 1:]
    return (x - x.mean(0)).tolist(), data["Y"]


_MESQUITE = ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
NEW_ENTRIES = (
    NewEntry("arma-arma11", "time series", arma, _lags, improper=False, draws=2000),
    NewEntry("bball_drive_event_0-hmm_drive_0", "hidden Markov", drives, _moves, improper=False, draws=2000),
    NewEntry("diamonds-diamonds", "regression", diamonds, _stones, improper=False, draws=1000,
             guides=("full-rank", "narrow", "mean-field", "AutoDelta")),
    NewEntry("earnings-earn_height", "regression", _regression, _design("earn", "height"), draws=4000),
    NewEntry("earnings-logearn_interaction", "regression", _regression, _earnings, draws=4000),
    NewEntry("kidiq-kidscore_momhs", "regression", _cauchy_noise, _design("kid_score", "mom_hs")),
    NewEntry("kidiq_with_mom_work-kidscore_interaction_c2", "regression", _regression, _children),
    NewEntry("kilpisjarvi_mod-kilpisjarvi", "regression", kilpisjarvi, _years),
    NewEntry("mesquite-mesquite", "regression", _regression, _design("weight", *_MESQUITE)),
    NewEntry("nes1972-nes", "regression", _regression, _voters, draws=4000),
    NewEntry("nes2000-nes", "regression", _regression, _voters, draws=4000),
)  # fmt: skip
