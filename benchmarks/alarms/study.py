"""The study: a verdict for every case, how often it is wrong, and how that holds on families not tuned on."""

import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from benchmarks.alarms.cases import Case
from benchmarks.alarms.truth import Errors, Outcome, Truth, outcome, truth
from ppl_vae.diagnostics.check import check
from ppl_vae.diagnostics.verdict import Measures, Rule, decide
from ppl_vae.files import write_text

__all__ = ["Count", "Line", "Settings", "count", "load", "run", "run_case", "save"]


@dataclass(frozen=True)
class Settings:
    """How every case is checked: as a user would, but for the fit."""

    budget: float = 120.0
    seed: int = 0
    calibrate: bool = False


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        case: which.
        truth: how wrong the guide is; None where the case failed.
        measures: what the rule reads, to be decided upon again.
        verdict, reason: what the check said.
        check_seconds, seconds: of the check, and of everything.
        failure: the exception of a case that could not be run.
    """

    case: Case
    truth: Truth | None
    measures: Measures
    verdict: str
    reason: str
    check_seconds: float
    seconds: float
    failure: str = ""

    def outcome(self, rule: Rule | None = None) -> Outcome:
        """Whether the verdict is right: the one given, or another rule's."""
        assert self.truth is not None
        verdict = self.verdict if rule is None else decide(self.measures, rule).verdict
        return outcome(self.truth, verdict)


def run_case(case: Case, settings: Settings) -> Line:
    """Build, measure the truth, and check."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem, guide = case.build()
            true = truth(problem, guide)
            found = check(
                problem.model, guide, *problem.data, fit=False, identifiable=problem.identifiable,
                budget=settings.budget, calibrate=settings.calibrate, seed=settings.seed, progress=False,
            )  # fmt: skip
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
        return Line(case, None, Measures(), "", "", 0.0, time.perf_counter() - start, said)
    seconds = time.perf_counter() - start
    return Line(case, true, found.measures, found.verdict, found.reason, found.seconds, seconds)


def run(
    cases: Sequence[Case],
    settings: Settings,
    *,
    workers: int = 2,
    out: Path | None = None,
    said: Callable[[Line, int], None] = lambda line, left: None,
) -> list[Line]:
    """Check every case, each in one of so many processes.

    Args:
        cases: which.
        settings: of the checks.
        workers: number of processes.
        out: a file that keeps what is finished, and from which an interrupted study goes on.
        said: called with every line and the number of cases left.
    """
    lines = load(out) if out is not None and out.exists() else []
    done = {line.case for line in lines if not line.failure}
    lines = [line for line in lines if line.case in done]
    todo = [case for case in cases if case not in done]
    # In any order, so that a part of a study is a sample of the whole.
    todo = [todo[k] for k in np.random.default_rng(0).permutation(len(todo))]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(run_case, case, settings) for case in todo]
        for number, finished in enumerate(as_completed(waiting), 1):
            line = finished.result()
            lines.append(line)
            said(line, len(todo) - number)
            if out is not None:
                save(lines, out)
    wanted = {case: k for k, case in enumerate(cases)}
    return sorted((line for line in lines if line.case in wanted), key=lambda line: wanted[line.case])


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
    return Line(case, found, Measures.from_json(content.pop("measures")), **content)
