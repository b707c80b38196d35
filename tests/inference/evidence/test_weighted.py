"""log p(x) of weighted likelihoods: of whole weights that of repeated data; else by quadrature."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro import poutine
from scipy import integrate, special, stats
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.data.games import Games
from ppl_vae.diagnostics import sbc
from ppl_vae.diagnostics.prediction.predictive import predictive_check
from ppl_vae.guides import Prior
from ppl_vae.inference import annealing, bounds, bridge, exact, guide, importance, natural
from ppl_vae.models import Skills
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from tests.models.skills.seasons import games_of, season

MARGIN, SD = 0.4, 1.3
# Wins, a draw and a loss of A against B, and how often each counts.
PLACES, WEIGHTS = ((0, 1), (0, 0), (1, 0)), (2.0, 1.0, 3.0)
CHANCES = (
    lambda d: special.ndtr((d - MARGIN) / 2**0.5),
    lambda d: special.ndtr((d + MARGIN) / 2**0.5) - special.ndtr((d - MARGIN) / 2**0.5),
    lambda d: special.ndtr((-d - MARGIN) / 2**0.5),
)


def duels(weights: Any) -> Games:
    return games_of([(("A", "B"), places) for places in PLACES], game_weight=np.array(weights, dtype=float))


def repeated(games: Games) -> Games:
    times = games.game_weight.astype(int)
    return replace(games, game_weight=None).take(np.repeat(np.arange(games.num_games), times))


def made(games: Games, **options: Any) -> tuple[Pair, tuple[Tensor, ...]]:
    model = Skills.from_data(games, skill_sd=SD, **options)
    data = model.arguments_of(games)
    return Pair(model, model.guides["sparse-precision"](model, *data)), data


def joint(d: Any, weights: Any) -> Any:
    """N(d; 0, 2σ²) Π p(outcome_g | d)^w_g."""
    powers = [f(d) ** w for f, w in zip(CHANCES, weights, strict=True)]
    return stats.norm.pdf(d, 0, 2**0.5 * SD) * np.prod(powers, axis=0)


def posterior(weights: Any, num_draws: int) -> Posterior:
    """Draws of both skills: their difference by its density on a grid, their mean by its prior."""
    generator = np.random.default_rng(3)
    grid = np.linspace(-10, 10, 20001)
    density = joint(grid, weights)
    d = generator.choice(grid, num_draws, p=density / density.sum())
    mean = generator.normal(0, SD / 2**0.5, num_draws)
    skill = np.stack([mean + d / 2, mean - d / 2], -1)[None]
    return Posterior(xr.Dataset({"skill": (("chain", "draw", "state"), skill)}), "made", "independent")


def test_weighted_games_have_the_log_densities_of_repeated_ones() -> None:
    """In every term: in one that counts beyond the first few games, too, which are all that is looked at."""
    games = season(30, 5, dates=3, seed=2)
    games = replace(games, game_weight=np.array([1.0] * 20 + [2.0, 3.0] * 5))
    pair, data = made(games, draws=True, margin=MARGIN, drift="1", drift_sd=0.3)
    problem = Problem.of(pair, *data)
    assert (problem.layout.weighted, problem.layout.tempered) == (("outcome",), ())
    torch.manual_seed(0)
    found = problem.terms(5)
    again = repeated(games)
    each = Problem.of(pair, *pair.model.arguments_of(again)).terms(5, latents=found.draws)
    torch.testing.assert_close(found.log_p, each.log_p, rtol=1e-12, atol=0.0)


def test_every_method_gives_what_quadrature_gives(oracles: ModuleType) -> None:
    weights = (0.3, 1.7, 0.5)
    pair, data = made(duels(weights), draws=True, margin=MARGIN)
    fit = natural.fit(pair, *data, progress=False)
    truth = float(np.log(integrate.quad(joint, -15, 15, args=(weights,), epsabs=1e-13)[0]))
    assert truth - 0.2 < fit.final.value < truth
    answers = [
        importance.log_evidence(pair, *data, num_samples=1000, compile=False, progress=False),
        annealing.log_evidence(
            pair, *data, num_temperatures=10, num_chains=64, compile=False, progress=False
        ),
        bridge.log_evidence(pair, posterior(weights, 1000), *data, progress=False),
    ]
    for found in answers:
        assert found.total_std_error < 0.05
        assert abs(found.total - truth) < oracles.z_limit(len(answers)) * found.total_std_error
        assert any("weighted likelihood" in note for note in found.notes)
    bound = bounds.iwae(pair, *data, num_particles=10, num_repeats=50, compile=False, progress=False)
    assert bound.total < truth + oracles.z_limit(1) * bound.total_std_error
    assert guide.draws(pair, *data, num_draws=10).log_weights is not None


def test_the_exact_evidence_of_scores_is_that_of_repeated_games() -> None:
    games = season(12, 4, scores="real", dates=3)
    games = replace(games, game_weight=np.tile([1.0, 2.0, 3.0], 4))
    options = {"outcome": "score", "performance_sd": 0.7, "drift": "1", "drift_sd": 0.4}
    weighted, each = (
        exact.log_evidence(pair.model, *data)
        for pair, data in (made(one, **options) for one in (games, repeated(games)))
    )
    assert weighted.total == pytest.approx(each.total, abs=1e-9)
    assert (len(weighted.notes), len(each.notes)) == (1, 0)


def test_no_data_are_simulated_where_games_count_by_weights() -> None:
    pair, data = made(duels(WEIGHTS), draws=True, margin=MARGIN)
    for ask in (lambda: sbc(pair, *data, num_simulations=50, progress=False),
                lambda: annealing.bidirectional(pair, *data, progress=False)):  # fmt: skip
        with pytest.raises(InputError, match=r"cannot be simulated .* outcome counts by its weights"):
            ask()
    assert any("counts by its weights" in note for note in predictive_check(pair, *data).notes)


# A user's program --------------------------------------------------------------------------------


def program(x: Tensor, w: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
    with pyro.plate("data", len(x)) as i, poutine.scale(scale=w[i]):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x[i])


def test_a_users_program_may_weight_what_it_observes(oracles: ModuleType) -> None:
    x = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    w = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    found = importance.log_evidence(
        Pair(program, Prior(program)), x, w, num_samples=4000, compile=False, progress=False
    )
    each = x.repeat_interleave(w.long()).numpy()
    truth = stats.multivariate_normal(cov=np.eye(len(each)) + 1).logpdf(each)
    assert abs(found.total - truth) < oracles.z_limit(1) * found.total_std_error


def test_what_is_drawn_anew_at_each_run_is_no_weight() -> None:
    """A minibatch by hand: its log p(x) would be another at each call, and the mean weight wrong."""

    def part(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=len(x) / 5), pyro.plate("data", 5):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x[torch.randperm(len(x))[:5]])

    with pytest.raises(InputError, match="takes other values for x each time"):
        importance.log_evidence(Pair(part, Prior(part)), torch.linspace(-1, 1, 20), progress=False)


def test_commands_say_that_games_count_by_weights(run: Any, tmp_path: Path) -> None:
    """From the table to the page; and races are told which methods take them."""
    games = season(20, 4, seed=1)
    replace(games, game_weight=np.tile([1.0, 2.0], 10)).to_csv(tmp_path / "games.csv")
    asked = ("--draws", "--guide", "sparse-precision", "--method", "natural", "--quiet")
    assert run("fit", "skills", tmp_path / "games.csv", *asked, "--out", tmp_path / "run")[0] == 0
    code, out, err = run("evidence", tmp_path / "run", "--samples", 200, "--quiet")
    assert code == 0, err
    assert "outcome counts by its weights" in " ".join(out.split())
    assert run("report", tmp_path / "run")[0] == 0
    assert "Outcome counts by its weights" in (tmp_path / "run" / "report.html").read_text()
    code, _, err = run("evidence", tmp_path / "run", "--method", "bdmc", "--quiet")
    assert code == 2
    assert "data cannot be simulated" in err
    games_of([(("A", "B", "C"), (0, 1, 2)), (("C", "B", "A"), (0, 1, 2))]).to_csv(tmp_path / "races.csv")
    races = ("fit", "skills", tmp_path / "races.csv", "--method", "natural", "--out", tmp_path / "other")
    code, _, err = run(*races)
    assert code == 2
    assert "skills has whole games and no linear factors of these data" in " ".join(err.split())
    assert "take method='ep' or method='svi'" in " ".join(err.split())
