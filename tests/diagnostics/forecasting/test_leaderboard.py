"""Leaderboards against closed forms of normal levels."""

from types import ModuleType

import numpy as np
import pytest
from scipy import special

from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.forecasting import leaderboard as module
from ppl_vae.diagnostics.forecasting.leaderboard import Leaderboard, leaderboard, ranks

NAMES = ("Ann", "Bob", "Cid", "Dee")


def drawn(correlation: float, draws: int = 20_000) -> Leaderboard:
    mean, sd = np.array([1.0, 0.4, 0.4, -2.0]), np.array([1.0, 0.2, 1.0, 0.5])
    covariance = np.outer(sd, sd) * (correlation + (1 - correlation) * np.eye(4))
    values = np.random.default_rng(0).multivariate_normal(mean, covariance, size=draws)
    return leaderboard(NAMES, mean, sd, values, date="2024-05-01")


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_who_is_above_whom_is_the_normals(correlation: float, oracles: ModuleType) -> None:
    found = drawn(correlation)
    above = found.above(["Ann", "Bob"])
    expected = special.ndtr(0.6 / np.sqrt(1.0 + 0.04 - 2 * correlation * 0.2))
    error = oracles.z_limit() * np.sqrt(expected * (1 - expected) / len(found.draws))
    assert above.loc["Ann", "Bob"] == pytest.approx(expected, abs=error)
    assert above.loc["Ann", "Bob"] + above.loc["Bob", "Ann"] == pytest.approx(1.0)


def test_the_order_is_that_of_the_conservative_level() -> None:
    """Bob is known better than Ann, whose mean is higher; ranks go by the draws."""
    found = drawn(0.0)
    assert [*found.table.index] == ["Bob", "Ann", "Cid", "Dee"]
    assert found.table.loc["Bob", "conservative"] == pytest.approx(0.4 - 0.6)
    assert found.table.loc["Ann", "high"] == pytest.approx(1 + 1.645, abs=1e-3)
    assert found.table["p_first"].sum() == pytest.approx(1.0)
    assert found.table.loc["Ann", "rank_low"] == 1
    # Its level stays below the others' in nine draws of ten.
    assert found.table.loc["Dee", "rank_median"] == 4
    assert found.open_neighbours == 2


def test_equals_have_equal_ranks(oracles: ModuleType) -> None:
    """Of ten independent equals each is first once in ten draws, and each rank is as likely."""
    draws = np.random.default_rng(1).normal(size=(4000, 10))
    found = leaderboard([f"p{k}" for k in range(10)], np.zeros(10), np.ones(10), draws)
    limit = oracles.z_limit(10) * np.sqrt(0.1 * 0.9 / 4000)
    assert np.abs(found.table["p_first"] - 0.1).max() < limit
    assert (found.table[["rank_low", "rank_high"]].to_numpy() == [1, 10]).all()


def test_ranks_are_a_permutation() -> None:
    assert ranks(np.array([[0.3, 2.0, -1.0], [5.0, 1.0, 3.0]])).tolist() == [[2, 1, 3], [1, 3, 2]]


def test_blocks_change_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(2).normal(size=(300, 7))
    names, zero, one = [f"p{k}" for k in range(7)], np.zeros(7), np.ones(7)
    whole = leaderboard(names, zero, one, draws)
    place = ranks(draws)
    monkeypatch.setattr(module, "BLOCK", 500)
    blocks = leaderboard(names, zero, one, draws)
    assert blocks.table.equals(whole.table)
    np.testing.assert_array_equal(whole.table["p_first"], (place == 1).mean(0))
    np.testing.assert_array_equal(
        whole.table["rank_high"], np.quantile(place, 0.95, axis=0, method="inverted_cdf")
    )


def test_it_is_kept(tmp_path) -> None:
    found = drawn(0.0, draws=50)
    found.save(tmp_path / "board.nc")
    again = Leaderboard.load(tmp_path / "board.nc")
    assert [*again.table.index] == [*found.table.index]
    np.testing.assert_array_equal(again.draws, found.draws)
    assert (again.date, again.table.index.name) == ("2024-05-01", "player")


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="Eve: no player of that name"):
        drawn(0.0, 10).above(["Ann", "Eve"])
    with pytest.raises(InputError, match="as many means"):
        leaderboard(NAMES, np.zeros(3), np.ones(4), np.zeros((5, 4)))
    with pytest.raises(InputError, match="at least two joint draws"):
        leaderboard(NAMES, np.zeros(4), np.ones(4), np.full((5, 4), np.nan))
