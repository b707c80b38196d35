"""Several values of log p(x) side by side: which to believe, and which contradict each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.comparison.columns import Column, column_of, difference, elbo_column, shared

__all__ = ["Agreement", "Sandwich", "agreement", "sandwich"]

# How many standard errors are a contradiction of two values; over many, and units, the same total level.
LIMIT = 3.0
POINTS = ("exact", "estimate")


@dataclass(frozen=True, eq=False, repr=False)
class Agreement:
    """What several values of log p(x) of the same data say about each other.

    Attributes:
        table: one row per value, indexed by its label: ``method``, ``kind``, ``unit``, ``units``, ``mean``
            (nats a unit), its ``std_error`` and ``bias``, ``ess`` (the smallest), ``pareto_k`` (the
            largest), ``alarms`` (units whose weights cannot be trusted), ``acceptance`` (mean) and
            ``seconds``; NaN where there is none.
        flags: what a reader has to know, in sentences: weights that cannot be trusted, values that
            contradict each other, bounds that are crossed.
        best: label of the value to believe: the exact one, else the estimate of smallest error that
            raises no alarm and has no fewer units than others; None where every estimate alarms, or values
            contradict each other beyond what alarms explain.
        trusted: whether there is such a value.
        reason: why it, or why none, in a clause.
    """

    table: pd.DataFrame
    flags: tuple[str, ...]
    best: str | None
    trusted: bool
    reason: str

    def __repr__(self) -> str:
        best = f"believe {self.best}" if self.best is not None else "believe none"
        return f"Agreement({', '.join(map(str, self.table.index))}: {best}; {len(self.flags)} flags)"


def agreement(found: Sequence[Evidence] | Mapping[str, Evidence]) -> Agreement:
    """Judge values of log p(x) of one model on the same data.

    Two exact values or estimates contradict each other where they differ by more than three combined
    standard errors and the sizes of both biases: in the mean over the units that both have, or in a single
    unit. Where there are more than two values, and more than one unit, the limit rises to keep the level of
    all comparisons together (Bonferroni): sound values contradict each other once in four hundred times,
    however many they are. An estimate that raises an alarm is dominated
    by a few large weights and most likely too low (a bridge's may err to either side), and a difference that
    way is said to be its fault. The alarm is the method's and not the unit's: units that have missed their
    large weights raise none, so that the mean over the others would be worse. A lower bound, and the ELBO
    that comes with an estimate, must not exceed an exact value, an estimate or an upper bound beyond the
    errors; an upper bound must not fall below.

    Args:
        found: by label, or a sequence labelled by method. All of the same data: bounds on data simulated
            from the model belong to `sandwich`.

    Raises:
        InputError: if there is nothing to judge.
    """
    values = dict(found) if isinstance(found, Mapping) else _labelled(found)
    if not values:
        raise InputError("agreement was given no evidence to judge")
    alarms = [_alarm(label, e) for label, e in values.items() if e.alarming.any()]
    points = {label: e for label, e in values.items() if e.kind in POINTS}
    pairs, apart = [], []
    for (a, one), (b, two) in combinations(points.items(), 2):
        if (both := shared(column_of(a, one), column_of(b, two))) is None:
            apart.append(f"{a} and {b} have no unit in common and cannot be compared")
        else:
            pairs.append(both)
    bounds = list(_bounds(values))
    level = float(stats.norm.sf(LIMIT)) / max(1, len(pairs) + len(bounds))
    judged = [*(_conflict(*pair, level) for pair in pairs), *(_crossing(*pair, level) for pair in bounds)]
    findings = [finding for finding in judged if finding is not None]
    findings.sort(key=lambda finding: finding.explained)
    best, reason = _believed(values, findings)
    return Agreement(
        table=pd.DataFrame.from_dict({label: _row(e) for label, e in values.items()}, orient="index"),
        flags=(*(finding.sentence for finding in findings), *apart, *alarms),
        best=best,
        trusted=best is not None,
        reason=reason,
    )


@dataclass(frozen=True)
class Sandwich:
    """How far apart bidirectional bounds are on data simulated from the model.

    Attributes:
        width: mean of upper − lower in nats a unit.
        std_error: its standard error over the simulated data.
        num_units: how many there were.
        ok: whether the bounds are the right way round, up to three standard errors.
        sentence: what it means.
    """

    width: float
    std_error: float
    num_units: int
    ok: bool
    sentence: str


def sandwich(lower: Evidence, upper: Evidence) -> Sandwich:
    """The width between bidirectional Monte Carlo bounds (Grosse, Ghahramani and Adams 2015).

    On data simulated from the model, log p(x) lies between them in expectation, so that their distance
    bounds the error of the annealed estimate there. It says nothing certain about real data, least of
    all where the model does not fit.

    Args:
        lower: the forward chains' values on simulated data.
        upper: the reverse chains' values on the same data.

    Raises:
        InputError: if the second is no upper bound, or the units are not the same.
    """
    if upper.kind != "upper bound" or lower.kind not in ("lower bound", "estimate"):
        raise InputError(f"a sandwich needs a lower and an upper bound; got {lower.kind} and {upper.kind}")
    if not np.array_equal(lower.units, upper.units):
        raise InputError("the lower and the upper bound are not of the same units")
    widths = upper.log_evidence - lower.log_evidence
    width, num_units = float(widths.mean()), len(widths)
    # The spread over data contains the Monte Carlo errors; one datum has nothing but those.
    monte_carlo = float(np.hypot(lower.mean_std_error, upper.mean_std_error))
    error = float(widths.std(ddof=1)) / num_units**0.5 if num_units > 1 else monte_carlo
    size = f"{width:.3g} ± {error:.2g} nats {_per(lower.unit)}"
    if width < -LIMIT * error:
        sentence = (
            f"the upper bound lies below the lower one by {-width:.3g} ± {error:.2g} nats "
            f"{_per(lower.unit)}: the chains, their schedule or the simulated data are wrong"
        )
        return Sandwich(width, error, num_units, False, sentence)
    if width < 2 * error:
        size = f"{2 * error:.2g} nats {_per(lower.unit)}, within which the bounds meet,"
    sentence = (
        f"the annealed estimate errs by at most about {size} on data simulated from the model "
        f"({num_units} of them); on real data the error is likely to be similar where the model fits"
    )
    return Sandwich(width, error, num_units, True, sentence)


def _labelled(found: Sequence[Evidence]) -> dict[str, Evidence]:
    """By method, with a number where a method comes again."""
    values: dict[str, Evidence] = {}
    for evidence in found:
        again = sum(other.method == evidence.method for other in values.values())
        values[f"{evidence.method} {again + 1}" if again else evidence.method] = evidence
    return values


def _row(evidence: Evidence) -> dict[str, object]:
    def of(name: str, reduce: str) -> float:
        values = getattr(evidence, name)
        return float(getattr(values, reduce)()) if len(values) else np.nan

    return {
        "method": evidence.method,
        "kind": evidence.kind,
        "unit": evidence.unit,
        "units": evidence.num_units,
        "mean": evidence.mean,
        "std_error": evidence.mean_std_error,
        "bias": of("bias", "mean"),
        "ess": of("ess", "min"),
        "pareto_k": of("pareto_k", "max"),
        "alarms": int(evidence.alarming.sum()),
        "acceptance": of("acceptance", "mean"),
        "seconds": evidence.seconds,
    }


def _best(values: Mapping[str, Evidence]) -> str | None:
    """Exact values first, then those of most units, then those of the smallest error."""
    sound = {
        label: e
        for label, e in values.items()
        if e.kind in POINTS and not e.alarming.any() and np.isfinite(e.total_std_error)
    }

    def rank(label: str) -> tuple[bool, float, float]:
        e = sound[label]
        missing = np.inf if e.index is None else e.num_units
        return e.kind != "exact", -missing, e.total_std_error

    return min(sound, key=rank, default=None)


def _believed(values: Mapping[str, Evidence], findings: Sequence["_Finding"]) -> tuple[str | None, str]:
    """The label of the value to believe, or None, and why."""
    if any(not finding.explained for finding in findings):
        return None, "the values contradict each other beyond errors and biases"
    best = _best(values)
    if best is not None:
        return best, "no contradiction beyond errors and biases"
    if not any(e.kind in POINTS for e in values.values()):
        return None, "there are bounds only"
    return None, "the weights of every estimate raise an alarm"


def _alarm(label: str, evidence: Evidence) -> str:
    alarming = evidence.alarming
    worst = np.flatnonzero(alarming)
    worst = worst[np.argsort(evidence.ess[worst])][:3]
    which = ", ".join(str(unit) for unit in evidence.units[worst])
    facts = f"{evidence.ess[worst[0]]:.3g} effective samples of {evidence.num_samples}"
    if len(evidence.pareto_k):
        facts += f", k̂ {evidence.pareto_k[worst[0]]:.2f}"
    where = "its weights cannot be trusted"
    if evidence.unit == "datum":
        where += f" in {alarming.sum()} of {len(alarming)} units (worst: {which})"
    if evidence.method == "bridge":
        return f"{label}: {where}: {facts}; guide and posterior draws hardly overlap"
    return (
        f"{label}: {where}: {facts}; a few large weights decide, so the value is probably too low and its "
        "standard error too small"
    )


def _per(unit: str) -> str:
    return "a datum" if unit == "datum" else "a data set"


@dataclass(frozen=True)
class _Finding:
    """A sentence, and whether weights that cannot be trusted explain it."""

    sentence: str
    explained: bool


def _conflict(a: Column, b: Column, level: float) -> _Finding | None:
    """Two values of the same thing."""
    # The doubtful one comes first.
    a, b = (b, a) if b.alarm.any() and not a.alarm.any() else (a, b)
    # Two alarms are each said for themselves: that they differ adds nothing.
    if b.alarm.any() or (found := difference(a, b, level)) is None:
        return None
    if not a.alarm.any():
        sentence = f"{a.label} and {b.label} contradict each other: {a.label} differs {found.words}"
        return _Finding(f"{sentence}; one of them is wrong", explained=False)
    sentence = f"{a.label} differs from {b.label} {found.words}; the weights of {a.label} cannot be trusted"
    if a.either:
        return _Finding(f"{sentence}, and it may err to either side", explained=True)
    if found.gap < 0:
        return _Finding(f"{sentence}, and it is probably too low", explained=True)
    return _Finding(f"{sentence}, but that would make it too low: one of them is wrong", explained=False)


def _bounds(values: Mapping[str, Evidence]) -> Iterator[tuple[Column, Column]]:
    """Pairs (low, high) of which the first must not exceed the second, on the units that both have."""
    for above, high in values.items():
        elbos = []
        for below, low in values.items():
            if low is high:
                continue
            if len(low.elbo) and high.kind in (*POINTS, "upper bound"):
                elbos.append(shared(elbo_column(below, low), column_of(above, high)))
            is_pair = (low.kind == "lower bound" and high.kind != "lower bound") or (
                low.kind != "upper bound" and high.kind == "upper bound"
            )
            if is_pair and (pair := shared(column_of(below, low), column_of(above, high))) is not None:
                yield pair
        # The largest ELBO says it all.
        if known := [pair for pair in elbos if pair is not None]:
            yield max(known, key=lambda pair: float(pair[0].value.mean()))


def _crossing(low: Column, high: Column, level: float) -> _Finding | None:
    """A bound and what it must not exceed."""
    if (found := difference(low, high, level, above=True)) is None:
        return None
    sentence = f"a bound is crossed: {low.label} exceeds {high.label} {found.words}"
    if high.alarm.any():
        how = "may err to either side" if high.either else "is too low"
        return _Finding(
            f"{sentence}; the weights of {high.label} cannot be trusted, and it {how}", explained=True
        )
    if low.alarm.any() and low.either:
        return _Finding(
            f"{sentence}; the weights of {low.label} cannot be trusted, and it may err to either side",
            explained=True,
        )
    return _Finding(f"{sentence}; one of them is wrong", explained=False)
