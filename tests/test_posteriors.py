"""The posteriors: their densities beside the Stan programs' lines in SciPy, and their reference draws."""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from benchmarks.posteriors import Entry, Target, posterior, posteriors
from benchmarks.posteriors.measures import Normal, identities, nearness
from benchmarks.posteriors.regressions import NARROWER
from benchmarks.posteriors.sampled import failures
from benchmarks.posteriors.time_series import product

Values = dict[str, np.ndarray]
Shared = Callable[[str], Path]
NAMES = tuple(posteriors())


def normal(y: Any, mean: Any, sd: Any) -> float:
    return float(stats.norm(mean, sd).logpdf(y).sum())


def cauchy(value: Any, scale: float) -> float:
    return float(stats.cauchy(0, scale).logpdf(value))


def array(data: dict, name: str) -> np.ndarray:
    return np.asarray(data[name], float)


def line(p: Values, y: np.ndarray, *columns: np.ndarray) -> float:
    mean = p["beta"][0] + sum(b * column for b, column in zip(p["beta"][1:], columns, strict=True))
    return normal(y, mean, p["sigma"])


def regression(response: str, *names: str) -> Callable[[Values, dict], float]:
    return lambda p, d: line(p, array(d, response), *(array(d, name) for name in names))


def momhs(p: Values, d: dict) -> float:
    return cauchy(p["sigma"], 2.5) + line(p, array(d, "kid_score"), array(d, "mom_hs"))


def momiq(p: Values, d: dict) -> float:
    return cauchy(p["sigma"], 2.5) + line(p, array(d, "kid_score"), array(d, "mom_iq"))


def log_earnings(p: Values, d: dict) -> float:
    height, male = array(d, "height"), array(d, "male")
    return line(p, np.log(array(d, "earn")), height, male, height * male)


def children(p: Values, d: dict) -> float:
    school, iq = array(d, "mom_hs") - 0.5, array(d, "mom_iq") - 100
    return line(p, array(d, "kid_score"), school, iq, school * iq)


SIZES = ("diam1", "diam2", "canopy_height", "total_height", "density")


def log_mesquite(p: Values, d: dict) -> float:
    logs = [np.log(array(d, name)) for name in SIZES]
    return line(p, np.log(array(d, "weight")), *logs, array(d, "group"))


def voters(p: Values, d: dict) -> float:
    ages = [array(d, "age_discrete") == k for k in (2, 3, 4)]
    first, last = ("real_ideo", "race_adj"), ("educ1", "gender", "income")
    parts = [array(d, name) for name in first] + ages + [array(d, name) for name in last]
    return line(p, array(d, "partyid7"), *parts)


def years(p: Values, d: dict) -> float:
    prior = normal(p["alpha"], d["pmualpha"], d["psalpha"]) + normal(p["beta"], d["pmubeta"], d["psbeta"])
    return prior + normal(array(d, "y"), p["alpha"] + p["beta"] * array(d, "x"), p["sigma"])


def weak(p: Values, d: dict) -> float:
    prior = normal(p["beta"], 0, 10) + normal(p["sigma"], 0, 10)
    return prior + normal(array(d, "y"), array(d, "X") @ p["beta"], p["sigma"])


def stones(p: Values, d: dict) -> float:
    x = array(d, "X")
    prior = normal(p["b"], 0, 1) + float(
        stats.t(3, 8, 10).logpdf(p["Intercept"]) + stats.t(3, 0, 10).logpdf(p["sigma"])
    )
    return prior + normal(array(d, "Y"), p["Intercept"] + (x - x.mean(0))[:, 1:] @ p["b"], p["sigma"])


def wells(p: Values, d: dict) -> float:
    far, arsenic = array(d, "dist") / 100, array(d, "arsenic")
    logit = p["alpha"] + p["beta"][0] * far + p["beta"][1] * arsenic + p["beta"][2] * far * arsenic
    return float(stats.bernoulli(1 / (1 + np.exp(-logit))).logpmf(array(d, "switched")).sum())


def ar(p: Values, d: dict) -> float:
    y = array(d, "y")
    mean = [p["alpha"] + sum(p["beta"][k] * y[t - 1 - k] for k in range(5)) for t in range(5, len(y))]
    prior = normal(p["alpha"], 0, 10) + normal(p["beta"], 0, 10) + cauchy(p["sigma"], 2.5)
    return prior + normal(y[5:], np.array(mean), p["sigma"])


def arma(p: Values, d: dict) -> float:
    prior = normal(p["mu"], 0, 10) + normal([p["phi"], p["theta"]], 0, 2) + cauchy(p["sigma"], 2.5)
    error, before, errors = 0.0, p["mu"], []
    for value in d["y"]:
        error = value - (p["mu"] + p["phi"] * before + p["theta"] * error)
        before = value
        errors.append(error)
    return prior + normal(errors, 0, p["sigma"])


def drives(p: Values, d: dict) -> float:
    rows = np.stack([p["theta1"], p["theta2"]])
    found = sum(float(stats.dirichlet(d["alpha"][k]).logpdf(rows[k])) for k in range(2))
    found += normal(p["phi"], [0, 3], 1) + normal(p["lambda"], [0, 3], 1)
    # Filtered probabilities, normalised at each step.
    state: np.ndarray = np.ones(2)
    for t, (u, v) in enumerate(zip(d["u"], d["v"], strict=True)):
        seen = p["phi"] * np.exp(-p["phi"] * u) * p["lambda"] * np.exp(-p["lambda"] * v)
        state = (state if t == 0 else state @ rows) * seen
        found += math.log(state.sum())
        state = state / state.sum()
    return found


def centred_schools(p: Values, d: dict) -> float:
    prior = normal(p["mu"], 0, 5) + cauchy(p["tau"], 5) + normal(p["theta"], p["mu"], p["tau"])
    return prior + normal(array(d, "y"), p["theta"], array(d, "sigma"))


def schools(p: Values, d: dict) -> float:
    prior = normal(p["mu"], 0, 5) + cauchy(p["tau"], 5) + normal(p["theta_trans"], 0, 1)
    return prior + normal(array(d, "y"), p["mu"] + p["tau"] * p["theta_trans"], array(d, "sigma"))


def rats(p: Values, d: dict) -> float:
    found = normal(p["mu_alpha"], 0, 100) + normal(p["mu_beta"], 0, 100)
    found += normal(p["alpha"], p["mu_alpha"], p["sigma_alpha"])
    found += normal(p["beta"], p["mu_beta"], p["sigma_beta"])
    rat, age = np.asarray(d["rat"]) - 1, array(d, "x") - d["xbar"]
    return found + normal(array(d, "y"), p["alpha"][rat] + p["beta"][rat] * age, p["sigma_y"])


def surgical(p: Values, d: dict) -> float:
    found = normal(p["mu"], 0, 1000) + float(stats.invgamma(1e-3, scale=1e-3).logpdf(p["sigmasq"]))
    found += normal(p["b"], p["mu"], np.sqrt(p["sigmasq"]))
    return found + float(stats.binom(d["n"], 1 / (1 + np.exp(-p["b"]))).logpmf(d["r"]).sum())


def radon(p: Values, d: dict) -> float:
    found = normal([p["sigma_alpha"], p["sigma_y"]], 0, 1) + normal([p["mu_alpha"], *p["beta"]], 0, 10)
    found += normal(p["alpha"], p["mu_alpha"], p["sigma_alpha"])
    county = p["alpha"][np.asarray(d["county_idx"]) - 1]
    mean = county + array(d, "log_uppm") * p["beta"][0] + array(d, "floor_measure") * p["beta"][1]
    return found + normal(array(d, "log_radon"), mean, p["sigma_y"])


def process(p: Values, d: dict) -> float:
    x, y = array(d, "x"), array(d, "y")
    kernel = p["alpha"] ** 2 * np.exp(-(np.subtract.outer(x, x) ** 2) / (2 * p["rho"] ** 2))
    prior = float(stats.gamma(25, scale=1 / 4).logpdf(p["rho"]))
    prior += normal(p["alpha"], 0, 2) + normal(p["sigma"], 0, 1)
    covariance = kernel + p["sigma"] * np.eye(len(y))
    return prior + float(stats.multivariate_normal(np.zeros(len(y)), covariance).logpdf(y))


def mixture(p: Values, d: dict) -> float:
    prior = normal(p["mu"], 0, 2) + normal(p["sigma"], 0, 2) + float(stats.beta(5, 5).logpdf(p["theta"]))
    parts = [stats.norm(p["mu"][k], p["sigma"][k]).pdf(array(d, "y")) for k in (0, 1)]
    return prior + float(np.log(p["theta"] * parts[0] + (1 - p["theta"]) * parts[1]).sum())


STAN: dict[str, Callable[[Values, dict], float]] = {
    "arK": ar,
    "arma11": arma,
    "hmm_drive_0": drives,
    "diamonds": stones,
    "earn_height": regression("earn", "height"),
    "logearn_interaction": log_earnings,
    "eight_schools_centered": centred_schools,
    "eight_schools_noncentered": schools,
    "gp_regr": process,
    "kidscore_momhs": momhs,
    "kidscore_momiq": momiq,
    "kidscore_interaction_c2": children,
    "kilpisjarvi": years,
    "low_dim_gauss_mix": mixture,
    "logmesquite": log_mesquite,
    "mesquite": regression("weight", *SIZES, "group"),
    "nes1972": voters,
    "nes2000": voters,
    "radon_hierarchical_intercept_centered": radon,
    "rats_model": rats,
    "blr": weak,
    "surgical_model": surgical,
    "wells_interaction_model": wells,
}
REAL = ("earn", "height", "male", "kid_score", "mom_hs", "mom_iq", *SIZES, "weight", "group", "partyid7",
        "real_ideo", "race_adj", "educ1", "gender", "income", "dist", "arsenic", "log_radon",
        "floor_measure")  # fmt: skip


def made(name: str) -> dict:
    """Twelve rows in the form of posteriordb's data, positive where logarithms are taken of them."""
    random = np.random.default_rng(5)
    rows = 12
    data: dict[str, Any] = {
        key: (1 + random.random(rows)).tolist() for key in (*REAL, "x", "y", "u", "v", "sigma")
    }
    data |= {"age_discrete": random.integers(1, 5, rows).tolist(), "alpha": [[4.5, 1.5], [2.5, 3.5]]}
    data |= {"pmualpha": 0.4, "psalpha": 2.0, "pmubeta": -0.3, "psbeta": 1.5, "N": rows, "J": 4}
    data |= {"X": random.normal(size=(rows, 4)).tolist(), "Y": random.normal(8, 1, rows).tolist()}
    data |= {"switched": random.integers(0, 2, rows).tolist(), "county_idx": [1, 2, 3, 4] * 3}
    data |= {"log_uppm": random.normal(size=4).tolist() * 3, "n": [20] * rows}
    data["r"] = random.integers(0, 20, rows).tolist()
    if name == "rats_model":  # weeks after one another, rats in an order of their own
        data |= {"N": 4, "rat": [2, 1, 4, 3] * 3, "x": [8] * 4 + [15] * 4 + [22] * 4, "xbar": 14}
    return data


def compare(one: Entry, values: dict, points: list[Values]) -> None:
    """Differences of log densities between points are those of the oracle."""
    arguments, model = one.data(values), one.model
    ours, theirs = [], []
    for at in points:
        sites = {name: torch.as_tensor(value) for name, value in at.items()}
        trace = pyro.poutine.trace(pyro.condition(model, sites)).get_trace(*arguments)
        ours.append(float(trace.log_prob_sum()))
        theirs.append(STAN[one.short](at, values))
    assert np.ptp(np.subtract(ours, theirs)) < 1e-11 * (1 + np.abs(theirs).max())
    assert np.ptp(theirs) > 0.1


def random_points(target: Target) -> list[Values]:
    """A few, not far from zero on the unconstrained scale."""
    free = 0.5 * torch.randn(4, target.density.dim, dtype=torch.float64)
    return [{name: value.numpy() for name, value in target.density.constrain(at).items()} for at in free]


@pytest.mark.parametrize("name", NAMES)
def test_log_densities_of_made_data_are_those_of_the_stan_programs(name: str) -> None:
    one = posterior(name)
    values = made(one.short)
    target = Target.of(one, one.data(values))
    compare(one, values, random_points(target))
    # All at once, with the Jacobian, as one by one through the engine's own.
    at = 0.5 * torch.randn(3, target.density.dim, dtype=torch.float64)
    together = target.evaluate(at)
    for k, position in enumerate(at):
        value, score = target.density.value_and_gradient(position)
        assert float(together[0][k]) == pytest.approx(float(value), rel=1e-10)
        assert together[1][k].tolist() == pytest.approx(score.tolist(), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", [name for name in NAMES if not posterior(name).thin])
def test_log_densities_at_reference_draws_are_too(name: str, shared: Shared) -> None:
    shared(f"data/posteriordb/{name}/reference_draws.npz")
    one = posterior(name)
    draws = one.sites(one.reference_draws())
    places = [(0, 10), (3, 200), (7, 999), (9, 500)]
    compare(one, dict(one.values()), [{key: value[at] for key, value in draws.items()} for at in places])


@pytest.mark.parametrize("name", [name for name in NAMES if posterior(name).thin])
def test_log_densities_of_the_data_beside_them_are_too(name: str) -> None:
    one = posterior(name)
    compare(one, dict(one.values()), random_points(Target.of(one)))


def largest(target: Target, draws: torch.Tensor) -> tuple[float, int]:
    """The largest |z| of the score identities, and of how many."""
    found = torch.cat([each.flatten() for each in identities(target, draws)])
    return float(found.abs().max()), len(found)


@pytest.mark.parametrize("name", NAMES)
def test_reference_draws_are_of_the_density(name: str, shared: Shared, oracles: ModuleType) -> None:
    """E[∇ log p] = 0 and E[∇_i log p θ_j] = −δ_ij on the unconstrained scale, by every tenth draw."""
    one = posterior(name)
    if not one.thin:
        shared(f"data/posteriordb/{name}/reference_draws.npz")
    elif not one.present:
        pytest.skip(f"{one.draws_file} is missing (python -m benchmarks.posteriors --sample makes it)")
    target = Target.of(one)
    z, comparisons = largest(target, target.reference()[:, ::10].flatten(0, 1))
    assert z < oracles.z_limit(comparisons)


def conjugate() -> tuple[Target, torch.Tensor, torch.Tensor]:
    """A line with known noise: a normal posterior, its mean and covariance."""

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        beta = pyro.sample("beta", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal((beta * x).sum(-1), 1.0), obs=y)

    x = torch.tensor([[1.0, 5.0], [1.0, 6.0], [1.0, 9.0]], dtype=torch.float64)
    y = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    covariance = torch.linalg.inv(x.T @ x + torch.eye(2) / 4)
    entry = Entry("made-made", "regression", lambda flat: model, lambda values: ())
    return Target.of(entry, (x, y)), covariance @ x.T @ y, covariance


@pytest.mark.parametrize(
    ("shift", "stretch", "right"), [(0.0, 1.0, True), (0.1, 1.0, False), (0.0, 1.1, False)]
)
def test_score_identities_tell_wrong_draws(
    shift: float, stretch: float, right: bool, oracles: ModuleType
) -> None:
    target, mean, covariance = conjugate()
    scale = torch.linalg.cholesky(covariance)
    noise = torch.randn(10_000, 2, dtype=torch.float64)
    z, comparisons = largest(target, mean + (shift + stretch * noise) @ scale.T)
    assert (z < oracles.z_limit(comparisons)) == right


# Draws with a mean of 0 and a covariance of exactly 1.
CORNERS = math.sqrt(1.5) * torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (0.5, 1.4)])
def test_what_a_normal_loses_is_the_divergence(shift: float, stretch: float, oracles: ModuleType) -> None:
    """KL between normals: ½ (tr + δ² − d − log det); nothing for the posterior itself."""
    target, mean, covariance = conjugate()
    draws = mean + (torch.tensor([shift, 0.0]) + stretch * CORNERS) @ torch.linalg.cholesky(covariance).T
    found = nearness(target, draws)
    lost = 0.5 * (2 * stretch**2 + shift**2 - 2 - 4 * math.log(stretch))
    assert abs(found.gap - lost) < oracles.z_limit() * found.error + 1e-10
    assert found.near == (shift == 0)


def test_draws_that_depend_on_each_other_are_told() -> None:
    steps = np.random.default_rng(0).normal(size=(10, 1000))
    walk = steps.copy()
    for t in range(1, 1000):
        walk[:, t] += 0.5 * walk[:, t - 1]
    assert not failures({"even": steps})
    assert any("correlate" in text for text in failures({"walk": walk}))


@pytest.mark.parametrize("name", ["kidscore_momiq", "logmesquite"])
def test_wide_normals_stand_in_for_flat_priors(name: str, shared: Shared) -> None:
    """A prior of slope −m/s² moves a mean by about that times the variance: here next to none of an sd."""
    one = posterior(name)
    shared(f"data/posteriordb/{one.name}/reference_draws.npz")
    for values in one.reference_draws().values():
        moved = np.abs(values.mean((0, 1))) / NARROWER**2 * values.std((0, 1))
        assert moved.max() < 1e-3


def test_a_normal_of_coordinates_that_determine_each_other() -> None:
    """Intercept and slope at years near 2,000."""
    noise = torch.randn(500, 2, dtype=torch.float64)
    draws = torch.stack([2000 * noise[:, 0] + 1e-4 * noise[:, 1], noise[:, 0]], 1)
    white = Normal.of(draws).whiten(draws, draws)[0]
    # A condition of 2·10⁷ times float64's rounding.
    assert torch.allclose(torch.cov(white.T), torch.eye(2, dtype=torch.float64), atol=1e-7)


def test_the_product_of_transitions_is_the_forward_recursion() -> None:
    steps = torch.randn(7, 2, 2, dtype=torch.float64)
    expected = torch.eye(2, dtype=torch.float64)
    for step in steps:
        expected = expected @ step.exp()
    assert torch.allclose(product(steps).exp(), expected)
