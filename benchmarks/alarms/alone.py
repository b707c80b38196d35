"""How often the reference, the importance weights and calibration are right, each of them alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.alarms.study import Line
from ppl_vae.diagnostics.verdict.rule import Rule

__all__ = ["ALONE", "Alone", "alone"]

RULE = Rule()


def _reference(line: Line) -> bool | None:
    """Trusted where a reference that passed its own checks agrees; silent without one."""
    m = line.measures
    if not m.reference_ok:
        return None
    return m.error <= RULE.tolerable and not m.error_floor > RULE.floor


def _weights(line: Line) -> bool | None:
    """Trusted where the weights do not alarm and reweighting hardly changes the answer."""
    m = line.measures
    if m.alarming != m.alarming:
        return None
    return m.alarming <= RULE.alarming and m.shift <= RULE.tolerable and not m.shift_floor > RULE.floor


def _calibration(line: Line) -> bool | None:
    """Trusted where ranks over simulated data are uniform; silent where it was not run."""
    return {"pass": True, "warn": False, "fail": False}.get(line.said.get("calibration", ""))


# By name: whether a check would trust the guide, or None where it says nothing.
ALONE: Mapping[str, Callable[[Line], bool | None]] = {
    "reference": _reference,
    "weights": _weights,
    "calibration": _calibration,
}


@dataclass(frozen=True)
class Alone:
    """One check: of the good and the bad guides, how many it judged, and how many wrongly.

    Attributes:
        name: of the check.
        good, bad: guides that it said something about.
        false_alarms: good ones that it would not trust.
        misses: bad ones that it would.
        silent: guides of which it said nothing.
    """

    name: str
    good: int
    false_alarms: int
    bad: int
    misses: int
    silent: int


def alone(lines: Sequence[Line]) -> list[Alone]:
    """Every check, over the cases whose guide is a posterior and good or bad."""
    judged = [
        line for line in lines
        if line.truth is not None and line.truth.kind != "grey" and not line.case.point
    ]  # fmt: skip
    found = []
    for name, trusts in ALONE.items():
        said = [(line.truth is not None and line.truth.kind == "good", trusts(line)) for line in judged]
        good = [trust for is_good, trust in said if is_good and trust is not None]
        bad = [trust for is_good, trust in said if not is_good and trust is not None]
        silent = len(said) - len(good) - len(bad)
        found.append(Alone(name, len(good), good.count(False), len(bad), bad.count(True), silent))
    return found
