"""Regressions: ten lines through data as they are, diamonds, and who changes to another well."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors.entry import Entry, Settings, columns, design
from benchmarks.posteriors.priors import WIDE, positive, real, vector
from ppl_vae.program.pair import Program

__all__ = ["ENTRIES", "NARROWER"]

CORRELATED = Settings(mass="low-rank")
# Two older stand-ins: they move no posterior here by more than 10⁻³ of its sd.
NARROWER = 1000.0


def _line(x: Tensor, y: Tensor, beta_prior: Any, sigma_prior: Any) -> None:
    beta = pyro.sample("beta", beta_prior)
    sigma = pyro.sample("sigma", sigma_prior)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal((beta * x).sum(-1), sigma), obs=y)


def _linear(wide: float = WIDE, *, cauchy: bool = False) -> Callable[[bool], Program]:
    """y_n ~ N(x_n β, σ²), β flat, σ flat or Cauchy⁺(0, 2.5)."""

    def program(flat: bool) -> Program:
        def model(x: Tensor, y: Tensor) -> None:
            sigma = dist.HalfCauchy(y.new_tensor(2.5)) if cauchy else positive(flat, y, wide)
            _line(x, y, vector(x.shape[1], flat, x, wide), sigma)

        return model

    return program


def _scores(flat: bool) -> Program:
    """A straight line of the mother's IQ (kidscore_momiq.stan)."""

    def model(score: Tensor, mom_iq: Tensor) -> None:
        x = torch.stack([torch.ones_like(mom_iq), mom_iq], -1)
        _line(x, score, vector(2, flat, x, NARROWER), dist.HalfCauchy(x.new_tensor(2.5)))

    return model


def _weak(flat: bool) -> Program:
    """β ~ N(0, 10²), σ ~ N⁺(0, 10²) (blr.stan)."""

    def model(x: Tensor, y: Tensor) -> None:
        beta = dist.Normal(x.new_zeros(x.shape[1]), 10.0).to_event(1)
        _line(x, y, beta, dist.HalfNormal(y.new_tensor(10.0)))

    return model


def _kilpisjarvi(flat: bool) -> Program:
    """A line through years near 2,000: intercept and slope all but determine each other."""

    def model(x: Tensor, y: Tensor, prior: Tensor) -> None:
        alpha = pyro.sample("alpha", dist.Normal(prior[0], prior[1]))
        beta = pyro.sample("beta", dist.Normal(prior[2], prior[3]))
        sigma = pyro.sample("sigma", positive(flat, y))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)

    return model


def _diamonds(flat: bool) -> Program:
    """Twenty-four collinear columns, centred."""

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
        intercept = pyro.sample("Intercept", dist.StudentT(3.0, x.new_tensor(8.0), 10.0))
        sigma = pyro.sample("sigma", dist.FoldedDistribution(dist.StudentT(3.0, x.new_tensor(0.0), 10.0)))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(intercept + (b * x).sum(-1), sigma), obs=y)

    return model


def _logistic(flat: bool) -> Program:
    """y_n ~ Bernoulli(logistic(α + x_n β)), α and β flat."""

    def model(x: Tensor, y: Tensor) -> None:
        alpha = pyro.sample("alpha", real(flat, x))
        beta = pyro.sample("beta", vector(x.shape[1], flat, x))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=alpha + (beta * x).sum(-1)), obs=y)

    return model


def _log_mesquite(data: Mapping[str, Any]) -> tuple[Any, ...]:
    sizes = ("diam1", "diam2", "canopy_height", "total_height", "density")
    logs = [np.log(data[name]) for name in sizes]
    x = np.stack([np.ones(len(data["weight"])), *logs, np.asarray(data["group"])], -1)
    return x, np.log(data["weight"])


def _earnings(data: Mapping[str, Any]) -> tuple[Any, ...]:
    height, male = np.asarray(data["height"], float), np.asarray(data["male"], float)
    x = np.stack([np.ones(len(height)), height, male, height * male], -1)
    return x, np.log(np.asarray(data["earn"], float))


def _children(data: Mapping[str, Any]) -> tuple[Any, ...]:
    school, iq = np.asarray(data["mom_hs"]) - 0.5, np.asarray(data["mom_iq"]) - 100.0
    return np.stack([np.ones(len(iq)), school, iq, school * iq], -1), data["kid_score"]


def _voters(data: Mapping[str, Any]) -> tuple[Any, ...]:
    age = np.asarray(data["age_discrete"])
    ages = [(age == k).astype(float) for k in (2, 3, 4)]
    named = {name: np.asarray(data[name], float)
             for name in ("real_ideo", "race_adj", "educ1", "gender", "income")}  # fmt: skip
    parts = [np.ones(len(age)), named["real_ideo"], named["race_adj"], *ages]
    parts += [named["educ1"], named["gender"], named["income"]]
    return np.stack(parts, -1), data["partyid7"]


def _years(data: Mapping[str, Any]) -> tuple[Any, ...]:
    return data["x"], data["y"], [data[name] for name in ("pmualpha", "psalpha", "pmubeta", "psbeta")]


def _stones(data: Mapping[str, Any]) -> tuple[Any, ...]:
    x = np.asarray(data["X"], float)[:, 1:]
    return x - x.mean(0), data["Y"]


def _wells(data: Mapping[str, Any]) -> tuple[Any, ...]:
    """Distance in hundreds of metres, arsenic, and their product, not centred."""
    far, arsenic = np.asarray(data["dist"], float) / 100, np.asarray(data["arsenic"], float)
    return np.stack([far, arsenic, far * arsenic], -1), data["switched"]


def _flat(
    name: str, program: Callable[[bool], Program], arguments: Callable[..., tuple[Any, ...]], thin: int = 0
) -> Entry:
    return Entry(name, "regression", program, arguments, improper=True, settings=CORRELATED, thin=thin)


_MESQUITE = ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
ENTRIES = (
    Entry("diamonds-diamonds", "regression", _diamonds, _stones, settings=CORRELATED),
    _flat("earnings-earn_height", _linear(), design("earn", "height")),
    _flat("earnings-logearn_interaction", _linear(), _earnings),
    _flat("kidiq-kidscore_momhs", _linear(cauchy=True), design("kid_score", "mom_hs")),
    _flat("kidiq-kidscore_momiq", _scores, columns("kid_score", "mom_iq")),
    _flat("kidiq_with_mom_work-kidscore_interaction_c2", _linear(), _children),
    _flat("kilpisjarvi_mod-kilpisjarvi", _kilpisjarvi, _years),
    _flat("mesquite-logmesquite", _linear(NARROWER), _log_mesquite),
    _flat("mesquite-mesquite", _linear(), design("weight", *_MESQUITE)),
    _flat("nes1972-nes", _linear(), _voters),
    _flat("nes2000-nes", _linear(), _voters),
    Entry("sblrc-blr", "regression", _weak, lambda data: (data["X"], data["y"]), settings=CORRELATED),
    _flat("wells_data-wells_interaction_model", _logistic, _wells, thin=10),
)
