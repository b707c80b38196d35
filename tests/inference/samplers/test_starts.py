"""Where chains start: supports that [−2, 2] misses, flat priors, and values that are given."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_stats.base import array_stats
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from benchmarks.sd_error import sd_error
from ppl_vae.base.errors import InputError
from ppl_vae.inference import nuts
from ppl_vae.program.pair import Pair

DOUBLE = {"dtype": torch.float64}
X = torch.tensor([12.0, 47.0, 3.0, 31.0], **DOUBLE)
Y = torch.tensor([-0.6, 0.3, 0.1, -0.4, 0.5], **DOUBLE)


def _agrees(values: np.ndarray, mean: float, sd: float | None = None, limit: float = 4.5) -> None:
    assert abs(values.mean() - mean) < limit * array_stats.mcse(values, method="mean")
    if sd is not None:
        assert abs(values.std(ddof=1) - sd) < limit * sd_error(values)


def _moments(log_density: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> tuple[float, float]:
    """By quadrature."""
    grid = np.linspace(low, high, 200_001)
    weight = log_density(grid)
    weight = np.exp(weight - weight.max())
    weight[[0, -1]] /= 2
    weight /= weight.sum()
    mean = weight @ grid
    return float(mean), float(np.sqrt(weight @ (grid - mean) ** 2))


# Supports that exp[−2, 2] and its like miss ----------------------------------------------------------------


def _tank(x: Tensor) -> None:
    theta = pyro.sample("theta", dist.LogNormal(4.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Uniform(0.0, theta), obs=x)


def _window(x: Tensor) -> None:
    """θ within 5 of every datum: a window far from 0."""
    theta = pyro.sample("theta", dist.Normal(100.0, 3.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Uniform(theta - 5.0, theta + 5.0), obs=x)


def _shifted(x: Tensor) -> None:
    """Waiting times that begin at θ, of which the smallest is a bound from above."""
    theta = pyro.sample("theta", dist.Normal(-50.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0).mask(False), obs=x)
    pyro.factor("bound", torch.where(theta < -40.0, 0.0, -torch.inf))


def test_the_german_tank_problem_starts_from_the_prior() -> None:
    """θ ~ LogNormal(4, 1) above the largest of four: mean 61.033, sd 17.301 by quadrature."""
    mean, sd = _moments(lambda t: -np.log(t) - (np.log(t) - 4) ** 2 / 2 - 4 * np.log(t), 47.0, 5000.0)
    assert (mean, sd) == pytest.approx((61.033, 17.301), abs=2e-3)
    drawn = nuts.sample(_tank, X, num_draws=100, warmup=60, chains=3, max_tree_depth=5, progress=False)
    values = drawn.draws["theta"].to_numpy()
    assert (values > 47).all()
    _agrees(np.log(values), _moments(lambda u: -((u - 4) ** 2) / 2 - 4 * u, np.log(47), 12.0)[0])


@pytest.mark.parametrize("sampler", ["nutpie", "pyro", "hmc"])
def test_every_sampler_starts_inside_a_window(sampler: str) -> None:
    settings = {"num_draws": 4, "warmup": 20, "chains": 3, "max_tree_depth": 3}
    x = torch.tensor([98.0, 103.0, 104.5], **DOUBLE)
    drawn = nuts.sample(_window, x, sampler=sampler, progress=False, **settings)
    values = drawn.draws["theta"].to_numpy()
    assert ((values > 99.5) & (values < 103)).all()


def test_a_bound_by_a_factor_is_kept() -> None:
    drawn = nuts.sample(_shifted, X, num_draws=100, warmup=60, chains=2, max_tree_depth=5, progress=False)
    values = drawn.draws["theta"].to_numpy()
    assert (values < -40).all()
    mean, _ = _moments(lambda t: -(((t + 50) / 10) ** 2) / 2, -120.0, -40.0)
    _agrees(values, mean)


def test_a_pairs_guide_knows_a_start_that_the_prior_never_finds() -> None:
    """The prior is below 10⁻⁶⁰ where the data allow θ; the guide was made for it."""

    def model(x: Tensor) -> None:
        theta = pyro.sample("theta", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Uniform(theta - 5.0, theta + 5.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("theta", dist.Uniform(59.0, 61.0))

    x = torch.tensor([57.0, 62.0])
    settings = {"num_draws": 4, "warmup": 10, "chains": 2, "progress": False}
    with pytest.raises(InputError, match="give start= with values"):
        nuts.sample(model, x, **settings)
    for found in (nuts.sample(Pair(model, guide), x, **settings),
                  nuts.sample(model, x, start={"theta": 60.0}, **settings)):  # fmt: skip
        assert ((found.draws["theta"] > 57) & (found.draws["theta"] < 62)).all()


# Flat priors ---------------------------------------------------------------------------------------------


def _flat(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("n", len(y)) as i:
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y[i])


def _masked(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0).mask(False))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def _handler(y: Tensor) -> None:
    with poutine.mask(mask=False):
        mu = pyro.sample("mu", dist.Normal(0.0, 0.001))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def _two(y: Tensor) -> None:
    """Beside a flat scale, p(μ) ∝ 1 on the plane of two equal halves."""
    pair = pyro.sample("pair", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    mu = pyro.deterministic("mu", pair.sum())
    pyro.sample("ridge", dist.Normal(pair[0] - pair[1], 1.0), obs=torch.zeros((), **DOUBLE))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.mark.parametrize("model", [_flat, _masked, _handler, _two])
def test_flat_priors_give_the_proper_posterior(model: Any) -> None:
    """μ | y ~ N(mean, 1/n): −0.02, sd 0.4472."""
    drawn = nuts.sample(model, Y, num_draws=100, warmup=60, chains=2, progress=False)
    mu = drawn.draws["mu"] if "mu" in drawn.draws else drawn.draws["pair"].sum("pair_dim_0")
    _agrees(mu.to_numpy(), -0.02, 5**-0.5)


@pytest.mark.parametrize("sampler", ["pyro", "hmc"])
def test_the_other_samplers_take_a_flat_prior(sampler: str) -> None:
    drawn = nuts.sample(_flat, Y, sampler=sampler, num_draws=60, warmup=40, chains=2, progress=False)
    _agrees(drawn.draws["mu"].to_numpy(), -0.02, 5**-0.5)


def test_flat_priors_keep_to_their_support() -> None:
    """p(σ) ∝ 1 on (0, ∞): σ² | y is inverse-gamma with shape (n − 1)/2."""

    def model(y: Tensor) -> None:
        sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(0.0, sigma), obs=y)

    drawn = nuts.sample(model, Y, num_draws=100, warmup=60, chains=2, progress=False)
    values = drawn.draws["sigma"].to_numpy()
    squares = float(Y.square().sum())
    mean, _ = _moments(lambda s: -5 * np.log(s) - squares / (2 * s**2), 0.02, 60.0)
    _agrees(values, mean)


# Values that are given -------------------------------------------------------------------------------------


def test_starts_may_be_given_for_each_chain_and_for_some_sites() -> None:
    def model(y: Tensor) -> None:
        a = pyro.sample("a", dist.ImproperUniform(constraints.positive, (), ()))
        with pyro.plate("n", len(y)):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(b, a), obs=y)

    settings = {"num_draws": 4, "warmup": 1, "chains": 2, "max_tree_depth": 1, "progress": False}
    nuts.sample(model, Y, start={"a": torch.tensor([0.5, 2.0]), "b": torch.zeros(5)}, **settings)
    nuts.sample(model, Y, start={"b": torch.zeros(2, 5)}, **settings)
    for start, words in (
        ({"c": 1.0}, "start has values of c; the continuous latent sites of the model are a, b"),
        ({"b": torch.zeros(3)}, r"start has b of shape \(3,\); it must be \(5,\), or with 2 in front"),
        ({"a": -1.0}, "outside the support of a"),
        ({"b": torch.full((5,), torch.inf)}, "start"),
    ):
        with pytest.raises(InputError, match=words):
            nuts.sample(model, Y, start=start, **settings)


def test_a_model_without_latents_is_refused() -> None:
    def model(y: Tensor) -> None:
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    with pytest.raises(InputError, match="no latent sites"):
        nuts.sample(model, Y, num_draws=4, warmup=4, progress=False)


# Programs that fail ----------------------------------------------------------------------------------------

CHILD = """
import time
from pathlib import Path
import pyro, pyro.distributions as dist, torch
from ppl_vae import nuts
from ppl_vae.errors import InputError

def fine(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

def nowhere(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z - z + torch.nan, 1.0), obs=x)

def wrong_type(x):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Bernoulli(p), obs=x.long())

calls = [0]
def after_a_while(x):
    calls[0] += 1
    if calls[0] % 40 == 0:
        raise KeyError("the program's own")
    fine(x)

x = torch.tensor([0.5, 1.0, 0.9])
options = dict(num_draws=150, warmup=100, progress=False)
for model, compile in ((nowhere, "auto"), (wrong_type, True), (after_a_while, False)):
    try:
        nuts.sample(model, x, compile=compile, **options)
    except Exception as error:
        print(type(error).__name__)
    found = nuts.sample(fine, x, compile=True, chains=3, **options).draws["mu"]
    assert abs(float(found.mean()) - 0.6) < 0.15, found.mean()
# Rust's idle workers may still be on their way out.
def nutpies():
    return [task for task in Path("/proc/self/task").glob("*/comm") if "nutpie" in task.read_text()]

end = time.monotonic() + 10
while Path("/proc/self/task").exists() and nutpies() and time.monotonic() < end:
    time.sleep(0.05)
assert not nutpies()
"""


def test_a_process_in_which_programs_failed_ends_as_it_should() -> None:
    """Native threads that outlive a failed call and then ask for Python abort the process at its exit."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.split() == ["InputError", "InputError", "KeyError"]
