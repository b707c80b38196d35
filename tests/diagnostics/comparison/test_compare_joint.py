"""What a comparison judges beside means and spreads: correlations, directions, tails."""

import math
import re
from types import ModuleType

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from ppl_vae.answers.posterior import Posterior
from ppl_vae.diagnostics import compare
from ppl_vae.diagnostics.verdict.findings import differing
from tests.diagnostics.comparison.test_compare import SIZE, gaussian, posterior

# What is judged beside means and spreads ---------------------------------------------------------


def _pair(correlation: float, seed: int, method: str, sd: tuple[float, float] = (1.0, 1.0)) -> Posterior:
    covariance = np.array([[sd[0] ** 2, correlation * sd[0] * sd[1]], [0.0, sd[1] ** 2]])
    covariance[1, 0] = covariance[0, 1]
    values = np.random.default_rng(seed).multivariate_normal([0, 0], covariance, (1, SIZE))
    draws = xr.Dataset(
        {"alpha": (("chain", "draw"), values[..., 0]), "beta": (("chain", "draw"), values[..., 1])}
    )
    return Posterior(draws, method, "independent", seconds=2.0)


def _terms(words: str) -> dict[str, float]:
    """The coefficients of a direction such as "0.71 alpha − 0.7 beta"."""
    found = re.findall(r"([+−]?) ?([\d.]+) (\w+)", words)
    return {name: -float(size) if sign == "−" else float(size) for sign, size, name in found}


def test_a_lost_correlation_is_found_where_every_margin_is_right(oracles: ModuleType) -> None:
    found = compare(_pair(0.0, 1, "mean-field"), reference=_pair(-0.92, 2, "exact"))
    assert found.verdicts["mean-field"] == "differs"
    lost, wide = found.reasons
    assert re.search(
        r"^mean-field: the correlation of alpha and beta is [+-]0\.0\d instead of -0\.9\d$", lost
    )
    # var(α + β) is 2(1 − 0.92) of the reference and 2 of the answer.
    direction, ratio = re.search(r"along (.*) the variance is ([\d.]+) ± 0\.\d+ of", wide).groups()
    assert _terms(direction) == pytest.approx({"alpha": 0.5**0.5, "beta": 0.5**0.5}, abs=0.05)
    (row,) = found.joint.to_dict("records")
    assert float(ratio) == pytest.approx(row["largest_variance_ratio"], rel=0.01)
    for end, truth in (("largest", 1 / 0.08), ("smallest", 1 / 1.92)):
        off = row[f"{end}_variance_ratio"] - truth
        assert abs(off) < oracles.z_limit(2) * row[f"{end}_variance_ratio_mcse"]
    assert row["smallest_direction"].count("−") == 1
    assert (row["seconds"], row["ess"], row["ess_per_second"]) == (2.0, SIZE, SIZE / 2)
    assert found.costs["answer"].tolist() == ["mean-field", "exact"]


@pytest.mark.parametrize("order", ["difference alpha beta", "mean difference beta alpha", "twice alpha beta"])
def test_a_correlation_is_judged_whatever_else_depends_on_its_pair(order: str, oracles: ModuleType) -> None:
    """That of α and β is the largest loss; all other pairs lose less of theirs."""

    def shown(answer: Posterior) -> Posterior:
        alpha, beta = answer.draws["alpha"], answer.draws["beta"]
        every = {"alpha": alpha, "beta": beta, "difference": alpha - beta, "mean": (alpha + beta) / 2,
                 "twice": 2 * alpha}  # fmt: skip
        return answer.map(xr.Dataset({name: every[name] for name in order.split()}))

    found = compare(shown(_pair(0.0, 1, "guide")), reference=shown(_pair(0.5, 2, "exact")))
    (row,) = found.joint.to_dict("records")
    off = row["correlation_difference"] - 0.5
    assert abs(off) < oracles.z_limit(3) * row["correlation_difference_mcse"]
    assert {*row["correlation_pair"].split(" and ")} <= {"alpha", "beta", "twice"}


@pytest.mark.parametrize("correlation", [-0.9, 0.5, 0.9])
def test_variables_that_lost_only_their_correlation_differ(correlation: float) -> None:
    found = compare({"svi": _pair(0.0, 1, "guide")}, reference=_pair(correlation, 2, "exact"))
    assert set(differing(found)) == {"alpha", "beta"}
    assert not differing(compare({"svi": _pair(0.0, 1, "guide")}, reference=_pair(0.1, 2, "exact")))


def test_directions_are_named_in_the_quantities_own_units() -> None:
    """With sd 1 and 100, the narrow direction of correlation −0.9 is 100 α + β."""
    found = compare(_pair(0.0, 1, "guide", (1.0, 100.0)), reference=_pair(-0.9, 2, "exact", (1.0, 100.0)))
    assert _terms(found.joint["largest_direction"][0]) == pytest.approx({"alpha": 1, "beta": 0.01}, rel=0.05)


def test_mean_field_of_a_strong_correlation_is_too_narrow_along_it(oracles: ModuleType) -> None:
    """The best mean-field Gaussian has variances 1 − ρ² (Bishop 2006, section 10.1.2)."""
    rho = 0.9
    own = _pair(0.0, 1, "mean-field", ((1 - rho**2) ** 0.5,) * 2)
    (row,) = compare(own, reference=_pair(rho, 2, "exact")).joint.to_dict("records")
    for end, ratio in (("smallest", (1 - rho**2) / (1 + rho)), ("largest", (1 - rho**2) / (1 - rho))):
        off = row[f"{end}_variance_ratio"] - ratio
        assert abs(off) < oracles.z_limit(2) * row[f"{end}_variance_ratio_mcse"]


def test_wrong_tails_and_shapes_are_found_where_mean_and_sd_are_right(oracles: ModuleType) -> None:
    # Many draws: of the 5 % quantile's error, 0.7 sd, the part beyond its tolerance is judged.
    generator, size = np.random.default_rng(0), 8 * SIZE
    skewed = generator.exponential(size=(1, size, 2)) - 1
    modes = np.sqrt(0.1) * generator.normal(size=(1, SIZE, 2)) + np.sqrt(0.9) * generator.choice(
        [-1, 1], (1, SIZE, 2)
    )
    reference = gaussian(0.0, 1.0, 5, chains=1, size=size, method="exact", dependence="independent")
    tails = compare(posterior(skewed, "guide", "independent"), reference=reference)
    assert tails.verdicts["guide"] == "differs"
    assert "2 of 2 5 % quantiles are off by more than 0.5 reference sd" in tails.reasons[0]
    exact = {
        "q5": -math.log(0.95) - 1 - stats.norm.ppf(0.05),
        "q95": -math.log(0.05) - 1 - stats.norm.ppf(0.95),
    }
    for row in tails.table.to_dict("records"):
        for tail, expected in exact.items():
            off = row[f"{tail}_error_in_sd"] - expected
            assert abs(off) < oracles.z_limit(4) * row[f"{tail}_error_mcse"] + 0.02
    # The other way round, the answer's tails are too long by 0.29 sd: within tolerance. Its shape is not.
    bimodal = posterior(modes, "exact", "independent")
    wide = gaussian(0.0, 1.0, 6, chains=1, method="guide", dependence="independent")
    shapes = compare(wide, reference=bimodal)
    assert (shapes.table["sd_ratio"] - 1).abs().max() < 0.1
    assert shapes.verdicts["guide"] == "differs"


def test_a_direction_is_not_named_where_the_margins_say_it_all() -> None:
    own = gaussian(3.0, 1.0, 1, chains=1, method="guide", dependence="independent")
    (reason,) = compare(own, reference=gaussian(3.0, 2.0, 2)).reasons
    assert "2 of 2 standard deviations are too narrow" in reason


def test_one_quantity_has_no_joint_row() -> None:
    reference = _pair(0.5, 0, "exact")
    one = reference.map(reference.draws[["alpha"]])
    found = compare(_pair(0.5, 1, "guide"), reference=one)
    assert found.verdicts["guide"] == "agrees"
    assert found.joint["num_quantities"][0] == 1
    assert np.isnan(found.joint["sliced_wasserstein"][0])
