"""Leave one family out: thresholds chosen on the other families, counted on the one left out."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product

import numpy as np

from benchmarks.alarms.study import Count, Line
from ppl_vae.diagnostics.verdict.rule import Rule

__all__ = ["Held", "leave_one_family_out"]

FACTORS: tuple[float, ...] = (0.5, 0.7, 1.0, 1.4, 2.0)
# A grid of all thresholds at so many values at most; beyond that, fewer values each.
LARGEST_GRID = 20_000


@dataclass(frozen=True)
class Held:
    """What became of one family under thresholds that never saw it."""

    family: str
    rule: Rule
    false_alarms: Count
    misses: Count


def leave_one_family_out(
    lines: Sequence[Line], default: Rule | None = None
) -> tuple[list[Held], Count, Count]:
    """Tune on all other families, count on the one left out.

    The thresholds chosen have the smallest sum of the two rates; of equals, those nearest the default.

    Returns:
        What was found for each family, and both counts over all families.
    """
    lines = [line for line in lines if line.truth is not None and line.truth.kind != "grey"]
    rules = _grid(Rule() if default is None else default)
    outcomes = [[line.outcome(rule) for line in lines] for rule in rules]
    wrong = np.array([[one in ("false alarm", "miss") for one in row] for row in outcomes])
    good = np.array([line.truth is not None and line.truth.kind == "good" for line in lines])
    family = np.array([line.case.family for line in lines])
    held = []
    for name in dict.fromkeys(family.tolist()):
        inside = family == name
        cost = sum(
            wrong[:, part & ~inside].sum(1) / max(1, int((part & ~inside).sum())) for part in (good, ~good)
        )
        # Rules are sorted by their distance from the default, and argmin takes the first of equals.
        best = int(np.argmin(np.round(cost, 9)))
        counts = [
            Count(int(wrong[best, inside & part].sum()), int((inside & part).sum())) for part in (good, ~good)
        ]
        held.append(Held(str(name), rules[best], *counts))
    return held, _sum([one.false_alarms for one in held]), _sum([one.misses for one in held])


def _grid(default: Rule) -> list[Rule]:
    """The default with every threshold multiplied by every factor, nearest first."""
    names = [one.name for one in fields(default) if isinstance(getattr(default, one.name), float)]
    factors = FACTORS
    while len(factors) > 3 and len(factors) ** len(names) > LARGEST_GRID:
        factors = factors[1:-1]
    choices = sorted(product(factors, repeat=len(names)), key=_distance)
    return [
        replace(default, **{name: getattr(default, name) * f for name, f in zip(names, choice, strict=True)})
        for choice in choices[:LARGEST_GRID]
    ]


def _distance(factors: tuple[float, ...]) -> float:
    return float(np.abs(np.log(factors)).sum())


def _sum(counts: Sequence[Count]) -> Count:
    return Count(sum(one.wrong for one in counts), sum(one.of for one in counts))
