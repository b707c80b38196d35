"""The suite's models written in NumPyro, with the same priors and the same names of sites."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

__all__ = ["bayesian_ppca", "eight_schools", "ppca", "ppca_guide", "skills"]

VARIANCE_FLOOR = 1e-6


def skills(games: Array, num_players: int = 107) -> None:
    with numpyro.plate("player", num_players):
        skill = numpyro.sample("skill", dist.Normal(0.0, 1.0))
    with numpyro.plate("game", len(games)):
        difference = skill[games[:, 0]] - skill[games[:, 1]]
        numpyro.sample("win", dist.Bernoulli(logits=difference), obs=jnp.ones(len(games)))


def eight_schools(effect: Array, error: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(effect)):
        shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
        numpyro.sample("effect", dist.Normal(mu + tau * shift, error), obs=effect)


def bayesian_ppca(x: Array, latent_dim: int = 2) -> None:
    num_data, num_features = x.shape
    with numpyro.plate("component", latent_dim):
        precision = numpyro.sample("precision", dist.Gamma(2.0, 2.0))
        spread = jnp.expand_dims(1 / jnp.sqrt(precision), -1) * jnp.ones(num_features)
        columns = numpyro.sample("loadings", dist.Normal(0.0, spread).to_event(1))
    mean = numpyro.sample("mean", dist.Normal(jnp.zeros(num_features), 1.0).to_event(1))
    noise_scale = numpyro.sample("noise_scale", dist.HalfNormal(1.0))
    marginal = dist.LowRankMultivariateNormal(mean, columns.T, noise_scale**2 * jnp.ones(num_features))
    with numpyro.plate("data", num_data):
        numpyro.sample("x", marginal, obs=x)


def ppca(x: Array, latent_dim: int = 2) -> None:
    num_data, num_features = x.shape
    loadings = numpyro.param("loadings", jnp.zeros((num_features, latent_dim)))
    mean = numpyro.param("mean", jnp.zeros(num_features))
    noise_scale = jnp.exp(numpyro.param("log_noise_scale", jnp.zeros(())))
    with numpyro.plate("data", num_data):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(latent_dim), 1.0).to_event(1))
        numpyro.sample("x", dist.Normal(z @ loadings.T + mean, noise_scale).to_event(1), obs=x)


def ppca_guide(x: Array, latent_dim: int = 2) -> None:
    """A linear encoder with one full covariance, whose Cholesky diagonal is √(softplus + floor)."""
    num_data, num_features = x.shape
    weight = numpyro.param("weight", jnp.zeros((latent_dim, num_features)))
    bias = numpyro.param("bias", jnp.zeros(latent_dim))
    raw = numpyro.param("raw_spread", jnp.zeros(latent_dim * (latent_dim + 1) // 2))
    diagonal = jnp.sqrt(jax.nn.softplus(raw[:latent_dim]) + VARIANCE_FLOOR)
    below = jnp.tril_indices(latent_dim, -1)
    scale_tril = jnp.diag(diagonal).at[below].set(raw[latent_dim:])
    with numpyro.plate("data", num_data):
        numpyro.sample("z", dist.MultivariateNormal(x @ weight.T + bias, scale_tril=scale_tril))
