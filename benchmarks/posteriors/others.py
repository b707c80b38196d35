"""A Gaussian process, and a mixture of two normals."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.posteriors.entry import Entry, Settings, columns
from ppl_vae.models.ordered_normal import OrderedNormal
from ppl_vae.program.pair import Program

__all__ = ["ENTRIES", "unordered_mixture"]


def _process(flat: bool) -> Program:
    """Squared-exponential kernel; σ is the variance of the noise, as in gp_regr.stan."""

    def model(x: Tensor, y: Tensor) -> None:
        zero = y.new_zeros(())
        rho = pyro.sample("rho", dist.Gamma(zero + 25.0, 4.0))
        alpha = pyro.sample("alpha", dist.HalfNormal(zero + 2.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(zero + 1.0))
        rho, alpha, sigma = (value[..., None, None] for value in (rho, alpha, sigma))
        kernel = alpha.square() * torch.exp(-0.5 * ((x[:, None] - x) / rho).square())
        covariance = kernel + sigma * torch.eye(len(x), dtype=y.dtype, device=y.device)
        pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(y), covariance), obs=y)

    return model


def _ordered_mixture(flat: bool) -> Program:
    """Two normals in ascending order, the labels summed out; θ is the lower one's share."""

    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", OrderedNormal(y.new_zeros(()), 2.0, 2))
        _mixture(mu, y)

    return model


def unordered_mixture(y: Tensor) -> None:
    """The same without an order: two modes that differ only in the labels."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(2), 2.0).to_event(1))
    _mixture(mu, y)


def _mixture(mu: Tensor, y: Tensor) -> None:
    sigma = pyro.sample("sigma", dist.HalfNormal(y.new_full((2,), 2.0)).to_event(1))
    theta = pyro.sample("theta", dist.Beta(y.new_tensor(5.0), 5.0))
    share = dist.Categorical(probs=torch.stack([theta, 1 - theta], -1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(share, dist.Normal(mu, sigma)), obs=y)


ENTRIES = (
    Entry(
        "gp_pois_regr-gp_regr", "Gaussian process", _process, columns("x", "y"),
        settings=Settings(num_draws=4000),
    ),
    Entry("low_dim_gauss_mix-low_dim_gauss_mix", "mixture", _ordered_mixture, columns("y")),
)  # fmt: skip
