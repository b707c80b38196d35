"""The family of skills against quadrature, the exact smoother, the dense Gaussian process and TrueSkill."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from scipy.sparse import csr_array

from ppl_vae.data.games import Games
from ppl_vae.inference import exact
from ppl_vae.models import TrueSkill
from tests.models.skills.made import log_likelihood, made
from tests.models.skills.seasons import games_of, season

# Two sides against quadrature --------------------------------------------------------------------

MARGIN, SD, BETA = 0.4, 1.3, 0.8


def probit(d: float, scale: float, result: float) -> float:
    win, lose = special.ndtr((d - MARGIN) / scale), special.ndtr((-d - MARGIN) / scale)
    return {1: win, 0: lose}.get(result, 1 - win - lose)


def logistic(d: float, scale: float, result: float) -> float:
    win, lose = special.expit((d - MARGIN) / scale), special.expit((-d - MARGIN) / scale)
    return {1: win, 0: lose}.get(result, 1 - win - lose)


DUELS: Mapping[str, tuple[str, Callable[[float, float, float], float], float]] = {
    # An sd of the difference of two performances of sd β; by the logistic link β is its own scale.
    "probit": ("probit", probit, 2**0.5 * BETA),
    "logistic": ("logistic", logistic, BETA),
}
RESULTS = {1.0: (0, 1), 0.0: (1, 0), 0.5: (0, 0)}


@pytest.mark.parametrize("link", DUELS)
def test_one_pair_of_players_is_that_of_quadrature(link: str) -> None:
    """Wins, a loss and a draw between two players: log p(x) and the mean of a skill, by 80 nodes a skill."""
    name, chance, scale = DUELS[link]
    results = (1.0, 1.0, 0.0, 0.5)
    games = games_of([(("A", "B"), RESULTS[result]) for result in results])
    model, data = made(games, link=name, draws=True, margin=MARGIN, skill_sd=SD, performance_sd=BETA)
    nodes, weights = special.roots_hermitenorm(60)
    weights = weights / weights.sum()
    pairs = torch.as_tensor(np.stack(np.meshgrid(SD * nodes, SD * nodes, indexing="ij"), -1).reshape(-1, 2))
    likelihood = log_likelihood(model, data, pairs).exp().numpy() * np.outer(weights, weights).ravel()
    prior = stats.norm(0, SD * 2**0.5)

    def joint(d: float) -> float:
        return prior.pdf(d) * np.prod([chance(d, scale, result) for result in results])

    evidence = integrate.quad(joint, -15, 15, epsabs=1e-12)[0]
    # Given d, a skill has mean d / 2.
    mean = integrate.quad(lambda d: d / 2 * joint(d), -15, 15, epsabs=1e-12)[0] / evidence
    assert np.log(likelihood.sum()) == pytest.approx(np.log(evidence), abs=1e-6)
    assert (pairs[:, 0].numpy() @ likelihood) / likelihood.sum() == pytest.approx(mean, abs=1e-6)


def test_teams_of_two_and_weights_are_those_of_quadrature() -> None:
    """Only the sum of a team that played by parts matters: it is normal, the squares are its variance."""
    weight = np.array([1.0, 0.5, 0.25, 1.0])
    games = games_of([((("A", "B"), ("C", "D")), (0, 1))], weight=weight, game_weight=np.array([0.7]))
    model, data = made(games, draws=True, margin=MARGIN, skill_sd=SD, performance_sd=BETA)
    scale, total = BETA * np.sqrt((weight**2).sum()), SD * np.sqrt((weight**2).sum())
    prior = stats.norm(0, total)
    evidence = integrate.quad(lambda d: prior.pdf(d) * probit(d, scale, 1) ** 0.7, -20, 20, epsabs=1e-12)[0]
    # The program along the direction of d; across it nothing changes.
    nodes, weights = special.roots_hermitenorm(80)
    along = torch.as_tensor(np.outer(nodes * SD, weight * [1, 1, -1, -1] / np.linalg.norm(weight)))
    values = log_likelihood(model, data, along)
    assert np.log(values.exp().numpy() @ (weights / weights.sum())) == pytest.approx(
        np.log(evidence), abs=1e-6
    )
    across = along + torch.tensor([0.5, -1.0, 0.0, 0.0])
    torch.testing.assert_close(log_likelihood(model, data, across), values)


@pytest.mark.parametrize("options", [{"draws": True}, {"outcome": "score"}, {"outcome": "goals"}], ids=str)
def test_rows_and_likelihood_are_the_programs(options: dict[str, Any]) -> None:
    """A s and ℓ of the linear factors against the program, with drift, home and teams of two."""
    scores = {"score": "real", "goals": "whole"}.get(options.get("outcome", ""), "")
    games = replace(
        season(20, 6, size=2, dates=5, scores=scores),
        game_weight=np.linspace(0.5, 1.5, 20),
        weight=np.tile([1, 0.5], 40),
    )
    model, data = made(games, drift="1", home=True, **options)
    rows = model.rows(*data)
    site, chains = model.normal_prior()
    rows.check(chains.num_states)
    skill = chains.detach().unwhiten(torch.randn(4, chains.num_states, dtype=torch.float64))
    shape = (rows.num_rows, chains.num_states)
    matrix = csr_array((rows.value.numpy(), rows.column.numpy(), rows.pointer.numpy()), shape)
    with torch.no_grad():
        predictor = torch.as_tensor(skill.numpy() @ matrix.toarray().T)
        each = model.log_likelihood(predictor, *rows.observed)
    count = 1.0 if rows.count is None else rows.count
    found = (count * each).sum(-1)
    torch.testing.assert_close(found, log_likelihood(model, data, skill), rtol=1e-12, atol=1e-10)
    assert site == "skill"


def test_goals_are_poisson_with_the_base_rate_and_the_difference() -> None:
    games = games_of([(("A", "B"), (2, 0)), (("B", "C"), (1, 1))], scores=True)
    model, data = made(games, outcome="goals", skill_sd=0.5)
    skill = torch.tensor([[0.3, -0.2, 0.6, 0.1]], dtype=torch.float64)
    log_rates = [0.1 + 0.5, 0.1 - 0.5, 0.1 - 0.8, 0.1 + 0.8]
    expected = stats.poisson.logpmf([2, 0, 1, 1], np.exp(log_rates)).sum()
    assert float(log_likelihood(model, data, skill)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("options", [{"draws": True}, {"outcome": "score"}], ids=str)
def test_closed_moments_of_games_are_those_of_quadrature(options: dict[str, Any]) -> None:
    games = season(12, 4, scores="real" if "outcome" in options else "")
    model, data = made(games, **options)
    observed = model.rows(*data).observed
    generator = np.random.default_rng(2)
    mean, variance = (
        torch.as_tensor(values) for values in (generator.normal(size=12), generator.uniform(0.5, 2, 12))
    )
    nodes, weights = (torch.as_tensor(part) for part in special.roots_hermitenorm(80))
    at = mean + variance.sqrt() * nodes[:, None]
    with torch.no_grad():
        each = model.log_likelihood(at, *observed).exp() * (weights / weights.sum())[:, None]
        found = model.tilted(mean, variance, *observed)
    total = each.sum(0)
    torch.testing.assert_close(found.log_normaliser, total.log(), atol=1e-8, rtol=0.0)
    first, second = ((each * at**k).sum(0) / total for k in (1, 2))
    torch.testing.assert_close(mean + variance * found.slope, first, atol=1e-7, rtol=0.0)
    left = second - first.square()
    torch.testing.assert_close(variance * (1 - variance * found.curvature), left, atol=1e-7, rtol=0.0)


# Scores: everything is Gaussian ------------------------------------------------------------------


def _numbers(model: Any) -> dict[str, float]:
    return {name: float(value) for name, value in model.numbers.items()}


def dense_process(
    games: Games, sd: float, drift: float, beta: float, covariance: Callable[..., Any]
) -> tuple:
    """Mean, covariance and log evidence of all states by the dense Gaussian process over (player, date)."""
    assert games.time is not None
    assert games.score is not None
    when = np.repeat(games.time, 2)
    keys = sorted({*zip(games.player.tolist(), when.tolist(), strict=True)})
    prior = np.array([[covariance(a, b, keys, sd, drift) for b in keys] for a in keys])
    place = {key: k for k, key in enumerate(keys)}
    rows = np.zeros((games.num_games, len(keys)))
    for game in range(games.num_games):
        rows[game, place[games.player[2 * game], games.time[game]]] = 1.0
        rows[game, place[games.player[2 * game + 1], games.time[game]]] = -1.0
    seen = rows @ prior @ rows.T + 2 * beta**2 * np.eye(games.num_games)
    y = games.score[::2] - games.score[1::2]
    gain = prior @ rows.T @ np.linalg.inv(seen)
    evidence = stats.multivariate_normal(np.zeros(len(y)), seen).logpdf(y)
    return keys, gain @ y, prior - gain @ rows @ prior, evidence


def walk(a: tuple, b: tuple, keys: list, sd: float, drift: float) -> float:
    begin = min(time for player, time in keys if player == a[0])
    return float(a[0] == b[0]) * (sd**2 + drift**2 * (min(a[1], b[1]) - begin))


def returning(a: tuple, b: tuple, keys: list, sd: float, drift: float) -> float:
    return float(a[0] == b[0]) * sd**2 * np.exp(-abs(a[1] - b[1]) * drift**2 / (2 * sd**2))


@pytest.mark.parametrize(("process", "covariance"), [("walk", walk), ("ou", returning)])
def test_scores_with_drift_are_the_dense_gaussian_process(
    process: str, covariance: Callable[..., Any]
) -> None:
    games = season(40, 5, dates=9, scores="real")
    # Two days are the unit of time.
    model, data = made(games, outcome="score", drift="2", process=process, skill_sd=1.1, drift_sd=0.6,
                       performance_sd=0.7)  # fmt: skip
    keys, mean, cov, evidence = dense_process(games, 1.1, 0.6 / 2**0.5, 0.7, covariance)
    states = model.lineup.schedule.states_by_rounds
    order = [keys.index((chain, time)) for chain, time in zip(states.chain, states.time, strict=True)]
    found = model.exact_posterior(*data)["skill"]
    np.testing.assert_allclose(found.mean, mean[order], atol=1e-9)
    np.testing.assert_allclose(found.covariance_matrix, cov[np.ix_(order, order)], atol=1e-9)
    assert exact.log_evidence(model, *data).total == pytest.approx(evidence, abs=1e-8)


def test_scores_with_drift_are_the_exact_smoothers() -> None:
    """Kalman's filter and the smoother of Rauch, Tung and Striebel over all players' skills, date by date."""
    sd, drift, beta, players = 1.1, 0.5, 0.7, 4
    games = season(30, players, dates=6, scores="real", seed=1)
    model, data = made(games, outcome="score", drift="1", skill_sd=sd, drift_sd=drift, performance_sd=beta)
    assert games.time is not None
    assert games.score is not None
    y = games.score[::2] - games.score[1::2]
    # A player's walk begins at its first date: before it, the noise between dates is not there.
    begin = [games.time[(games.player[::2] == k) | (games.player[1::2] == k)].min() for k in range(players)]
    mean, cov, evidence, last = np.zeros(players), sd**2 * np.eye(players), 0.0, None
    ahead, here = [], []
    for date in np.unique(games.time):
        if last is not None:
            cov = cov + np.diag([drift**2 * max(date - max(last, start), 0.0) for start in begin])
        ahead.append((mean, cov))
        for game in np.flatnonzero(games.time == date):
            row = np.zeros(players)
            row[games.player[2 * game]], row[games.player[2 * game + 1]] = 1.0, -1.0
            total = row @ cov @ row + 2 * beta**2
            evidence += stats.norm.logpdf(y[game], row @ mean, total**0.5)
            gain = cov @ row / total
            mean, cov = mean + gain * (y[game] - row @ mean), cov - np.outer(gain, row @ cov)
        here.append((mean, cov))
        last = date
    smoothed = [here[-1]]
    for (before, own), (forecast, spread) in zip(here[-2::-1], ahead[:0:-1], strict=True):
        gain = own @ np.linalg.inv(spread)
        after, wide = smoothed[-1]
        smoothed.append((before + gain @ (after - forecast), own + gain @ (wide - spread) @ gain.T))
    smoothed = smoothed[::-1]
    states = model.lineup.schedule.states_by_rounds
    dates = np.unique(games.time).tolist()
    found = model.exact_posterior(*data)["skill"]
    expected = [smoothed[dates.index(t)][0][c] for c, t in zip(states.chain, states.time, strict=True)]
    variance = [smoothed[dates.index(t)][1][c, c] for c, t in zip(states.chain, states.time, strict=True)]
    np.testing.assert_allclose(found.mean, expected, atol=1e-9)
    np.testing.assert_allclose(found.variance, variance, atol=1e-9)
    assert exact.log_evidence(model, *data).total == pytest.approx(evidence, abs=1e-8)


def test_slow_drift_is_the_static_fit_and_fast_drift_separate_players() -> None:
    games = season(30, 4, dates=5, scores="real", seed=2)
    assert games.time is not None
    given = {"outcome": "score", "skill_sd": 1.1, "performance_sd": 0.7}
    rest, data = made(games, **given)
    slow, _ = made(games, drift="1", drift_sd=1e-4, **given)
    moving, still = slow.exact_posterior(*data)["skill"], rest.exact_posterior(*data)["skill"]
    chain = slow.lineup.schedule.states_by_rounds.chain
    np.testing.assert_allclose(moving.mean, still.mean[chain], atol=1e-6)
    torch.testing.assert_close(
        slow.exact_log_evidence(*data), rest.exact_log_evidence(*data), atol=1e-6, rtol=0.0
    )
    # As fast as never to know itself again: another player at every date.
    fast, _ = made(games, drift="1", drift_sd=1e3, process="ou", **given)
    names = [f"{games.players[k]} {t}" for k, t in zip(games.player, np.repeat(games.time, 2), strict=True)]
    pairs = zip(names[::2], names[1::2], strict=True)
    assert games.score is not None
    apart = games_of([(pair, games.score[2 * g : 2 * g + 2]) for g, pair in enumerate(pairs)], scores=True)
    others, other_data = made(apart, **given)
    evidence = others.exact_log_evidence(*other_data)
    torch.testing.assert_close(fast.exact_log_evidence(*data), evidence, atol=1e-8, rtol=0.0)


def test_no_order_of_players_or_games_changes_an_answer() -> None:
    games = season(30, 5, dates=6, scores="real", seed=3)
    model, data = made(games, outcome="score", drift="1", home=True)
    generator = np.random.default_rng(0)
    order = generator.permutation(games.num_games)
    other = games.take(order)
    names = generator.permutation(games.num_players)
    renamed = Games(
        other.name, tuple(games.players[k] for k in names), other.side_ptr, other.entry_ptr,
        np.argsort(names)[other.player], other.place, score=other.score, time=other.time,
        covariates=other.covariates,
    )  # fmt: skip
    again, other_data = made(renamed, outcome="score", drift="1", home=True)
    torch.testing.assert_close(
        again.exact_log_evidence(*other_data), model.exact_log_evidence(*data), rtol=1e-10, atol=0.0
    )
    labels = [each.coords()["state"] for each in (model, again)]
    first, second = (m.exact_posterior(*d)["skill"].mean for m, d in ((model, data), (again, other_data)))
    assert {*labels[0]} == {*labels[1]}
    place = [labels[1].index(label) for label in labels[0]]
    torch.testing.assert_close(second[place], first, rtol=0.0, atol=1e-9)


# The simplest case -------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["probit", "logistic"])
def test_trueskill_is_the_case_of_duels_at_rest(link: str) -> None:
    games = games_of([(("A", "B"), (0, 1)), (("B", "C"), (0, 1)), (("A", "C"), (1, 0))])
    numbers = {"skill_mean": 2.0, "skill_sd": 1.5} | ({"performance_sd": 0.9} if link == "probit" else {})
    model, data = made(games, link=link, **numbers)
    old = TrueSkill.from_data(games, link=link, **numbers)
    skill = torch.randn(3, 3, dtype=torch.float64)
    duels = games.dataset.arguments(TrueSkill.inputs, torch.float64)
    torch.testing.assert_close(log_likelihood(model, data, skill), log_likelihood(old, duels, skill))
