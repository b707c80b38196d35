"""log p(x) by unit, with its error and its diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ppl_vae.base.notebook import banner, items, panel, table
from ppl_vae.base.saved import Saved, kept
from ppl_vae.base.wording import with_error

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Evidence"]

Kind = Literal["exact", "estimate", "lower bound", "upper bound"]


def _none() -> np.ndarray:
    return np.zeros(0)


@dataclass(frozen=True, eq=False, repr=False)
class Evidence(Saved):
    """log p(x) in nats, one entry per unit.

    Attributes:
        log_evidence: shape (units,).
        method: how it was got: "exact", "prior" (simple Monte Carlo), "is", "defensive", "iwae", "ais",
            "bridge", or "bdmc" (the reverse chain's upper bound).
        unit: "datum" or "dataset".
        kind: what kind of number it is. Importance sampling and annealing give consistent estimates,
            which are also lower bounds in expectation.
        std_error: of each log evidence; delta method, s = sd(w) / (mean(w) √S). Zero where exact.
        bias: estimate of each log's own bias, −s²/2 (the mean of a log is below the log of a mean).
        ess: effective sample size (Σw)² / Σw², out of num_samples.
        pareto_k: tail index k̂ of the weights (Vehtari et al. 2024); −1 where the weights are
            constant to rounding.
        elbo: mean log weight: the ELBO where the proposal was the guide.
        smoothed: the estimate from Pareto-smoothed weights.
        acceptance: mean acceptance probability of the annealed chains' transitions.
        index: which units these are, where they are not all.
        curve: the mean over units as it was after fewer samples, shape (points, 3): number of samples,
            estimate, standard error.
        num_samples: draws a unit, or annealed chains.
        proposal: what they were drawn from.
        notes: what has to be said about the numbers, in sentences.
        seconds: wall time.
        compile_seconds: the part of it that compiling or loading the compiled weights took.
    """

    log_evidence: np.ndarray = field(metadata=kept("unit"))
    method: str
    unit: Literal["datum", "dataset"]
    kind: Kind
    std_error: np.ndarray = field(metadata=kept("unit"))
    bias: np.ndarray = field(metadata=kept("unit"))
    ess: np.ndarray = field(default_factory=_none, metadata=kept("unit"))
    pareto_k: np.ndarray = field(default_factory=_none, metadata=kept("unit"))
    elbo: np.ndarray = field(default_factory=_none, metadata=kept("unit"))
    smoothed: np.ndarray = field(default_factory=_none, metadata=kept("unit"))
    acceptance: np.ndarray = field(default_factory=_none, metadata=kept("unit"))
    index: np.ndarray | None = field(default=None, metadata=kept("unit", name="unit"))
    curve: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)), metadata=kept("point", "column"))
    num_samples: int = 0
    proposal: str = ""
    notes: tuple[str, ...] = ()
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
        sample. The alarm sounds when k̂ exceeds min(1 − 1/log₁₀ S, 0.7) *and* it matters: more than a
        tenth of the samples is lost, or smoothing the weights moves the estimate by more than a standard
        error. It also sounds when fewer than 100 effective samples are left, or half of them where there
        are fewer than 200, or where no sample has any weight at all.
        """
        if not len(self.ess):
            return np.zeros(self.num_units, dtype=bool)
        # Not a number where all weights are nought.
        few = ~(self.ess >= min(100, 0.5 * self.num_samples))
        if not len(self.pareto_k):
            return few
        threshold = min(1 - 1 / np.log10(max(self.num_samples, 11)), 0.7)
        matters = self.ess < 0.9 * self.num_samples
        if len(self.smoothed):
            matters |= np.abs(self.smoothed - self.log_evidence) > self.std_error
        return ((self.pareto_k > threshold) & matters) | few

    def bits_per_dim(self, num_dims: int, log_volume: float = 0.0) -> float:
        """Mean −log₂ p(x) a dimension of a unit.

        Args:
            num_dims: numbers that a unit observes.
            log_volume: for a density of values on a grid, the log of the volume of one of its cells (Σ log
                of the steps), which makes a probability of it; 0 for discrete values. A density of
                dequantised values gives an upper bound (Theis, van den Oord and Bethge 2016, section 3.1).
        """
        return -(self.mean + log_volume) / (num_dims * float(np.log(2)))

    @property
    def units(self) -> np.ndarray:
        """The numbers of the units, shape (units,)."""
        return np.arange(self.num_units) if self.index is None else self.index

    def __repr__(self) -> str:
        alarms = int(self.alarming.sum())
        units = f"{self.num_units:,} {'unit' if self.num_units == 1 else 'units'}"
        found = f"log p(x) = {with_error(self.total, self.total_std_error)} nats of {units}"
        return f"Evidence({self.method}, {self.kind}: {found}" + (f"; {alarms:,} alarm)" if alarms else ")")

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        alarms = int(self.alarming.sum())
        rows: list[tuple[str, object]] = [
            ("log p(x) of all, in nats", with_error(self.total, self.total_std_error)),
            (f"mean of a {self.unit}", with_error(self.mean, self.mean_std_error)),
            ("ELBO, mean", float(self.elbo.mean()) if len(self.elbo) else "–"),
            ("smallest effective sample size", float(self.ess.min()) if len(self.ess) else "–"),
            ("largest k̂", float(self.pareto_k.max()) if len(self.pareto_k) else "–"),
            ("units", self.num_units),
            ("samples a unit", self.num_samples or "–"),
            ("seconds", self.seconds),
        ]
        return panel(
            f"log p(x) by {self.method}: {self.kind}",
            banner(f"{alarms:,} of {self.num_units:,} units alarm", "warn", _ALARM) if alarms else "",
            table(["", "value"], rows),
            items(self.notes),
        )

    def to_dataset(self) -> xr.Dataset:
        """As xarray, with the dimension ``unit`` and, for the curve, ``point``."""
        data: xr.Dataset = self.to_xarray()
        return data

    def derived(self) -> Mapping[str, Any]:
        """The numbers of the units, and what the columns of the curve are."""
        columns = ["num_samples", "log_evidence_mean", "std_error_mean"]
        return {"unit": ("unit", self.units), "column": ("column", columns)}


_ALARM = "A few large weights decide their log p(x), which is probably too low."
