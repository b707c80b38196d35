"""What a model of skills can be asked for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TypedDict

from ppl_vae.base.arguments import check_real
from ppl_vae.base.errors import InputError, listed

__all__ = ["CHOICES", "SkillsKeywords", "SkillsOptions", "days_of"]

CHOICES = {
    "outcome": ("result", "score", "goals"),
    "link": ("probit", "logistic", "davidson", "gumbel"),
    "process": ("walk", "ou"),
}
_DAYS = {"": 1.0, "d": 1.0, "w": 7.0, "m": 365.25 / 12, "y": 365.25}


@dataclass(frozen=True)
class SkillsOptions:
    """What the model of skills can be asked for; numbers that are given are held, others are learnt.

    Attributes:
        outcome: What is observed: result (who won, or the places), score (normal differences), goals
            (Poisson).
        link: How performances vary: probit, logistic, davidson (draws as Davidson has them), or gumbel
            (rankings as Plackett and Luce have them).
        draws: Whether sides may draw; among more than two, equal places are else of unknown order.
        margin: Margin ε within which a game is drawn, in skill units (default: learnt)
        drift: Unit of time over which skills drift, such as 1y, 6m, 2w, 30d; a plain number counts in the
            dates' own units (default: skills do not change)
        process: How skills drift: walk, or ou, which returns to the mean.
        drift_sd: Sd of a skill's change over one unit of time, in skill units (default: learnt)
        skill_mean: Prior mean of a skill, in skill units (default: 0)
        skill_sd: Prior sd of a skill, in skill units (default: learnt)
        performance_sd: Sd of one player's performance, in skill units (default: 1; learnt from scores)
        home: Whether the side at home has an advantage, which is learnt.
        covariates: Further columns of a side that move its strength, with commas between (default: none)
        covariate_sd: Prior sd of the effect of home and of each covariate (default: one performance sd)
        players: A table of players: name, and any of mean, sd, group, covariates (default: none)
        group_sd: Prior sd of the groups' means (default: learnt)
    """

    outcome: str = "result"
    link: str = "probit"
    draws: bool = False
    margin: float | None = None
    drift: str = ""
    process: str = "walk"
    drift_sd: float | None = None
    skill_mean: float | None = None
    skill_sd: float | None = None
    performance_sd: float | None = None
    home: bool = False
    covariates: str = ""
    covariate_sd: float | None = None
    players: str = field(default="", metadata={"file": True})
    group_sd: float | None = None

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r} is not known; it is {' or '.join(known)}")
        sds = ("drift_sd", "skill_sd", "performance_sd", "covariate_sd", "group_sd")
        given = {name: getattr(self, name) for name in sds if getattr(self, name) is not None}
        check_real(lambda value: 0 < value < math.inf, "must be positive", **given)
        if self.margin is not None:
            check_real(lambda value: 0 < value < math.inf, "must be positive", margin=self.margin)
        if self.skill_mean is not None:
            check_real(math.isfinite, "must be finite", skill_mean=self.skill_mean)
        self._check_together()

    def _check_together(self) -> None:
        if self.drift:
            days_of(self.drift)
        if self.outcome != "result" and (self.draws or self.margin is not None):
            raise InputError(f"draws and margins belong to results; an equal {self.outcome} needs neither")
        if self.margin is not None and not self.draws:
            raise InputError("margin belongs to games that may be drawn; ask for draws as well")
        if not self.drift and (self.drift_sd is not None or self.process != "walk"):
            name = "drift_sd" if self.drift_sd is not None else "process"
            raise InputError(f"{name} belongs to skills that drift; give drift its unit of time, such as 1y")
        if self.outcome != "result" and self.link != "probit":
            raise InputError(f"link {self.link!r} belongs to results; {self.outcome} have a law of their own")
        if self.outcome == "goals" and self.performance_sd is not None:
            raise InputError("performance_sd belongs to results and scores; goals vary as Poisson's law says")
        if self.link == "gumbel" and self.draws:
            raise InputError("link 'gumbel' has no draws; the same link with draws of two sides is logistic")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a side that move its strength."""
        named = tuple(name for part in self.covariates.split(",") if (name := part.strip()))
        if len({*named}) < len(named):
            raise InputError(f"covariates name a column twice: {listed(named)}")
        return ("home", *(name for name in named if name != "home")) if self.home else named


class SkillsKeywords(TypedDict, total=False):
    """`SkillsOptions` as keywords."""

    outcome: str
    link: str
    draws: bool
    margin: float | None
    drift: str
    process: str
    drift_sd: float | None
    skill_mean: float | None
    skill_sd: float | None
    performance_sd: float | None
    home: bool
    covariates: str
    covariate_sd: float | None
    players: str
    group_sd: float | None


def days_of(text: str) -> float:
    """A unit of time in days: 1y, 6m, 2w, 30d, or a number in the units of the dates.

    Raises:
        InputError: for what is no positive length of time.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([dwmy]?)\s*", str(text))
    if match is None or not float(match[1]):
        raise InputError(
            f"drift {text!r} is no unit of time; it is a number, or one with d, w, m or y behind it, such as "
            "1y"
        )
    return float(match[1]) * _DAYS[match[2]]
