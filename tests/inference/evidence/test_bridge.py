"""Bridge sampling against closed forms and quadrature."""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal
from scipy import integrate, stats
from sklearn import datasets
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.guides import LinearNormal
from ppl_vae.inference import bridge, exact, guide, importance, nuts, svi
from ppl_vae.models import PPCA, TrueSkill
from ppl_vae.program.pair import Pair

NOISE = 2.0


@dataclass(frozen=True)
class Gaussian:
    """z ~ N(0, I_d), x_n ~ N(z, 2² I), and a guide whose mean and spread are off by so much.

    Attributes:
        x: data of shape (num_data, d).
        shift: by how many posterior standard deviations the guide's mean is off, along one axis.
        stretch: the guide's standard deviation over the posterior's.
    """

    x: Tensor
    shift: float = 0.0
    stretch: float = 1.0

    @property
    def sd(self) -> float:
        return (1 + len(self.x) / NOISE**2) ** -0.5

    @property
    def mean(self) -> Tensor:
        return self.sd**2 * self.x.sum(0) / NOISE**2

    def log_evidence(self) -> float:
        covariance = NOISE**2 * np.eye(len(self.x)) + 1
        return float(stats.multivariate_normal(cov=covariance).logpdf(self.x.T.numpy()).sum())

    def model(self, x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x[0]), 1.0).to_event(1))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x[i])

    def guide(self, x: Tensor) -> None:
        axis = torch.zeros_like(x[0])
        axis[0] = 1.0
        loc = self.mean + self.shift * self.sd * axis
        pyro.sample("z", dist.Normal(loc, self.stretch * self.sd).to_event(1))

    def draws(self, seed: int, num_draws: int = 500, chains: int = 4, phi: float = 0.0) -> Posterior:
        """Stationary autoregressive chains with the posterior as their marginal."""
        noise = np.random.default_rng(seed).normal(size=(num_draws, chains, self.x.shape[1]))
        for t in range(1, num_draws):
            noise[t] = phi * noise[t - 1] + math.sqrt(1 - phi**2) * noise[t]
        values = self.mean.numpy() + self.sd * noise.swapaxes(0, 1)
        return _posterior(values, "chains" if phi else "independent")

    def estimate(self, posterior: Posterior, **options: Any) -> Evidence:
        return _bridge(Pair(self.model, self.guide), posterior, self.x, **options)


def _bridge(pair: Pair, posterior: Posterior, *data: Any, **options: Any) -> Evidence:
    return bridge.log_evidence(pair, posterior, *data, progress=False, **options)


def _posterior(values: np.ndarray, dependence: Any = "independent", **options: Any) -> Posterior:
    draws = xr.Dataset({"z": (("chain", "draw", "z_dim_0"), values)})
    return Posterior(draws, "made", dependence, **options)


def _data(dim: int) -> Tensor:
    return torch.as_tensor(np.random.default_rng(7).normal(0.5, NOISE, (12, dim)))


def _check_calibration(scores: list[float], oracles: ModuleType) -> None:
    """z-scores have mean 0 and variance 1."""
    assert abs(np.mean(scores)) * math.sqrt(len(scores)) < oracles.z_limit(2)
    freedom = len(scores) - 1
    low, high = oracles.spread_limits(freedom, 2)
    assert low < np.var(scores, ddof=1) < high


@pytest.mark.parametrize(
    ("dim", "shift", "stretch"),
    [(1, 2.0, 0.5), (5, 2.0, 0.6), (20, 2.0, 0.75), (20, 1.0, 1.4), (5, 0.0, 1.0)],
)
def test_a_guide_that_is_off_costs_precision_and_no_bias(
    dim: int, shift: float, stretch: float, oracles: ModuleType
) -> None:
    case = Gaussian(_data(dim), shift, stretch)
    found = case.estimate(case.draws(seed=1, num_draws=1000))
    assert (found.method, found.kind, found.unit, found.num_units) == ("bridge", "estimate", "dataset", 1)
    assert found.num_samples == 4000
    assert not found.alarming.any()
    assert found.notes == ()
    assert found.total_std_error < 0.15
    assert abs(found.total - case.log_evidence()) <= oracles.z_limit() * found.total_std_error + 1e-9
    if stretch < 1:
        # The same guide alone: weights of infinite variance, whose reported error means nothing.
        pair = Pair(case.model, case.guide)
        alone = importance.log_evidence(pair, case.x, num_samples=4000, progress=False)
        assert alone.alarming.all()
        assert found.total_std_error < alone.total_std_error
        assert found.elbo[0] < found.total


def test_an_exact_guide_leaves_no_error() -> None:
    case = Gaussian(_data(3))
    found = case.estimate(case.draws(seed=1), num_samples=100)
    assert found.total == pytest.approx(case.log_evidence(), rel=1e-9)
    assert found.total_std_error < 1e-6
    assert found.ess[0] == pytest.approx(100)
    assert found.num_samples == 100


@pytest.mark.parametrize(
    ("dim", "shift", "stretch", "phi"),
    [(1, 2.0, 0.5, 0.0), (5, 1.0, 1.5, 0.0), (2, 1.0, 0.6, 0.9)],
    ids=["narrow", "wide", "autocorrelated"],
)
def test_errors_are_calibrated_over_repetitions(
    dim: int, shift: float, stretch: float, phi: float, oracles: ModuleType
) -> None:
    case = Gaussian(_data(dim), shift, stretch)
    truth = case.log_evidence()
    scores, naive = [], []
    for seed in range(60):
        posterior = case.draws(seed, phi=phi)
        found = case.estimate(posterior, seed=seed)
        scores.append((found.total - found.total_bias - truth) / found.total_std_error)
        if phi:
            independent = Posterior(posterior.draws, "made", "independent")
            found = case.estimate(independent, seed=seed)
            naive.append((found.total - truth) / found.total_std_error)
    _check_calibration(scores, oracles)
    if phi:
        # Ignoring the autocorrelation claims too much.
        assert np.var(naive) > 1.5 * np.var(scores)


@pytest.mark.parametrize("stretch", [0.5, 2.0])
def test_the_bias_has_the_sign_of_the_side_that_errs_more(
    stretch: float, conjugate: Any, oracles: ModuleType
) -> None:
    """Few draws, and as many repetitions as there are equal data: the bias that is reported shows."""
    x = torch.full((100_000,), 0.5, dtype=torch.float64)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)) as i:
            pyro.sample("z", dist.Normal(0.8 * x[i], stretch * math.sqrt(0.2)))

    values = np.random.default_rng(0).normal(0.4, math.sqrt(0.2), (1, 20, len(x)))
    posterior = Posterior(xr.Dataset({"z": (("chain", "draw", "data"), values)}), "made", "independent")
    found = _bridge(Pair(conjugate.model, guide), posterior, x)
    errors = found.log_evidence - conjugate.log_evidence(x)
    reported = found.bias.mean()
    assert np.sign(reported) == (1 if stretch < 1 else -1)
    limit = oracles.z_limit() * errors.std() / math.sqrt(len(x))
    assert abs(errors.mean()) > limit
    # To second order: what is left is of the next order in 1/20.
    assert abs(errors.mean() - reported) < limit + 0.2 * abs(reported)


def test_a_positive_latent_keeps_its_jacobian(oracles: ModuleType) -> None:
    """τ ~ Gamma(2, 1), x_n ~ N(0, τ²): evidence by quadrature; draws in the constrained space."""
    x = torch.as_tensor(np.random.default_rng(3).normal(0, 0.8, 6))

    def model(x: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(torch.tensor(2.0, dtype=x.dtype), 1.0))
        with pyro.plate("data", len(x)) as i:
            pyro.sample("x", dist.Normal(0.0, tau), obs=x[i])

    def density(tau: float) -> float:
        return float(stats.gamma(2).pdf(tau) * np.exp(stats.norm(0, tau).logpdf(x.numpy()).sum()))

    truth = math.log(integrate.quad(density, 0, 20, epsabs=0, epsrel=1e-10)[0])
    pair = Pair(model, AutoNormal(model, init_scale=0.4))
    svi.fit(pair, x, num_steps=200, lr=0.05, progress=False)
    drawn = nuts.sample(pair, x, num_draws=500, warmup=200, chains=2, progress=False)
    assert float(drawn.draws["tau"].min()) > 0
    found = _bridge(pair, drawn, x)
    assert found.total_std_error < 0.02
    assert abs(found.total - truth) < oracles.z_limit() * found.total_std_error


# Skills --------------------------------------------------------------------------------------------

CHOIX = [[3, 2], [2, 1], [1, 0]]
SKILLS = {
    "two players 10:0": ([[0, 1]] * 10, 2, {"link": "logistic"}),
    "two players 10:10": ([[0, 1], [1, 0]] * 10, 2, {"link": "logistic"}),
    "two players 1:0": ([[0, 1]], 2, {"link": "logistic"}),
    "two players 5:3": ([[0, 1]] * 5 + [[1, 0]] * 3, 2, {"link": "logistic"}),
    "Infer.NET match-up": (
        [[0, 1], [0, 3], [0, 4], [1, 2], [3, 1], [4, 2]],
        5,
        {"skill_mean": 6.0, "skill_sd": 3.0, "performance_sd": 1.0},
    ),
    "choix logit": (CHOIX, 4, {"link": "logistic", "skill_mean": 0.0, "skill_sd": math.sqrt(8)}),
    "choix probit": (
        CHOIX,
        4,
        {"skill_mean": 0.0, "skill_sd": math.sqrt(8), "performance_sd": math.sqrt(0.5)},
    ),
}


# Two rows of the table by default: the most lopsided, and the most correlated. The others are a study.
STUDY = ("two players 1:0", "two players 5:3")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in STUDY else []) for name in SKILLS]


@pytest.mark.parametrize("name", NAMES)
def test_skills_agree_with_quadrature(name: str, oracles: ModuleType) -> None:
    """Two-player table, Infer.NET's and choix's cases; the oracle reproduces their published values."""
    games, num_players, options = SKILLS[name]
    model = TrueSkill(num_players, **options)
    link = oracles.logistic
    if model.link == "probit":
        link = oracles.probit(model.performance_sd, model.draw_margin)
    truth = oracles.skills(games, num_players, link, model.skill_mean, model.skill_sd)
    pair = Pair(model, TrueSkill.guides["full-rank"](model, *(games := oracles.won(games))))
    svi.fit(pair, *games, num_steps=400, lr=0.05 * model.skill_sd, num_particles=8, progress=False)
    drawn = nuts.sample(model, *games, num_draws=400, warmup=200, chains=2, seed=1, progress=False)
    found = _bridge(pair, drawn, *games)
    assert found.proposal == "guide and nuts"
    assert found.ess[0] > 200
    assert not found.alarming.any()
    assert found.total_std_error < 0.03
    assert abs(found.total - truth.log_evidence) < oracles.z_limit() * found.total_std_error


# Local latents -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ppca(oracles: ModuleType) -> tuple[Pair, Tensor]:
    """Iris at the ML solution, with a guide of half the best mean-field spread and a mean that is off."""
    x = torch.as_tensor(datasets.load_iris().data)
    x = (x - x.mean(0)) / x.std(0)
    model = PPCA(4, 2).set_maximum_likelihood(x, oracles.rotation(30.0))
    guide = LinearNormal(4, 2, covariance="diagonal", dtype=torch.float64)
    with torch.no_grad():
        noise = model.noise_scale**2
        m = model.loadings.T @ model.loadings + noise * torch.eye(2)
        guide.loc.weight.copy_(torch.linalg.solve(m, model.loadings.T))
        guide.loc.bias.copy_((noise / m.diagonal()).sqrt() - guide.loc.weight @ model.mean)
        guide.raw_spread.copy_((0.25 * noise / m.diagonal() - guide.floor).expm1().log())
    return Pair(model, guide), x


def test_every_datum_has_its_own_bridge(ppca: tuple[Pair, Tensor], oracles: ModuleType) -> None:
    """The same seed for exact draws and guide: their normal numbers must not be the same."""
    pair, x = ppca
    truth = exact.log_evidence(pair.model, x)
    scores = []
    for seed in range(4):
        posterior = exact.draws(pair.model, x, num_draws=1000, seed=seed)
        found = _bridge(pair, posterior, x, seed=seed)
        assert (found.unit, found.num_units, found.index) == ("datum", 150, None)
        known = ~found.alarming
        assert known.mean() > 0.9
        scores.extend(((found.log_evidence - truth.log_evidence) / found.std_error)[known])
    assert np.abs(scores).max() < oracles.z_limit(len(scores))
    _check_calibration(scores, oracles)


@pytest.mark.parametrize("rows", [[33, 4, 149], "reversed"])
def test_labels_say_which_units_the_draws_are_of(
    rows: Any, ppca: tuple[Pair, Tensor], oracles: ModuleType
) -> None:
    pair, x = ppca
    rows = list(range(150))[::-1] if rows == "reversed" else rows
    posterior = exact.draws(pair.model, x[rows], num_draws=1000, coords={"data": rows}, seed=1)
    found = _bridge(pair, posterior, x)
    np.testing.assert_array_equal(found.units, rows)
    truth = exact.log_evidence(pair.model, x).log_evidence[rows]
    scores = ((found.log_evidence - truth) / found.std_error)[~found.alarming]
    assert np.abs(scores).max() < oracles.z_limit(len(scores))


def test_as_many_draws_as_data_are_in_order_whatever_their_labels(ppca: tuple[Pair, Tensor]) -> None:
    pair, x = ppca
    few = x[[100, 3, 7]]
    labelled = exact.draws(pair.model, few, num_draws=500, coords={"data": [100, 3, 7]})
    plain = exact.draws(pair.model, few, num_draws=500)
    one, two = (_bridge(pair, posterior, few) for posterior in (labelled, plain))
    np.testing.assert_array_equal(one.log_evidence, two.log_evidence)
    np.testing.assert_array_equal(one.units, [0, 1, 2])


def test_nuts_of_a_few_data_and_a_pair_in_single_precision(oracles: ModuleType) -> None:
    x = torch.randn(30, 4)
    model = PPCA(4, 2, dtype=torch.float32)
    pair = Pair(model, LinearNormal(4, 2, covariance="diagonal", dtype=torch.float32))
    rows = [20, 2]
    drawn = nuts.sample(model, x[rows], num_draws=500, warmup=200, chains=2,
                        coords={"data": rows}, progress=False)  # fmt: skip
    found = _bridge(pair, drawn, x)
    np.testing.assert_array_equal(found.units, rows)
    truth = exact.log_evidence(model, x).log_evidence[rows]
    assert (np.abs(found.log_evidence - truth) < oracles.z_limit(2) * found.std_error).all()


# What is said when it fails ------------------------------------------------------------------------


def test_draws_that_do_not_overlap_with_the_guide_raise_the_alarm() -> None:
    for shift in (25.0, 1e4):
        case = Gaussian(_data(1), shift)
        found = case.estimate(case.draws(seed=1))
        assert found.ess[0] < 20
        assert found.alarming.all()
        assert found.total_std_error > 0.5


def test_an_iteration_that_does_not_converge_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Gaussian(_data(2), 1.0, 0.5)
    monkeypatch.setattr(bridge, "MAX_ITERATIONS", 1)
    (note,) = case.estimate(case.draws(seed=1)).notes
    assert "the iteration did not converge in 1 of 1 units" in note


def test_chains_in_different_places_are_noted() -> None:
    case = Gaussian(_data(1), 0.0, 1.5)
    posterior = case.draws(seed=1, phi=0.1)
    moved = posterior.draws.copy(deep=True)
    moved["z"][0] += 3 * case.sd
    (note,) = case.estimate(Posterior(moved, "made", "chains")).notes
    assert "the chains disagree on the log weights of 1 of 1 units" in note


def test_the_same_seed_gives_the_same_numbers_and_nothing_global_changes(oracles: ModuleType) -> None:
    case = Gaussian(_data(2), 1.0)
    posterior = case.draws(seed=1)
    with oracles.nothing_global_changes():
        one, two, other = (case.estimate(posterior, seed=seed) for seed in (3, 3, 4))
    assert one.total == two.total
    assert one.total != other.total


def test_chunks_of_particles_do_not_change_the_answer(
    oracles: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ppl_vae.program.layout import Layout

    case = Gaussian(_data(2), 1.0)
    whole = case.estimate(case.draws(seed=1))
    monkeypatch.setattr(Layout, "particles_per_chunk", lambda self, units, budget=0: 7)
    pieces = case.estimate(case.draws(seed=1))
    # Draws of another size come in another order; the posterior's side is the same.
    error = math.hypot(pieces.total_std_error, whole.total_std_error)
    assert abs(pieces.total - whole.total) < oracles.z_limit() * error
    assert pieces.total_std_error == pytest.approx(whole.total_std_error, rel=0.1)


def _hidden(x: Tensor) -> None:
    noise = pyro.sample("noise", dist.Normal(x.new_zeros(2), 1.0).to_event(1), infer={"is_auxiliary": True})
    pyro.sample("z", dist.Normal(noise, 1.0).to_event(1))


def test_bad_arguments_are_refused(ppca: tuple[Pair, Tensor]) -> None:
    case = Gaussian(_data(2))
    good = case.draws(seed=1)
    with pytest.raises(InputError, match="num_samples is 1"):
        case.estimate(good, num_samples=1)
    with pytest.raises(InputError, match="3 draws a chain"):
        case.estimate(good.isel({"draw": slice(3)}))
    with pytest.raises(InputError, match="no draws of the latent site z"):
        case.estimate(Posterior(good.draws.rename({"z": "theta"}), "made", "independent"))
    with pytest.raises(InputError, match=r"draws of z have shape \(1,\); the guide's have \(2,\)"):
        case.estimate(good.isel({"z_dim_0": [0]}))
    with pytest.raises(InputError, match="hidden randomness denies"):
        _bridge(Pair(case.model, _hidden), good, case.x)
    with pytest.raises(InputError, match="the draws of guide carry importance weights"):
        case.estimate(guide.draws(Pair(case.model, case.guide), case.x, num_draws=10))

    pair, x = ppca
    for labels in (None, [1, 1, 2], [1, 2, 150], ["a", "b", "c"]):
        coords = None if labels is None else {"data": labels}
        posterior = exact.draws(pair.model, x[:3], num_draws=10, coords=coords)
        with pytest.raises(InputError, match="draws of 3 units and the data has 150: label data with which"):
            _bridge(pair, posterior, x)
    posterior = exact.draws(pair.model, x, num_draws=10)
    without = Posterior(posterior.draws.rename({"data": "row"}), "made", "independent")
    with pytest.raises(InputError, match="draws of z have no dimension data"):
        _bridge(pair, without, x)


def test_programs_that_do_not_index_their_data_take_the_draws_of_all_units(oracles: ModuleType) -> None:
    # More data than a layout's probe looks at, which cannot tell the two apart on fewer.
    x = torch.as_tensor(np.random.default_rng(0).normal(0, np.sqrt(1.25), 80))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def narrow(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.6 * x, 0.4))

    values = np.random.default_rng(1).normal(0.8 * x.numpy(), np.sqrt(0.2), (1, 1000, 80))
    posterior = Posterior(xr.Dataset({"z": (("chain", "draw", "data"), values)}), "made", "independent")
    found = _bridge(Pair(model, narrow), posterior, x)
    scores = (found.log_evidence - stats.norm(0, np.sqrt(1.25)).logpdf(x)) / found.std_error
    assert np.abs(scores).max() < oracles.z_limit(80)
    some = posterior.draws.isel(data=[5, 2]).assign_coords(data=[5, 2])
    with pytest.raises(InputError, match="do not index their data"):
        _bridge(Pair(model, narrow), Posterior(some, "made", "independent"), x)
