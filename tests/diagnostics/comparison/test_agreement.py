"""Judgements on made-up values of log p(x), whose right answer is known, and on one real fit."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import datasets

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics import agreement, sandwich
from ppl_vae.guides import LinearNormal, Prior
from ppl_vae.inference import exact, importance
from ppl_vae.models import PPCA
from ppl_vae.program.pair import Pair

UNITS = 20
TRUTH = np.linspace(-40.0, -30.0, UNITS)


def _evidence(
    shift: Any = 0.0,
    error: float = 0.1,
    *,
    kind: Any = "estimate",
    ess: Any = 500.0,
    seed: int = 0,
    **options: Any,
) -> Evidence:
    """The truth with errors of a known size, shifted: the quantiles of a normal in an order of their own.

    Their mean is zero, and no two differ by more than four of them: no flag is raised by chance.
    """
    quantiles = stats.norm.ppf((np.arange(UNITS) + 0.5) / UNITS)
    noise = np.random.default_rng(seed).permutation(quantiles) * error
    spread = np.full(UNITS, error)
    return Evidence(
        TRUTH + noise + shift, kind=kind, std_error=spread, bias=-0.5 * spread**2, unit="datum",
        ess=np.full(UNITS, ess) if np.isscalar(ess) else ess, num_samples=1000,
        **{"method": "is", "seconds": 2.0} | options,
    )  # fmt: skip


def _exact() -> Evidence:
    return _evidence(error=0.0, kind="exact", method="exact", ess=1e3)


def _one(array: np.ndarray, place: int, value: float) -> np.ndarray:
    array = np.array(array)
    array[place] = value
    return array


def test_values_that_agree_raise_no_flag() -> None:
    found = agreement([_evidence(seed=1), _exact(), _evidence(error=0.02, method="ais", seed=2)])
    assert found.flags == ()
    assert found.trusted
    assert found.best == "exact"
    assert list(found.table.index) == ["is", "exact", "ais"]
    row = found.table.loc["is"]
    assert (row["kind"], row["unit"], row["units"], row["alarms"]) == ("estimate", "datum", 20, 0)
    assert row["std_error"] == pytest.approx(0.1 / np.sqrt(20))
    assert row["bias"] == pytest.approx(-0.005)
    assert (row["ess"], row["seconds"]) == (500, 2.0)
    assert np.isnan(row["pareto_k"])
    assert np.isnan(row["acceptance"])


def test_agreement_is_at_its_level_over_repetitions(oracles: ModuleType) -> None:
    """Two tests at 0.27 % each: of 200 honest pairs, hardly any is flagged."""
    noise = 0.1 * np.random.default_rng(0).normal(size=(200, 2, UNITS))
    flagged = [
        bool(agreement([replace(_evidence(), log_evidence=TRUTH + one) for one in pair]).flags)
        for pair in noise
    ]
    assert sum(flagged) <= stats.binom(200, 2 * 0.0027).isf(oracles.LEVEL)


def test_the_smallest_error_without_an_alarm_is_best() -> None:
    values = {
        "rough": _evidence(error=0.2),
        "fine": _evidence(error=0.05),
        "few": _evidence(error=0.01, ess=3.0),
        "bound": _evidence(-1.0, error=0.001, kind="lower bound"),
    }
    assert agreement(values).best == "fine"
    part = {"part": _evidence(error=0.001, index=np.arange(UNITS))}
    assert agreement(values | part).best == "fine"
    nothing = agreement({"few": values["few"], "bound": values["bound"]})
    assert nothing.best is None
    assert not nothing.trusted


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"is": (0.5, {}), "ais": (0.0, {"method": "ais"})}, "contradict each other"),
        ({"is": (0.0, {"ess": 3.0}), "bridge": (0.0, {"ess": 3.0, "method": "bridge"})}, "raise an alarm"),
        ({"iwae": (-1.0, {"kind": "lower bound", "method": "iwae"})}, "bounds only"),
        ({"is": (0.0, {}), "low": (0.5, {"kind": "lower bound", "method": "iwae"})}, "contradict each other"),
    ],
)
def test_where_nothing_is_to_be_believed_nothing_is_named(values: Any, reason: str) -> None:
    found = agreement({name: _evidence(shift, **options) for name, (shift, options) in values.items()})
    assert found.best is None
    assert not found.trusted
    assert reason in found.reason


def _contradictions(methods: int, units: int, tries: int) -> int:
    """How many of so many sets of sound values, whose errors are drawn afresh, contradict each other."""
    generator = np.random.default_rng([methods, units])
    truth, spread = np.full(units, -35.0), np.full(units, 0.1)
    count = 0
    for _ in range(tries):
        values = {
            f"method {number}": Evidence(
                truth + spread * generator.standard_normal(units), method="is", kind="estimate",
                std_error=spread, bias=np.zeros(units), unit="datum", ess=np.full(units, 500.0),
                num_samples=1000, seconds=1.0,
            )
            for number in range(methods)
        }  # fmt: skip
        count += bool(agreement(values).flags)
    return count


@pytest.mark.parametrize(("methods", "units"), [(2, 1), (8, 20)])
def test_sound_values_rarely_contradict_each_other_however_many(methods: int, units: int) -> None:
    tries = 300
    # At most twice the level of three standard errors to one side, for the mean and for the units.
    chance = 4 * stats.norm.sf(3.0)
    assert _contradictions(methods, units, tries) <= stats.binom.isf(1e-4, tries, chance)


@pytest.mark.parametrize("shift", [-2.0, -0.5, 0.5, 2.0])
@pytest.mark.parametrize("other", ["exact", "ais", "iwae", "bdmc"])
def test_a_bridge_with_bad_weights_may_err_to_either_side(shift: float, other: str) -> None:
    """A ratio of two means of bounded functions: unlike a mean of weights, it has no side of its own."""
    kinds = {"exact": "exact", "iwae": "lower bound", "bdmc": "upper bound"}
    sound = _evidence(method=other, kind=kinds.get(other, "estimate"), seed=9)
    found = agreement({"bridge": _evidence(shift, ess=3.0, method="bridge"), other: sound})
    crossed = (other == "iwae" and shift < 0) or (other == "bdmc" and shift > 0)
    if other in ("exact", "ais") or crossed:
        assert "may err to either side" in found.flags[0]
    assert not any("too low" in flag for flag in found.flags)
    assert found.best == (other if other in ("exact", "ais") else None)


@pytest.mark.parametrize("other", ["exact", "ais"])
def test_a_difference_in_the_mean_is_a_contradiction(other: str) -> None:
    second = _exact() if other == "exact" else _evidence(method="ais", seed=3)
    found = agreement([_evidence(0.2), second])
    (flag,) = found.flags
    assert f"is and {other} contradict each other" in flag
    assert "nats a datum in the mean over 20 units" in flag
    assert "standard errors; one of them is wrong" in flag
    assert not found.trusted


def test_the_sizes_of_the_biases_are_allowed_for() -> None:
    one = _evidence(0.11, seed=4)
    biased = Evidence(
        one.log_evidence, "is", "datum", "estimate", one.std_error, np.full(UNITS, -0.2), num_samples=1000
    )
    assert agreement([one, _exact()]).flags
    assert not agreement([biased, _exact()]).flags


def test_one_unit_that_differs_is_named_at_a_corrected_limit() -> None:
    values = _one(np.zeros(UNITS), 7, 0.9)
    found = agreement({"one": _evidence(values, seed=5), "two": _evidence(method="ais", seed=6)})
    (flag,) = found.flags
    assert "in 1 of 20 units (worst: unit 7, by +" in flag
    assert not found.trusted
    # Three and a half errors in one unit of twenty are chance.
    still = Evidence(TRUTH + _one(np.zeros(UNITS), 7, 0.35), "is", "datum", "estimate",
                     np.full(UNITS, 0.1), np.zeros(UNITS), num_samples=1000)  # fmt: skip
    assert not agreement([still, _exact()]).flags


def test_heavy_tails_are_given_more_room_in_single_units() -> None:
    values, spread = TRUTH + _one(np.zeros(UNITS), 7, -0.5), np.full(UNITS, 0.1)
    for k_hat, flags in ((0.2, 1), (0.6, 0)):
        one = Evidence(
            values, "is", "datum", "estimate", spread, -0.5 * spread**2, ess=np.full(UNITS, 950.0),
            pareto_k=np.full(UNITS, k_hat), num_samples=1000,
        )  # fmt: skip
        assert len(agreement([one, _exact()]).flags) == flags


def test_only_units_that_both_have_are_compared() -> None:
    """Units 10 to 29 of a larger set: the first ten of ours are not theirs."""
    shifted = np.concatenate([TRUTH[10:], np.full(10, 1e6)])
    part = Evidence(shifted, "ais", "datum", "estimate", np.full(UNITS, 0.1), np.zeros(UNITS),
                    index=np.arange(10, 30), num_samples=1000)  # fmt: skip
    assert agreement([part, _exact()]).trusted
    apart = Evidence(shifted, "ais", "datum", "estimate", np.full(UNITS, 0.1), np.zeros(UNITS),
                     index=np.arange(100, 120), num_samples=1000)  # fmt: skip
    (flag,) = agreement([apart, _exact()]).flags
    assert flag == "ais and exact have no unit in common and cannot be compared"


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_data_are_compared_with_the_data_set_by_their_total(shift: float) -> None:
    whole = Evidence(TRUTH.sum(keepdims=True) + shift, "bridge", "dataset", "estimate",
                     np.array([0.3]), np.zeros(1), num_samples=1000)  # fmt: skip
    found = agreement([_evidence(seed=1), whole])
    assert found.trusted == (shift == 0)
    if shift:
        assert "standard errors; one of them is wrong" in found.flags[0]
        assert "a datum" not in found.flags[0]


def test_an_alarmed_estimate_that_is_low_is_blamed_and_not_the_sound_one() -> None:
    low = _evidence(-8.0, 0.3, method="prior", ess=_one(np.full(UNITS, 1.5), 3, 1.1))
    found = agreement([low, _evidence(seed=1)])
    difference, alarm = found.flags
    assert difference.startswith("prior differs from is by -8")
    assert difference.endswith("the weights of prior cannot be trusted, and it is probably too low")
    assert alarm.startswith("prior: its weights cannot be trusted in 20 of 20 units (worst: 3, ")
    assert "1.1 effective samples of 1000" in alarm
    assert found.best == "is"
    assert found.trusted
    assert found.table.loc["prior", "alarms"] == 20


def test_an_alarmed_estimate_that_is_high_is_not_excused() -> None:
    found = agreement([_exact(), _evidence(8.0, 0.3, ess=1.5)])
    assert found.flags[0].endswith("but that would make it too low: one of them is wrong")
    assert not found.trusted


def test_alarms_alone_are_flags_but_no_contradiction() -> None:
    """Simple Monte Carlo with a handful of effective samples reports some error; it is not believed."""
    prior = _evidence(error=0.02, ess=2.0, method="prior")
    found = agreement([prior, _evidence(error=0.1, seed=2)])
    assert found.best == "is"
    assert found.trusted
    assert len(found.flags) == 1
    both = agreement({"one": prior, "two": _evidence(-3.0, error=0.02, ess=2.0)})
    assert [flag.partition(":")[0] for flag in both.flags] == ["one", "two"]  # the alarms alone
    assert not both.trusted


def test_bounds_that_are_crossed_are_flagged() -> None:
    below = _evidence(0.5, kind="lower bound", method="iwae")
    above = _evidence(-0.5, kind="upper bound", method="bdmc")
    (flag,) = agreement([below, _exact()]).flags
    assert flag.startswith("a bound is crossed: iwae exceeds exact by +0.5")
    (flag,) = agreement([above, _exact()]).flags
    assert flag.startswith("a bound is crossed: exact exceeds bdmc by +0.5")
    (flag,) = agreement([below, above]).flags
    assert "iwae exceeds bdmc by +1" in flag
    found = agreement([_evidence(-0.5, kind="lower bound", method="iwae"), _exact(),
                       _evidence(0.5, kind="upper bound", method="bdmc")])  # fmt: skip
    assert found.trusted
    assert found.flags == ()


def test_a_lower_bound_shows_that_poor_weights_are_too_low() -> None:
    """The ELBO of a good guide lies above the prior's estimate."""
    guided = _evidence(seed=1, elbo=TRUTH - 0.3)
    prior = _evidence(-8.0, 0.3, method="prior", ess=1.5)
    found = agreement([guided, prior])
    (flag,) = [flag for flag in found.flags if "bound is crossed" in flag]
    assert "the ELBO of is exceeds prior by +7" in flag
    assert flag.endswith("the weights of prior cannot be trusted, and it is too low")
    assert found.trusted
    # With sound weights all round, the same is a contradiction.
    assert not agreement([_exact(), _evidence(seed=1, elbo=TRUTH + 1.0)]).trusted


def test_float32_rounding_is_no_contradiction() -> None:
    rounded = Evidence(TRUTH + 1e-5, "is", "datum", "estimate", np.zeros(UNITS), np.zeros(UNITS))
    assert agreement([rounded, _exact()]).trusted


def test_the_same_method_twice_keeps_both() -> None:
    found = agreement([_evidence(), _evidence(seed=1), _evidence(seed=2)])
    assert list(found.table.index) == ["is", "is 2", "is 3"]
    with pytest.raises(InputError, match="no evidence to judge"):
        agreement([])


def test_units_without_overlap_are_survived() -> None:
    lost = _one(TRUTH, 3, np.nan)
    spread = _one(np.full(UNITS, 0.1), 3, np.inf)
    one = Evidence(lost, "bridge", "datum", "estimate", spread, np.zeros(UNITS),
                   ess=_one(np.full(UNITS, 500.0), 3, 0.0), num_samples=1000)  # fmt: skip
    found = agreement([one, _exact()])
    assert found.best == "exact"
    (flag,) = found.flags
    assert "bridge: its weights cannot be trusted in 1 of 20 units (worst: 3)" in flag
    assert "hardly overlap" in flag


# Real ----------------------------------------------------------------------------------------------


def test_the_prior_fails_on_digits_and_the_guide_does_not(oracles: ModuleType) -> None:
    x = torch.as_tensor(datasets.load_digits().data)[:200]
    x = (x - x.mean(0)) / 4
    model = PPCA(64, 6).set_maximum_likelihood(x)
    guide = LinearNormal(64, 6, covariance="diagonal", dtype=torch.float64)
    with torch.no_grad():
        noise = model.noise_scale**2
        m = model.loadings.T @ model.loadings + noise * torch.eye(6)
        guide.loc.weight.copy_(torch.linalg.solve(m, model.loadings.T))
        guide.loc.bias.copy_(-guide.loc.weight @ model.mean)
        # A little too wide: light tails, and still an error to estimate.
        guide.raw_spread.copy_((1.2 * noise / m.diagonal() - guide.floor).expm1().log())
    options = {"num_samples": 500, "progress": False}
    found = agreement(
        {
            "exact": exact.log_evidence(model, x),
            "is": importance.log_evidence(Pair(model, guide), x, **options),
            "prior": importance.log_evidence(Pair(model, Prior(model)), x, **options),
        }
    )
    assert found.best == "exact"
    chance = oracles.contradictions(found.flags)
    assert found.trusted is not bool(chance)
    assert max(chance, default=0.0) < oracles.z_limit(2 * len(x))
    assert found.table.loc["is", "alarms"] == 0
    assert found.table.loc["prior", "alarms"] > 150
    assert found.table.loc["prior", "mean"] < found.table.loc["exact", "mean"] - 1
    blamed = [flag for flag in found.flags if flag.startswith("prior differs from")]
    assert len(blamed) == 2
    assert all(flag.endswith("probably too low") for flag in blamed)
    sound = [flag for flag in found.flags if flag.startswith(("is ", "is:", "exact"))]
    assert len(sound) == len(chance)


# Bidirectional bounds ------------------------------------------------------------------------------


def test_the_width_of_a_sandwich_bounds_the_error() -> None:
    lower = _evidence(-0.05, 0.02, method="ais", seed=1)
    upper = _evidence(0.05, 0.02, kind="upper bound", method="bdmc", seed=2)
    found = sandwich(lower, upper)
    assert found.ok
    assert found.num_units == UNITS
    widths = upper.log_evidence - lower.log_evidence
    assert found.width == pytest.approx(widths.mean())
    assert found.std_error == pytest.approx(widths.std(ddof=1) / np.sqrt(UNITS))
    assert found.sentence.startswith(f"the annealed estimate errs by at most about {widths.mean():.3g} ± ")
    assert "nats a datum on data simulated from the model" in found.sentence


def test_a_sandwich_the_wrong_way_round_is_no_bound() -> None:
    lower = _evidence(0.5, 0.02, method="ais", seed=1)
    upper = _evidence(-0.5, 0.02, kind="upper bound", method="bdmc", seed=2)
    found = sandwich(lower, upper)
    assert not found.ok
    assert "the upper bound lies below the lower one by 1" in found.sentence
    one = sandwich(_first(lower), _first(upper))
    assert one.std_error == pytest.approx(0.02 * np.sqrt(2))
    with pytest.raises(InputError, match="got upper bound and estimate"):
        sandwich(upper, lower)
    with pytest.raises(InputError, match="not of the same units"):
        sandwich(_first(lower), upper)


def _first(evidence: Evidence) -> Evidence:
    return Evidence(evidence.log_evidence[:1], evidence.method, "datum", evidence.kind,
                    evidence.std_error[:1], evidence.bias[:1])  # fmt: skip
