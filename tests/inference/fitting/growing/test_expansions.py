"""Series of expected log likelihoods, against quadrature where predictors are."""

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.fitting.factors.expectations import hermite_rule
from ppl_vae.inference.fitting.growing.expansions import LAST_TERM, Expansions


def logistic(predictor: Tensor, sign: Tensor) -> Tensor:
    return torch.nn.functional.logsigmoid(sign * predictor)


def rows(size: int) -> Expansions:
    sign = torch.ones(size, dtype=torch.float64)
    sign[::3] = -1
    return Expansions(logistic, hermite_rule(32).numpy(), (sign,), np.linspace(0.5, 2, size))


def test_series_are_as_near_as_they_say() -> None:
    """Small moves of means and variances: nothing is integrated again, and what is left out is small."""
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(size=40), rng.uniform(0.01, 0.1, 40)
    found = rows(40)
    found.at(mean, variance)
    near, wide = mean + 0.2 * np.sqrt(variance) * rng.uniform(-1, 1, 40), variance * rng.uniform(0.95, 1, 40)
    slope, curvature = found.at(near, wide)
    assert found.integrated == 40
    exact = rows(40)
    expected, bend = exact.at(near, wide)
    assert np.abs((slope - expected) * np.sqrt(wide)).max() <= LAST_TERM / 10
    assert np.abs((curvature - bend) * wide).max() <= LAST_TERM / 3
    # Without the series the same rows would be off by far more.
    first = rows(40)
    stale, _ = first.at(mean, variance)
    assert np.abs((stale - expected) * np.sqrt(wide)).max() > 10 * LAST_TERM


def test_rows_that_moved_far_are_integrated_where_they_are() -> None:
    mean, variance = np.zeros(6), np.full(6, 0.5)
    found = rows(6)
    found.at(mean, variance)
    mean = mean + np.array([0.0, 0, 3, 0, 0, -3])
    slope, curvature = found.at(mean, variance)
    assert found.integrated == 8
    expected, bend = rows(6).at(mean, variance)
    np.testing.assert_allclose(slope, expected, rtol=1e-12)
    np.testing.assert_allclose(curvature, bend, rtol=1e-12)


def test_new_rows_join_those_that_there_are() -> None:
    found = rows(5)
    found.at(np.zeros(5), np.ones(5))
    found.append((torch.ones(1).double(),), np.ones(1))
    slope, _ = found.at(np.zeros(6), np.ones(6))
    assert found.integrated == 6
    np.testing.assert_allclose(slope[5], 0.5, rtol=1e-10)
