from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ppl_vae.evidence import Evidence


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
