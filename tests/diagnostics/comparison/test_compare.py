"""Comparisons whose right answer is known: Gaussians of known mean and spread."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics import compare, judge_reference
from ppl_vae.diagnostics.comparison.closeness import Severity
from ppl_vae.diagnostics.comparison.reasons import Reason
from ppl_vae.diagnostics.verdict.findings import say_score
from ppl_vae.diagnostics.verdict.rule import Rule

SIZE = 4000


def posterior(
    values: np.ndarray, method: str = "nuts", dependence: str = "chains", **options: object
) -> Posterior:
    """Draws of shape (chain, draw, item) of one variable."""
    draws = xr.Dataset({"theta": (("chain", "draw", "item"), values)}, coords={"item": ["a", "b"]})
    return Posterior(draws, method, dependence, **options)


def gaussian(
    mean: float, sd: float, seed: int, *, chains: int = 4, size: int = SIZE, **options: object
) -> Posterior:
    values = np.random.default_rng(seed).normal(mean, sd, (chains, size // chains, 2))
    return posterior(values, **options)


@pytest.fixture
def reference() -> Posterior:
    return gaussian(3.0, 2.0, seed=0)


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 1.0), (1.0, 1.0), (-4.0, 1.0), (0.0, 0.5), (2.0, 3.0)])
def test_errors_in_mean_and_sd_are_the_ones_put_there(
    shift: float, stretch: float, reference: Posterior, oracles: ModuleType
) -> None:
    answer = gaussian(3.0 + shift, 2.0 * stretch, seed=1, chains=1, method="guide", dependence="independent")
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
    answer = gaussian(3.0 + shift, 2.0, seed=2, chains=1, method="exact", dependence="independent")
    for row in compare(answer, reference=reference).table.itertuples():
        assert abs(row.wasserstein - abs(shift)) < oracles.z_limit(6) * row.mcse
        # The sd of the difference of two means of 4000 draws.
        assert row.mcse == pytest.approx(2 * math.sqrt(2 / SIZE), rel=0.4)


def test_the_same_draws_are_at_no_distance(reference: Posterior) -> None:
    table = compare({"same": reference}, reference=reference).table
    assert (table["wasserstein"] == 0).all()
    assert (table["mean_error_in_sd"] == 0).all()
    assert (table["sd_ratio"] == 1).all()


def test_a_small_error_beyond_doubt_still_agrees_and_a_large_one_in_doubt_is_left_open(
    reference: Posterior,
) -> None:
    close = gaussian(3.0 + 0.2, 2.0, seed=3, chains=1, method="guide", dependence="independent")
    assert compare(close, reference=reference).verdicts["guide"] == "agrees"
    few = np.random.default_rng(4).normal(3.0, 2.0, (1, 100, 2))
    few += 3.0 - few.mean(1) + 0.6
    doubtful = compare(posterior(few, "guide", "independent"), reference=reference)
    assert (doubtful.table["mean_error_in_sd"] > 0.2).all()
    assert doubtful.verdicts["guide"] == "cannot tell"
    assert "Monte Carlo error leaves" in doubtful.reasons[0]
    times = int(re.search(r"draw about (\d+) times as many from guide", doubtful.reasons[0])[1])
    # z errors of the mean have to fit into the amount by which it is over.
    table = doubtful.table
    over = (table["mean_error_in_sd"] - 0.2) / table["mean_error_mcse"]
    needed = (stats.norm.isf(0.005 / 14) / over.min()) ** 2
    assert math.ceil(needed) <= times < 3 * needed
    decided = np.random.default_rng(4).normal(3.6, 2.0, (1, 400 * times, 2))
    found = compare(posterior(decided, "guide", "independent"), reference=gaussian(3.0, 2.0, 9, chains=1,
        method="exact", dependence="independent", size=40_000))  # fmt: skip
    assert found.verdicts["guide"] == "differs"
    tiny = compare(posterior(few[:, :30], "guide", "independent"), reference=reference)
    assert tiny.verdicts["guide"] == "cannot tell"
    assert "30 effective draws are too few" in tiny.reasons[0]


def test_reasons_name_the_worst_quantity(reference: Posterior, oracles: ModuleType) -> None:
    values = np.random.default_rng(5).normal(3.0, 2.0, (1, SIZE, 2))
    values[..., 1] = 3.0 + 0.3 * (values[..., 1] - 3.0)
    found = compare(posterior(values, "guide", "independent"), reference=reference)
    (reason,) = found.reasons
    words = r"guide: 1 of 2 standard deviations are too narrow \(worst: theta\[b\], (0\.\d+) of"
    said = re.match(words, reason)
    assert said is not None, reason
    assert float(said[1]) == pytest.approx(0.3, abs=0.005 + oracles.z_limit() * 0.3 / math.sqrt(SIZE))
    assert found.worst(1)["name"].tolist() == ["theta[b]"]


# When nothing can be said -----------------------------------------------------------------------


def test_chains_that_have_not_mixed_are_no_reference() -> None:
    values = np.random.default_rng(0).normal(size=(4, SIZE // 4, 2))
    values[0, :, 1] += 1.0
    stuck = posterior(values)
    answer = gaussian(100.0, 1.0, seed=1, chains=1, method="guide", dependence="independent")
    found = compare({"guide": answer}, reference=stuck)
    assert not found.reference_ok
    assert found.verdicts == {"guide": "cannot tell"}
    assert "fails R-hat < 1.01 for 1 of 2 quantities (worst: theta[b]" in found.reasons[0]


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1, 0.2, 0.5])
def test_compare_and_check_judge_a_reference_by_one_limit_and_say_which(shift: float) -> None:
    """Chains a little apart: whether they pass, and by which R-hat, is the same in both outputs."""
    values = np.random.default_rng(3).normal(size=(4, 600, 2))
    values[0, :, 1] += shift
    chains = posterior(values)
    found = compare({"svi": gaussian(0.0, 1.0, 4, chains=1, method="svi", dependence="independent")},
                    reference=chains)  # fmt: skip
    passed, reasons = judge_reference(chains)
    assert found.reference_ok is passed
    fine = Severity(0.1, 0.0, Reason(criterion="said"))
    said = say_score(found, fine, fine, True, Rule())[1] if passed else " ".join(reasons)
    told = found.limits if passed else " ".join(found.reasons)
    limit = re.search(r"limit ([\d.]+)|R-hat < ([\d.]+)", told)
    largest = re.search(r"largest R-hat ([\d.]+)|worst: [^,]+, ([\d.]+)", told)
    assert limit is not None
    assert largest is not None
    assert limit.group() in said
    assert largest.group() in said
    shown = [float(found.group(1) or found.group(2)) for found in (largest, limit)]
    assert shown == pytest.approx([chains.summary()["r_hat"].max(), shown[1]], abs=6e-4)
    assert (shown[0] < shown[1]) is passed


def test_few_effective_draws_are_no_reference() -> None:
    generator = np.random.default_rng(0)
    values = np.zeros((4, 1000, 2))
    for t in range(1, 1000):
        values[:, t] = 0.98 * values[:, t - 1] + generator.normal(0, math.sqrt(1 - 0.98**2), (4, 2))
    good, reasons = judge_reference(posterior(values))
    assert not good
    assert any("fails ESS > 400" in sentence and "draw more" in sentence for sentence in reasons)
    for size, expected in ((300, False), (500, True)):
        exact = posterior(generator.normal(size=(1, size, 2)), "exact", "independent")
        assert judge_reference(exact)[0] is expected


def test_a_reference_that_diverges_often_is_none(reference: Posterior) -> None:
    def diverging(share: float) -> bool:
        flags = np.zeros((4, SIZE // 4), dtype=bool)
        flags[0, : int(share * SIZE)] = True
        stats = xr.Dataset({"diverging": (("chain", "draw"), flags)})
        return judge_reference(posterior(reference.draws["theta"].to_numpy(), stats=stats))[0]

    assert diverging(0.005)
    assert not diverging(0.05)


def test_more_than_eight_chains_are_judged_by_nested_r_hat() -> None:
    """64 short chains: each alone is too noisy for the usual R-hat, superchains tell."""
    from arviz_stats.base import array_stats

    values = np.random.default_rng(0).normal(size=(16, 100, 2))
    summary = posterior(values).summary()
    nested = array_stats.rhat_nested(values[..., 0], np.arange(16) // 2)
    assert summary.loc["theta[a]", "r_hat"] == pytest.approx(float(nested))
    assert summary.loc["theta[a]", "r_hat"] != pytest.approx(
        float(array_stats.rhat(values[..., 0])), rel=1e-9
    )
    eight = posterior(values[:8]).summary()
    assert eight.loc["theta[a]", "r_hat"] == pytest.approx(float(array_stats.rhat(values[:8, :, 0])))
    apart = values + (np.arange(16) // 2)[:, None, None]
    assert posterior(apart).summary()["r_hat"].min() > 1.5


@pytest.mark.parametrize("method", ["guide", "exact"])
def test_r_hat_is_never_reported_for_independent_draws(method: str) -> None:
    summary = gaussian(0.0, 1.0, seed=0, chains=1, method=method, dependence="independent").summary()
    assert "r_hat" not in summary or summary["r_hat"].isna().all()
    assert (summary["ess_bulk"] == SIZE).all()
    np.testing.assert_allclose(summary["mcse_mean"], summary["sd"] / math.sqrt(SIZE))


def test_a_constant_quantity_does_not_spoil_a_reference(reference: Posterior) -> None:
    values = reference.draws["theta"].to_numpy().copy()
    values[..., 0] = 1.0
    assert judge_reference(posterior(values))[0]


def test_answers_without_a_common_quantity_are_refused(reference: Posterior) -> None:
    other = reference.map(reference.draws.rename(theta="phi"))
    with pytest.raises(InputError, match="no quantity in common"):
        compare(other, reference=reference)


def test_several_answers_are_compared_at_once_and_a_seed_fixes_the_table(reference: Posterior) -> None:
    answers = {
        "good": gaussian(3.0, 2.0, seed=7, chains=1, method="guide", dependence="independent"),
        "bad": gaussian(9.0, 2.0, seed=8, chains=1, method="guide", dependence="independent"),
    }
    found, again = (compare(answers, reference=reference, seed=3) for _ in range(2))
    assert found.verdicts == {"good": "agrees", "bad": "differs"}
    assert found.table.equals(again.table)
    assert found.table["answer"].tolist() == ["good"] * 2 + ["bad"] * 2


def test_a_users_own_quantities_come_before_the_models(reference: Posterior) -> None:
    def first(draws: xr.Dataset) -> xr.Dataset:
        return xr.Dataset({"first": draws["theta"].isel(item=0, drop=True)})

    class Model:
        def __call__(self) -> None: ...

        def identifiable(self, draws: xr.Dataset) -> xr.Dataset:
            raise AssertionError

    found = compare(reference, reference=reference, model=Model(), identifiable=first)
    assert found.table["name"].tolist() == ["first"]


def test_overflowing_draws_differ_and_constants_are_right_or_wrong(reference: Posterior) -> None:
    values = gaussian(3.0, 2.0, seed=1).draws["theta"].to_numpy().copy()
    values[0, 0, 1] = np.inf
    found = compare(posterior(values, "guide", "independent"), reference=reference)
    assert found.verdicts["guide"] == "differs"
    assert "draws of 1 of 2 quantities are no numbers (theta[b])" in found.reasons[0]
    assert found.worst(1)["name"].tolist() == ["theta[b]"]
    constant = reference.draws["theta"].to_numpy().copy()
    constant[..., 0] = 1.0
    right = constant.copy()
    right[..., 1] = values[..., 0]
    fixed = posterior(constant)
    assert compare(posterior(right), reference=fixed).verdicts["nuts"] == "agrees"
    right[..., 0] = 1.5
    assert compare(posterior(right), reference=fixed).verdicts["nuts"] == "differs"


def test_chains_that_seem_to_agree_without_mixing_leave_it_open() -> None:
    values = np.random.default_rng(0).normal(size=(4, 4000, 2))
    moved = values.copy()
    moved[:2, :, 0] += 0.17
    moved[2:, :, 0] -= 0.17
    exact = posterior(np.random.default_rng(1).normal(size=(1, 16_000, 2)), "exact", "independent")
    found = compare(posterior(moved), reference=exact)
    assert found.verdicts["nuts"] == "cannot tell"
    assert any("nuts fails R-hat" in sentence for sentence in found.reasons)


# How often the verdict is wrong ------------------------------------------------------------------


@pytest.mark.parametrize("times", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_draws_of_the_reference_itself_are_not_called_different(oracles: ModuleType, times: int) -> None:
    """Chains of ESS near 800 against 1000 draws, three quantities, two correlated, one skewed."""
    generator = np.random.default_rng(0)
    counts = {"agrees": 0, "differs": 0, "cannot tell": 0}
    for _ in range(times):
        chains, own = _autocorrelated(generator), _shape(generator.normal(size=(1, 1000, 3)))
        draws = [xr.Dataset({"x": (("chain", "draw", "k"), values)}) for values in (own, chains)]
        found = compare(
            Posterior(draws[0], "guide", "independent"), reference=Posterior(draws[1], "nuts", "chains")
        )
        counts[found.verdicts["guide"]] += 1
    # Stated: at most 1 %. The tolerances make it far rarer.
    assert stats.binomtest(counts["differs"], times, 0.01, alternative="greater").pvalue > oracles.LEVEL
    assert counts["agrees"] > 0.85 * times, counts


def _autocorrelated(generator: np.random.Generator) -> np.ndarray:
    noise = generator.normal(size=(4, 300, 3))
    for t in range(1, 300):
        noise[:, t] = 0.2 * noise[:, t - 1] + math.sqrt(1 - 0.2**2) * noise[:, t]
    return _shape(noise)


def _shape(z: np.ndarray) -> np.ndarray:
    return np.stack([z[..., 0], 0.9 * z[..., 0] + 0.4 * z[..., 1], 1e3 + np.exp(0.7 * z[..., 2])], -1)


# On disk -----------------------------------------------------------------------------------------


def test_a_comparison_round_trips(reference: Posterior, tmp_path: Path) -> None:
    one = gaussian(3.0, 2.0, seed=1, chains=1, method="guide", dependence="independent")
    found = compare({"guide": one, "other": reference}, reference=reference)
    found.save(tmp_path / "comparison.json")
    again = type(found).load(tmp_path / "comparison.json")
    for name in ("table", "joint", "costs"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name), check_dtype=False)
    assert (again.reference, again.reference_ok, again.reasons) == ("nuts", True, found.reasons)
    assert again.verdicts == found.verdicts


DEGENERATE = {
    "an answer that does not move": lambda values: 0 * values + 3.0,
    "one quantity that does not move": lambda values: values * [1.0, 0.0] + 3.0,
    "draws that are nearly all the same one": lambda values: np.where(values > values.min(), 3.0, values),
    "one half that does not move": lambda values: np.where(
        np.arange(SIZE // 4)[:, None] < SIZE // 8, 3, values
    ),
    "squares that underflow": lambda values: 1e-170 * values,
    "squares that nearly overflow": lambda values: 1e150 * values,
}


@pytest.mark.parametrize("change", DEGENERATE.values(), ids=DEGENERATE.keys())
@pytest.mark.parametrize("which", ["answer", "reference", "both"])
@pytest.mark.filterwarnings("error")
def test_degenerate_draws_are_judged_without_a_word_of_numpy(
    change: Callable[..., np.ndarray], which: str
) -> None:
    values = np.random.default_rng(2).normal(3.0, 2.0, (4, SIZE // 4, 2))
    wrong, right = posterior(change(values)), gaussian(3.0, 2.0, seed=0)
    answer, reference = {"answer": (wrong, right), "reference": (right, wrong), "both": (wrong, wrong)}[which]
    found = compare({"mine": answer}, reference=reference)
    assert found.verdicts["mine"] != "agrees" or which == "both"
