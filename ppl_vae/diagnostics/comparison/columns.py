"""Values of log p(x) by unit, and by how much one column of them differs from another."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ppl_vae.answers.evidence import Evidence

__all__ = ["Column", "Difference", "column_of", "difference", "elbo_column", "shared"]

# Log densities are sums in float32: their relative rounding is no contradiction.
ROUNDING = 1e-6
# Methods whose bad weights may err to either side: means of weights, as the others take, come out too low.
EITHER_WAY = ("bridge",)


@dataclass(frozen=True)
class Column:
    """Values by unit that are compared: log evidence, or the ELBO beside it.

    ``units`` are their numbers, or None where every unit there is has a value. ``heavy`` marks weights
    without a third moment (k̂ > ⅓), whose mean is slow to become normal: such a unit alone may be off by
    twice the limit. ``either`` says that bad weights may err to either side, as a bridge's do.
    """

    label: str
    unit: str
    units: np.ndarray | None
    value: np.ndarray
    error: np.ndarray
    bias: np.ndarray
    alarm: np.ndarray
    heavy: np.ndarray
    either: bool = False

    def take(self, places: np.ndarray) -> "Column":
        """Some of the units."""
        return Column(
            self.label, self.unit, self.numbers[places], self.value[places], self.error[places],
            self.bias[places], self.alarm[places], self.heavy[places], self.either,
        )  # fmt: skip

    def total(self) -> "Column":
        """The data set as the one unit."""
        error = np.sqrt((self.error**2).sum())
        sums = (self.value.sum(), error, self.bias.sum(), self.alarm.any(), self.heavy.any())
        value, error, bias, alarm, heavy = (np.asarray([one]) for one in sums)
        return Column(self.label, "dataset", np.zeros(1, int), value, error, bias, alarm, heavy, self.either)

    @property
    def numbers(self) -> np.ndarray:
        """The numbers of the units."""
        return np.arange(len(self.value)) if self.units is None else self.units


def column_of(label: str, e: Evidence) -> Column:
    """An estimate's log p(x)."""
    heavy = e.pareto_k > 1 / 3 if len(e.pareto_k) else np.zeros(e.num_units, dtype=bool)
    either = e.method in EITHER_WAY
    return Column(label, e.unit, e.index, e.log_evidence, e.std_error, e.bias, e.alarming, heavy, either)


def elbo_column(label: str, e: Evidence) -> Column:
    """The ELBO has no error of its own here; half the variance of nearly normal log weights is its gap."""
    gap = np.maximum(e.log_evidence - e.elbo, 0.0)
    error = np.sqrt(2 * gap / max(1, e.num_samples))
    no = np.zeros(len(e.elbo), dtype=bool)
    return Column(f"the ELBO of {label}", e.unit, e.index, e.elbo, error, no.astype(float), no, no)


def shared(a: Column, b: Column) -> tuple[Column, Column] | None:
    """Both for the units that both have; totals where one has data and the other the data set."""
    if a.unit != b.unit:
        whole = all(side.unit == "dataset" or side.units is None for side in (a, b))
        return (a.total(), b.total()) if whole else None
    _, left, right = np.intersect1d(a.numbers, b.numbers, return_indices=True)
    return (a.take(left), b.take(right)) if len(left) else None


@dataclass(frozen=True)
class Difference:
    """By how much one column exceeds another (negative: falls short), and that in words."""

    gap: float
    words: str


def difference(a: Column, b: Column, level: float, above: bool = False) -> Difference | None:
    """How a differs from b beyond errors and biases; None where it does not.

    Args:
        a, b: the same units.
        level: how often noise alone may exceed by as much, to one side.
        above: whether only an excess of a over b counts.
    """
    with np.errstate(invalid="ignore"):
        gaps = a.value - b.value
        errors = np.hypot(a.error, b.error)
        rounding = ROUNDING * (1 + np.abs(b.value))
        gap, error = float(gaps.mean()), float(np.sqrt((errors**2).sum())) / len(gaps)
        slack = abs(a.bias.mean()) + abs(b.bias.mean()) + rounding.mean()
        if (gap if above else abs(gap)) > stats.norm.isf(level) * error + slack:
            over = f" a datum in the mean over {len(gaps)} units" if a.unit == "datum" else ""
            return Difference(gap, f"by {gap:+.4g} nats{over}{_in_errors(gap, error)}")
        excess = (gaps if above else np.abs(gaps)) - np.abs(a.bias) - np.abs(b.bias) - rounding
        limits = errors * stats.norm.isf(level / len(gaps)) * (1 + (a.heavy | b.heavy))
        beyond = np.flatnonzero((excess > limits) & ~a.alarm & ~b.alarm)
    if not len(beyond):
        return None
    worst = beyond[np.argmax(excess[beyond] / np.maximum(errors[beyond], 1e-300))]
    words = (
        f"in {len(beyond)} of {len(gaps)} units (worst: unit {a.numbers[worst]}, by {gaps[worst]:+.4g} nats"
        f"{_in_errors(gaps[worst], errors[worst])})"
    )
    return Difference(float(gaps[worst]), words)


def _in_errors(gap: float, error: float) -> str:
    return f", {abs(gap) / error:.1f} standard errors" if error > 0 else ""
