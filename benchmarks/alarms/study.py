"""The study: a verdict for every case, how often it is wrong, and how that holds on families not tuned on."""

import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from benchmarks.alarms.cases import Case
from benchmarks.alarms.problems import Problem
from benchmarks.alarms.truth import REFUSED, Errors, Outcome, Truth, outcome, truth
from benchmarks.alarms.workers import Lost, each
from ppl_vae.base.errors import InputError
from ppl_vae.base.files import write_text
from ppl_vae.diagnostics.verdict.check import Check, check
from ppl_vae.diagnostics.verdict.rule import Measures, Rule, decide
from ppl_vae.program.pair import Program

__all__ = ["Count", "Line", "Settings", "Task", "count", "load", "run", "run_case", "save"]

# Verdicts that thresholds decide.
RULED = ("trust", "reweight", "do not trust")


@dataclass(frozen=True)
class Settings:
    """How every case is checked: as a user would, but for the fit.

    Attributes:
        budget: seconds of a check.
        seed: of the checks.
        calibrate: whether what is left of the budget goes into simulated data.
        limit: seconds after which a case is ended and counts as failed.
    """

    budget: float = 120.0
    seed: int = 0
    calibrate: bool = False
    limit: float = 300.0


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        case: which.
        truth: how wrong the guide is; None where the case failed.
        measures: what the rule reads, to be decided upon again.
        verdict, reason: what the check said; "refused" and the sentence where it would not answer.
        check_seconds, seconds: of the check, and of everything.
        failure: the exception of a case that could not be run.
        said: the status of every finding, by its name.
    """

    case: Case
    truth: Truth | None
    measures: Measures
    verdict: str
    reason: str
    check_seconds: float
    seconds: float
    failure: str = ""
    said: Mapping[str, str] = field(default_factory=dict)

    def outcome(self, rule: Rule | None = None) -> Outcome:
        """Whether the verdict is right: the one given, or another rule's."""
        assert self.truth is not None
        # What was refused, or is a point, no threshold changes.
        fixed = rule is None or self.verdict not in RULED
        verdict = self.verdict if fixed else decide(self.measures, rule).verdict
        # To say in a sentence that a point is no posterior is a verdict on it.
        return outcome(self.truth, verdict, "allowed" if self.case.point else self.case.refusal)


@dataclass(frozen=True)
class Task:
    """A case, and its truth where that was measured before."""

    case: Case
    known: Truth | None = None


def run_case(task: Task, settings: Settings) -> Line:
    """Build, measure the truth, and check."""
    case, true, start = task.case, task.known, time.perf_counter()
    begun = start
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem, guide = case.build()
            true = truth(problem, guide) if true is None else true
            begun = time.perf_counter()
            found = _checked(problem, guide, settings)
    except Exception as error:
        now = time.perf_counter()
        if isinstance(error, InputError) and begun > start:
            return Line(case, true, Measures(), REFUSED, str(error), now - begun, now - start)
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
        return Line(case, true, Measures(), "", "", now - begun, now - start, said)
    statuses = {finding.name: finding.status for finding in found.findings}
    seconds = time.perf_counter() - start
    return Line(case, true, found.measures, found.verdict, found.reason, found.seconds, seconds, "", statuses)


def _checked(problem: Problem, guide: Program, settings: Settings) -> Check:
    model, data = problem.checked
    return check(
        model, guide, *data, fit=False, identifiable=problem.identifiable,
        budget=settings.budget, calibrate=settings.calibrate, seed=settings.seed, progress=False,
    )  # fmt: skip


def run(
    cases: Sequence[Case],
    settings: Settings,
    *,
    workers: int = 2,
    out: Path | None = None,
    again: bool = False,
    said: Callable[[Line, int], None] = lambda line, left: None,
) -> list[Line]:
    """Check every case, each in one of so many processes.

    Args:
        cases: which.
        settings: of the checks.
        workers: number of processes.
        out: a file that keeps what is finished, and from which an interrupted study goes on.
        again: check anew what is finished, and keep what is true of it.
        said: called with every line and the number of cases left.
    """
    kept = {line.case: line for line in (load(out) if out is not None and out.exists() else [])}
    done = set() if again else {case for case, line in kept.items() if not line.failure}
    todo = [
        Task(case, kept[case].truth if case in kept else None)
        for case in _in_order([case for case in cases if case not in done])
    ]
    run_one = partial(run_case, settings=settings)
    for number, (task, found) in enumerate(each(run_one, todo, workers=workers, seconds=settings.limit), 1):
        line = found
        if isinstance(line, Lost):
            line = Line(task.case, task.known, Measures(), "", "", 0.0, settings.limit, str(line))
        kept[task.case] = line
        said(line, len(todo) - number)
        if out is not None:
            save(list(kept.values()), out)
    return [kept[case] for case in cases if case in kept]


def _in_order(cases: Sequence[Case]) -> list[Case]:
    """Posteriors in any order, so that a part of a study is a sample of the whole; each is made once."""
    problems = list(dict.fromkeys(case.problem for case in cases))
    place = {problems[k]: at for at, k in enumerate(np.random.default_rng(0).permutation(len(problems)))}
    return sorted(cases, key=lambda case: place[case.problem])


@dataclass(frozen=True)
class Count:
    """How often something was wrong, of how many times it might have been."""

    wrong: int
    of: int

    def __str__(self) -> str:
        if not self.of:
            return "none of 0"
        low, high = binomtest(self.wrong, self.of).proportion_ci(0.95, method="exact")
        share = f"{100 * self.wrong / self.of:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        return f"{self.wrong} of {self.of}, {share}"


def count(lines: Iterable[Line], rule: Rule | None = None) -> dict[str, Count]:
    """False alarms of the good cases, and misses of the bad ones."""
    good: list[Outcome] = []
    bad: list[Outcome] = []
    for line in lines:
        if line.truth is not None and line.truth.kind != "grey":
            (good if line.truth.kind == "good" else bad).append(line.outcome(rule))
    return {
        "false alarms": Count(good.count("false alarm"), len(good)),
        "misses": Count(bad.count("miss"), len(bad)),
    }


def save(lines: Sequence[Line], path: Path) -> None:
    """Write the lines as JSON, whole or not at all."""
    content = [
        {
            **asdict(line),
            "truth": None if line.truth is None else asdict(line.truth),
            "measures": line.measures.to_json(),
        }
        for line in lines
    ]
    write_text(path, json.dumps(content, indent=1))


def load(path: Path) -> list[Line]:
    """Read what `save` wrote."""
    return [_line(content) for content in json.loads(path.read_text())]


def _line(content: dict[str, Any]) -> Line:
    true = content.pop("truth")
    found = None
    if true is not None:
        found = Truth(Errors(**true["raw"]), Errors(**true["reweighted"]), true["efficiency"])
    case = Case(**content.pop("case"))
    content["said"] = content.get("said", {})
    return _decided_anew(Line(case, found, Measures.from_json(content.pop("measures")), **content))


def _decided_anew(line: Line) -> Line:
    """A line as today's rule has it, where that has changed since it was kept."""
    if line.verdict not in RULED:
        return line
    decision = decide(line.measures)
    if decision.verdict == line.verdict:
        return line
    return replace(line, verdict=decision.verdict, reason=decision.reason)
