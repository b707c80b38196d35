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
from scipy import stats

from benchmarks.alarms.nuts_study import LIMIT, against_reference, z_scores
from benchmarks.alarms.posteriordb import (
    ENTRIES,
    FLAT,
    Entry,
    OrderedNormal,
    Settings,
    entry,
    reference_draws,
)
from ppl_vae.engine.density import density
from ppl_vae.guides import Prior
from ppl_vae.program.pair import Pair

QUICK = ("eight_schools-eight_schools_noncentered", "sblrc-blr")
SLOW = tuple(one.name for one in ENTRIES if one.name not in QUICK)
Shared = Callable[[str], Path]


def present(name: str, shared: Shared) -> Entry:
    shared(f"data/posteriordb/{name}/reference_draws.npz")
    return entry(name)


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
    assert found.least_ess > 1000
    assert found.agrees, found.worst


@pytest.mark.slow
def test_another_posterior_is_told_apart(shared: Shared) -> None:
    """The data of one school misread: the study must not pass."""
    one = present("eight_schools-eight_schools_noncentered", shared)

    def misread(y: torch.Tensor, error: torch.Tensor) -> None:
        one.model(y + torch.tensor([20.0] + [0.0] * 7, dtype=y.dtype), error)

    short = Settings(num_draws=200, warmup=200)
    assert against_reference(replace(one, model=misread, settings=short)).worst[0] > LIMIT


@pytest.mark.parametrize("name", [one.name for one in ENTRIES])
def test_log_densities_are_those_of_the_stan_programs(name: str, shared: Shared) -> None:
    """log p(x, z) at reference draws, up to a constant, against the programs' lines in SciPy."""
    one = present(name, shared)
    reference = reference_draws(one)
    places = [(0, 10), (3, 200), (7, 999), (9, 500)]
    ours, theirs = [], []
    for place in places:
        parameters = {key: values[place] for key, values in reference.items()}
        sites = {key: torch.tensor(values[place]) for key, values in one.sites(reference).items()}
        trace = pyro.poutine.trace(pyro.condition(one.model, sites)).get_trace(*one.data())
        ours.append(float(trace.log_prob_sum()))
        jacobian = 8 * np.log(parameters["tau"]) if "noncentered" in name else 0.0
        theirs.append(STAN[name](parameters, *(values.numpy() for values in one.data())) + jacobian)
    assert np.ptp(np.subtract(ours, theirs)) < 1e-8
    assert np.ptp(theirs) > 0.1


@pytest.mark.parametrize("name", ["kidiq-kidscore_momiq", "mesquite-logmesquite"])
def test_wide_normals_stand_in_for_flat_priors(name: str, shared: Shared) -> None:
    """A prior of slope −m/s² moves a mean by about that times the variance: here next to none of an sd."""
    for values in reference_draws(present(name, shared)).values():
        moved = np.abs(values.mean((0, 1))) / FLAT**2 * values.std((0, 1))
        assert moved.max() < 1e-3


def _normal(y: np.ndarray, mean: np.ndarray | float, sd: np.ndarray | float) -> float:
    return float(stats.norm(mean, sd).logpdf(y).sum())


def _cauchy(value: float, scale: float) -> float:
    return float(stats.cauchy(0, scale).logpdf(value))


def _ar(p: dict, y: np.ndarray) -> float:
    mean = [p["alpha"] + sum(p["beta"][k] * y[t - 1 - k] for k in range(5)) for t in range(5, len(y))]
    prior = _normal(p["alpha"], 0, 10) + _normal(p["beta"], 0, 10) + _cauchy(p["sigma"], 2.5)
    return prior + _normal(y[5:], np.array(mean), p["sigma"])


def _schools(p: dict, y: np.ndarray, error: np.ndarray) -> float:
    prior = _normal(p["mu"], 0, 5) + _cauchy(p["tau"], 5) + _normal(p["theta"], p["mu"], p["tau"])
    return prior + _normal(y, p["theta"], error)


def _process(p: dict, x: np.ndarray, y: np.ndarray) -> float:
    kernel = p["alpha"] ** 2 * np.exp(-(np.subtract.outer(x, x) ** 2) / (2 * p["rho"] ** 2))
    prior = (
        stats.gamma(25, scale=1 / 4).logpdf(p["rho"]) + _normal(p["alpha"], 0, 2) + _normal(p["sigma"], 0, 1)
    )
    return float(
        prior + stats.multivariate_normal(np.zeros(len(y)), kernel + p["sigma"] * np.eye(len(y))).logpdf(y)
    )


def _kid(p: dict, score: np.ndarray, iq: np.ndarray) -> float:
    flat = _normal(p["beta"], 0, FLAT)
    return flat + _cauchy(p["sigma"], 2.5) + _normal(score, p["beta"][0] + p["beta"][1] * iq, p["sigma"])


def _mixture(p: dict, y: np.ndarray) -> float:
    prior = _normal(p["mu"], 0, 2) + _normal(p["sigma"], 0, 2) + stats.beta(5, 5).logpdf(p["theta"])
    parts = [stats.norm(p["mu"][k], p["sigma"][k]).pdf(y) for k in (0, 1)]
    return float(prior + np.log(p["theta"] * parts[0] + (1 - p["theta"]) * parts[1]).sum())


def _blr(p: dict, x: np.ndarray, y: np.ndarray) -> float:
    return _normal(p["beta"], 0, 10) + _normal(p["sigma"], 0, 10) + _normal(y, x @ p["beta"], p["sigma"])


def _mesquite(p: dict, x: np.ndarray, y: np.ndarray) -> float:
    flat = _normal(p["beta"], 0, FLAT) + _normal(p["sigma"], 0, FLAT)
    return flat + _normal(y, x @ p["beta"], p["sigma"])


STAN: dict[str, Callable[..., float]] = {
    "arK-arK": _ar,
    "eight_schools-eight_schools_centered": _schools,
    "eight_schools-eight_schools_noncentered": _schools,
    "gp_pois_regr-gp_regr": _process,
    "kidiq-kidscore_momiq": _kid,
    "low_dim_gauss_mix-low_dim_gauss_mix": _mixture,
    "mesquite-logmesquite": _mesquite,
    "sblrc-blr": _blr,
}


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
    expected = _normal(x, 0, 2) + np.log(2) + 0.7 + _normal(np.array(0.3), x.sum(), 1.0)
    assert float(target.value(at)) == pytest.approx(expected, abs=1e-10)
