"""Distances between samples whose distributions are known, and the errors that they state."""

import math
from types import ModuleType

import numpy as np
import pytest
from scipy import integrate, stats

from ppl_vae.diagnostics.comparison.distances import (
    Sample,
    _extremes,
    independent_quantities,
    lost_correlation,
    mean_error,
    quantile_error,
    sd_ratio,
    sliced_wasserstein,
    variance_ratios,
    wasserstein,
)

SIZE = 2000


def _sample(values: np.ndarray, dependence: str = "independent") -> Sample:
    """From (quantity, chain, draw), or (quantity, draw)."""
    values = values if values.ndim == 3 else values[:, None]
    return Sample(values, dependence, np.full(len(values), values[0].size))


def _chains(generator: np.random.Generator, quantities: int, rho: float = 0.7) -> np.ndarray:
    """Standard normal chains of autocorrelation ρ: an effective size of (1 − ρ)/(1 + ρ) of the draws."""
    values = generator.normal(size=(quantities, 4, SIZE // 4))
    for t in range(1, values.shape[2]):
        values[..., t] = rho * values[..., t - 1] + math.sqrt(1 - rho**2) * values[..., t]
    return values


@pytest.mark.parametrize("kind", ["independent", "chains", "heavy"])
def test_errors_are_as_large_as_they_say(kind: str, oracles: ModuleType) -> None:
    """300 pairs of samples: the z-scores of every estimate against the truth have a spread near one."""
    generator = np.random.default_rng(0)
    pairs = 300
    own = generator.normal(size=(pairs, 1, SIZE))
    truth = _chains(generator, pairs) if kind == "chains" else generator.normal(size=(pairs, 4, SIZE // 4))
    if kind == "heavy":
        # Fourth moments exist, and are three times a normal's.
        own, truth = (np.sign(v) * np.abs(v) ** 1.4 for v in (own, truth))
    mine, theirs = _sample(own), _sample(truth, "chains" if kind == "chains" else "independent")
    scores = {
        "mean": mean_error(mine, theirs),
        "5 %": quantile_error(mine, theirs, 0.05),
        "95 %": quantile_error(mine, theirs, 0.95),
        "sd": sd_ratio(mine, theirs),
    }
    for name, (value, error) in scores.items():
        z = (value - (name == "sd")) / error
        # A tenth for what the errors themselves are off: ESS and fourth moments are estimates too.
        low, high = np.sqrt(oracles.spread_limits(pairs - 1, 12))
        assert 0.9 * low < z.std() < 1.1 * high, name
        assert abs(z.mean()) < oracles.z_limit(12) / math.sqrt(pairs) + 0.1, name


def test_the_sd_error_of_heavy_tails_exceeds_the_normal_one() -> None:
    values = stats.t(5).rvs(size=(2, SIZE), random_state=np.random.default_rng(3))
    error = sd_ratio(_sample(values[:1]), _sample(values[1:])).error[0]
    # The kurtosis of t_5 is 9: the error of a normal's times √((9 − 1)/(3 − 1)) = 2 in the limit.
    assert error > 1.3 / math.sqrt(SIZE)


@pytest.mark.parametrize(("shift", "stretch"), [(1.5, 1.0), (0.0, 2.0), (-0.5, 0.4)])
def test_wasserstein_distances_of_normals(shift: float, stretch: float, oracles: ModuleType) -> None:
    """W = ∫ |F⁻¹ − G⁻¹| = E|shift + (stretch − 1) Z|."""
    expected = integrate.quad(lambda z: abs(shift + (stretch - 1) * z) * stats.norm.pdf(z), -9, 9, limit=200)[
        0
    ]
    generator = np.random.default_rng(1)
    own = _sample(shift + stretch * generator.normal(size=(20, SIZE)))
    found = wasserstein(own, _sample(generator.normal(size=(20, SIZE))))
    z = (found.value - expected) / found.error
    assert np.abs(z).max() < oracles.z_limit(80)
    low, high = oracles.spread_limits(20, 4)
    assert low < (z**2).mean() < high


@pytest.mark.parametrize(("dependence", "least", "most"), [("independent", 0.9, 1.1), ("chains", 0.75, 1.1)])
def test_the_null_level_is_what_equal_distributions_are_apart(
    dependence: str, least: float, most: float
) -> None:
    """In chains, the tails are less autocorrelated than the means whose effective size is taken."""
    generator = np.random.default_rng(2)
    values = _chains(generator, 200) if dependence == "chains" else generator.normal(size=(200, SIZE))
    found = wasserstein(_sample(generator.normal(size=(200, SIZE))), _sample(values, dependence))
    assert least < found.value.mean() / found.null.mean() < most


def test_sliced_wasserstein_of_a_shift_is_its_mean_projection(oracles: ModuleType) -> None:
    """For a shift δ in d dimensions of equal sd, E|θ·δ| = ‖δ‖ Γ(d/2)/(√π Γ((d + 1)/2))."""
    generator = np.random.default_rng(4)
    shift = np.array([2.0, -1.0, 0.5])
    base = generator.normal(size=(3, SIZE))
    truth = _sample(10 * base)
    own = _sample(10 * (generator.normal(size=(3, SIZE)) + shift[:, None]))
    found = sliced_wasserstein(own, truth, np.random.default_rng(0), 2000)
    expected = np.linalg.norm(shift) * math.gamma(1.5) / (math.sqrt(math.pi) * math.gamma(2))
    # Of 2000 random directions in three dimensions: |θ·δ| is uniform, of sd ‖δ‖/√12.
    directions = np.linalg.norm(shift) / math.sqrt(12 * 2000)
    assert abs(found.value - expected) < oracles.z_limit() * math.hypot(found.error, directions)
    assert found.error == pytest.approx(expected * 0.02, rel=0.9)
    same = sliced_wasserstein(
        _sample(10 * generator.normal(size=(3, SIZE))), truth, np.random.default_rng(0), 100
    )
    assert same.value == pytest.approx(same.null, rel=0.6)


def test_generalised_eigenvalues_of_known_covariances(oracles: ModuleType) -> None:
    """S_a v = λ S_r v, solved by NumPy for the true covariances."""
    generator = np.random.default_rng(5)
    reference = np.array([[4.0, 1.8, 0.0], [1.8, 1.0, 0.1], [0.0, 0.1, 9.0]])
    answer = np.diag([4.0, 0.5, 18.0])
    values, vectors = np.linalg.eig(np.linalg.solve(reference, answer))
    own, truth = (
        _sample(np.linalg.cholesky(c) @ generator.normal(size=(3, 10 * SIZE))) for c in (answer, reference)
    )
    smallest, largest = variance_ratios(own, truth)
    for found, at in ((smallest, np.argmin(values)), (largest, np.argmax(values))):
        assert abs(found.ratio - values[at]) < oracles.z_limit(2) * found.error
        assert abs(found.weights @ vectors[:, at]) > 0.995
        assert found.width**2 == pytest.approx(found.ratio, rel=0.1)


@pytest.mark.parametrize("dim", [2, 30, 150])
def test_no_direction_is_invented_however_many_dimensions(dim: int, oracles: ModuleType) -> None:
    """The extreme eigenvalues of 500 against 500 draws of one distribution are far from one; ours are not."""
    generator = np.random.default_rng(6)
    mix = np.linalg.qr(generator.normal(size=(dim, dim)))[0] * np.linspace(0.3, 2, dim)
    scores = []
    for _ in range(6):
        own, truth = (_sample(mix @ generator.normal(size=(dim, 500))) for _ in "ab")
        for found in variance_ratios(own, truth):
            scores.append((found.ratio - 1) / found.error)
    assert np.abs(scores).max() < oracles.z_limit(3 * len(scores))


def test_a_lost_direction_is_found_among_many(oracles: ModuleType) -> None:
    generator = np.random.default_rng(7)
    dim = 60
    common = generator.normal(size=(1, SIZE))
    truth = np.sqrt(0.5) * generator.normal(size=(dim, SIZE)) + np.sqrt(0.5) * common
    own = generator.normal(size=(dim, SIZE))
    smallest, largest = variance_ratios(_sample(own), _sample(truth))
    # Along the mean: 1 against 0.5 + 0.5 · 60; across it: 1 against 0.5.
    assert smallest.ratio == pytest.approx(1 / 30.5, rel=0.3)
    assert np.abs(smallest.weights).max() < 0.3
    assert 1.4 < largest.ratio < 2.1
    gap, pair = lost_correlation(_sample(own), _sample(truth))
    assert gap.value == pytest.approx(0.5, abs=oracles.z_limit() * gap.error + 0.03)
    assert pair[0] != pair[1]


def test_the_largest_difference_of_correlations_is_not_that_of_noise(oracles: ModuleType) -> None:
    generator = np.random.default_rng(8)
    own, truth = (_sample(generator.normal(size=(80, 400))) for _ in "ab")
    gap, (first, second) = lost_correlation(own, truth)
    seen = np.corrcoef(own.flat)[first, second] - np.corrcoef(truth.flat)[first, second]
    assert abs(seen) > 0.2
    assert abs(gap.value) < oracles.z_limit() * gap.error
    assert gap.error == pytest.approx(math.sqrt(2 / 400), rel=0.25)


def test_combinations_and_constants_are_left_out() -> None:
    generator = np.random.default_rng(9)
    x, y = generator.normal(size=(2, SIZE))
    found = independent_quantities(_sample(np.stack([x, 0 * x + 7, y, x - 3 * y, 2 * x + 1])))
    assert len(found) == 2
    assert 1 not in found
    assert independent_quantities(_sample(np.stack([x, 2 * x]))).size == 1


def test_directions_are_found_where_the_reference_does_not_move() -> None:
    """Half of the draws may be copies of one, and covariances are of halves."""
    moving = _sample(np.random.default_rng(0).normal(size=(2, 4, 100)))
    still = _sample(np.full((2, 4, 100), 3.0))
    for own, truth in ((moving, still), (still, moving), (still, still)):
        assert all(np.isfinite(direction).all() for direction in _extremes(own, truth))
