"""What a check is given, and what it gives: the pair under examination, and what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.clock import Clock, OutOfTime, deadline
from ppl_vae.base.seeds import derived
from ppl_vae.base.watch import watched
from ppl_vae.diagnostics.comparison.compare import Identifiable
from ppl_vae.diagnostics.comparison.quantities import Quantities
from ppl_vae.diagnostics.latents.funnels import Funnel
from ppl_vae.diagnostics.verdict.checked import ROWS, rows_compared
from ppl_vae.diagnostics.verdict.findings import clause
from ppl_vae.diagnostics.verdict.results import Results
from ppl_vae.diagnostics.verdict.rule import Finding, Measures, QuantityNames, Rule
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = [
    "LEAST_LEFT",
    "NO_TIME",
    "Asked",
    "Case",
    "Found",
    "Listed",
    "Notes",
    "Rested",
    "examine",
    "skipped",
]

NO_TIME = "there was no time left for it: give a larger budget"
# Share of the budget with less than which nothing that simulates data is begun.
LEAST_LEFT = 0.05


class Asked(Protocol):
    """What checks look at of the options of the whole check, `options.CheckOptions`."""

    @property
    def reference(self) -> Posterior | None:
        """Draws from p(z | x) that are already there."""

    @property
    def identifiable(self) -> Identifiable | None:
        """Functions of the latents to compare instead of the latents."""

    @property
    def calibrate(self) -> bool:
        """Whether what is left of the budget goes into calibration."""

    @property
    def rule(self) -> Rule | None:
        """The thresholds of the verdict."""

    @property
    def seed(self) -> int:
        """Of everything random."""

    @property
    def progress(self) -> bool:
        """Whether to show progress bars on a terminal."""


class Rested(NamedTuple):
    """How a fit ended.

    Attributes:
        converged: whether it came to rest, or arrived; None where that was not judged.
        reason: why that is said, a sentence.
        method: "SVI", "natural gradients" or "deterministic VI".
        instead_of: the method that was begun before and did not arrive in time, as ``method``; "" for none.
    """

    converged: bool | None
    reason: str
    method: str = "SVI"
    instead_of: str = ""


@dataclass(frozen=True)
class Notes:
    """What checks leave for those that follow, and for the advice.

    Attributes:
        weighed: log p(x) by the guide's importance weights, also where the prior is improper.
        funnel: the funnel that was found.
        late: whether the time that things took had a part in the reference.
        names: names of the quantities that are compared, and of those that are wrong and right.
        missed: whether the guide misses a part of the posterior.
        identified_right: whether the guide is wrong only in what is shown, and right in what data determine.
        reference_seconds: what a reference that passed its checks took.
        family: of normals that the guide belongs to, where the best of it is known.
        sparse: whether most pairs of latents are independent given the others and the data; not looked at of
            few latents, or of very many.
        trained: whether a richer family would bring more than training the guide on.
        trainer: the fit that would bring it to the best of its family, where training would bring more.
        responds: whether linear response gives the covariances that the guide lost.
    """

    weighed: Evidence | None = None
    funnel: Funnel | None = None
    late: bool = False
    names: QuantityNames = field(default_factory=QuantityNames)
    missed: bool = False
    identified_right: bool = False
    reference_seconds: float = float("nan")
    family: str = ""
    sparse: bool = False
    trained: bool = False
    trainer: str = ""
    responds: bool = False


@dataclass(frozen=True)
class Found:
    """What one check found.

    Attributes:
        finding: what is said of it; None for nothing. Its time is taken by who runs the check.
        measures: numbers by name: for the rule the fields of `Measures`, and others.
        answers: what is kept, saved and shown, by name: of any type that is `Saved`, such as a `Posterior` or
            an `Evidence`, or a pandas table.
        notes: fields of `Notes` for later checks.
    """

    finding: Finding | None = None
    measures: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[str, object] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Listed:
    """A check in its list.

    Attributes:
        name: of its findings.
        run: the check; None where it does not apply. Its seed is `Case.seed` of a key of its own.
        looks: how it comes to look at the clock: the runner ends it when the budget is spent, at any
            operation of its programs ("closely") or at a turn of its loops ("loops"), or leaves the time to
            it ("itself").
        decides: whether nothing can follow where it fails or is skipped.
        simulates: whether it simulates data: the verdict is told before the first that does.
    """

    name: str
    run: Callable[[Case], Found | None]
    looks: Literal["closely", "loops", "itself"] = "closely"
    decides: bool = False
    simulates: bool = False


class Case:
    """A pair under examination, and what the checks have found so far.

    Args:
        pair: model and guide.
        data: the programs' data.
        clock: the budget.
        options: of the whole check.
        rows: whose posteriors are compared, or None.
        feature_names: of the data's columns.
        rested: how the fit ended; None where it is not known.
        cut: whether the budget ended SVI.

    Attributes:
        problem: the pair with the rows that are compared.
        layout: of the programs.
        index: the numbers of the rows that are compared; None for everything.
        quantities: what is compared.
        findings, measures, results, notes: what was found.
    """

    def __init__(
        self,
        pair: Pair,
        data: tuple[Any, ...],
        clock: Clock,
        options: Asked,
        rows: Tensor | None = None,
        feature_names: tuple[str, ...] = (),
        rested: Rested | None = None,
        cut: bool = False,
    ) -> None:
        self.clock, self.options = clock, options
        self.problem = rows_compared(Problem.of(pair, *data), rows)
        self.pair, self.data = pair, data
        self.layout, self.index = self.problem.layout, self.problem.index
        self.feature_names, self.rested, self.cut = feature_names, rested, cut
        self.rule = Rule() if options.rule is None else options.rule
        self.quantities = Quantities(pair.model, options.identifiable, local=self.local)
        self.findings: list[Finding] = []
        self.measures = Measures()
        self.results = Results()
        self.notes = Notes()
        self._mark = time.perf_counter()

    @property
    def local(self) -> bool:
        """Whether every row has latents of its own."""
        return self.layout.unit_plate is not None

    @property
    def posteriors(self) -> Mapping[str, Posterior]:
        """The posteriors so far."""
        return self.results.of(Posterior)

    def seed(self, key: int | str) -> int:
        """A seed of one check's own."""
        return derived(self.options.seed, key)

    def few_rows(self, answer: Posterior) -> Posterior:
        """The first rows of an answer, where rows could not be chosen before it was drawn."""
        plate = self.layout.unit_plate
        if plate is None or self.index is not None or answer.draws.sizes.get(plate, 0) <= ROWS:
            return answer
        return answer.isel({plate: slice(0, ROWS)})

    def take(self, found: Found) -> None:
        """Keep what a check found, timed from the finding before."""
        known = {name: value for name, value in found.measures.items() if hasattr(self.measures, name)}
        others = {name: value for name, value in found.measures.items() if name not in known}
        self.measures = replace(self.measures, **known, others={**self.measures.others, **others})
        self.notes = replace(self.notes, **found.notes)
        for name, answer in found.answers.items():
            self.results.add(name, answer)
        if found.finding is not None:
            now = time.perf_counter()
            said = clause(found.finding.sentence)
            self.findings.append(replace(found.finding, sentence=said, seconds=now - self._mark))
            self._mark = now


def skipped(name: str, why: str = NO_TIME, *, cut: bool = True) -> Finding:
    """The finding of a check that was not made, for lack of time unless another reason is given."""
    return Finding(name, "skipped", why, cut=cut)


def examine(case: Case, check: Listed) -> bool:
    """Run a check for as long as there is time, and keep what it found; whether others can follow."""
    try:
        found = _within_budget(case, check)
    except OutOfTime:
        found = Found(skipped(check.name))
    if found is None:
        return True
    case.take(found)
    ended = found.finding is not None and found.finding.status in ("fail", "skipped")
    return not (check.decides and ended)


def _within_budget(case: Case, check: Listed) -> Found | None:
    if check.looks == "itself":
        return check.run(case)
    with deadline(case.clock.left):
        if check.looks == "loops":
            return check.run(case)
        # A long program may take seconds in one run: the clock is looked at inside it too.
        with watched():
            return check.run(case)
