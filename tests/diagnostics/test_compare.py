"""Comparisons whose right answer is known: Gaussians of known mean and spread."""

import math
from types import ModuleType

import numpy as np
import pytest
import xarray as xr

from ppl_vae.diagnostics import compare, judge_reference
from ppl_vae.errors import InputError
from ppl_vae.posterior import Posterior

SIZE = 4000


def _posterior(
    values: np.ndarray, method: str = "nuts", dependence: str = "chains", **options: object
) -> Posterior:
    """Draws of shape (chain, draw, item) of one variable."""
    draws = xr.Dataset({"theta": (("chain", "draw", "item"), values)}, coords={"item": ["a", "b"]})
    return Posterior(draws, method, dependence, **options)


def _gaussian(mean: float, sd: float, seed: int, *, chains: int = 4, **options: object) -> Posterior:
    values = np.random.default_rng(seed).normal(mean, sd, (chains, SIZE // chains, 2))
    return _posterior(values, **options)


@pytest.fixture
def reference() -> Posterior:
    return _gaussian(3.0, 2.0, seed=0)


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (1.0, 1.0), (-4.0, 1.0), (0.0, 0.5), (2.0, 3.0)])
def test_errors_in_mean_and_sd_are_the_ones_put_there(
    shift: float, stretch: float, reference: Posterior, oracles: ModuleType
) -> None:
    answer = _gaussian(3.0 + shift, 2.0 * stretch, seed=1, chains=1, method="guide", dependence="independent")
    found = compare({"mine": answer}, reference=reference)
    assert list(found.table["name"]) == ["theta[a]", "theta[b]"]
    limit = oracles.z_limit(4 * 5)
    for row in found.table.itertuples():
        assert abs(row.mean_error_in_sd - shift / 2) < limit * row.mean_error_mcse + abs(shift) * 0.05
        assert row.mean_error_mcse == pytest.approx(math.sqrt((1 + stretch**2) / SIZE), rel=0.1)
        relative = math.sqrt(1 / SIZE)
        assert abs(math.log(row.sd_ratio / stretch)) < limit * relative
    assert found.reference == "nuts"
    assert found.reference_ok
    assert found.verdicts == {"mine": "agrees" if (shift, stretch) == (0.0, 1.0) else "differs"}


@pytest.mark.parametrize("shift", [1.0, -3.0, 10.0])
def test_wasserstein_distance_of_shifted_gaussians_is_the_shift(
    shift: float, reference: Posterior, oracles: ModuleType
) -> None:
    answer = _gaussian(3.0 + shift, 2.0, seed=2, chains=1, method="exact", dependence="independent")
    for row in compare(answer, reference=reference).table.itertuples():
        assert abs(row.wasserstein - abs(shift)) < oracles.z_limit(6) * row.mcse
        # The sd of the difference of two means of 4000 draws.
        assert row.mcse == pytest.approx(2 * math.sqrt(2 / SIZE), rel=0.4)


def test_the_same_draws_are_at_no_distance(reference: Posterior) -> None:
    table = compare({"same": reference}, reference=reference).table
    assert (table["wasserstein"] == 0).all()
    assert (table["mean_error_in_sd"] == 0).all()
    assert (table["sd_ratio"] == 1).all()


def test_a_small_error_beyond_doubt_still_agrees_and_a_large_one_in_doubt_is_not_called_different(
    reference: Posterior,
) -> None:
    close = _gaussian(3.0 + 0.2, 2.0, seed=3, chains=1, method="guide", dependence="independent")
    assert compare(close, reference=reference).verdicts["guide"] == "agrees"
    few = np.random.default_rng(4).normal(3.0, 2.0, (1, 8, 2))
    few += 3.0 - few.mean(1) + 0.6
    doubtful = _posterior(few, "guide", "independent")
    found = compare(doubtful, reference=reference)
    assert (found.table["mean_error_in_sd"] > 0.2).all()
    assert found.verdicts["guide"] == "agrees"


def test_reasons_name_the_worst_quantity(reference: Posterior) -> None:
    values = np.random.default_rng(5).normal(3.0, 2.0, (1, SIZE, 2))
    values[..., 1] = 3.0 + 0.3 * (values[..., 1] - 3.0)
    found = compare(_posterior(values, "guide", "independent"), reference=reference)
    (reason,) = found.reasons
    assert reason.startswith("guide: 1 of 2 standard deviations are too narrow (worst: theta[b], 0.3")
    assert found.worst(1)["name"].tolist() == ["theta[b]"]


# When nothing can be said -----------------------------------------------------------------------


def test_chains_that_have_not_mixed_are_no_reference() -> None:
    values = np.random.default_rng(0).normal(size=(4, SIZE // 4, 2))
    values[0, :, 1] += 1.0
    stuck = _posterior(values)
    answer = _gaussian(100.0, 1.0, seed=1, chains=1, method="guide", dependence="independent")
    found = compare({"guide": answer}, reference=stuck)
    assert not found.reference_ok
    assert found.verdicts == {"guide": "cannot tell"}
    assert "fails R-hat < 1.01 for 1 of 2 quantities (worst: theta[b]" in found.reasons[0]


def test_few_effective_draws_are_no_reference() -> None:
    generator = np.random.default_rng(0)
    values = np.zeros((4, 1000, 2))
    for t in range(1, 1000):
        values[:, t] = 0.98 * values[:, t - 1] + generator.normal(0, math.sqrt(1 - 0.98**2), (4, 2))
    good, reasons = judge_reference(_posterior(values))
    assert not good
    assert any("fails ESS > 400" in sentence and "draw more" in sentence for sentence in reasons)
    for size, expected in ((300, False), (500, True)):
        exact = _posterior(generator.normal(size=(1, size, 2)), "exact", "independent")
        assert judge_reference(exact)[0] is expected


def test_a_reference_that_diverges_often_is_none(reference: Posterior) -> None:
    def diverging(share: float) -> bool:
        flags = np.zeros((4, SIZE // 4), dtype=bool)
        flags[0, : int(share * SIZE)] = True
        stats = xr.Dataset({"diverging": (("chain", "draw"), flags)})
        return judge_reference(_posterior(reference.draws["theta"].to_numpy(), stats=stats))[0]

    assert diverging(0.005)
    assert not diverging(0.05)


def test_more_than_eight_chains_are_judged_by_nested_r_hat() -> None:
    """64 short chains: each alone is too noisy for the usual R-hat, superchains tell."""
    from arviz_stats.base import array_stats

    values = np.random.default_rng(0).normal(size=(16, 100, 2))
    summary = _posterior(values).summary()
    nested = array_stats.rhat_nested(values[..., 0], np.arange(16) // 2)
    assert summary.loc["theta[a]", "r_hat"] == pytest.approx(float(nested))
    assert summary.loc["theta[a]", "r_hat"] != pytest.approx(
        float(array_stats.rhat(values[..., 0])), rel=1e-9
    )
    eight = _posterior(values[:8]).summary()
    assert eight.loc["theta[a]", "r_hat"] == pytest.approx(float(array_stats.rhat(values[:8, :, 0])))
    apart = values + (np.arange(16) // 2)[:, None, None]
    assert _posterior(apart).summary()["r_hat"].min() > 1.5


@pytest.mark.parametrize("method", ["guide", "exact"])
def test_r_hat_is_never_reported_for_independent_draws(method: str) -> None:
    summary = _gaussian(0.0, 1.0, seed=0, chains=1, method=method, dependence="independent").summary()
    assert "r_hat" not in summary or summary["r_hat"].isna().all()
    assert (summary["ess_bulk"] == SIZE).all()
    np.testing.assert_allclose(summary["mcse_mean"], summary["sd"] / math.sqrt(SIZE))


def test_a_constant_quantity_does_not_spoil_a_reference(reference: Posterior) -> None:
    values = reference.draws["theta"].to_numpy().copy()
    values[..., 0] = 1.0
    assert judge_reference(_posterior(values))[0]


def test_answers_without_a_common_quantity_are_refused(reference: Posterior) -> None:
    other = reference.map(reference.draws.rename(theta="phi"))
    with pytest.raises(InputError, match="no quantity in common"):
        compare(other, reference=reference)


def test_several_answers_are_compared_at_once_and_a_seed_fixes_the_table(reference: Posterior) -> None:
    answers = {
        "good": _gaussian(3.0, 2.0, seed=7, chains=1, method="guide", dependence="independent"),
        "bad": _gaussian(9.0, 2.0, seed=8, chains=1, method="guide", dependence="independent"),
    }
    found, again = (compare(answers, reference=reference, seed=3) for _ in range(2))
    assert found.verdicts == {"good": "agrees", "bad": "differs"}
    assert found.table.equals(again.table)
    assert found.table["answer"].tolist() == ["good"] * 2 + ["bad"] * 2
