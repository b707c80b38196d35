"""Our NUTS against posteriordb's reference draws; the data are skipped by name where they are missing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import signal, stats

from benchmarks.alarms.nuts_study import LIMIT, against_reference, z_scores
from benchmarks.posteriors import Entry, posterior, posteriors
from benchmarks.posteriors.entry import Settings
from benchmarks.sd_error import sd_error
from ppl_vae.engine.density import density
from ppl_vae.guides import Prior
from ppl_vae.models.ordered_normal import OrderedNormal
from ppl_vae.program.pair import Pair

QUICK = ("eight_schools-eight_schools_noncentered", "sblrc-blr")
SLOW = tuple(name for name, one in posteriors().items() if name not in QUICK and not one.thin)
# How long chains stick in the neck of its funnel is luck: from 260 to 1,900 by the seed.
FUNNELS = ("eight_schools-eight_schools_centered",)
Shared = Callable[[str], Path]


def present(name: str, shared: Shared) -> Entry:
    shared(f"data/posteriordb/{name}/reference_draws.npz")
    return posterior(name)


@pytest.mark.parametrize("name", QUICK)
def test_every_mean_and_sd_is_within_its_monte_carlo_errors(
    name: str, shared: Shared, oracles: ModuleType
) -> None:
    found = against_reference(present(name, shared))
    assert found.least_ess > 1000  # else errors would be large, and the test blunt
    assert found.worst[0] < oracles.z_limit(40), found.worst


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
@pytest.mark.filterwarnings("ignore:NUTS calls its compiled gradient from Python")
def test_the_others_are_too(name: str, shared: Shared) -> None:
    found = against_reference(present(name, shared))
    assert found.least_ess > (100 if name in FUNNELS else 1000)
    assert found.agrees, found.worst


@pytest.mark.slow
def test_another_posterior_is_told_apart(shared: Shared) -> None:
    """The data of one school misread: the study must not pass."""
    one = present("eight_schools-eight_schools_noncentered", shared)

    def misread(y: torch.Tensor, error: torch.Tensor) -> None:
        one.model(y + torch.tensor([20.0] + [0.0] * 7, dtype=y.dtype), error)

    short = Settings(num_draws=200, warmup=200)
    assert against_reference(replace(one, program=lambda flat: misread, settings=short)).worst[0] > LIMIT


def test_z_scores_are_differences_in_monte_carlo_errors() -> None:
    """Independent normals: the errors of mean and sd are s/√n and s/√(2n)."""
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(size=(4, 5000)), generator.normal(size=(10, 1000))
    ours = (ours - ours.mean()) / ours.std() * 1.1 + 0.1
    theirs = (theirs - theirs.mean()) / theirs.std()
    mean, sd = z_scores(ours, theirs)
    # ESS is itself an estimate, good to some percent here.
    assert mean == pytest.approx(0.1 / np.sqrt(1.21 / 20_000 + 1 / 10_000), rel=0.1)
    assert sd == pytest.approx(0.1 / np.sqrt(1.21 / 40_000 + 1 / 20_000), rel=0.1)


def test_the_error_of_an_sd_is_that_of_squares(oracles: ModuleType) -> None:
    """An autoregression with correlation −½: its squares' is ¼, their mean's variance 5/3 of 2 σ⁴ / n."""
    noise = np.random.default_rng(1).normal(size=(4, 40_000))
    values = signal.lfilter([np.sqrt(0.75)], [1.0, 0.5], noise)
    expected = values.std() * np.sqrt(5 / 3 / (2 * values.size))
    # The effective number is an estimate; its own error is some percent.
    assert sd_error(values) == pytest.approx(expected, rel=0.1)
    assert abs(values.std() - 1) < oracles.z_limit() * sd_error(values)


def test_ordered_normal_is_the_order_statistics(oracles: ModuleType) -> None:
    """Means ∓ s/√π for two, and a density that integrates to 1."""
    prior = OrderedNormal(torch.zeros((), dtype=torch.float64), 2.0, 2)
    draws = prior.rsample(torch.Size([40_000]))
    error = draws.std(0) / 200
    expected = torch.tensor([-2.0, 2.0], dtype=torch.float64) / np.sqrt(np.pi)
    assert bool(((draws.mean(0) - expected).abs() < oracles.z_limit(2) * error).all())
    grid = torch.linspace(-14, 14, 801, dtype=torch.float64)
    square = torch.cartesian_prod(grid, grid)
    below = square[:, 0] < square[:, 1]
    # The diagonal, of half weight, is left out: an error of the order of a cell's width.
    assert float(prior.log_prob(square[below]).exp().sum()) * float(grid[1] - grid[0]) ** 2 == pytest.approx(
        1, abs=0.02
    )


def test_ordered_normal_under_the_samplers_transform() -> None:
    """log p + log |Jacobian| at an unconstrained point (u₁, log(x₂ − x₁))."""

    def model(y: torch.Tensor) -> None:
        x = pyro.sample("x", OrderedNormal(y.new_zeros(()), 2.0, 2))
        pyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=y)

    y = torch.tensor(0.3, dtype=torch.float64)
    target = density(Pair(model, Prior(model)), y)
    at = torch.tensor([-0.4, 0.7], dtype=torch.float64)
    x = np.array([-0.4, -0.4 + np.exp(0.7)])
    expected = stats.norm(0, 2).logpdf(x).sum() + np.log(2) + 0.7 + stats.norm(x.sum(), 1).logpdf(0.3)
    assert float(target.value(at)) == pytest.approx(expected, abs=1e-10)
