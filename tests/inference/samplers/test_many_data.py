"""NUTS on one data set after another, with one compiled density; and the densities of latents."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats
from scipy import stats
from torch import Tensor

from benchmarks.sd_error import sd_error
from ppl_vae.engine.graph import Untraceable
from ppl_vae.guides import Prior
from ppl_vae.inference.samplers.chains import ChainSettings
from ppl_vae.inference.samplers.many_data import Chained, ManyData, thinning
from ppl_vae.program.model_densities import log_densities
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

SETTINGS = ChainSettings(num_draws=500, warmup=300, chains=2, target_accept=0.8, max_tree_depth=8, seed=0)


def _model(x: Tensor) -> None:
    """μ ~ N(0, 1), x_n ~ N(μ, 1): the posterior is N(Σx/(N + 1), 1/(N + 1))."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    with pyro.plate("data", len(x)) as i:
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


@pytest.mark.parametrize("compile", [True, False])
def test_every_data_set_has_its_own_posterior(oracles: ModuleType, compile: bool) -> None:
    rng = np.random.default_rng(0)
    # Stock Pyro takes a thousand times as long for a gradient.
    settings = SETTINGS if compile else replace(SETTINGS, num_draws=100, warmup=100)
    sets = [torch.from_numpy(rng.normal(centre, 1.0, 4)) for centre in (-3.0, 0.0, 4.0)]
    kept = [one.clone() for one in sets]
    scores = []
    with oracles.nothing_global_changes():
        sampler = ManyData(
            Pair(_model, Prior(_model)), sets[0], settings=settings, num_data_sets=3, compile=compile
        )
        assert sampler.gradient.engine == ("compiled" if compile else "pyro")
        found = [sampler((x,), seed=number) for number, x in enumerate(sets)]
        again = sampler((sets[1],), seed=1)
    for x, one in zip(sets, found, strict=True):
        draws = one.draws["mu"].numpy()
        assert draws.shape == (2, settings.num_draws)
        mean, sd = float(x.sum()) / 5, np.sqrt(1 / 5)
        scores.append((draws.mean() - mean) / array_stats.mcse(draws, method="mean"))
        scores.append((draws.std() - sd) / sd_error(draws))
    assert np.abs(scores).max() < oracles.z_limit(len(scores))
    assert torch.equal(again.draws["mu"], found[1].draws["mu"])
    assert all(torch.equal(x, before) for x, before in zip(sets, kept, strict=True))


def test_a_density_that_depends_on_the_data_otherwise_is_refused() -> None:
    """Control flow on the data is frozen in a graph: other data would be given the wrong density."""

    def wide_or_narrow(x: Tensor, flags: Tensor) -> None:
        scale = 3.0 if flags.tolist()[0] else 1.0
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=x.dtype), scale))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])

    x, yes, no = torch.zeros(3, dtype=torch.float64), torch.ones(1), torch.zeros(1)
    pair = Pair(wide_or_narrow, Prior(wide_or_narrow))

    def both() -> None:
        sampler = ManyData(pair, x, yes, settings=SETTINGS, num_data_sets=1, compile="auto")
        if sampler.gradient.engine == "pyro":
            raise Untraceable("not traced at all")
        sampler((x, no), seed=0)

    with pytest.raises((Untraceable, RuntimeWarning)):
        both()


def _chain(correlation: float, seed: int) -> Chained:
    """An autoregressive process of unit variance, whose effective draws are (1 − φ)/(1 + φ) of all."""
    rng = np.random.default_rng(seed)
    values = np.empty((2, 2000))
    values[:, 0] = rng.normal(size=2)
    for t in range(1, 2000):
        noise = np.sqrt(1 - correlation**2) * rng.normal(size=2)
        values[:, t] = correlation * values[:, t - 1] + noise
    return Chained({}, values[..., None], rng.normal(size=values.shape), 0)


def test_thinning_follows_the_effective_sample_size() -> None:
    for correlation in (0.6, 0.8):
        ratio = (1 + correlation) / (1 - correlation)
        found = thinning([_chain(correlation, seed) for seed in range(7)])
        # Estimates of ESS from 4,000 draws have errors of about a tenth; tails mix a little faster.
        assert 0.75 * ratio <= found <= 1.25 * ratio + 1
    assert thinning([_chain(0.0, seed) for seed in range(7)]) == 2
    assert thinning([_chain(-0.5, seed) for seed in range(7)]) == 2


def test_densities_of_given_latents(oracles: ModuleType) -> None:
    def local(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x[i])

    def alone(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=x.dtype), 2.0))
        assert mu.dim() == 0  # such programs cannot be run under a plate of particles
        pyro.sample("x", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=x)

    x, rng = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64), np.random.default_rng(0)
    z = rng.normal(size=(5, 3))
    cases: list[tuple[Any, str, np.ndarray, np.ndarray, np.ndarray]] = [
        (local, "z", z, stats.norm(z, 0.5).logpdf(x.numpy()), stats.norm.logpdf(z)),
        (alone, "mu", z[:, 0], stats.norm(z[:, :1], 1.0).logpdf(x.numpy()).sum(1, keepdims=True),
         stats.norm(0, 2).logpdf(z[:, :1])),
    ]  # fmt: skip
    for model, site, at, likelihood, prior in cases:
        pair = Pair(model, Prior(model))
        found = log_densities(Problem.of(pair, x), {site: torch.from_numpy(at)})
        np.testing.assert_allclose(found[0].numpy(), likelihood, rtol=1e-10)
        np.testing.assert_allclose(found[1].numpy(), likelihood + prior, rtol=1e-10)
