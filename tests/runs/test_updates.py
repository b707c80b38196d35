"""Runs of games updated with later ones, against fits of all games from nothing."""

import numpy as np
import pandas as pd
import pytest

import ppl_vae
from ppl_vae.base.errors import InputError

NAMES = ("Ash", "Birch", "Cedar", "Elm", "Fir")
DUELS = {"draws": True, "home": True, "drift": "1y", "drift_sd": 0.5, "skill_sd": 1.0, "margin": 0.3}
RACES = {"drift": "1y", "drift_sd": 0.5, "skill_sd": 1.0}


def duels(first: str, count: int, seed: int, *extra: str) -> pd.DataFrame:
    """A game a week between two of the names at random."""
    rng = np.random.default_rng(seed)
    sides = np.array([rng.permutation((*NAMES, *extra))[:2] for _ in range(count)])
    return pd.DataFrame(
        {
            "date": pd.date_range(first, periods=count, freq="W").strftime("%Y-%m-%d"), "home": sides[:, 0],
            "away": sides[:, 1], "result": rng.choice(["1", "D", "2"], count),
        }
    )  # fmt: skip


def races(first: str, count: int, seed: int, *extra: str) -> pd.DataFrame:
    """A race a week of three or four of the names, a line a player; the last two share a place at times."""
    rng, lines = np.random.default_rng(seed), []
    for number, date in enumerate(pd.date_range(first, periods=count, freq="W").strftime("%Y-%m-%d")):
        size = int(rng.integers(3, 5))
        for place, name in enumerate(rng.permutation((*NAMES, *extra))[:size]):
            lines.append((f"{first} {number}", date, name, place + 1))
    return pd.DataFrame(lines, columns=["game", "date", "player", "place"])


def states(run: ppl_vae.FittedRun) -> pd.DataFrame:
    return run.curves().set_index(["player", "date"])[["mean", "sd"]].sort_index()


def assert_as_at_once(found: ppl_vae.FittedRun, whole: ppl_vae.FittedRun, atol: float) -> None:
    mine, others = states(found), states(whole)
    assert mine.index.equals(others.index)
    off = (mine["mean"] - others["mean"]).abs() / others["sd"]
    assert off.max() <= atol
    assert (mine["sd"] / others["sd"] - 1).abs().max() <= atol


@pytest.mark.parametrize("guide", ["markov", "mean-field", "full-rank", "sparse-precision"])
def test_duels_by_natural_gradients(guide: str) -> None:
    """Two updates one after another, with a new player, and one more on the last day."""
    before, later = duels("2023-01-02", 25, 0), duels("2023-07-02", 5, 1, "Yew")
    last = later.tail(1).assign(home="Ash", away="Oak")
    run = ppl_vae.fit("skills", before, guide=guide, method="natural", progress=False, **DUELS)
    first = states(run)
    # The folder is temporary, and lasts as long as the last run that is kept in it.
    run = run.update(later)
    found = run.update(last)
    del run
    assert found.fit.converged
    assert found.fit.method == "natural gradients"
    assert [line.split(" game")[0] for line in found.run.source.history] == [
        f"the table read as {count}" for count in (25, 5, 1)
    ]
    every = pd.concat([before, later, last], ignore_index=True)
    whole = ppl_vae.fit("skills", every, guide=guide, method="natural", progress=False, **DUELS)
    assert_as_at_once(found, whole, 2e-3)
    assert found.fit.final.value == pytest.approx(whole.fit.final.value, abs=1e-3)
    # Levels that were known are known otherwise, of those who did not play again as well.
    assert (states(found)["mean"] - first["mean"]).abs().max() > 0.05


@pytest.mark.parametrize("guide", ["markov", "mean-field"])
def test_races_by_expectation_propagation(guide: str) -> None:
    """Whole rankings: the fixed point of all games, found from what the run's guide holds."""
    numbers = RACES if guide == "markov" else {"skill_sd": 1.0}
    before, later = races("2023-01-02", 5, 0), races("2023-07-02", 2, 1, "Yew")
    run = ppl_vae.fit("skills", before, guide=guide, method="ep", progress=False, **numbers)
    found = run.update(later)
    every = pd.concat([before, later], ignore_index=True)
    whole = ppl_vae.fit("skills", every, guide=guide, method="ep", progress=False, **numbers)
    assert found.fit.converged
    assert found.fit.method == "expectation propagation"
    assert found.fit.estimate is not None
    assert whole.fit.estimate is not None
    assert found.fit.estimate.log_evidence == pytest.approx(whole.fit.estimate.log_evidence, abs=1e-6)
    mine, others = (each.leaderboard().table.sort_index()[["mean", "sd"]] for each in (found, whole))
    np.testing.assert_allclose(mine, others, atol=1e-6)
    assert found.fit.steps < whole.fit.steps


def test_duels_by_expectation_propagation_stay_so() -> None:
    """Its fixed point is another than the best ELBO's."""
    before, later = duels("2023-01-02", 25, 0), duels("2023-07-02", 5, 1)
    run = ppl_vae.fit("skills", before, guide="markov", method="ep", progress=False, **DUELS)
    found = run.update(later)
    every = pd.concat([before, later], ignore_index=True)
    whole = ppl_vae.fit("skills", every, guide="markov", method="ep", progress=False, **DUELS)
    assert_as_at_once(found, whole, 1e-6)


def svi(num_steps: int) -> dict[str, object]:
    return {"num_steps": num_steps, "num_particles": 4, "lr": 0.03, "compile": False, "stop": False}


def test_races_by_svi_go_on_from_where_they_are() -> None:
    """By the run's own steps, and it says that these are random."""
    run = ppl_vae.fit("skills", races("2023-01-02", 3, 0), guide="markov", progress=False, **RACES, **svi(2))
    found = run.update(races("2023-04-02", 2, 1, "Yew"))
    assert found.fit.method == "SVI"
    assert found.fit.steps == 2
    assert "Monte Carlo error" in found.fit.reason


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["markov", "mean-field"])
def test_races_by_svi_end_where_fits_do(guide: str) -> None:
    """As good as a fit of all games by as many steps, within the Monte Carlo error of both ELBOs."""
    before, later = races("2023-01-02", 12, 0), races("2023-04-02", 3, 1, "Yew")
    run = ppl_vae.fit("skills", before, guide=guide, progress=False, **RACES, **svi(300))
    found, every = run.update(later), pd.concat([before, later], ignore_index=True)
    whole = ppl_vae.fit("skills", every, guide=guide, progress=False, **RACES, **svi(300))
    error = np.hypot(found.fit.final.std_error, whole.fit.final.std_error)
    # A fit that began where the other ended may only be nearer to the best.
    assert found.fit.final.value >= whole.fit.final.value - 4 * error


def test_another_guide_is_refused() -> None:
    run = ppl_vae.fit(
        "skills", duels("2023-01-02", 10, 0), guide="low-rank:2", num_steps=5, progress=False, draws=True
    )
    with pytest.raises(InputError, match="this run has AutoLowRankMultivariateNormal; fit it to all games"):
        run.update(duels("2023-07-02", 5, 1))
