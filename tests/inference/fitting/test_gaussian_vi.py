"""Natural gradients and deterministic VI against closed forms, quadrature, and each other."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from scipy import optimize
from torch import Tensor

from ppl_vae.inference import fixed_noise, natural
from ppl_vae.inference.fitting.fit_result import Fit
from ppl_vae.inference.fitting.fixed_noise import FixedNoise
from ppl_vae.inference.fitting.gaussians import starts as gaussian_starts
from ppl_vae.inference.fitting.gaussians.distance import distance
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian, common_noise
from ppl_vae.inference.fitting.gaussians.gaussian_fit import Climb, GaussianOptions, climb
from ppl_vae.inference.fitting.gaussians.starts import best_start
from ppl_vae.inference.fitting.gaussians.target import Target, target_of
from ppl_vae.inference.fitting.natural import NaturalGradients
from ppl_vae.program.pair import Pair

FITS: dict[str, Callable[..., Fit]] = {"natural": natural.fit, "fixed noise": fixed_noise.fit}
NOISE = 18.0


class Line:
    """y = X w + noise of sd 18, w ~ N(0, 100²) in two sites, with covariates that nobody has standardised."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        a, b = random.normal(100, 15, 60), random.integers(0, 2, 60)
        x = np.stack([np.ones(60), a, b, a * b], 1)
        y = 25 + 0.6 * a - 10 * b + 0.2 * a * b + NOISE * random.standard_normal(60)
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.precision = self.x.T @ self.x / NOISE**2 + torch.eye(4).double() / 100**2
        self.covariance = torch.linalg.inv(self.precision)
        self.mean = self.covariance @ self.x.T @ self.y / NOISE**2
        spread = NOISE**2 * torch.eye(60).double() + 100**2 * self.x @ self.x.T
        self.log_evidence = float(
            torch.distributions.MultivariateNormal(torch.zeros(60).double(), spread).log_prob(self.y)
        )

    def model(self, x: Tensor, y: Tensor) -> None:
        left = pyro.sample("left", dist.Normal(x.new_zeros(2), 100.0).to_event(1))
        right = pyro.sample("right", dist.Normal(x.new_zeros(2), 100.0).to_event(1))
        with pyro.plate("data", len(y)):
            mean = (x * torch.cat([left, right], -1).unsqueeze(-2)).sum(-1)
            pyro.sample("y", dist.Normal(mean, NOISE), obs=y)

    def blocks(self) -> AutoGuideList:
        guide = AutoGuideList(self.model)
        for name in ("left", "right"):
            guide.append(AutoMultivariateNormal(poutine.block(self.model, expose=[name])))
        return guide

    def below(self, found: Gaussian) -> float:
        """KL(q ‖ posterior): log p(x) − ELBO."""
        posterior = torch.distributions.MultivariateNormal(self.mean, self.covariance)
        q = torch.distributions.MultivariateNormal(found.loc, found.covariance())
        return float(torch.distributions.kl_divergence(q, posterior))


@pytest.fixture(scope="module")
def line() -> Line:
    return Line()


def _read(pair: Pair, *data: Any) -> Gaussian:
    with target_of(pair, *data) as target:
        return target.guide.read()


def _optima(model: Any, guide: Any, *data: Tensor, tolerance: float = 0.01) -> list[Climb]:
    """Where both methods end, from the mode, on one density: it is traced once."""
    options, ends = GaussianOptions(tolerance=tolerance), []
    with target_of(Pair(model, guide).initialise(*data), *data) as target:
        start = best_start(target, "mode", 0)[0].at
        for method in (NaturalGradients(), FixedNoise()):
            found = climb(method, target, start, options, 0)
            assert found.distance.upper <= tolerance
            ends.append(found)
    return ends


@pytest.mark.parametrize("method", FITS)
def test_the_full_rank_guide_of_a_normal_posterior_is_the_posterior(line: Line, method: str) -> None:
    pair = Pair(line.model, AutoMultivariateNormal(line.model))
    found = FITS[method](pair, line.x, line.y)
    assert found.converged
    assert found.distance is not None
    assert found.distance.upper < 1e-6
    # The log weights are all log p(x): Pyro's own programs have no error there.
    assert found.final.value == pytest.approx(line.log_evidence, abs=1e-4)
    at = _read(pair, line.x, line.y)
    sd = line.covariance.diagonal().sqrt()
    assert float(((at.loc - line.mean) / sd).abs().max()) < 1e-3
    torch.testing.assert_close(at.covariance(), line.covariance, rtol=1e-3, atol=1e-9)


@pytest.mark.usefixtures("from_the_mode")
def test_a_mean_field_guide_has_the_posteriors_precisions(line: Line) -> None:
    best = -0.5 * float(line.precision.diagonal().log().sum() - torch.logdet(line.precision))
    ends = _optima(line.model, AutoNormal(line.model), line.x, line.y, tolerance=1e-3)
    members, elbos = [found.at for found in ends], [found.history[-1] for found in ends]
    pair = Pair(line.model, AutoDiagonalNormal(line.model))
    elbos.append(natural.fit(pair, line.x, line.y, tolerance=1e-3).elbo[-1])
    for at, elbo in zip([*members, _read(pair, line.x, line.y)], elbos, strict=True):
        torch.testing.assert_close(at.variances(), 1 / line.precision.diagonal(), rtol=1e-3, atol=0.0)
        assert line.below(at) == pytest.approx(-best, abs=2e-3)
        assert elbo == pytest.approx(line.log_evidence - line.below(at), abs=2e-3)


def test_blocks_have_the_precisions_of_their_sites(line: Line) -> None:
    for found in _optima(line.model, line.blocks(), line.x, line.y, tolerance=1e-3):
        assert found.at.family.name == "block-diagonal"
        covariance = found.at.covariance()
        for own in (slice(0, 2), slice(2, 4)):
            expected = torch.linalg.inv(line.precision[own, own])
            torch.testing.assert_close(covariance[own, own], expected, rtol=2e-3, atol=1e-9)


def test_a_low_rank_guide_is_as_close_as_any_of_its_family(line: Line) -> None:
    closest = _closest_low_rank(line)
    for found in _optima(line.model, AutoLowRankMultivariateNormal(line.model, rank=1), line.x, line.y):
        assert line.below(found.at) < closest + 0.01


def _closest_low_rank(line: Line) -> float:
    """The least KL of a covariance S² + w wᵀ, by another parametrisation and optimiser, from many starts."""
    unit = line.precision.diagonal().rsqrt().numpy()
    target = line.precision.numpy() * np.outer(unit, unit)

    def below(flat: np.ndarray) -> float:
        covariance = np.diag(np.exp(2 * flat[:4])) + np.outer(flat[4:], flat[4:])
        sign, size = np.linalg.slogdet(target @ covariance)
        return 0.5 * (np.trace(target @ covariance) - 4 - size) if sign > 0 else np.inf

    random = np.random.default_rng(1)
    starts = random.normal(0, 2, (8, 8))
    return float(min(optimize.minimize(below, start, bounds=[(-8, 8)] * 8).fun for start in starts))


# A posterior that is not normal, in one dimension ---------------------------------------------------------

COUNTS = torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=torch.float64)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def rates(counts: Tensor) -> None:
    """log z ~ N(0, 1.5²), y_n ~ Poisson(z)."""
    z = pyro.sample("z", dist.Normal(counts.new_zeros(()), 1.5))
    with pyro.plate("data", len(counts)):
        pyro.sample("y", dist.Poisson(z.exp()), obs=counts)


def _exact_elbo(loc: float, scale: float) -> float:
    from scipy import stats

    z = loc + scale * NODES
    log_p = stats.norm(0, 1.5).logpdf(z) + sum(stats.poisson(np.exp(z)).logpmf(int(y)) for y in COUNTS)
    return float(WEIGHTS @ log_p / WEIGHTS.sum() + np.log(scale) + 0.5 * (1 + np.log(2 * np.pi)))


def _best_by_quadrature() -> tuple[float, float, float]:
    found = optimize.minimize(lambda at: -_exact_elbo(at[0], np.exp(at[1])), [0.0, -0.5], tol=1e-12)
    return -float(found.fun), float(found.x[0]), float(np.exp(found.x[1]))


@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal])
@pytest.mark.parametrize("method", FITS)
def test_of_another_posterior_the_best_guide_is_that_of_quadrature(
    method: str, make: Callable[[Any], Any]
) -> None:
    best, _, _ = _best_by_quadrature()
    pair = Pair(rates, make(rates))
    found = FITS[method](pair, COUNTS, tolerance=2e-3)
    at = _read(pair, COUNTS)
    assert found.converged
    missing = best - _exact_elbo(float(at.loc), float(at.variances().sqrt()))
    assert -1e-9 < missing < 2e-3


def _mean_distance(target: Target, at: Gaussian) -> tuple[float, float]:
    """Over independent seeds, with its error."""
    found = [distance(target, at, 2**12, seed) for seed in range(8)]
    error = np.sqrt(sum(one.std_error**2 for one in found)) / len(found)
    return float(np.mean([one.value for one in found])), float(error)


def test_of_a_normal_posterior_the_distance_is_what_the_elbo_is_short_of(
    line: Line, oracles: ModuleType
) -> None:
    with target_of(Pair(line.model, AutoMultivariateNormal(line.model)), line.x, line.y) as target:
        root = torch.linalg.cholesky(line.covariance)
        moved = Gaussian(target.guide.family, line.mean + 0.1 * root[:, 1], (1.03 * root,))
        found, error = _mean_distance(target, moved)
    missing = line.below(moved)
    # Quadratic in what was moved; the next order is less than a tenth.
    assert abs(found - missing) < oracles.z_limit() * error + 0.1 * missing


def test_of_another_posterior_the_distance_is_right_to_a_factor_and_nothing_at_the_best(
    oracles: ModuleType,
) -> None:
    best, loc, scale = _best_by_quadrature()
    off = (loc + 0.1 * scale, 1.08 * scale)
    with target_of(Pair(rates, AutoNormal(rates)), COUNTS) as target:
        moved, still = (
            Gaussian(target.guide.family, torch.tensor([m]).double(), (torch.tensor([s]).double(),))
            for m, s in (off, (loc, scale))
        )
        (far, _), (near, error) = _mean_distance(target, moved), _mean_distance(target, still)
    missing = best - _exact_elbo(*off)
    assert missing / 2 < far < 2 * missing
    assert abs(near) < oracles.z_limit() * error


# Many dimensions, and two ways to the same place ----------------------------------------------------------


# With W = (1, 1, 1) and scales (1, 1, 0), Σ is the low-rank optimum of N(0, C⁻¹) for C = Σ⁻¹ − M, M W = 0 and
# M's diagonal (0, 0, −1): two scales have no slope, and one would fall below none.
FACTOR = torch.tensor([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]).double()
BENT = torch.tensor([[0.0, -0.5, 0.5], [-0.5, 0.0, 0.5], [0.5, 0.5, -1.0]]).double()
CORNER = torch.linalg.inv(FACTOR) - BENT


def _corner(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1).mask(False))
    pyro.sample("x", dist.MultivariateNormal(z, precision_matrix=CORNER), obs=x)


def test_of_a_scale_that_falls_to_none_no_more_is_left_than_its_square_gives() -> None:
    def below(covariance: Tensor) -> float:
        """−ELBO but for a constant."""
        return float((CORNER * covariance).sum() - covariance.logdet()) / 2

    guide, x = AutoLowRankMultivariateNormal(_corner, rank=1), torch.zeros(3).double()
    with target_of(Pair(_corner, guide).initialise(x), x) as target:
        family = target.guide.read().family
        for thin in (0.1, 0.4):
            root = torch.tensor([[1.0, 1.0], [1.0, 1.0], [thin, 1.0]]).double()
            at = Gaussian(family, x, (root,))
            left, (found, error) = below(at.covariance()) - below(FACTOR), _mean_distance(target, at)
            # Quadratic in the scale where it is small; the family's other curvatures stay.
            assert abs(found - left) < 4 * error + 0.5 * left
            assert left < thin**2


def _votes(dim: int, rows: int = 80) -> tuple[Callable[..., None], Tensor, Tensor]:
    random = np.random.default_rng(dim)
    x = torch.from_numpy(random.standard_normal((rows, dim)) @ random.standard_normal((dim, dim)) / dim**0.5)
    y = torch.from_numpy((random.random(rows) < 0.5).astype(float))

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(x.shape[1]), 2.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=(x * w.unsqueeze(-2)).sum(-1)), obs=y)

    return model, x, y


@pytest.mark.parametrize(
    "make", [AutoNormal, AutoMultivariateNormal, lambda model: AutoLowRankMultivariateNormal(model, rank=2)]
)
def test_both_methods_come_to_the_same_optimum(make: Callable[[Any], Any]) -> None:
    model, x, y = _votes(6)
    ends = _optima(model, make(model), x, y)
    with target_of(Pair(model, make(model)).initialise(x, y), x, y) as target:
        noise = common_noise(4000, ends[0].at.family.noise_dim, 1)
        elbos = [target.expect(found.at, noise).elbo for found in ends]
    assert abs(elbos[0] - elbos[1]) < 0.01


def test_beyond_dense_matrices_distances_come_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = _votes(6)
    method = FixedNoise()
    with target_of(Pair(model, AutoNormal(model)).initialise(x, y), x, y) as target:
        start, noise = best_start(target, "mode", 0)[0].at, common_noise(64, 6, 0)
        at = climb(method, target, start, GaussianOptions(), 0).at
        moved = at.replaced(at.loc, [1.1 * root for root in at.roots])
        dense, far = (method.distance(target, each, noise, 4096, 1) for each in (at, moved))
        monkeypatch.setattr("ppl_vae.inference.fitting.fixed_noise.MOST_JUDGED", 2)
        assert climb(method, target, start, GaussianOptions(), 0).distance.upper <= 0.01
        other, farther = (method.distance(target, each, noise, 4096, 2) for each in (at, moved))
    assert abs(dense.value - other.value) < 5 * np.hypot(dense.std_error, other.std_error)
    # A metric and a Hessian: both are right to a factor.
    assert far.value / 2 < farther.value < 2 * far.value


# Starts ---------------------------------------------------------------------------------------------------


def test_the_best_start_is_taken(line: Line) -> None:
    pair = Pair(line.model, AutoMultivariateNormal(line.model))
    with target_of(pair, line.x, line.y) as target:
        best, tried = best_start(target, "best", 0)
        # Of a normal posterior the mode with its curvature is all there is to know.
        mode, _ = best_start(target, "mode", 0)
    assert {start.name for start in tried} >= {"guide", "prior", "pathfinder"}
    assert best.elbo == max(start.elbo for start in tried)
    assert mode.elbo == pytest.approx(line.log_evidence, abs=1e-3)


@pytest.mark.parametrize("sds", [0.5, 3.0])
def test_the_mode_is_looked_for_where_a_step_would_gain_much(
    line: Line, monkeypatch: pytest.MonkeyPatch, sds: float
) -> None:
    # Of a normal posterior a guide with its covariance, so many sds away, is half their square below it.
    exact = Pair(line.model, AutoMultivariateNormal(line.model))
    with target_of(exact, line.x, line.y) as target:
        best = best_start(target, "mode", 0)[0].at
        moved = best.replaced(best.loc + sds * best.roots[0][:, 0], best.roots)
        monkeypatch.setitem(gaussian_starts._SOURCES, "pathfinder", lambda *given: moved)
        _, tried = best_start(target, "best", 0)
    assert ("mode" in {start.name for start in tried}) == (sds**2 / 2 > gaussian_starts.NEAR)


def test_values_alone_are_those_beside_gradients(line: Line) -> None:
    pair = Pair(line.model, AutoMultivariateNormal(line.model))
    with target_of(pair, line.x, line.y) as target:
        positions = torch.randn(70, target.dim, dtype=torch.float64)
        assert torch.equal(target.batches.values(positions), target.batches(positions)[0])
        value, slope = target.batches.gradient.one(positions[0])
        expected = target.batches.density.value_and_gradient(positions[0])
    torch.testing.assert_close(value, expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(slope, expected[1], rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("from_the_mode")
def test_the_same_seed_gives_the_same_numbers_and_nothing_global_changes(oracles: ModuleType) -> None:
    model, x, y = _votes(3)
    ends = []
    for _ in range(2):
        pair = Pair(model, AutoNormal(model))
        with oracles.nothing_global_changes():
            natural.fit(pair, x, y, seed=3)
        ends.append(_read(pair, x, y).loc)
    assert torch.equal(*ends)


@pytest.mark.usefixtures("from_the_mode")
def test_guides_keep_their_precision() -> None:
    model, x, y = _votes(3)
    pair = Pair(model, AutoMultivariateNormal(model))
    found = natural.fit(pair, x.float(), y.float())
    assert found.converged
    assert {leaf.dtype for leaf in pair.parameters("guide").values()} == {torch.float32}


# Draws ----------------------------------------------------------------------------------------------------


def test_common_draws_have_the_second_moments_of_normals() -> None:
    many, few = common_noise(40, 8, 0), common_noise(10, 8, 0)
    torch.testing.assert_close(many.T @ many / 40, torch.eye(8).double())
    assert float(many.sum(0).abs().max()) < 1e-12
    torch.testing.assert_close((few**2).mean(0), torch.ones(8).double())
    assert common_noise(9, 2, 0).shape == (10, 2)
