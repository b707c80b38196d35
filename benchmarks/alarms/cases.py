"""Every case: a posterior of known truth and one guide for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from benchmarks.alarms import (
    cases_conjugate,
    cases_enumerated,
    cases_exact,
    cases_latent,
    cases_modes,
    cases_posteriordb,
    cases_sampler,
    cases_written,
)
from benchmarks.alarms.family_guides import FAMILIES
from benchmarks.alarms.guides import RECIPES
from benchmarks.alarms.point_guides import POINTS
from benchmarks.alarms.problems import Group, Problem, Refusal
from ppl_vae.program.pair import Program

__all__ = ["Case", "all_cases", "problem"]

_OURS: Mapping[str, Callable[[], Problem]] = {
    **cases_conjugate.PROBLEMS,
    **cases_modes.PROBLEMS,
    **cases_latent.PROBLEMS,
    **cases_exact.PROBLEMS,
    **cases_enumerated.PROBLEMS,
    **cases_written.PROBLEMS,
    **cases_sampler.PROBLEMS,
}
EVERY: Mapping[str, Callable[[Problem], Program]] = {**RECIPES, **POINTS, **FAMILIES}
# Points instead of posteriors, beside the guides that a problem has of its own.
POINTED: Mapping[str, tuple[str, ...]] = {
    "normal_mean": ("Delta, masked", "needle"),
    "regression_correlated": ("AutoDelta", "AutoLaplace", "one entry is a point"),
    "normal_gamma": ("AutoDelta", "first is a point", "Delta"),
    "beta_binomial": ("AutoLaplace", "Delta, weighted"),
    "gamma_poisson": ("AutoDelta", "Delta, transformed"),
    "group_rates": ("AutoDelta",),
    "squared": ("AutoDelta",),
    "cubic": ("AutoDelta", "one entry is a point"),
    "wine_alcohol": ("AutoLaplace", "Delta"),
    "local_level": ("AutoDelta", "one entry is a point"),
    "waiting": ("AutoDelta", "Delta, transformed"),
    "until": ("Delta, masked", "needle"),
    "shares": ("AutoDelta",),
    "two_rates": ("AutoDelta", "first is a point", "Delta, weighted"),
    "row_means": ("AutoDelta",),
    "row_factors": ("AutoDelta",),
    "al_east_1987": ("AutoDelta", "AutoLaplace"),
    "two_players": ("AutoDelta",),
    "arK": ("AutoDelta", "first is a point"),
    "eight_schools_noncentered": ("AutoDelta", "first is a point"),
    "gp_regr": ("AutoLaplace", "first is a point"),
    "low_dim_gauss_mix": ("AutoDelta", "first is a point"),
}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    problem: str
    family: str
    guide: str
    group: Group = "known before"
    refusal: Refusal = "wrong"

    @property
    def name(self) -> str:
        """Such as "arK, narrow"."""
        return f"{self.problem}, {self.guide}"

    @property
    def point(self) -> bool:
        """Whether the guide is no posterior, but a point in all or some of its directions."""
        return self.guide in POINTS and self.guide != "needle"

    def build(self) -> tuple[Problem, Program]:
        """The problem and the guide, which is fitted now where its recipe says so."""
        found = problem(self.problem)
        make = found.own.get(self.guide) or EVERY[self.guide]
        return found, make(found)


@cache
def problem(name: str) -> Problem:
    """The posterior of that name; made once in a process."""
    return _builders()[name]()


def _builders() -> Mapping[str, Callable[[], Problem]]:
    return {**cases_posteriordb.problems(), **_OURS}


def all_cases(only: Sequence[str] = ()) -> tuple[Case, ...]:
    """Every case; those of posteriordb where reference draws are at hand.

    Args:
        only: cases whose name holds one of these texts. Posteriors that none of them names are not made.
    """
    named = [name for name in _builders() if any(text.split(",")[0] in name for text in only)]
    found = (
        Case(name, made.family, guide, made.group, made.refusal)
        for name in named or _builders()
        for made in (problem(name),)
        for guide in dict.fromkeys((*made.guides, *made.own, *POINTED.get(name, ())))
    )
    return tuple(case for case in found if not only or any(text in case.name for text in only))
