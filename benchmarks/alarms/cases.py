"""Every case: a posterior of known truth and one guide for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from benchmarks.alarms import cases_conjugate, cases_latent, cases_modes, cases_posteriordb, posteriordb
from benchmarks.alarms.guides import RECIPES
from benchmarks.alarms.problems import Problem
from ppl_vae.program import Program

__all__ = ["Case", "all_cases", "problem"]

_OURS: Mapping[str, Callable[[], Problem]] = {
    **cases_conjugate.PROBLEMS,
    **cases_modes.PROBLEMS,
    **cases_latent.PROBLEMS,
}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    problem: str
    family: str
    guide: str

    @property
    def name(self) -> str:
        """Such as "arK, narrow"."""
        return f"{self.problem}, {self.guide}"

    def build(self) -> tuple[Problem, Program]:
        """The problem and the guide, which is fitted now where its recipe says so."""
        found = problem(self.problem)
        make = found.own.get(self.guide) or RECIPES[self.guide]
        return found, make(found)


@cache
def problem(name: str) -> Problem:
    """The posterior of that name; made once in a process."""
    return _builders()[name]()


def _builders() -> Mapping[str, Callable[[], Problem]]:
    if all(one.present for one in posteriordb.ENTRIES):
        return {**cases_posteriordb.PROBLEMS, **_OURS}
    return _OURS


def all_cases() -> tuple[Case, ...]:
    """Every case; those of posteriordb only where its data are."""
    return tuple(
        Case(name, found.family, guide)
        for name in _builders()
        for found in (problem(name),)
        for guide in dict.fromkeys((*found.guides, *found.own))
    )
