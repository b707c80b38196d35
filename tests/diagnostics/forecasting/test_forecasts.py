"""Scores of forecasts against scikit-learn's, closed forms and simulation."""

from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.forecasting.forecasts import (
    Forecasts,
    base_rates,
    check_later,
    pairs_of_rankings,
    uniform_rates,
    walk_forward,
)
from ppl_vae.diagnostics.forecasting.scoring import ForecastScores, log_losses, score_forecasts

SCORES = ("log loss", "Brier", "accuracy", "calibration error")


def drawn(events: int, classes: int, seed: int = 0) -> Forecasts:
    """Forecasts that are right: outcomes are drawn from them."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(classes, 2.0), size=events)
    outcome = (chances.cumsum(1) < rng.random(events)[:, None]).sum(1)
    return Forecasts.of(chances, np.minimum(outcome, classes - 1))


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_those_of_scikit_learn(classes: int) -> None:
    forecasts = drawn(400, classes)
    found = score_forecasts(forecasts, num_bootstrap=20)
    p, y = forecasts.probability, forecasts.outcome
    assert found["log loss"] == pytest.approx(log_loss(y, p, labels=range(classes)), abs=1e-12)
    each = [brier_score_loss(y == k, p[:, k]) for k in range(classes)]
    assert found["Brier"] == pytest.approx(sum(each), abs=1e-12)
    assert found["accuracy"] == pytest.approx((p.argmax(1) == y).mean(), abs=1e-12)


@pytest.mark.parametrize("bins", ["uniform", "quantile"])
def test_the_calibration_curve_is_that_of_scikit_learn(bins: str) -> None:
    forecasts = drawn(500, 3)
    found = score_forecasts(forecasts, bins=bins, num_bootstrap=20)
    flat = forecasts.happened.ravel(), forecasts.probability.ravel()
    observed, forecast = calibration_curve(*flat, n_bins=10, strategy=bins)
    np.testing.assert_allclose(found.curve["observed"], observed, atol=1e-12)
    np.testing.assert_allclose(found.curve["forecast"], forecast, atol=1e-12)
    weights = found.curve["count"] / found.curve["count"].sum()
    assert found["calibration error"] == pytest.approx((weights * np.abs(observed - forecast)).sum())


def test_scores_of_base_rates_are_their_entropy() -> None:
    """Forecasting the frequencies has the log loss H(f), and the Brier score 1 − Σ f²."""
    outcome = np.repeat([0, 1, 2], [50, 20, 30])
    rates = np.array([0.5, 0.2, 0.3])
    found = score_forecasts(Forecasts.of(np.tile(rates, (100, 1)), outcome), base=rates, num_bootstrap=20)
    assert found["log loss"] == pytest.approx(-(rates * np.log(rates)).sum())
    assert found["Brier"] == pytest.approx(1 - np.square(rates).sum())
    assert found["calibration error"] == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(found.table.loc[list(SCORES[:3]), "better"], 0.0, atol=1e-12)


def test_nothing_beats_the_truth() -> None:
    """Both scores are proper: forecasts that were moved away from the truth are worse."""
    forecasts = drawn(20_000, 3)
    moved = forecasts.probability**1.5
    moved /= moved.sum(1, keepdims=True)
    found = score_forecasts(forecasts, base=moved, num_bootstrap=20).table
    for score in ("log loss", "Brier"):
        assert found.loc[score, "better"] > 3 * found.loc[score, "better_std_error"]


def test_errors_are_between_clusters() -> None:
    """An event that is seen four times over tells no more than once."""
    forecasts = drawn(300, 3)
    once = score_forecasts(forecasts, num_bootstrap=20)
    four = np.repeat(np.arange(300), 4)
    again = Forecasts.of(forecasts.probability[four], forecasts.outcome[four], cluster=four)
    told = score_forecasts(again, num_bootstrap=20)
    losses = log_losses(forecasts)
    assert once.table.loc["log loss", "std_error"] == pytest.approx(losses.std(ddof=1) / 300**0.5)
    for score in SCORES[:3]:
        assert told.table.loc[score, "std_error"] == pytest.approx(once.table.loc[score, "std_error"])
    np.testing.assert_allclose(
        told.table.loc["calibration error"].dropna(), once.table.loc["calibration error"].dropna()
    )


def test_right_forecasts_err_as_foretold(oracles: ModuleType) -> None:
    """The calibration errors of many sets of right forecasts have the mean that each of them foretells."""
    found = [score_forecasts(drawn(200, 2, seed), num_bootstrap=100, seed=seed) for seed in range(200)]
    excess = np.array([each["calibration error"] - each.right_error for each in found])
    assert abs(excess.mean()) < oracles.z_limit() * excess.std(ddof=1) / len(excess) ** 0.5
    beyond = np.mean([each["calibration error"] > each.right_error_high for each in found])
    # One in twenty, and what 100 replicates leave open of the limit.
    assert abs(beyond - 0.05) < oracles.z_limit() * (0.05 * 0.95 * (1 / 200 + 1 / 100)) ** 0.5


def test_the_bootstraps_band_is_that_of_a_frequency(oracles: ModuleType) -> None:
    """Of one probability, the band is the binomial's, and the error |p − f| folded."""
    outcome = np.repeat([0, 1], [120, 280])
    forecasts = Forecasts.of(np.full(400, 0.25), outcome)
    found = score_forecasts(forecasts, num_bootstrap=2000)
    row = found.curve.iloc[0]
    sd = (0.3 * 0.7 / 400) ** 0.5
    # A quantile's own error at 5 % is √(.05 · .95 / n) over the density there, .103 / sd.
    tolerance = oracles.z_limit(4) * (0.05 * 0.95 / 2000) ** 0.5 * sd / 0.103 + 1 / 400
    assert row["low"] == pytest.approx(0.3 - 1.645 * sd, abs=tolerance)
    assert row["high"] == pytest.approx(0.3 + 1.645 * sd, abs=tolerance)
    right = (0.25 * 0.75 / 400) ** 0.5
    assert row["right_high"] == pytest.approx(0.25 + 1.645 * right, abs=tolerance)
    assert "more than" in found.sentence()


def test_races_have_as_many_outcomes_as_starters() -> None:
    sizes = np.array([3, 2, 4])
    chances = uniform_rates(sizes)
    forecasts = Forecasts.of(chances, [2, 0, 1], size=sizes)
    found = score_forecasts(forecasts, base=chances, num_bootstrap=20)
    assert found["log loss"] == pytest.approx(np.log(sizes).mean())
    assert found["accuracy"] == pytest.approx((1 / sizes).mean())
    assert found.curve["count"].sum() == sizes.sum()


def test_pairs_of_a_ranking_leave_ties_out() -> None:
    event, first, second = pairs_of_rankings([[1, 0, 1], [0, 1, np.nan]])
    assert [*zip(event.tolist(), first.tolist(), second.tolist(), strict=True)] == [
        (0, 1, 0), (0, 1, 2), (1, 0, 1),
    ]  # fmt: skip


def test_walking_forward_learns_a_day_after_it_was_forecast() -> None:
    """Every event is forecast by how often the first outcome happened on earlier days."""
    time, outcome = np.array([2.0, 1.0, 2.0, 3.0]), np.array([0, 1, 1, 0])
    known: list[int] = []

    def forecast(events: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.full((len(events), 2), [len(known), 0.5])

    found = walk_forward(time, forecast, lambda events: known.extend(outcome[events].tolist()))
    np.testing.assert_array_equal(found[:, 0], [1, 0, 1, 3])
    assert known == [1, 0, 1, 0]


def test_base_rates_of_sides_without_order_are_alike() -> None:
    won = np.repeat([0, 1], [90, 10])
    np.testing.assert_allclose(base_rates(won, 3, exchangeable=True).sum(), 1.0)
    assert base_rates(won, 3, exchangeable=True)[0] == base_rates(won, 3, exchangeable=True)[2]
    assert base_rates(won, 3)[2] == pytest.approx(1 / 3 / 101)


def test_scores_are_kept(tmp_path) -> None:
    found = score_forecasts(drawn(50, 3), num_bootstrap=20, mode="walk-forward")
    found.save(tmp_path / "scores.nc")
    again = ForecastScores.load(tmp_path / "scores.nc")
    np.testing.assert_array_equal(again.table.to_numpy(), found.table.to_numpy())
    np.testing.assert_array_equal(again.curve.to_numpy(), found.curve.to_numpy())
    assert (again.mode, again["log loss"]) == ("walk-forward", found["log loss"])


def test_what_was_held_impossible_and_happened_is_said() -> None:
    found = score_forecasts(Forecasts.of([1.0, 0.5], [1, 0]), num_bootstrap=20)
    assert found["log loss"] == np.inf
    assert "1 event had an outcome whose probability was 0" in found.notes[0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda: Forecasts.of([[0.5, 0.6]], [0]), "the forecast of event 0 is"),
        (lambda: Forecasts.of([[0.5, 0.5], [np.nan, 1]], [0, 0]), "the forecast of event 1 is"),
        (lambda: Forecasts.of([[0.5, 0.5]], [2]), "event 0 had outcome 2; it has 2"),
        (lambda: Forecasts.of([[0.5, 0.5]], [0], size=[1]), "event 0 has 1 outcomes, and a probability"),
        (lambda: Forecasts.of(np.zeros((0, 2)), []), "of one event at least"),
        (lambda: score_forecasts(drawn(5, 3), base=[0.5, 0.5]), "base rates have shape"),
        (lambda: score_forecasts(drawn(5, 3), num_bins=1), "num_bins is 1"),
        (lambda: base_rates([0, 3], 3), "outcomes are 0 to 2"),
        (lambda: check_later(3.0, 5.0), "games from 3.0 on cannot be scored"),
        (lambda: walk_forward([np.nan], lambda e: e, lambda e: None), "a time each"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(asked, said: str) -> None:
    with pytest.raises(InputError, match=said):
        asked()
    check_later(5.0, 5.0)
