"""Expectation propagation against exact moments, published answers and other paths to its fixed points."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import special
from torch import Tensor

from ppl_vae.inference.fitting.propagation.factors import factors_of
from ppl_vae.inference.fitting.propagation.loop import propagate
from ppl_vae.models.skills.links import duel_log_prob
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from tests.inference.fitting.contests import (
    HISTORY,
    HISTORY_SDS,
    MARGIN,
    OF_TTT,
    TTT,
    Closed,
    Contests,
    Measured,
    Sides,
    by_rounds,
    history,
    margin_of,
    normal,
    season,
    solved,
    static,
)  # fmt: skip


@pytest.mark.parametrize("link", ["probit", "logistic"])
@pytest.mark.parametrize("outcome", [1.0, 0.5, 0.0])
def test_one_game_is_exact(link, outcome):
    """Marginals and log p(x) of a single factor, against a grid over the two players' skills."""
    chains = Chains.static(torch.tensor([0.5, -0.2], dtype=torch.float64), torch.tensor([1.0, 2.0]).double())
    model = Contests(chains, [[0, 1]], scale=1.2, margin=0.4, link=link)
    mean, sd, found = solved(model, [outcome])
    grid = torch.linspace(-12, 12, 481, dtype=torch.float64)
    first = normal(grid - 0.5, 1.0)[:, None]
    second = normal(grid + 0.2, 2.0)
    ahead = grid[:, None] - grid
    joint = first * second * duel_log_prob(ahead, torch.tensor(outcome).double(), 1.2, 0.4, link).exp()
    assert found.log_evidence[-1] == pytest.approx(float((joint.sum() * 0.05**2).log()), abs=1e-9)
    for k, marginal in enumerate((joint.sum(1), joint.sum(0))):
        weights = marginal / marginal.sum()
        first_moment = float(weights @ grid)
        assert float(mean[k]) == pytest.approx(first_moment, abs=1e-8)
        assert float(sd[k]) == pytest.approx(float((weights @ (grid - first_moment) ** 2).sqrt()), abs=1e-8)


def _trueskill(case: str) -> tuple[float, list[float], list[float], list[tuple[float, float]]]:
    """Outcome, weights of the entries, performances' weights and priors of the cases with one factor."""
    default, strong = (25.0, 25 / 3), (50.0, 12.5)
    return {
        "1v1, first wins": (1.0, [1, -1], [default] * 2),
        "1v1, draw": (0.5, [1, -1], [default] * 2),
        "2v2, first team wins": (1.0, [1, 1, -1, -1], [default] * 4),
        "2v2, draw": (0.5, [1, 1, -1, -1], [default] * 4),
        "1v2, the one wins": (1.0, [1, -1, -1], [default] * 3),
        "1v1 draw, default player against (50, 12.5)": (0.5, [1, -1], [default, strong]),
        "1v2 with weights (1) and (0.5, 1), the one wins": (1.0, [1, -0.5, -1], [default] * 3),
    }[case]  # type: ignore[return-value]


def test_cases_of_the_trueskill_package(shared: Callable[[str], Path]) -> None:
    cases = json.loads(shared("reference/skill.json").read_text())["trueskill"]["exact"]
    beta, tau, tested = 25 / 6, 25 / 300, 0
    for case in cases:
        if "probability" in case["case"]:
            continue
        outcome, weights, priors = _trueskill(case["case"])
        mean, sd = (torch.tensor(part).double() for part in zip(*priors, strict=True))
        chains = Chains.static(mean, sd**2 + tau**2)
        margin = margin_of(0.1, math.sqrt(len(weights)) * beta)
        scale = beta * math.sqrt(sum(w**2 for w in weights))
        model = Closed(chains, [list(range(len(weights)))], [weights], scale, margin)
        found_mean, found_sd, _ = solved(model, [outcome])
        expected = torch.tensor(case["expect"]).double()
        # A unit of the last digit: one of those published is cut and not rounded.
        torch.testing.assert_close(found_mean, expected[:, 0], rtol=0, atol=1e-3)
        torch.testing.assert_close(found_sd, expected[:, 1], rtol=0, atol=1e-3)
        tested += 1
    assert tested == 7


def test_the_fixed_point_of_infer_net(shared: Callable[[str], Path]) -> None:
    """The match-up tutorial: six games of five players, messages as here; three digits are published."""
    target = json.loads(shared("reference/skill.json").read_text())["infer_net"]["ep_target_mean_variance"]
    games = [[0, 1], [0, 3], [0, 4], [1, 2], [3, 1], [4, 2]]
    mean, sd, _ = solved(Closed(static(5, 6.0, 3.0), games), [1.0] * 6)
    for player, (expected, variance) in target.items():
        assert float(mean[int(player)]) == pytest.approx(expected, abs=6e-4)
        assert float(sd[int(player)] ** 2) == pytest.approx(variance, abs=6e-4)


def test_answers_that_trueskill_through_time_publishes():
    """One draw, one game of two pairs, and a history of three games with a day between a player's own."""
    mean, sigma, beta = TTT
    margin = margin_of(0.25, math.sqrt(2) * beta)
    drawn = solved(Closed(static(2, mean, sigma), [[0, 1]], None, math.sqrt(2) * beta, margin), [0.5])
    torch.testing.assert_close(drawn[1], torch.full((2,), 6.469).double(), rtol=0, atol=5.1e-4)
    teams = Closed(static(4, 15.0, 1.0), [[0, 1, 2, 3]], [[1, 1, -1, -1]], 2 * beta)
    first, sd, _ = solved(teams, [1.0])
    expected = torch.tensor([15.093, 15.093, 14.907, 14.907]).double()
    torch.testing.assert_close(first, expected, rtol=0, atol=5.1e-4)
    torch.testing.assert_close(sd, torch.full((4,), 0.996).double(), rtol=0, atol=5.1e-4)
    a, b, c = 0, 1, 2
    chains, where = by_rounds([a, b, a, c, b, c], [0, 0, 1, 0, 1, 1], sigma, 25 / 300, mean)
    games = [[where[a, 0], where[b, 0]], [where[a, 1], where[c, 0]], [where[b, 1], where[c, 1]]]
    first, sd, _ = solved(Closed(chains, games, None, math.sqrt(2) * beta), [1.0, 0.0, 1.0])
    assert float(first[where[a, 0]]) == pytest.approx(25.0002673, abs=OF_TTT)
    assert float(sd[where[a, 0]]) == pytest.approx(5.41938162, abs=OF_TTT)


def test_it_is_the_fixed_point_of_trueskill_through_time():
    chains, states, outcome, where = history()
    mean, sd, _ = solved(Closed(chains, states, None, math.sqrt(2.0), MARGIN), outcome)
    for player, expected in HISTORY.items():
        at = [row for (p, _), row in sorted(where.items()) if p == player]
        np.testing.assert_allclose(mean[at], expected, rtol=0, atol=OF_TTT)
        if player in HISTORY_SDS:
            np.testing.assert_allclose(sd[at], HISTORY_SDS[player], rtol=0, atol=OF_TTT)


def test_quadrature_sides_copies_and_damping_come_to_the_same_point():
    chains, states, outcome, _ = history()
    states, outcome = [*states, *states[:4]], [*outcome, *outcome[:4]]
    mean, sd, found = solved(Closed(chains, states, None, math.sqrt(2.0), MARGIN), outcome)
    others = {
        "quadrature": solved(Contests(chains, states, None, math.sqrt(2.0), MARGIN), outcome),
        "sides": solved(Sides(chains, states, None, math.sqrt(2.0), MARGIN), outcome),
        "damped": solved(Closed(chains, states, None, math.sqrt(2.0), MARGIN), outcome, damping=0.4),
    }
    # Rows of the sides are never merged, those of the others are: four games are there twice.
    for name, (other_mean, other_sd, other) in others.items():
        torch.testing.assert_close(other_mean, mean, rtol=0, atol=1e-7, msg=name)
        torch.testing.assert_close(other_sd, sd, rtol=0, atol=1e-7, msg=name)
        assert other.log_evidence[-1] == pytest.approx(found.log_evidence[-1], abs=1e-7), name


def test_the_order_of_games_and_players_changes_nothing():
    pairs, outcome = season(1, 9, 80)
    mean, sd, found = solved(Closed(static(9, 0.0, 2.0), pairs, None, margin=0.5), outcome)
    rng = np.random.default_rng(2)
    games, players = rng.permutation(80), rng.permutation(9)
    turned = [[int(players[p]) for p in pairs[g]] for g in games]
    model = Closed(static(9, 0.0, 2.0), turned, None, margin=0.5)
    other_mean, other_sd, other = solved(model, [outcome[g] for g in games])
    torch.testing.assert_close(other_mean[players], mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(other_sd[players], sd, rtol=0, atol=1e-8)
    assert other.log_evidence[-1] == pytest.approx(found.log_evidence[-1], abs=1e-8)


def test_message_passing_comes_to_the_same_point():
    """Games one after another, until nothing moves: the algorithm as it is usually written."""
    pairs, outcome = season(3, 6, 40)
    pairs = [pair if won else pair[::-1] for pair, won in zip(pairs, outcome, strict=True)]
    mean, sd, _ = solved(Closed(static(6, 0.0, 2.0), pairs), [1.0] * 40)
    shift, precision = np.zeros((40, 2)), np.zeros((40, 2))
    total_shift, total = np.zeros(6), np.full(6, 1 / 4)
    for _ in range(400):
        for g, pair in enumerate(pairs):
            at = list(pair)
            cavity = 1 / (total[at] - precision[g])
            middle = cavity * (total_shift[at] - shift[g])
            wide = math.sqrt(2 + cavity.sum())
            z = (middle[0] - middle[1]) / wide
            ratio = math.exp(-(z**2) / 2 - special.log_ndtr(z)) / math.sqrt(2 * math.pi)
            slope, bend = ratio / wide * np.array([1, -1]), ratio * (ratio + z) / wide**2
            new_precision = bend / (1 - cavity * bend)
            new_shift = (slope + middle * bend) / (1 - cavity * bend)
            total[at] += new_precision - precision[g]
            total_shift[at] += new_shift - shift[g]
            precision[g], shift[g] = new_precision, new_shift
    np.testing.assert_allclose(mean, total_shift / total, rtol=0, atol=1e-7)
    np.testing.assert_allclose(sd, total**-0.5, rtol=0, atol=1e-7)


def test_normal_measurements_are_smoothed_exactly_in_one_step():
    chains, where = by_rounds([0, 0, 0, 1, 1, 2], [0, 2, 3, 1, 4, 2], 1.5, 0.7)
    size = len(where)
    model = Measured(chains, [[row] for row in range(size)], [[2.0]] * size, 0.8)
    seen = torch.linspace(-3, 4, size).double()
    factors = factors_of(model, seen, num_nodes=8)
    found = propagate(factors, max_steps=1)
    precision = torch.stack([chains.precision_times(row) for row in torch.eye(size, dtype=torch.float64)])
    covariance = torch.linalg.inv(precision)
    marginal = 4 * covariance + 0.8**2 * torch.eye(size, dtype=torch.float64)
    gain = torch.linalg.solve(marginal, 2 * covariance)
    torch.testing.assert_close(found.sites.mean, seen @ gain, rtol=0, atol=1e-9)
    exact = covariance - 2 * covariance @ gain
    torch.testing.assert_close(found.around.variance, exact.diag(), rtol=0, atol=1e-9)
    evidence = propagate(factors, start=found.sites).log_evidence[-1]
    expected = dist.MultivariateNormal(torch.zeros(size).double(), marginal).log_prob(seen)
    assert evidence == pytest.approx(float(expected), abs=1e-9)


class Weighted(Contests):
    """Games count by powers of their likelihood."""

    def rows(self, outcome: Tensor) -> Design:
        return Design.of_entries(self.states, self.weights, outcome, count=torch.tensor([0.5]).double())


def test_a_game_that_counts_half_is_the_root_of_its_likelihood():
    mean, _, found = solved(Weighted(static(2), [[0, 1]]), [1.0])
    grid = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    tilted = normal(grid, 2.0) * (torch.special.log_ndtr(grid / 2.0**0.5) / 2).exp()
    assert float(mean[0] - mean[1]) == pytest.approx(float(tilted @ grid / tilted.sum()), abs=1e-7)
    assert found.log_evidence[-1] == pytest.approx(float((tilted.sum() * 0.005).log()), abs=1e-9)


def test_narrow_draws_come_to_rest():
    """Draws within next to nothing say that players are equal, to within their performances."""
    pairs, _ = season(4, 8, 60)
    mean, sd, _ = solved(Closed(static(8, 0.0, 3.0), pairs, None, margin=1e-4), [0.5] * 60)
    torch.testing.assert_close(mean, torch.zeros(8).double(), rtol=0, atol=1e-6)
    assert float(sd.max()) < 1.0
