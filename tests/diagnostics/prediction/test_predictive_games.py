"""Predictive checks of images and of games."""

from types import ModuleType

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal
from scipy import stats
from sklearn import datasets
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.prediction.predictive import predictive_check
from ppl_vae.guides import Prior
from ppl_vae.models import VAE, TrueSkill
from ppl_vae.models.skills.duel_statistics import duel_statistics
from ppl_vae.program.pair import Pair
from tests.diagnostics.prediction.test_predictive import agrees, mid_p, row_of

# Images ------------------------------------------------------------------------------------------


def test_pixels_that_the_decoder_makes_independent(oracles: ModuleType) -> None:
    """A decoder of biases alone: numbers of ones are binomial, and correlations are missing."""
    x = torch.as_tensor(datasets.load_digits().data[:300] > 8, dtype=torch.float32)
    x = x[:, x.mean(0) > 0.05]
    model = VAE(x.shape[1], 2, hidden=(4,))
    chance = x.mean(0) * 0.9 + 0.05
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        model.decoder[-1].bias.copy_(chance.logit())
    draws = 400
    found = predictive_check(Pair(model, model.encoder_guide()), x, num_draws=draws)
    assert found.kind == "binary"
    for k in range(x.shape[1]):
        row = row_of(found, f"share of ones in feature {k + 1}")
        truth = stats.binom(300, float(chance[k]))
        number = int(x[:, k].sum())
        exact_p = mid_p(truth.sf(number) + 0.5 * truth.pmf(number))
        error = oracles.z_limit(x.shape[1]) * row["p_std_error"]
        assert abs(row["p_value"] - exact_p) < error + 1 / draws
    assert "mean |correlation|" in set(found.failing["statistic"])
    row = row_of(found, "sd of the ones in a row")
    assert row["observed"] == pytest.approx(float(x.sum(1).std()), rel=1e-6)
    # s² is unbiased, and s below σ by a relative 1/(4n) about.
    sigma = float((chance * (1 - chance)).sum().sqrt())
    error = oracles.z_limit() * row["replicated_sd"] / np.sqrt(draws)
    assert abs(row["replicated_mean"] - sigma * (1 - 1 / 1200)) < error
    profile = found.profiles["x"]
    np.testing.assert_allclose(profile["observed"], x.mean(0), atol=1e-6)
    assert float(profile["frequency"].sum()) == 300


# Games -------------------------------------------------------------------------------------------


def test_games_keep_their_pairings_and_draw_their_winners(oracles: ModuleType) -> None:
    games = oracles.won([[0, 1]] * 30 + [[1, 0]] * 10 + [[2, 0]] * 20)
    model = TrueSkill(3, link="logistic", players=("a", "b", "c"))
    skill = np.broadcast_to([0.5, -0.2, 0.3], (1, 4000, 3))
    given = Posterior(xr.Dataset({"skill": (("chain", "draw", "player"), skill)}), "exact", "independent")
    pair = Pair(model, AutoNormal(model))
    found = predictive_check(pair, *games, posterior=given, num_draws=4000)
    assert found.kind == "own"
    first, second = stats.binom(40, 1 / (1 + np.exp(-0.7))), stats.binom(20, 1 / (1 + np.exp(-0.2)))
    mean, sd = first.mean() + second.mean(), np.sqrt(first.var() + second.var())
    row = row_of(found, "wins of a")
    assert row["observed"] == 30
    assert abs(row["replicated_mean"] - mean) < oracles.z_limit() * sd / np.sqrt(4000)
    pmf = np.convolve(first.pmf(np.arange(41)), second.pmf(np.arange(21)))
    agrees(row, mid_p(pmf[31:].sum() + 0.5 * pmf[30]), oracles, 4000)
    total = sum(
        found.values(found.table[found.table["statistic"] == f"wins of {who}"].iloc[0]) for who in "abc"
    )
    assert (total == 60).all()
    assert list(found.profiles["win"]["feature"].to_numpy()) == ["a", "b", "c"]


def test_a_plain_program_that_observes_a_constant_is_told_to_observe_an_argument() -> None:
    def model(games: Tensor) -> None:
        with pyro.plate("player", 3):
            skill = pyro.sample("skill", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("game", len(games)) as i:
            winner, loser = games[i].unbind(-1)
            logits = skill[..., winner] - skill[..., loser]
            pyro.sample("win", dist.Bernoulli(logits=logits), obs=torch.ones(()))

    with pytest.raises(InputError, match=r"written into the model: .* observe an argument"):
        predictive_check(Pair(model, Prior(model)), torch.tensor([[0, 1], [1, 2]] * 15))


def test_results_that_no_ranking_explains_are_one_sided(oracles: ModuleType) -> None:
    """Seven players of whom each always beats the next three: all are equally good."""
    games = oracles.won([[i, (i + k) % 7] for i in range(7) for k in (1, 2, 3)] * 6)
    model = TrueSkill(7, link="logistic")
    found = predictive_check(Pair(model, Prior(model)), *games)
    row = row_of(found, "one-sided pairings")
    assert row["observed"] == 1
    assert "one-sided pairings" in set(found.failing["statistic"])
    # Kendall's maximum for an odd number n of players, (n³ − n)/24.
    assert row_of(found, "cyclic triads")["observed"] == 14
    assert row_of(found, "upsets")["observed"] == 0.5


def test_a_transitive_league_has_no_cycle_and_no_upset() -> None:
    pairs = torch.tensor([[i, j] for i in range(5) for j in range(i + 1, 5)])
    found = duel_statistics(torch.ones(1, len(pairs)), pairs, list("abcde"))
    assert {name: float(found[name]) for name in ("cyclic triads", "upsets", "wins of a", "wins of e")} == {
        "cyclic triads": 0.0, "upsets": 0.0, "wins of a": 4.0, "wins of e": 0.0,
    }  # fmt: skip


def test_draws_are_half_a_point_and_no_win() -> None:
    """a beats b and draws with c, b beats c: points 1.5, 1 and .5 of two games each."""
    players = torch.tensor([[0, 1], [0, 2], [2, 1]])
    found = duel_statistics(torch.tensor([[1.0, 0.5, 0.0]]), players, "abc", draws=True)
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx({
        "upsets": 0.5 / 3, "share of draws": 1 / 3, "sd of win shares": 0.25, "cyclic triads": 0.0,
        "wins of a": 1.0, "wins of b": 1.0, "wins of c": 0.0,
    })  # fmt: skip
