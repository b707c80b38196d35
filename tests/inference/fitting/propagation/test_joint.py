"""Expectation propagation of all states together, against its textbook loop, quadrature and better bounds."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from scipy import special
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.guides.joint_normal import JointNormal
from ppl_vae.inference.evidence import importance
from ppl_vae.inference.fitting import ep, natural
from ppl_vae.inference.fitting.propagation import factors as propagation_factors
from ppl_vae.inference.fitting.propagation import guides as propagation_guides
from ppl_vae.inference.fitting.propagation.factors import factors_of
from ppl_vae.inference.fitting.propagation.joint import JointFactors
from ppl_vae.inference.fitting.propagation.loop import propagate
from ppl_vae.models.skills.links import duel_log_prob
from ppl_vae.program.pair import Pair
from tests.inference.fitting.contests import (
    MARGIN,
    Closed,
    Contests,
    Measured,
    Sides,
    by_rounds,
    history,
    season,
    static,
)
from tests.inference.fitting.propagation.test_learning import made, races


class Ranked(Sides):
    """Games that are known as rankings alone."""

    rows = None  # type: ignore[assignment]


def _textbook(prior: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and log Z of probit factors Φ(row · s / √2), one site after another."""
    count = len(rows)
    shift, site = np.zeros(count), np.zeros(count)
    covariance, mean = prior.copy(), np.zeros(len(prior))
    cavities, log_z = np.zeros((count, 2)), np.zeros(count)
    for _ in range(100):
        for g, row in enumerate(rows):
            variance, middle = row @ covariance @ row, row @ mean
            wide = 1 / (1 / variance - site[g])
            centre = wide * (middle / variance - shift[g])
            z = centre / math.sqrt(2 + wide)
            ratio = math.exp(-(z**2) / 2 - special.log_ndtr(z)) / math.sqrt(2 * math.pi)
            tilted_mean = centre + wide * ratio / math.sqrt(2 + wide)
            tilted = wide - wide**2 * ratio * (z + ratio) / (2 + wide)
            site[g], shift[g] = 1 / tilted - 1 / wide, tilted_mean / tilted - centre / wide
            cavities[g], log_z[g] = (centre, wide), special.log_ndtr(z)
            covariance = np.linalg.inv(np.linalg.inv(prior) + rows.T @ (site[:, None] * rows))
            mean = covariance @ rows.T @ shift
    # Rasmussen and Williams, equation 3.65, written with normalisers of the sites as they follow from it.
    centre, wide = cavities.T
    total = site + 1 / wide
    joined = (shift + centre / wide) ** 2 / total
    log_sites = log_z + 0.5 * np.log(total * wide) - 0.5 * (joined - centre**2 / wide)
    evidence = log_sites.sum() + 0.5 * shift @ rows @ mean
    evidence += 0.5 * (np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(prior)[1])
    return mean, covariance, evidence


def _rows(states: list[list[int]], size: int) -> np.ndarray:
    rows = np.zeros((len(states), size))
    for row, (first, second) in zip(rows, states, strict=True):
        row[first], row[second] = 1.0, -1.0
    return rows


@pytest.mark.parametrize("closed", [True, False])
def test_it_is_the_fixed_point_of_the_textbook(closed: bool) -> None:
    chains, where = by_rounds([0, 0, 1, 1, 2, 2, 3], [0, 2, 1, 2, 0, 2, 1], 1.5, 0.7)
    chosen = np.random.default_rng(0)
    states = [[int(n) for n in chosen.choice(len(where), 2, replace=False)] for _ in range(15)]
    model = (Closed if closed else Contests)(chains, [*states, states[0]])
    data = torch.ones(16, dtype=torch.float64)
    factors = factors_of(model, data, num_nodes=48, together=True)
    assert isinstance(factors, JointFactors)
    found = propagate(factors)
    assert found.converged
    prior = torch.linalg.inv(chains.dense_precision()).numpy()
    mean, covariance, evidence = _textbook(prior, _rows([*states, states[0]], len(where)))
    np.testing.assert_allclose(found.sites.mean, mean, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.around.covariance, covariance, rtol=0, atol=1e-7)  # type: ignore[attr-defined]
    assert found.log_evidence[-1] == pytest.approx(evidence, abs=1e-7)


def test_normal_measurements_are_smoothed_exactly() -> None:
    chains, where = by_rounds([0, 0, 0, 1, 1, 2], [0, 2, 3, 1, 4, 2], 1.5, 0.7)
    states = [[0, 1], [1, 2], [3, 0], [2, 5]]
    model = Measured(chains, states, None, 0.8)
    seen = torch.tensor([0.3, -1.0, 2.0, 0.4], dtype=torch.float64)
    found = propagate(factors_of(model, seen, num_nodes=8, together=True))
    rows = torch.from_numpy(_rows(states, len(where)))
    precision = chains.dense_precision() + rows.T @ rows / 0.64
    torch.testing.assert_close(found.around.covariance, torch.linalg.inv(precision))  # type: ignore[attr-defined]
    marginal = rows @ torch.linalg.inv(chains.dense_precision()) @ rows.T + 0.64 * torch.eye(4).double()
    exact = torch.distributions.MultivariateNormal(torch.zeros(4).double(), marginal).log_prob(seen)
    assert found.log_evidence[-1] == pytest.approx(float(exact), abs=1e-9)


def _exact(pairs: list[tuple[int, int]], outcome: Tensor, sd: float) -> float:
    """log p(x) of duels of three players with draws, on a grid of two differences."""
    grid = torch.linspace(-12, 12, 241, dtype=torch.float64)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    skills = [first, second, torch.zeros_like(first)]
    cov = sd**2 * torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    prior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), cov)
    total = prior.log_prob(torch.stack([first, second], -1))
    for (i, j), ended in zip(pairs, outcome, strict=True):
        total = total + duel_log_prob(skills[i] - skills[j], ended, math.sqrt(2.0), 0.5, "probit")
    return float(torch.logsumexp(total.flatten(), 0)) + 2 * math.log(0.1)


@pytest.mark.parametrize("guide", [JointNormal, AutoMultivariateNormal])
def test_joint_guides_hold_it_beside_the_best_bound(guide: type) -> None:
    pairs, outcome = season(5, 3, 30)
    model = Closed(static(3, 0.0, 1.5), pairs, None, margin=0.5)
    data = torch.tensor(outcome).double()
    fitted = ep.fit(Pair(model, guide(model)), data, progress=False)
    best = natural.fit(Pair(model, guide(model)), data, progress=False)
    apart = ep.fit(Pair(model, ChainNormal(model)), data, progress=False)
    exact = _exact(pairs, data, 1.5)
    assert fitted.estimate is not None
    assert apart.estimate is not None
    # Below the best of the family, and near it; the estimate is nearer to log p(x) than that bound, and by
    # far nearer than the estimate of players who are apart.
    assert best.final.value - 0.01 < fitted.final.value < best.final.value + 1e-4 < exact
    assert abs(fitted.estimate.log_evidence - exact) < exact - best.final.value
    assert abs(fitted.estimate.log_evidence - exact) < 0.1 * abs(apart.estimate.log_evidence - exact)


def _moments(pair: Pair, data: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance, of Pyro's guide those of the innovations."""
    guide: Any = pair.guide
    if isinstance(guide, JointNormal):
        found = guide.posterior(data)[1]
        return found.mean, found.covariance_matrix
    root = guide.scale.unsqueeze(-1) * guide.scale_tril
    return guide.loc, root @ root.T


@pytest.mark.parametrize("guide", [JointNormal, AutoMultivariateNormal])
def test_of_rankings_joint_guides_get_what_means_answer_to_a_pull(
    guide: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Duels as rankings of two sides, and as factors of one row whose chains are kept apart."""
    chains, states, outcome, _ = history()
    data = torch.tensor(outcome).double()
    ranked, duels = (kind(chains, states, None, math.sqrt(2.0), MARGIN) for kind in (Ranked, Closed))
    pair, other = Pair(ranked, guide(ranked)), Pair(duels, guide(duels))
    of_sides = ep.fit(pair, data, progress=False)
    together = ep.fit(Pair(duels, guide(duels)), data, progress=False)
    monkeypatch.setattr(propagation_factors, "MOST_DENSE", 3)
    monkeypatch.setattr(propagation_factors, "blocks_of", lambda links: None)
    fitted = ep.fit(other, data, progress=False)
    apart = ep.fit(Pair(duels, ChainNormal(duels)), data, progress=False)
    for own, its in zip(_moments(pair, data), _moments(other, data), strict=True):
        torch.testing.assert_close(own, its, rtol=0, atol=1e-6)
    assert of_sides.estimate is not None
    assert fitted.estimate is not None
    assert together.estimate is not None
    assert apart.estimate is not None
    # One closed form of W's determinant in two ways; and a better estimate than that of chains apart.
    assert of_sides.estimate.log_evidence == pytest.approx(fitted.estimate.log_evidence, abs=1e-6)
    exact = together.estimate.log_evidence
    assert fitted.estimate.log_evidence == pytest.approx(exact, abs=0.02)
    assert abs(apart.estimate.log_evidence - exact) > 0.3
    best = natural.fit(Pair(duels, guide(duels)), data, progress=False)
    assert apart.final.value + 0.5 < fitted.final.value < best.final.value + 1e-4
    assert fitted.final.value == pytest.approx(best.final.value, abs=0.02)


def test_races_are_nearer_to_their_posterior_by_what_players_share() -> None:
    """Six players, of whom four race at a time: judged by importance sampling from the joint guide."""
    model, data = made(races(12, 6, 4), skill_sd=1.0)
    pair = Pair(model, JointNormal(model))
    together = ep.fit(pair, *data, progress=False)
    apart = ep.fit(Pair(model, ChainNormal(model)), *data, progress=False)
    judged = importance.log_evidence(pair, *data, num_samples=400, compile=False, seed=1)
    assert together.final.value < judged.total + 4.5 * (judged.total_std_error + together.final.std_error)
    assert judged.total - together.final.value < 0.1 < 0.3 < judged.total - apart.final.value
    assert together.estimate is not None
    assert together.estimate.log_evidence == pytest.approx(judged.total, abs=0.05)
    # Whoever races against the same players is known through them.
    found = pair.guide.posterior(*data)[1].covariance_matrix.detach()  # type: ignore[attr-defined]
    assert bool((found > 0).all())


def test_beyond_dense_matrices_copies_and_padding_are_told_of_the_guides_own_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Teams of one and two, the second player's entry 0 where there is none; some games are there twice."""
    states = [[0, 1, 2], [3, 4, 2], [0, 3, 1], [0, 1, 2], [2, 4, 0], [0, 1, 2]]
    weights = [[1, -1, -1], [1, -1, 0], [1, 1, -1], [1, -1, -1], [1, -1, 0], [1, -1, -1]]
    outcome = torch.tensor([1, 0, 1, 1, 1, 0], dtype=torch.float64)
    model = Closed(static(5), states, weights)
    monkeypatch.setattr(propagation_factors, "MOST_DENSE", 3)
    together = ep.fit(Pair(model, JointNormal(model)), outcome, progress=False)
    monkeypatch.setattr(propagation_factors, "blocks_of", lambda links: None)
    pair = Pair(model, JointNormal(model))
    fitted = ep.fit(pair, outcome, progress=False)
    monkeypatch.undo()
    best = natural.fit(Pair(model, JointNormal(model)), outcome, progress=False)
    dense = ep.fit(Pair(model, JointNormal(model)), outcome, progress=False)
    assert together.estimate is not None
    assert dense.estimate is not None
    assert together.estimate.log_evidence == pytest.approx(dense.estimate.log_evidence, abs=1e-9)
    assert together.final.value == pytest.approx(dense.final.value, abs=1e-7)
    assert fitted.final.value == pytest.approx(best.final.value, abs=0.01)
    assert fitted.final.value < best.final.value + 1e-4


def test_rankings_of_more_states_than_dense_matrices_take_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chains, states, outcome, _ = history()
    data = torch.tensor(outcome).double()
    monkeypatch.setattr(propagation_guides, "MOST_DENSE", 3)  # and no blocks, as there are for few states
    model = Ranked(chains, states)
    with pytest.raises(InputError, match="is dense, and takes at most 3; take a ChainNormal"):
        ep.fit(Pair(model, JointNormal(model)), data, progress=False)
