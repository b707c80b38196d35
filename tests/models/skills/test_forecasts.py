"""Expected outcomes against quadrature, closed forms and simulation."""

from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor

from ppl_vae.models.skills.forecasts import (
    duel_probabilities,
    goal_probabilities,
    goal_results,
    pair_probabilities,
    place_probabilities,
    winner_probabilities,
)

WIN = {"probit": special.ndtr, "logistic": special.expit}


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("link", ["probit", "logistic"])
@pytest.mark.parametrize("sd", [0.0, 0.3, 3.0, 60.0])
def test_duels_are_those_of_quadrature(link: str, sd: float) -> None:
    mean, scale, margin = 0.7, 1.3, 0.4
    found = duel_probabilities(tensor(mean), tensor(sd**2), tensor(scale), margin, link)[0]

    def expected(sign: float) -> float:
        if not sd:
            return float(WIN[link]((sign * mean - margin) / scale))
        return integrate.quad(
            lambda z: stats.norm.pdf(z) * WIN[link]((sign * (mean + sd * z) - margin) / scale),
            -9, 9, points=[-mean / sd, (margin - mean) / sd], limit=400, epsabs=1e-12,
        )[0]  # fmt: skip

    assert float(found[0]) == pytest.approx(expected(1.0), abs=1e-8)
    assert float(found[2]) == pytest.approx(expected(-1.0), abs=1e-8)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-12)


def test_goals_at_known_rates_are_skellams() -> None:
    rates = np.array([1.7, 0.9])
    known = tensor(*np.log(rates))[None], torch.zeros(1, 2, 2)
    scores = goal_probabilities(*known)
    skellam = stats.skellam(*rates)
    expected = [1 - skellam.cdf(0), skellam.pmf(0), skellam.cdf(-1)]
    np.testing.assert_allclose(goal_results(*known)[0], expected, atol=1e-10)
    np.testing.assert_allclose(scores[0, 3, 1], np.prod(stats.poisson([*rates]).pmf([3, 1])), atol=1e-12)


def test_goals_at_unknown_rates_are_those_of_quadrature() -> None:
    """Rates that are known together: log λ = m + a z with one z, as of an unknown base rate."""
    m, a = np.array([0.3, -0.1]), np.array([0.4, 0.25])
    scores = goal_probabilities(tensor(*m)[None], torch.as_tensor(np.outer(a, a))[None])

    def expected(first: int, second: int) -> float:
        def at(z: float) -> float:
            return float(stats.norm.pdf(z) * np.prod(stats.poisson(np.exp(m + a * z)).pmf([first, second])))

        return integrate.quad(at, -9, 9, epsabs=1e-12)[0]

    for score in [(0, 0), (2, 1), (5, 3)]:
        assert float(scores[0][score]) == pytest.approx(expected(*score), abs=1e-8)


def test_many_goals_are_those_of_skellam() -> None:
    """Beyond the goals that are told apart their difference is nearly normal: skewness is left out."""
    rates = np.array([30.0, 24.0])
    found = goal_results(tensor(*np.log(rates))[None], torch.zeros(1, 2, 2))
    skellam = stats.skellam(*rates)
    skewness = abs(rates[0] - rates[1]) / rates.sum() ** 1.5
    np.testing.assert_allclose(
        found[0], [1 - skellam.cdf(0), skellam.pmf(0), skellam.cdf(-1)], atol=skewness / 6
    )


def test_two_sides_are_a_duel() -> None:
    mean, scale = tensor(0.3, -0.4)[None], tensor(1.0, 1.5)[None]
    covariance = torch.tensor([[[0.5, 0.0], [0.0, 0.2]]], dtype=torch.float64)
    expected = special.ndtr(0.7 / np.sqrt(1 + 1.5**2 + 0.7))
    won = winner_probabilities(mean, covariance, scale, torch.tensor([2]), "probit")
    np.testing.assert_allclose(won[0], [expected, 1 - expected], atol=1e-9)
    np.testing.assert_allclose(pair_probabilities(mean, covariance, scale, "probit")[0, 0, 1], expected)


def test_what_all_sides_share_changes_nothing() -> None:
    """Also where sides are fewer than columns; equal sides have equal chances."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    own = torch.diag_embed(torch.rand(2, 5, generator=generator, dtype=torch.float64))
    scale, sides = torch.full((2, 5), 0.8, dtype=torch.float64), torch.tensor([5, 3])
    alone = winner_probabilities(mean, own, scale, sides, "probit")
    # Only the shared part is left to the points, which it does not move.
    wide = (scale.square() + own.diagonal(dim1=-2, dim2=-1)).sqrt()
    shared = winner_probabilities(mean, torch.full((2, 5, 5), 4.0).double(), wide, sides, "probit")
    np.testing.assert_allclose(shared, alone, atol=1e-8)
    np.testing.assert_array_equal(alone[1, 3:], 0.0)
    np.testing.assert_allclose(alone.sum(-1), 1.0)
    level = winner_probabilities(torch.zeros(1, 5).double(), own[:1] * 0, scale[:1], sides[:1], "probit")
    np.testing.assert_allclose(level, 0.2, atol=1e-9)


def test_dependent_strengths_are_integrated_over(oracles: ModuleType) -> None:
    """Of two sides the answer is closed; over random points the error would be their sd over √256."""
    mean, scale = tensor(0.5, 0.0)[None], tensor(0.5, 0.5)[None]
    covariance = torch.tensor([[[1.0, 0.6], [0.6, 1.5]]], dtype=torch.float64)
    expected = special.ndtr(0.5 / np.sqrt(0.5 + 1.0 + 1.5 - 1.2))
    found = winner_probabilities(mean, covariance, scale, torch.tensor([2]), "probit")
    assert abs(float(found[0, 0]) - expected) < oracles.z_limit() * 0.5 / 16
    assert abs(float(found[0, 0]) - expected) < 0.01


def test_gumbel_performances_are_those_of_luce() -> None:
    mean, scale = tensor(1.0, 0.2, -0.5)[None], torch.full((1, 3), 0.7).double()
    known = torch.zeros(1, 3, 3, dtype=torch.float64)
    won = winner_probabilities(mean, known, scale, torch.tensor([3]), "gumbel")
    np.testing.assert_allclose(won, (mean / 0.7).softmax(-1), atol=1e-12)
    ahead = pair_probabilities(mean, known, scale, "gumbel")[0]
    np.testing.assert_allclose(ahead[0, 1], special.expit(0.8 / 0.7), atol=1e-10)
    np.testing.assert_allclose(ahead + ahead.T, 1.0, atol=1e-12)


@pytest.mark.parametrize("link", ["probit", "gumbel"])
def test_places_agree_with_winners_and_pairs(link: str, oracles: ModuleType) -> None:
    mean, scale = tensor(0.6, 0.0, -0.3, 9.0)[None], torch.full((1, 4), 0.9).double()
    covariance = torch.eye(4).double()[None] * 0.3 + 0.2
    sides, draws = torch.tensor([3]), 20_000
    places = place_probabilities(mean, covariance, scale, sides, link, num_draws=draws)[0]
    won = winner_probabilities(mean, covariance, scale, sides, link, num_points=2048)[0]
    limit = oracles.z_limit(6) * 0.5 / draws**0.5 + 0.5 / 2048**0.5 * oracles.z_limit(6)
    assert float((places[:, 0] - won).abs().max()) < limit
    np.testing.assert_allclose(places[:3, :3].sum(0), 1.0)
    np.testing.assert_allclose(places[:3, :3].sum(1), 1.0)
    np.testing.assert_array_equal(places[3], 0.0)
    # Who is ahead of how many on average: 2 − E[place].
    ahead = pair_probabilities(mean[:, :3], covariance[:, :3, :3], scale[:, :3], link)[0]
    expected = places[:3, :3] @ tensor(0.0, 1.0, 2.0)
    assert float((2.5 - ahead.sum(-1) - expected).abs().max()) < oracles.z_limit(3) / draws**0.5
