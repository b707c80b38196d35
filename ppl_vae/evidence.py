"""log p(x) by unit, with its error and its diagnostics."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Evidence"]

Kind = Literal["exact", "estimate", "lower bound", "upper bound"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """log p(x) in nats, one entry per unit.

    Attributes:
        log_evidence: shape (units,).
        method: how it was got: "is", "exact", ….
        unit: "datum" or "dataset".
        kind: what kind of number it is. Importance sampling gives a consistent estimate, which is
            also a lower bound in expectation.
        std_error: of each log evidence; delta method, s = sd(w) / (mean(w) √S). Zero where exact.
        bias: estimate of each log's own bias, −s²/2 (the mean of a log is below the log of a mean).
        ess: effective sample size (Σw)² / Σw², out of num_samples.
        pareto_k: tail index k̂ of the weights (Vehtari et al. 2024); −1 where the weights are
            constant to rounding.
        elbo: mean log weight: the ELBO where the proposal was the guide.
        num_samples: draws a unit.
        proposal: what they were drawn from.
        seconds: wall time.
        compile_seconds: the part of it that compiling or loading the compiled weights took.
    """

    log_evidence: np.ndarray
    method: str
    unit: Literal["datum", "dataset"]
    kind: Kind
    std_error: np.ndarray
    bias: np.ndarray
    ess: np.ndarray = field(default_factory=lambda: np.zeros(0))
    pareto_k: np.ndarray = field(default_factory=lambda: np.zeros(0))
    elbo: np.ndarray = field(default_factory=lambda: np.zeros(0))
    num_samples: int = 0
    proposal: str = ""
    seconds: float = float("nan")
    compile_seconds: float = 0.0

    @property
    def num_units(self) -> int:
        """Number of units."""
        return len(self.log_evidence)

    @property
    def total(self) -> float:
        """Σ log p(x_n), the log evidence of the whole data set."""
        return float(self.log_evidence.sum())

    @property
    def total_std_error(self) -> float:
        """Standard error of `total`: units are sampled independently."""
        return float(np.sqrt((self.std_error**2).sum()))

    @property
    def total_bias(self) -> float:
        """Estimated bias of `total`."""
        return float(self.bias.sum())

    @property
    def mean(self) -> float:
        """Mean log evidence of a unit."""
        return self.total / self.num_units

    @property
    def mean_std_error(self) -> float:
        """Standard error of `mean`."""
        return self.total_std_error / self.num_units

    @property
    def alarming(self) -> np.ndarray:
        """Which units' weights cannot be trusted, shape (units,).

        A high k̂ alone is no alarm: a good full-rank guide may have k̂ > 0.7 and use nearly every
        sample. The alarm sounds when k̂ exceeds min(1 − 1/log₁₀ S, 0.7) *and* more than a tenth of
        the samples is lost, or when fewer than 100 effective samples are left.
        """
        if not len(self.ess):
            return np.zeros(self.num_units, dtype=bool)
        threshold = min(1 - 1 / np.log10(max(self.num_samples, 11)), 0.7)
        wasteful = self.ess < 0.9 * self.num_samples
        few = self.ess < min(100, 0.5 * self.num_samples)
        return ((self.pareto_k > threshold) & wasteful) | few

    def to_dataset(self) -> xr.Dataset:
        """As xarray, with one dimension ``unit``."""
        import xarray as xr

        columns = {
            name: ("unit", values)
            for name in ("log_evidence", "std_error", "bias", "ess", "pareto_k", "elbo")
            if len(values := getattr(self, name))
        }
        attributes = {
            name: getattr(self, name)
            for name in ("method", "unit", "kind", "num_samples", "proposal", "seconds", "compile_seconds")
        }
        return xr.Dataset(columns, attrs=attributes)

    def save(self, path: str | Path) -> None:
        """Write a NetCDF file."""
        self.to_dataset().to_netcdf(path, engine="h5netcdf")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        import xarray as xr

        with xr.open_dataset(path, engine="h5netcdf") as data:
            data = data.load()
        columns: dict[str, Any] = {str(name): values.to_numpy() for name, values in data.data_vars.items()}
        attributes = dict(data.attrs)
        attributes["num_samples"] = int(attributes["num_samples"])
        attributes["seconds"] = float(attributes["seconds"])
        return cls(**columns, **attributes)
