"""The posteriors of `benchmarks.posteriors` written in NumPyro: the same sites, densities and data.

Each takes the arguments of our program, as arrays; priors that NumPyro has not are flat ones with a factor.
"""

from collections.abc import Callable, Mapping
from math import lgamma
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import logsumexp
from numpyro.distributions import constraints

__all__ = ["PROGRAMS"]

Program = Callable[..., None]


def _flat(constraint: Any, *shape: int) -> Any:
    return dist.ImproperUniform(constraint, (), shape)


def _vector(size: int) -> Any:
    return _flat(constraints.real_vector, size)


def _positive() -> Any:
    return _flat(constraints.positive)


def _line(x: Array, y: Array, beta: Any, sigma: Any) -> None:
    weights = numpyro.sample("beta", beta)
    numpyro.sample("y", dist.Normal(x @ weights, numpyro.sample("sigma", sigma)), obs=y)


def _linear(x: Array, y: Array) -> None:
    _line(x, y, _vector(x.shape[1]), _positive())


def _linear_cauchy(x: Array, y: Array) -> None:
    _line(x, y, _vector(x.shape[1]), dist.HalfCauchy(2.5))


def _scores(score: Array, mom_iq: Array) -> None:
    _linear_cauchy(jnp.stack([jnp.ones_like(mom_iq), mom_iq], -1), score)


def _weak(x: Array, y: Array) -> None:
    _line(x, y, dist.Normal(jnp.zeros(x.shape[1]), 10.0).to_event(1), dist.HalfNormal(10.0))


def _kilpisjarvi(x: Array, y: Array, prior: Array) -> None:
    alpha = numpyro.sample("alpha", dist.Normal(prior[0], prior[1]))
    beta = numpyro.sample("beta", dist.Normal(prior[2], prior[3]))
    numpyro.sample("y", dist.Normal(alpha + beta * x, numpyro.sample("sigma", _positive())), obs=y)


def _diamonds(x: Array, y: Array) -> None:
    b = numpyro.sample("b", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    intercept = numpyro.sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
    sigma = numpyro.sample("sigma", dist.FoldedDistribution(dist.StudentT(3.0, 0.0, 10.0)))
    numpyro.sample("y", dist.Normal(intercept + x @ b, sigma), obs=y)


def _logistic(x: Array, y: Array) -> None:
    alpha = numpyro.sample("alpha", _flat(constraints.real))
    beta = numpyro.sample("beta", _vector(x.shape[1]))
    numpyro.sample("y", dist.Bernoulli(logits=alpha + x @ beta), obs=y)


def _ar5(y: Array) -> None:
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(5), 10.0).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    lagged = jnp.stack([y[5 - k : len(y) - k] for k in range(1, 6)], -1)
    numpyro.sample("y", dist.Normal(alpha + lagged @ beta, sigma), obs=y[5:])


def _arma(now: Array, before: Array, first: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    phi = numpyro.sample("phi", dist.Normal(0.0, 2.0))
    theta = numpyro.sample("theta", dist.Normal(0.0, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    fresh = now - mu - phi * (before + mu * first)

    def step(error: Array, new: Array) -> tuple[Array, Array]:
        error = new - theta * error
        return error, error

    errors = jax.lax.scan(step, jnp.zeros(()), fresh)[1]
    numpyro.factor("errors", dist.Normal(0.0, sigma).log_prob(errors).sum())


def _drives(seen: Array, alpha: Array) -> None:
    rows = [numpyro.sample(f"theta{k + 1}", dist.Dirichlet(alpha[k])) for k in range(2)]
    likelihood = 0.0
    for k, name in enumerate(("phi", "lambda")):
        rate = numpyro.sample(name, _flat(constraints.positive_ordered_vector, 2))
        numpyro.factor(f"{name} prior", dist.Normal(jnp.array([0.0, 3.0]), 1.0).log_prob(rate).sum())
        likelihood = likelihood + dist.Exponential(rate).log_prob(seen[:, k, None])
    transition = jnp.log(jnp.stack(rows))

    def step(state: Array, new: Array) -> tuple[Array, None]:
        return logsumexp(state[:, None] + transition, 0) + new, None

    last = jax.lax.scan(step, likelihood[0], likelihood[1:])[0]
    numpyro.factor("series", logsumexp(last))


def _schools(y: Array, error: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, error), obs=y)


def _schools_noncentred(y: Array, error: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(y)):
        shift = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * shift, error), obs=y)


def _rats(age: Array, weight: Array) -> None:
    mu_alpha = numpyro.sample("mu_alpha", dist.Normal(0.0, 100.0))
    mu_beta = numpyro.sample("mu_beta", dist.Normal(0.0, 100.0))
    names = ("sigma_y", "sigma_alpha", "sigma_beta")
    noise, sd_alpha, sd_beta = (numpyro.sample(name, _positive()) for name in names)
    with numpyro.plate("rat", len(weight)):
        alpha = numpyro.sample("alpha", dist.Normal(mu_alpha, sd_alpha))
        beta = numpyro.sample("beta", dist.Normal(mu_beta, sd_beta))
        mean = alpha[:, None] + beta[:, None] * age
        numpyro.sample("weight", dist.Normal(mean, noise).to_event(1), obs=weight)


def _surgical(operations: Array, deaths: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1000.0))
    variance = numpyro.sample("sigmasq", dist.InverseGamma(1e-3, 1e-3))
    with numpyro.plate("hospital", len(deaths)):
        b = numpyro.sample("b", dist.Normal(mu, jnp.sqrt(variance)))
        numpyro.sample("deaths", dist.Binomial(operations, logits=b), obs=deaths)


def _radon(y: Array, floor: Array, county: Array, uranium: Array) -> None:
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(2), 10.0).to_event(1))
    mu = numpyro.sample("mu_alpha", dist.Normal(0.0, 10.0))
    between = numpyro.sample("sigma_alpha", dist.HalfNormal(1.0))
    within = numpyro.sample("sigma_y", dist.HalfNormal(1.0))
    with numpyro.plate("county", len(uranium)):
        alpha = numpyro.sample("alpha", dist.Normal(mu, between))
    level = alpha + beta[0] * uranium
    numpyro.sample("y", dist.Normal(level[county] + beta[1] * floor, within), obs=y)


def _process(x: Array, y: Array) -> None:
    rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    kernel = alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2) + sigma * jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), kernel), obs=y)


def _mixture(y: Array) -> None:
    mu = numpyro.sample("mu", _flat(constraints.ordered_vector, 2))
    numpyro.factor("mu prior", dist.Normal(0.0, 2.0).log_prob(mu).sum() + lgamma(3.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(jnp.full(2, 2.0)).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    share = dist.Categorical(probs=jnp.stack([theta, 1 - theta]))
    numpyro.sample("y", dist.MixtureSameFamily(share, dist.Normal(mu, sigma)), obs=y)


# By posteriordb's names.
PROGRAMS: Mapping[str, Program] = {
    "arK-arK": _ar5,
    "arma-arma11": _arma,
    "bball_drive_event_0-hmm_drive_0": _drives,
    "diamonds-diamonds": _diamonds,
    "earnings-earn_height": _linear,
    "earnings-logearn_interaction": _linear,
    "eight_schools-eight_schools_centered": _schools,
    "eight_schools-eight_schools_noncentered": _schools_noncentred,
    "gp_pois_regr-gp_regr": _process,
    "kidiq-kidscore_momhs": _linear_cauchy,
    "kidiq-kidscore_momiq": _scores,
    "kidiq_with_mom_work-kidscore_interaction_c2": _linear,
    "kilpisjarvi_mod-kilpisjarvi": _kilpisjarvi,
    "low_dim_gauss_mix-low_dim_gauss_mix": _mixture,
    "mesquite-logmesquite": _linear,
    "mesquite-mesquite": _linear,
    "nes1972-nes": _linear,
    "nes2000-nes": _linear,
    "radon_mn-radon_hierarchical_intercept_centered": _radon,
    "rats_data-rats_model": _rats,
    "sblrc-blr": _weak,
    "surgical_data-surgical_model": _surgical,
    "wells_data-wells_interaction_model": _logistic,
}
