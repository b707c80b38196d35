"""Groups of groups: schools, rats, hospitals and counties."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import xarray as xr
from torch import Tensor

from benchmarks.posteriors.entry import Entry, Settings, Sites, columns
from benchmarks.posteriors.priors import positive
from ppl_vae.program.pair import Program

__all__ = ["ENTRIES"]


def _schools_centred(flat: bool) -> Program:
    """θ_j ~ N(μ, τ²): a funnel."""

    def model(y: Tensor, error: Tensor) -> None:
        zero = y.new_zeros(())
        mu = pyro.sample("mu", dist.Normal(zero, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(zero + 5.0))
        with pyro.plate("school", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, error), obs=y)

    return model


def _schools_noncentred(flat: bool) -> Program:
    """θ_j = μ + τ θ'_j with θ'_j ~ N(0, 1)."""

    def model(y: Tensor, error: Tensor) -> None:
        zero = y.new_zeros(())
        mu = pyro.sample("mu", dist.Normal(zero, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(zero + 5.0))
        with pyro.plate("school", len(y)):
            shift = pyro.sample("theta_trans", dist.Normal(zero, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * shift, error), obs=y)

    return model


def _effects(draws: xr.Dataset) -> xr.Dataset:
    theta = draws["mu"] + draws["tau"] * draws["theta_trans"]
    return xr.Dataset(
        {"theta": theta.transpose("chain", "draw", ...), "mu": draws["mu"], "tau": draws["tau"]}
    )


def _shifts(values: Sites) -> Sites:
    shift = (values["theta"] - values["mu"][..., None]) / values["tau"][..., None]
    return {"mu": values["mu"], "tau": values["tau"], "theta_trans": shift}


def _rats(flat: bool) -> Program:
    """A line of weight against age for each rat (rats, volume 1 of the BUGS examples); sds flat."""

    def model(age: Tensor, weight: Tensor) -> None:
        zero = age.new_zeros(())
        mu_alpha = pyro.sample("mu_alpha", dist.Normal(zero, 100.0))
        mu_beta = pyro.sample("mu_beta", dist.Normal(zero, 100.0))
        names = ("sigma_y", "sigma_alpha", "sigma_beta")
        noise, sd_alpha, sd_beta = (pyro.sample(name, positive(flat, age)) for name in names)
        with pyro.plate("rat", len(weight)):
            alpha = pyro.sample("alpha", dist.Normal(mu_alpha, sd_alpha))
            beta = pyro.sample("beta", dist.Normal(mu_beta, sd_beta))
            mean = alpha[..., None] + beta[..., None] * age
            pyro.sample("weight", dist.Normal(mean, noise[..., None]).to_event(1), obs=weight)

    return model


def _weeks(data: Mapping[str, Any]) -> tuple[Any, ...]:
    """Ages (weeks,) less their reference, and weights (rats, weeks)."""
    rat, age = np.asarray(data["rat"]) - 1, np.asarray(data["x"], float)
    ages, week = np.unique(age, return_inverse=True)
    weight = np.full((data["N"], len(ages)), np.nan)
    weight[rat, week] = data["y"]
    return ages - data["xbar"], weight


def _surgical(flat: bool) -> Program:
    """Deaths in operations on babies, by hospital (surgical, volume 1 of the BUGS examples)."""

    def model(operations: Tensor, deaths: Tensor) -> None:
        zero = deaths.new_zeros(())
        mu = pyro.sample("mu", dist.Normal(zero, 1000.0))
        variance = pyro.sample("sigmasq", dist.InverseGamma(zero + 1e-3, 1e-3))
        with pyro.plate("hospital", len(deaths)):
            b = pyro.sample("b", dist.Normal(mu, variance.sqrt()))
            pyro.sample("deaths", dist.Binomial(operations, logits=b), obs=deaths)

    return model


def _radon(flat: bool) -> Program:
    """Log radon by floor, with an intercept for each county and the county's uranium."""

    def model(y: Tensor, floor: Tensor, county: Tensor, uranium: Tensor) -> None:
        zero = y.new_zeros(())
        beta = pyro.sample("beta", dist.Normal(y.new_zeros(2), 10.0).to_event(1))
        mu = pyro.sample("mu_alpha", dist.Normal(zero, 10.0))
        between = pyro.sample("sigma_alpha", dist.HalfNormal(zero + 1.0))
        within = pyro.sample("sigma_y", dist.HalfNormal(zero + 1.0))
        with pyro.plate("county", len(uranium)):
            alpha = pyro.sample("alpha", dist.Normal(mu, between))
        level = alpha + beta[..., 0] * uranium
        with pyro.plate("house", len(y)):
            pyro.sample("y", dist.Normal(level[..., county] + beta[..., 1] * floor, within), obs=y)

    return model


def _houses(data: Mapping[str, Any]) -> tuple[Any, ...]:
    """Log radon, floor and county of each house; log uranium of each county."""
    county = np.asarray(data["county_idx"]) - 1
    uranium = np.zeros(data["J"])
    uranium[county] = data["log_uppm"]
    return data["log_radon"], data["floor_measure"], county, uranium


ENTRIES = (
    Entry(
        "eight_schools-eight_schools_centered",
        "eight schools",
        _schools_centred,
        columns("y", "sigma"),
        settings=Settings(num_draws=20_000, warmup=2000, target_accept=0.99),
    ),
    Entry(
        "eight_schools-eight_schools_noncentered",
        "eight schools",
        _schools_noncentred,
        columns("y", "sigma"),
        identifiable=_effects,
        sites=_shifts,
        settings=Settings(num_draws=4000, target_accept=0.95),
    ),
    Entry(
        "radon_mn-radon_hierarchical_intercept_centered",
        "hierarchical",
        _radon,
        _houses,
        thin=10,
        decentred=(
            "alpha",
            lambda draws: draws["mu_alpha"] + draws["sigma_alpha"] * draws["alpha_decentered"],
        ),
    ),
    Entry("rats_data-rats_model", "hierarchical", _rats, _weeks, improper=True, thin=10),
    Entry(
        "surgical_data-surgical_model",
        "hierarchical",
        _surgical,
        columns("n", "r"),
        settings=Settings(target_accept=0.95),
        thin=10,
        decentred=("b", lambda draws: draws["mu"] + draws["sigmasq"] ** 0.5 * draws["b_decentered"]),
    ),
)
