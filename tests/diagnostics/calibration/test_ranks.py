"""Uniform ranks pass as often as they should, and others are told by their shape."""

import itertools
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from ppl_vae.diagnostics.calibration.ranks import band, describe, evaluation_points, holm, p_value, ranks


def _gaussian_ranks(
    simulations: int, draws: int, *, scale: float = 1.0, shift: float = 0.0, seed: int = 0
) -> np.ndarray:
    """True values from N(0, 1) among draws of N(shift, scale²)."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(simulations, 1))
    return ranks(truth, shift + scale * rng.normal(size=(simulations, draws, 1)))[:, 0]


def test_ranks_count_the_draws_below_and_break_ties_at_random(oracles: ModuleType) -> None:
    truth = np.array([[0.5, 2.0]])
    draws = np.array([[[0.1, 3.0], [0.2, 4.0], [0.9, 5.0]]])
    assert ranks(truth, draws).tolist() == [[2, 0]]
    # A discrete quantity: the truth ties with a binomial number of draws, and ranks are uniform still.
    rng = np.random.default_rng(1)
    found = ranks(rng.integers(0, 2, (20_000, 1)), rng.integers(0, 2, (20_000, 9, 1)), seed=3)
    assert stats.chisquare(np.bincount(found[:, 0], minlength=10)).pvalue > oracles.LEVEL


def test_the_p_value_is_exact_on_a_case_that_can_be_counted_out() -> None:
    """Five simulations of three draws: all 4⁵ outcomes are equally probable."""
    outcomes = [np.array(one) for one in itertools.product(range(4), repeat=5)]
    p_values = np.array([p_value(one, 3) for one in outcomes])
    points = evaluation_points(3)
    tails = []
    for one in outcomes:
        counts = [(one < k).sum() for k in points]
        both = [
            min(stats.binom.cdf(r, 5, k / 4), stats.binom.sf(r - 1, 5, k / 4))
            for r, k in zip(counts, points, strict=True)
        ]
        tails.append(min(both))
    expected = [np.mean(np.array(tails) <= one * (1 + 1e-9)) for one in tails]
    np.testing.assert_allclose(p_values, expected, atol=1e-12)


def test_leaving_the_band_is_a_small_p_value() -> None:
    for seed, level in itertools.product(range(60), (0.3, 0.05)):
        found = _gaussian_ranks(80, 20, scale=0.8, seed=seed)
        low, high = band(80, 20, level)
        counts = np.searchsorted(np.sort(found), evaluation_points(20))
        outside = bool(((counts < low) | (counts > high)).any())
        assert outside == (p_value(found, 20) <= level)


@pytest.mark.parametrize(
    ("simulations", "draws"), [(100, 50), pytest.param(300, 199, marks=pytest.mark.slow), (50, 7)]
)
def test_uniform_ranks_leave_the_band_as_often_as_they_should(
    simulations: int, draws: int, oracles: ModuleType
) -> None:
    rng = np.random.default_rng(5)
    repetitions = 2000
    found = np.array([p_value(rng.integers(0, draws + 1, simulations), draws) for _ in range(repetitions)])
    for level in (0.05, 0.2, 0.5):
        # Exact but discrete: at most the level, and not far below it.
        exact = np.unique(found[found <= level]).max(initial=0.0)
        wrong = int((found <= level).sum())
        assert stats.binomtest(wrong, repetitions, level, alternative="greater").pvalue > oracles.LEVEL / 6
        assert stats.binomtest(wrong, repetitions, exact, alternative="less").pvalue > oracles.LEVEL / 6
        assert exact > 0.9 * level


def test_families_of_quantities_raise_false_alarms_as_often_as_one(oracles: ModuleType) -> None:
    """Ten quantities at once; independent ones are the worst case, and Bonferroni's bound is tight there."""
    rng = np.random.default_rng(6)
    repetitions, alarms = 400, 0
    for _ in range(repetitions):
        found = rng.integers(0, 21, (60, 10))
        adjusted, _ = holm(np.array([p_value(column, 20) for column in found.T]), 0.1)
        alarms += bool((adjusted <= 0.1).any())
    assert stats.binomtest(alarms, repetitions, 0.1, alternative="greater").pvalue > oracles.LEVEL
    assert stats.binomtest(alarms, repetitions, 0.07, alternative="less").pvalue > oracles.LEVEL


def test_holms_correction() -> None:
    p_values = np.array([0.04, 0.001, 0.02, 0.5])
    adjusted, levels = holm(p_values, 0.05)
    # By hand: 4 × 0.001, 3 × 0.02, max(2 × 0.04, 0.06), 0.5.
    np.testing.assert_allclose(adjusted, [0.08, 0.004, 0.06, 0.5])
    np.testing.assert_allclose(levels, 0.05 / np.array([3, 4, 3, 3]))
    assert ((adjusted <= 0.05) == (p_values <= levels)).all()


@pytest.mark.parametrize(
    ("scale", "shift", "shape"),
    [
        (0.5, 0.0, "too narrow"), (2.0, 0.0, "too wide"), (1.0, 0.5, "too high"), (1.0, -0.5, "too low"),
        (0.5, 0.1, "too narrow"),
    ],
)  # fmt: skip
def test_wrong_gaussians_fail_with_the_right_words(scale: float, shift: float, shape: str) -> None:
    found = _gaussian_ranks(300, 100, scale=scale, shift=shift)
    assert p_value(found, 100) < 1e-6
    assert describe(found, 100, passed=False).shape == shape


def test_the_ranks_of_a_gaussian_of_another_scale_have_their_closed_form(oracles: ModuleType) -> None:
    """P(rank fraction < u) is Φ(s Φ⁻¹(u)) for draws of N(0, s²), as L grows; the spread by quadrature."""
    for scale in (0.5, 2.0):
        found = _gaussian_ranks(4000, 2000, scale=scale, seed=9)
        fraction = (found + np.random.default_rng(0).uniform(size=4000)) / 2001
        fit = stats.kstest(fraction, lambda u, s=scale: stats.norm.cdf(s * stats.norm.ppf(u)))
        assert fit.pvalue > oracles.LEVEL
        nodes = (np.arange(4000) + 0.5) / 4000
        exact = 12 * np.mean((stats.norm.cdf(stats.norm.ppf(nodes) / scale) - 0.5) ** 2)
        told = describe(found, 2000, passed=False)
        error = 12 * ((fraction - 0.5) ** 2).std() / np.sqrt(4000)
        assert abs(told.spread - exact) < oracles.z_limit(2) * error
