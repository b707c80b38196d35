"""The rule by which a posterior agrees with a reference, differs from it, or leaves it open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from ppl_vae.base.wording import with_error

__all__ = ["Severity", "Tolerances", "Verdict", "judge", "severity"]

Verdict = Literal["agrees", "differs", "cannot tell"]

# Chance of one false alarm among all numbers of an answer, were every one of them at its tolerance.
FAMILY_LEVEL = 0.01
# Fewer effective draws have no Monte Carlo errors to rely on.
FEWEST_DRAWS = 50
# The Monte Carlo error that is asked for of tail quantiles, as a fraction of the tolerance: those of a skewed
# posterior are far less precise than its mean.
TAIL_PRECISION = 1.0
# So many times as many draws are still advised.
MOST_DRAWS = 50


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

    what: str
    names: tuple[str, ...]
    errors: np.ndarray
    mcse: np.ndarray
    tolerance: float
    show: Callable[[int], str]
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

    def more_draws(self, at: int, factor: float) -> float:
        """How many times as many draws would settle one of them."""
        precise = (self.mcse[at] / (self.precision * self.tolerance)) ** 2
        excess = self.errors[at] - self.tolerance
        if excess <= 0:
            return float(precise)
        return float(max(precise, (factor * self.mcse[at] / excess) ** 2))


def judge(
    part: pd.DataFrame, joint: Mapping[str, Any], tolerances: Tolerances, ess: float, short_of_draws: str
) -> tuple[Verdict, list[str]]:
    """An answer's verdict, and the sentences behind it.

    Args:
        part: the answer's rows of `Comparison.table`.
        joint: the answer's row of `Comparison.joint`.
        tolerances: what still counts as agreement.
        ess: the smaller effective size of the two.
        short_of_draws: which draws limit the precision, in words.
    """
    if ess < FEWEST_DRAWS:
        return "cannot tell", [
            f"{ess:.0f} effective draws are too few to compare (at least {FEWEST_DRAWS}): draw more from "
            f"{short_of_draws}"
        ]
    single = _single(part, tolerances)
    together = _together(joint, tolerances)
    factor = _factor(sum(len(criterion.names) for criterion in (*single.values(), *together)))
    reasons = _differences(part, joint, single, together, tolerances, factor)
    if not np.isfinite(part["mean_error_in_sd"]).all():
        lost = part.loc[~np.isfinite(part["mean_error_in_sd"]), "name"]
        reasons.insert(0, f"draws of {len(lost)} of {len(part)} quantities are no numbers ({lost.iloc[0]})")
    if reasons:
        return "differs", reasons
    open_questions = _doubts(single, together, factor, short_of_draws)
    if open_questions:
        return "cannot tell", open_questions
    joined = "; tails and correlations agree too" if len(part) > 1 else "; the tails agree too"
    return "agrees", [
        f"all {len(part)} means are within {tolerances.mean:g} reference sd, and all sd ratios within "
        f"{1 / (1 + tolerances.sd):.2f} to {1 + tolerances.sd:.2f}, up to Monte Carlo error{joined}"
    ]


@dataclass(frozen=True)
class Severity:
    """How wrong an answer is in one number: its worst error, as a multiple of what is tolerated.

    Attributes:
        error: the worst, after what noise alone makes the worst of so many.
        floor: the worst, after all Monte Carlo error that is allowed for.
        worst: what that is, in words.
    """

    error: float
    floor: float
    worst: str


def severity(part: pd.DataFrame, joint: Mapping[str, Any], tolerances: Tolerances) -> Severity:
    """The same criteria as `judge`'s, in one number; its arguments are the same."""
    criteria = [*_single(part, tolerances).values(), *_together(joint, tolerances)]
    factor = _factor(sum(len(criterion.names) for criterion in criteria))
    spare = factor - float(stats.norm.isf(FAMILY_LEVEL / 2))
    errors, floors, words = [], [], []
    for criterion in criteria:
        for at in range(len(criterion.names)):
            size, noise = float(criterion.errors[at]), float(criterion.mcse[at])
            known = np.isfinite(size) and np.isfinite(noise)
            errors.append((size - spare * noise) / criterion.tolerance if known else np.inf)
            floors.append((size - factor * noise) / criterion.tolerance if known else np.inf)
            words.append(f"the {criterion.what} of {criterion.names[at]} is off: {criterion.show(at)}")
    at = int(np.argmax(floors))
    return Severity(max(0.0, *errors), max(0.0, *floors), words[at])


def _factor(comparisons: int) -> float:
    """So many Monte Carlo errors are allowed for: Bonferroni over all of an answer's numbers."""
    return max(2.0, float(stats.norm.isf(FAMILY_LEVEL / (2 * comparisons))))


def _single(part: pd.DataFrame, tolerances: Tolerances) -> dict[str, _Criterion]:
    """The criteria that look at one quantity at a time."""
    names = tuple(part["name"])
    ratio = np.maximum(part["sd_ratio"].to_numpy(), 1e-300)
    scale = np.maximum(part["sd_reference"].to_numpy(), np.finfo(float).tiny)
    apart = _above(part["wasserstein"].to_numpy(), part["wasserstein_null"].to_numpy()) / scale

    def plain(column: str, error: str, what: str, tolerance: float, precision: float) -> _Criterion:
        values = part[column].to_numpy()
        spread = part[error].to_numpy()
        return _Criterion(
            what, names, np.abs(values), spread, tolerance,
            lambda at: f"{with_error(values[at], spread[at], 2, sign='+')} sd", precision,
        )  # fmt: skip

    limit = tolerances.tail
    return {
        "mean": plain("mean_error_in_sd", "mean_error_mcse", "mean", tolerances.mean, 0.5),
        "sd": _Criterion(
            "standard deviation", names, np.abs(np.log(ratio)),
            part["sd_ratio_mcse"].to_numpy() / ratio, float(np.log1p(tolerances.sd)),
            lambda at: f"{with_error(ratio[at], part['sd_ratio_mcse'].iloc[at], 2)} of the reference's",
        ),
        "5 %": plain("q5_error_in_sd", "q5_error_mcse", "5 % quantile", limit, TAIL_PRECISION),
        "95 %": plain("q95_error_in_sd", "q95_error_mcse", "95 % quantile", limit, TAIL_PRECISION),
        "shape": _Criterion(
            "1-Wasserstein distance", names, apart, part["mcse"].to_numpy() / scale,
            tolerances.mean, lambda at: f"of {apart[at]:.2f} reference sd",
        ),
    }  # fmt: skip


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
        shown = with_error(joint[f"{end}_variance_ratio"], joint[f"{end}_variance_ratio_mcse"], 2)
        name = joint[f"{end}_direction"]
        sturdy = _one("width", name, 2 * width, 2 * width_mcse, limit, "")
        found.append(
            replace(
                _one("variance", name, size, mcse, limit, f"{shown} of the reference's"), settled_by=sturdy
            )
        )
    found.append(
        _one("correlation", joint["correlation_pair"], joint["correlation_difference"],
             joint["correlation_difference_mcse"], tolerances.correlation,
             f"{joint['correlation']:+.2f} instead of {joint['correlation_reference']:+.2f}")
    )  # fmt: skip
    apart = float(_above(joint["sliced_wasserstein"], joint["sliced_wasserstein_null"]))
    found.append(
        _one("sliced Wasserstein distance", "all quantities", apart, joint["sliced_wasserstein_mcse"],
             tolerances.mean, f"of {apart:.2f} reference sd")
    )  # fmt: skip
    return found


def _above(distance: Any, null: Any) -> Any:
    """A distance without what two samples of one distribution would be apart."""
    return np.sqrt(np.maximum(distance**2 - null**2, 0.0))


def _one(what: str, name: str, size: float, mcse: float, tolerance: float, shown: str) -> _Criterion:
    return _Criterion(what, (name,), np.array([size]), np.array([mcse]), tolerance, lambda at: shown)


def _differences(
    part: pd.DataFrame,
    joint: Mapping[str, Any],
    single: Mapping[str, _Criterion],
    together: list[_Criterion],
    tolerances: Tolerances,
    factor: float,
) -> list[str]:
    """One sentence for each kind of error; what an earlier sentence says already is not said again."""
    reasons = []
    total = len(part)
    mean, sd = single["mean"], single["sd"]
    off = mean.beyond(factor)
    if off.any():
        worst = int(np.argmax(np.where(off, mean.errors, 0.0)))
        reasons.append(
            f"{off.sum()} of {total} means are off by more than {tolerances.mean:g} reference sd "
            f"(worst: {mean.names[worst]}, {part['mean_error_in_sd'].iloc[worst]:+.2f} sd)"
        )
    ratio = part["sd_ratio"].to_numpy()
    for side, word in ((ratio < 1, "narrow"), (ratio > 1, "wide")):
        wrong = sd.beyond(factor) & side
        off = off | wrong
        if wrong.any():
            worst = int(np.argmax(np.where(wrong, sd.errors, 0.0)))
            reasons.append(
                f"{wrong.sum()} of {total} standard deviations are too {word} "
                f"(worst: {sd.names[worst]}, {ratio[worst]:.2f} of the reference's)"
            )
    for tail in ("5 %", "95 %"):
        wrong = single[tail].beyond(factor) & ~off
        if wrong.any():
            worst = int(np.argmax(np.where(wrong, single[tail].errors, 0.0)))
            reasons.append(
                f"{wrong.sum()} of {total} {tail} quantiles are off by more than {tolerances.tail:g} "
                f"reference sd (worst: {part['name'].iloc[worst]}, {single[tail].show(worst)})"
            )
        off = off | wrong
    wrong = single["shape"].beyond(factor) & ~off
    if wrong.any():
        worst = int(np.argmax(np.where(wrong, single["shape"].errors, 0.0)))
        reasons.append(
            f"{wrong.sum()} of {total} distributions have another shape (worst: {part['name'].iloc[worst]}, "
            f"a 1-Wasserstein distance {single['shape'].show(worst)})"
        )
    # What wrong spreads of single quantities explain of a wrong variance along a direction.
    said = ratio[sd.beyond(factor)]
    return reasons + _joint_differences(joint, together, said, bool(reasons), factor)


def _joint_differences(
    joint: Mapping[str, Any], together: list[_Criterion], said: np.ndarray, any_said: bool, factor: float
) -> list[str]:
    if not together:
        return []
    explained = {
        "smallest": 0.7 * float(np.min(said, initial=np.inf)) ** 2,
        "largest": float(np.max(said, initial=0.0)) ** 2 / 0.7,
    }
    smallest, largest, correlation, sliced = together
    reasons = []
    if correlation.beyond(factor).any():
        reasons.append(f"the correlation of {correlation.names[0]} is {correlation.show(0)}")
    for end, direction in (("smallest", smallest), ("largest", largest)):
        ratio = joint[f"{end}_variance_ratio"]
        known = explained[end] <= ratio if end == "smallest" else ratio <= explained[end]
        if direction.beyond(factor).any() and not known:
            reasons.append(f"along {direction.names[0]} the variance is {direction.show(0)}")
    if sliced.beyond(factor).any() and not (any_said or reasons):
        reasons.append(f"jointly the draws are apart: a sliced Wasserstein distance {sliced.show(0)}")
    return reasons


def _doubts(
    single: Mapping[str, _Criterion], together: list[_Criterion], factor: float, short_of_draws: str
) -> list[str]:
    """A sentence on the question that needs the most draws, or none."""
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
    advice = (
        f"draw about {np.ceil(times):.0f} times as many from {short_of_draws}"
        if times <= MOST_DRAWS
        else "it lies so close to the tolerance that more draws will hardly settle it"
    )
    return [
        f"Monte Carlo error leaves {len(questions)} of {total} numbers open (worst: the {criterion.what} of "
        f"{criterion.names[at]}, {criterion.show(at)}): {advice}"
    ]
