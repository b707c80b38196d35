"""Eight posteriors of posteriordb as Pyro models, beside their reference draws.

Source: Magnusson et al., "posteriordb: Testing, Benchmarking and Developing Bayesian Inference Algorithms"
(2025). Each model states the density of the Stan program that it is named after, in the program's own
parameters. Two things differ in form: a flat prior is a Normal of sd 1,000, which moves no posterior here by
more than 10⁻³ of its sd (and can be drawn from); an ordered vector is the sorted draws of its prior.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from numpy.typing import NDArray
from pyro.distributions import constraints
from torch import Tensor

from benchmarks.reference import folder
from ppl_vae.program.pair import Program

__all__ = ["ENTRIES", "Entry", "Settings", "entry", "parameters", "reference_draws", "same"]

Floats = NDArray[np.floating[Any]]
Sites = Mapping[str, Floats]
FLAT = 1000.0
ONE_DRAW = torch.Size()


class OrderedNormal(dist.TorchDistribution):  # type: ignore[misc]
    """The order statistics of n independent Normals: density n! Π N(x_k) on x_1 < … < x_n.

    Args:
        loc, scale: of each, scalars.
        size: n.
    """

    arg_constraints: Mapping[str, Any] = {}
    support = constraints.ordered_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: float, size: int, batch_shape: torch.Size | None = None) -> None:
        self.base, self.size = dist.Normal(loc, scale), size
        batch = self.base.batch_shape if batch_shape is None else batch_shape
        super().__init__(batch, torch.Size([size]), validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "OrderedNormal":
        """The same for a larger batch."""
        return OrderedNormal(self.base.loc, float(self.base.scale), self.size, torch.Size(batch_shape))

    def rsample(self, sample_shape: torch.Size = ONE_DRAW) -> Tensor:
        """Sorted draws."""
        shape = self._extended_shape(sample_shape)
        drawn: Tensor = self.base.expand(shape).rsample()
        return drawn.sort(-1).values

    def log_prob(self, value: Tensor) -> Tensor:
        """Of shape (*batch); nothing is said of vectors that are not ordered."""
        each: Tensor = self.base.log_prob(value)
        return each.sum(-1) + math.lgamma(self.size + 1.0)


def ar5(y: Tensor) -> None:
    """Time series of order 5 (arK.stan): the first five values start it."""
    zero = y.new_zeros(())
    alpha = pyro.sample("alpha", dist.Normal(zero, 10.0))
    beta = pyro.sample("beta", dist.Normal(y.new_zeros(5), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(zero + 2.5))
    lagged = torch.stack([y[5 - k : len(y) - k] for k in range(1, 6)], -1)
    with pyro.plate("time", len(y) - 5):
        mean = alpha + (beta * lagged).sum(-1)
        pyro.sample("y", dist.Normal(mean, sigma), obs=y[5:])


def eight_schools_centred(y: Tensor, error: Tensor) -> None:
    """θ_j ~ N(μ, τ²): a funnel (eight_schools_centered.stan)."""
    zero = y.new_zeros(())
    mu = pyro.sample("mu", dist.Normal(zero, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(zero + 5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, error), obs=y)


def eight_schools_noncentred(y: Tensor, error: Tensor) -> None:
    """θ_j = μ + τ θ'_j with θ'_j ~ N(0, 1) (eight_schools_noncentered.stan)."""
    zero = y.new_zeros(())
    mu = pyro.sample("mu", dist.Normal(zero, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(zero + 5.0))
    with pyro.plate("school", len(y)):
        shift = pyro.sample("theta_trans", dist.Normal(zero, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * shift, error), obs=y)


def gaussian_process(x: Tensor, y: Tensor) -> None:
    """Squared-exponential kernel; σ is the variance of the noise, as in gp_regr.stan."""
    zero = y.new_zeros(())
    rho = pyro.sample("rho", dist.Gamma(zero + 25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(zero + 2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(zero + 1.0))
    rho, alpha, sigma = (value[..., None, None] for value in (rho, alpha, sigma))
    kernel = alpha.square() * torch.exp(-0.5 * ((x[:, None] - x) / rho).square())
    covariance = kernel + sigma * torch.eye(len(x), dtype=y.dtype, device=y.device)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(y), covariance), obs=y)


def kidscore(score: Tensor, mom_iq: Tensor) -> None:
    """A straight line with flat priors on its coefficients (kidscore_momiq.stan)."""
    _regression(torch.stack([torch.ones_like(mom_iq), mom_iq], -1), score, dist.HalfCauchy, FLAT, 2.5)


def log_mesquite(x: Tensor, y: Tensor) -> None:
    """A linear model of logarithms, every prior flat (logmesquite.stan)."""
    _regression(x, y, dist.HalfNormal, FLAT, FLAT)


def linear_regression(x: Tensor, y: Tensor) -> None:
    """β ~ N(0, 10²), σ ~ N⁺(0, 10²) (blr.stan)."""
    _regression(x, y, dist.HalfNormal, 10.0, 10.0)


def _regression(x: Tensor, y: Tensor, noise_prior: Any, beta_sd: float, noise_scale: float) -> None:
    beta = pyro.sample("beta", dist.Normal(x.new_zeros(x.shape[-1]), beta_sd).to_event(1))
    sigma = pyro.sample("sigma", noise_prior(y.new_tensor(noise_scale)))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal((beta * x).sum(-1), sigma), obs=y)


def ordered_mixture(y: Tensor) -> None:
    """Two Normals in ascending order, the labels summed out; θ is the lower one's share
    (low_dim_gauss_mix.stan)."""
    zero = y.new_zeros(())
    mu = pyro.sample("mu", OrderedNormal(zero, 2.0, 2))
    _mixture(mu, y)


def _mixture(mu: Tensor, y: Tensor) -> None:
    sigma = pyro.sample("sigma", dist.HalfNormal(y.new_full((2,), 2.0)).to_event(1))
    theta = pyro.sample("theta", dist.Beta(y.new_tensor(5.0), 5.0))
    share = dist.Categorical(probs=torch.stack([theta, 1 - theta], -1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(share, dist.Normal(mu, sigma)), obs=y)


def unordered_mixture(y: Tensor) -> None:
    """The same without an order: two modes that differ only in the labels."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(2), 2.0).to_event(1))
    _mixture(mu, y)


@dataclass(frozen=True)
class Settings:
    """How long our NUTS runs for 4 Monte Carlo errors to be a sharp test."""

    num_draws: int = 2000
    warmup: int = 1000
    target_accept: float = 0.9
    mass: Literal["diagonal", "low-rank"] = "diagonal"
    sampler: Literal["nutpie", "pyro"] = "nutpie"


CORRELATED = Settings(mass="low-rank")


def same(draws: xr.Dataset) -> xr.Dataset:
    """Draws that are in the reference's parameters already."""
    return draws


def _same_sites(values: Sites) -> Sites:
    return values


@dataclass(frozen=True)
class Entry:
    """One posterior.

    Attributes:
        name: posteriordb's.
        model: the Pyro program.
        arguments: its data, from posteriordb's.
        identifiable: our draws in the reference's parameters.
        sites: the reference's parameters as our sites: the inverse.
        settings: of our chains.
    """

    name: str
    model: Program
    arguments: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    identifiable: Callable[[xr.Dataset], xr.Dataset] = same
    sites: Callable[[Sites], Sites] = _same_sites
    settings: Settings = field(default_factory=Settings)

    @property
    def folder(self) -> Path:
        """Where its data lie."""
        return folder() / "data" / "posteriordb" / self.name

    @property
    def present(self) -> bool:
        """Whether they do."""
        return (self.folder / "reference_draws.npz").is_file()

    def data(self) -> tuple[Tensor, ...]:
        """The program's arguments, floats in float64."""
        values = json.loads((self.folder / "data.json").read_text())
        return tuple(torch.tensor(argument, dtype=torch.float64) for argument in self.arguments(values))


def _columns(*names: str) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    return lambda data: tuple(data[name] for name in names)


def _mesquite_data(data: Mapping[str, Any]) -> tuple[Any, ...]:
    sizes = ("diam1", "diam2", "canopy_height", "total_height", "density")
    logs = [np.log(data[name]) for name in sizes]
    columns = [np.ones(data["N"]), *logs, np.asarray(data["group"])]
    return np.stack(columns, -1).tolist(), np.log(data["weight"]).tolist()


def _effects(draws: xr.Dataset) -> xr.Dataset:
    theta = draws["mu"] + draws["tau"] * draws["theta_trans"]
    return xr.Dataset(
        {"theta": theta.transpose("chain", "draw", ...), "mu": draws["mu"], "tau": draws["tau"]}
    )


def _shifts(values: Sites) -> Sites:
    shift = (values["theta"] - values["mu"][..., None]) / values["tau"][..., None]
    return {"mu": values["mu"], "tau": values["tau"], "theta_trans": shift}


ENTRIES = (
    Entry("arK-arK", ar5, _columns("y"), settings=CORRELATED),
    Entry(
        "eight_schools-eight_schools_centered",
        eight_schools_centred,
        _columns("y", "sigma"),
        settings=Settings(num_draws=20_000, warmup=2000, target_accept=0.99),
    ),
    Entry(
        "eight_schools-eight_schools_noncentered",
        eight_schools_noncentred,
        _columns("y", "sigma"),
        _effects,
        _shifts,
        Settings(num_draws=4000, target_accept=0.95),
    ),
    Entry("gp_pois_regr-gp_regr", gaussian_process, _columns("x", "y"), settings=Settings(num_draws=4000)),
    Entry("kidiq-kidscore_momiq", kidscore, _columns("kid_score", "mom_iq"), settings=CORRELATED),
    Entry("low_dim_gauss_mix-low_dim_gauss_mix", ordered_mixture, _columns("y")),
    Entry("mesquite-logmesquite", log_mesquite, _mesquite_data, settings=CORRELATED),
    Entry("sblrc-blr", linear_regression, _columns("X", "y"), settings=CORRELATED),
)


def entry(name: str) -> Entry:
    """The posterior of that name."""
    return next(one for one in ENTRIES if one.name == name)


def reference_draws(one: Entry) -> dict[str, Floats]:
    """posteriordb's draws by parameter, each of shape (10, 1000, *parameter)."""
    with np.load(one.folder / "reference_draws.npz") as stored:
        draws, names = stored["draws"], [str(name) for name in stored["names"]]
    columns: dict[str, list[Floats]] = {}
    for k, name in enumerate(names):
        columns.setdefault(name.split("[")[0], []).append(draws[..., k])
    scalar = {name for name in columns if name in names}
    return {name: parts[0] if name in scalar else np.stack(parts, -1) for name, parts in columns.items()}


def parameters(values: Mapping[str, Floats]) -> dict[str, Floats]:
    """Scalars under Stan's names, such as ``theta[1]``, each of shape (chains, draws)."""
    found = {}
    for name, array in values.items():
        for place in np.ndindex(array.shape[2:]):
            inside = ",".join(str(k + 1) for k in place)
            found[f"{name}[{inside}]" if inside else name] = array[(..., *place)]
    return found
