from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ppl_vae.answers.evidence import Evidence


def _evidence(ess: float = 900.0, pareto_k: float = 0.1, num_samples: int = 1000, units: int = 3) -> Evidence:
    generator = np.random.default_rng(0)
    error = generator.random(units)
    return Evidence(
        log_evidence=generator.normal(size=units),
        method="is",
        unit="datum",
        kind="estimate",
        std_error=error,
        bias=-0.5 * error**2,
        ess=np.full(units, ess),
        pareto_k=np.full(units, pareto_k),
        elbo=generator.normal(size=units) - 3,
        num_samples=num_samples,
        proposal="guide",
        seconds=2.5,
    )


def _exact() -> Evidence:
    return Evidence(np.array([-3.0, -4.0]), "exact", "dataset", "exact", np.zeros(2), np.zeros(2))


@pytest.mark.parametrize("made", [_evidence, _exact])
def test_netcdf_round_trips_everything(made: object, tmp_path: Path) -> None:
    evidence: Evidence = made()
    path = tmp_path / "evidence.nc"
    evidence.save(path)
    found = Evidence.load(path)
    for name in ("log_evidence", "std_error", "bias", "ess", "pareto_k", "elbo"):
        np.testing.assert_array_equal(getattr(found, name), getattr(evidence, name))
    for name in ("method", "unit", "kind", "num_samples", "proposal"):
        assert getattr(found, name) == getattr(evidence, name)
        assert type(getattr(found, name)) is type(getattr(evidence, name))
    assert found.seconds == evidence.seconds or np.isnan(evidence.seconds)
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        assert opened["log_evidence"].dims == ("unit",)
        assert opened.attrs["kind"] == evidence.kind
    evidence.save(path)


def test_totals_and_means_carry_their_errors() -> None:
    evidence = _evidence()
    assert evidence.total == pytest.approx(evidence.log_evidence.sum())
    assert evidence.mean == pytest.approx(evidence.log_evidence.mean())
    # Units are independent: errors add in squares, biases as they are.
    assert evidence.total_std_error == pytest.approx(np.sqrt((evidence.std_error**2).sum()))
    assert evidence.mean_std_error == pytest.approx(evidence.total_std_error / 3)
    assert evidence.total_bias == pytest.approx(evidence.bias.sum())


@pytest.mark.parametrize(
    ("ess", "pareto_k", "num_samples", "alarms"),
    [
        (990.0, 0.1, 1000, False),
        (990.0, 0.9, 1000, False),  # a high k̂ that costs nothing is no alarm
        (500.0, 0.9, 1000, True),  # … and one that does is
        (500.0, 0.5, 1000, False),
        (500.0, 0.69, 1000, True),  # above 1 − 1/log₁₀ 1000 = 2/3
        (99.0, 0.1, 100_000, True),  # few effective samples out of many, whatever k̂
        (5000.0, 0.69, 100_000, False),  # the threshold is 0.7 for large samples
        (60.0, 0.1, 1000, True),  # a low ESS alone
        (60.0, 0.1, 100, False),  # of few samples more than half
        (40.0, 0.1, 100, True),
        (1000.0, -1.0, 1000, False),
    ],
)
def test_alarm_sounds_when_k_hat_is_high_and_matters_or_the_ess_is_low(
    ess: float, pareto_k: float, num_samples: int, alarms: bool
) -> None:
    evidence = _evidence(ess, pareto_k, num_samples)
    assert evidence.alarming.tolist() == [alarms] * 3


def test_exact_evidence_never_alarms() -> None:
    assert _exact().alarming.tolist() == [False, False]
    assert _exact().total_std_error == 0


def test_what_belongs_to_some_units_or_to_the_course_of_an_estimate_is_kept(tmp_path: Path) -> None:
    evidence = replace(
        _evidence(),
        index=np.array([7, 2, 40]),
        smoothed=np.array([-1.0, -2.0, -3.0]),
        acceptance=np.array([0.7, 0.8, 0.9]),
        curve=np.array([[2.0, -3.0, 0.5], [4.0, -2.5, 0.4]]),
        notes=("One sentence.", "Another one."),
        compile_seconds=1.5,
    )
    evidence.save(tmp_path / "evidence.nc")
    found = Evidence.load(tmp_path / "evidence.nc")
    for name in ("smoothed", "acceptance", "curve", "units"):
        np.testing.assert_array_equal(getattr(found, name), getattr(evidence, name))
    assert found.notes == evidence.notes
    assert found.compile_seconds == 1.5
    assert _evidence().units.tolist() == [0, 1, 2]


def test_a_high_k_hat_matters_where_smoothing_moves_the_estimate_beyond_its_error() -> None:
    calm = replace(_evidence(ess=990.0, pareto_k=0.9), smoothed=_evidence().log_evidence)
    moved = replace(calm, smoothed=calm.log_evidence + 1.01 * calm.std_error)
    assert not calm.alarming.any()
    assert moved.alarming.all()
    assert not replace(moved, pareto_k=np.full(3, 0.1)).alarming.any()
