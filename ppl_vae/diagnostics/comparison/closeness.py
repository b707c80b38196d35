"""The rule by which a posterior agrees with a reference, differs from it, or leaves it open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from ppl_vae.diagnostics.comparison.reasons import Reason

__all__ = ["Severity", "Tolerances", "Verdict", "how_far", "judge", "severity"]

Verdict = Literal["agrees", "differs", "cannot tell"]

# Chance of one false alarm among all numbers of an answer, were every one of them at its tolerance.
FAMILY_LEVEL = 0.01
# Fewer effective draws have no Monte Carlo errors to rely on.
FEWEST_DRAWS = 50
# The Monte Carlo error that is asked for of tail quantiles, as a fraction of the tolerance: those of a skewed
# posterior are far less precise than its mean.
TAIL_PRECISION = 1.0


@dataclass(frozen=True)
class Tolerances:
    """What still counts as agreement; see `compare` for the rule.

    A mean and a standard deviation at their tolerances move the tails of a normal by 0.2 + 1.645 · 0.2 = 0.53
    of its sd: a smaller tolerance of the tails would make theirs pointless.
    """

    mean: float = 0.2
    sd: float = 0.2
    tail: float = 0.5
    correlation: float = 0.3
    variance: float = 2.0


@dataclass(frozen=True, eq=False)
class _Criterion:
    """One kind of error over several quantities: sizes, Monte Carlo errors, and what is tolerated."""

    key: str
    names: tuple[str, ...]
    errors: np.ndarray
    mcse: np.ndarray
    tolerance: float
    # The numbers that are shown, and their Monte Carlo errors; of correlations also the reference's.
    values: np.ndarray
    spread: np.ndarray
    expected: float = np.nan
    # The Monte Carlo error that is asked for, as a fraction of the tolerance.
    precision: float = 0.5
    # A sturdier measure of the same thing, which settles doubts.
    settled_by: _Criterion | None = None

    def beyond(self, factor: float) -> np.ndarray:
        """Where the error is larger than tolerated, Monte Carlo error allowed for."""
        return np.asarray(self.errors - factor * self.mcse > self.tolerance)

    def doubtful(self, factor: float) -> np.ndarray:
        """Where it cannot be said: too noisy, or over the tolerance by less than noise makes the worst."""
        spare = (factor - float(stats.norm.isf(FAMILY_LEVEL / 2))) * self.mcse
        noisy = self.mcse > self.precision * self.tolerance
        found = ~self.beyond(factor) & (noisy | (self.errors - spare > self.tolerance))
        return found if self.settled_by is None else found & self.settled_by.doubtful(factor)

    def worst(self, among: np.ndarray) -> int:
        """The place of the largest error among some."""
        return int(np.argmax(np.where(among, self.errors, 0.0)))

    def reason(self, at: int, criterion: str = "", **more: Any) -> Reason:
        """One of them as a reason: of its own criterion, or of another that is about this one."""
        return Reason(
            criterion=criterion or self.key, of=self.key if criterion else "", quantity=str(self.names[at]),
            size=float(self.values[at]), error=float(self.spread[at]), expected=self.expected, **more,
        )  # fmt: skip

    def more_draws(self, at: int, factor: float) -> float:
        """How many times as many draws would settle one of them."""
        precise = (self.mcse[at] / (self.precision * self.tolerance)) ** 2
        excess = self.errors[at] - self.tolerance
        if excess <= 0:
            return float(precise)
        return float(max(precise, (factor * self.mcse[at] / excess) ** 2))


def judge(
    part: pd.DataFrame, joint: Mapping[str, Any], tolerances: Tolerances, ess: float, short_of_draws: str
) -> tuple[Verdict, list[Reason]]:
    """An answer's verdict, and the reasons behind it.

    Args:
        part: the answer's rows of `Comparison.table`.
        joint: the answer's row of `Comparison.joint`.
        tolerances: what still counts as agreement.
        ess: the smaller effective size of the two.
        short_of_draws: which draws limit the precision, in words.
    """
    if ess < FEWEST_DRAWS:
        return "cannot tell", [Reason(criterion="few", size=ess, limits=(FEWEST_DRAWS,), who=short_of_draws)]
    single = _single(part, tolerances)
    together = _together(joint, tolerances)
    factor = _factor(sum(len(criterion.names) for criterion in (*single.values(), *together)))
    reasons = _differences(joint, single, together, factor)
    lost = part.loc[~np.isfinite(part["mean_error_in_sd"]), "name"]
    if len(lost):
        reasons.insert(0, Reason(criterion="finite", count=len(lost), total=len(part), quantity=lost.iloc[0]))
    if reasons:
        return "differs", reasons
    open_questions = _doubts(single, together, factor, short_of_draws)
    if open_questions:
        return "cannot tell", open_questions
    limits = (tolerances.mean, tolerances.sd)
    return "agrees", [Reason(criterion="agrees", total=len(part), limits=limits)]


def how_far(table: pd.DataFrame, *, tails: bool = True) -> np.ndarray:
    """By what a table's rows are ranked: the largest of its errors in a mean, in a log sd and in a tail.

    Args:
        table: rows of `Comparison.table`.
        tails: whether the tails count.

    Returns:
        Of shape (rows,), in reference sd; NaN for draws that are no numbers.
    """
    spread = np.abs(np.log(np.maximum(table["sd_ratio"].to_numpy(dtype=float), 1e-300)))
    found = np.maximum(table["mean_error_in_sd"].abs().to_numpy(dtype=float), spread)
    for tail in ("q5_error_in_sd", "q95_error_in_sd") if tails else ():
        if tail in table:
            found = np.maximum(found, table[tail].abs().to_numpy(dtype=float))
    return found


@dataclass(frozen=True)
class Severity:
    """How wrong an answer is in one number: its worst error, as a multiple of what is tolerated.

    Attributes:
        error: the worst, after what noise alone makes the worst of so many.
        floor: the worst, after all Monte Carlo error that is allowed for.
        worst: what that is.
    """

    error: float
    floor: float
    worst: Reason


def severity(part: pd.DataFrame, joint: Mapping[str, Any], tolerances: Tolerances) -> Severity:
    """The same criteria as `judge`'s, in one number; its arguments are the same."""
    criteria = [*_single(part, tolerances).values(), *_together(joint, tolerances)]
    factor = _factor(sum(len(criterion.names) for criterion in criteria))
    spare = factor - float(stats.norm.isf(FAMILY_LEVEL / 2))
    errors, floors, places = [], [], []
    for criterion in criteria:
        for at in range(len(criterion.names)):
            size, noise = float(criterion.errors[at]), float(criterion.mcse[at])
            known = np.isfinite(size) and np.isfinite(noise)
            errors.append((size - spare * noise) / criterion.tolerance if known else np.inf)
            floors.append((size - factor * noise) / criterion.tolerance if known else np.inf)
            places.append((criterion, at))
    criterion, at = places[int(np.argmax(floors))]
    return Severity(max(0.0, *errors), max(0.0, *floors), criterion.reason(at, "off"))


def _factor(comparisons: int) -> float:
    """So many Monte Carlo errors are allowed for: Bonferroni over all of an answer's numbers."""
    return max(2.0, float(stats.norm.isf(FAMILY_LEVEL / (2 * comparisons))))


def _single(part: pd.DataFrame, tolerances: Tolerances) -> dict[str, _Criterion]:
    """The criteria that look at one quantity at a time."""
    names = tuple(part["name"])
    ratio = np.maximum(part["sd_ratio"].to_numpy(), 1e-300)
    scale = np.maximum(part["sd_reference"].to_numpy(), np.finfo(float).tiny)
    apart = _above(part["wasserstein"].to_numpy(), part["wasserstein_null"].to_numpy()) / scale

    def plain(key: str, column: str, error: str, tolerance: float, precision: float) -> _Criterion:
        values, spread = part[column].to_numpy(), part[error].to_numpy()
        return _Criterion(key, names, np.abs(values), spread, tolerance, values, spread, precision=precision)

    limit, spread = tolerances.tail, part["sd_ratio_mcse"].to_numpy()
    noise = part["mcse"].to_numpy() / scale
    found = (
        plain("mean", "mean_error_in_sd", "mean_error_mcse", tolerances.mean, 0.5),
        _Criterion(
            "sd", names, np.abs(np.log(ratio)), spread / ratio, float(np.log1p(tolerances.sd)), ratio, spread
        ),
        plain("5 %", "q5_error_in_sd", "q5_error_mcse", limit, TAIL_PRECISION),
        plain("95 %", "q95_error_in_sd", "q95_error_mcse", limit, TAIL_PRECISION),
        _Criterion("shape", names, apart, noise, tolerances.mean, apart, noise),
    )
    return {criterion.key: criterion for criterion in found}


def _together(joint: Mapping[str, Any], tolerances: Tolerances) -> list[_Criterion]:
    """The criteria that look at all quantities together; none where there is but one."""
    if not np.isfinite(joint["sliced_wasserstein"]):
        return []
    found = []
    limit = float(np.log(tolerances.variance))
    for end, sign in (("smallest", -1), ("largest", 1)):
        # Only a too small smallest and a too large largest ratio are errors of their own.
        (size, mcse), (width, width_mcse) = (
            (sign * np.log(max(joint[name], 1e-300)), joint[f"{name}_mcse"] / max(joint[name], 1e-300))
            for name in (f"{end}_variance_ratio", f"{end}_width_ratio")
        )
        name, ratio = joint[f"{end}_direction"], f"{end}_variance_ratio"
        shown = joint[ratio], joint[f"{ratio}_mcse"]
        sturdy = _one("variance", name, 2 * width, 2 * width_mcse, limit, shown)
        found.append(replace(_one("variance", name, size, mcse, limit, shown), settled_by=sturdy))
    correlation = _one(
        "correlation", joint["correlation_pair"], joint["correlation_difference"],
        joint["correlation_difference_mcse"], tolerances.correlation, (joint["correlation"], np.nan),
    )  # fmt: skip
    found.append(replace(correlation, expected=float(joint["correlation_reference"])))
    apart = float(_above(joint["sliced_wasserstein"], joint["sliced_wasserstein_null"]))
    noise = joint["sliced_wasserstein_mcse"]
    found.append(_one("joint", "all quantities", apart, noise, tolerances.mean, (apart, noise)))
    return found


def _above(distance: Any, null: Any) -> Any:
    """A distance without what two samples of one distribution would be apart."""
    return np.sqrt(np.maximum(distance**2 - null**2, 0.0))


def _one(
    key: str, name: str, size: float, mcse: float, tolerance: float, shown: tuple[float, float]
) -> _Criterion:
    values, spread = (np.array([each]) for each in shown)
    return _Criterion(key, (name,), np.array([size]), np.array([mcse]), tolerance, values, spread)


def _differences(
    joint: Mapping[str, Any], single: Mapping[str, _Criterion], together: list[_Criterion], factor: float
) -> list[Reason]:
    """One reason for each kind of error; what an earlier one says already is not said again."""
    reasons: list[Reason] = []

    def add(criterion: _Criterion, wrong: np.ndarray) -> None:
        if wrong.any():
            reasons.append(
                criterion.reason(
                    criterion.worst(wrong), count=int(wrong.sum()), total=len(wrong),
                    limits=(criterion.tolerance,),
                )
            )  # fmt: skip

    off = single["mean"].beyond(factor)
    add(single["mean"], off)
    sd = single["sd"]
    ratio = sd.values
    for side in (ratio < 1, ratio > 1):
        wrong = sd.beyond(factor) & side
        off = off | wrong
        add(sd, wrong)
    for kind in ("5 %", "95 %", "shape"):
        wrong = single[kind].beyond(factor) & ~off
        add(single[kind], wrong)
        off = off | wrong
    # What wrong spreads of single quantities explain of a wrong variance along a direction.
    said = ratio[sd.beyond(factor)]
    return reasons + _joint_differences(joint, together, said, bool(reasons), factor)


def _joint_differences(
    joint: Mapping[str, Any], together: list[_Criterion], said: np.ndarray, any_said: bool, factor: float
) -> list[Reason]:
    if not together:
        return []
    explained = {
        "smallest": 0.7 * float(np.min(said, initial=np.inf)) ** 2,
        "largest": float(np.max(said, initial=0.0)) ** 2 / 0.7,
    }
    smallest, largest, correlation, sliced = together
    reasons = []
    if correlation.beyond(factor).any():
        reasons.append(correlation.reason(0))
    for end, direction in (("smallest", smallest), ("largest", largest)):
        ratio = joint[f"{end}_variance_ratio"]
        known = explained[end] <= ratio if end == "smallest" else ratio <= explained[end]
        if direction.beyond(factor).any() and not known:
            reasons.append(direction.reason(0))
    if sliced.beyond(factor).any() and not (any_said or reasons):
        reasons.append(sliced.reason(0))
    return reasons


def _doubts(
    single: Mapping[str, _Criterion], together: list[_Criterion], factor: float, short_of_draws: str
) -> list[Reason]:
    """The question that needs the most draws, or none."""
    doubtful = {name: criterion.doubtful(factor) for name, criterion in single.items()}
    # Heavy tails make standard deviations noisy; where the quantiles are known, the width is.
    doubtful["sd"] = doubtful["sd"] & (doubtful["5 %"] | doubtful["95 %"])
    questions = [
        (criterion.more_draws(int(at), factor), criterion, int(at))
        for criterion, flags in (
            *((single[name], flags) for name, flags in doubtful.items()),
            *((criterion, criterion.doubtful(factor)) for criterion in together),
        )
        for at in np.flatnonzero(flags)
    ]
    if not questions:
        return []
    total = sum(len(criterion.names) for criterion in (*single.values(), *together))
    times, criterion, at = max(questions, key=lambda question: question[0])
    return [criterion.reason(at, "open", count=len(questions), total=total, times=times, who=short_of_draws)]
