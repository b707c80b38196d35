"""What is printed, in Markdown."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np

from benchmarks.alarms.alone import alone
from benchmarks.alarms.cases import Case
from benchmarks.alarms.family_guides import BEST, FAMILIES
from benchmarks.alarms.family_study import Found
from benchmarks.alarms.nuts_study import LIMIT, Agreement
from benchmarks.alarms.study import Line, count
from benchmarks.alarms.truth import REFUSED, TOLERANCES
from benchmarks.alarms.tuning import leave_one_family_out
from ppl_vae.diagnostics.verdict.checks.family import LIMIT as LIMIT_OF_FAMILY

__all__ = ["OF_FAMILIES", "families", "samplers", "say", "section", "study", "with_section"]

OF_FAMILIES = "Is the guide the best of its family?"
VERDICTS = ("trust", "reweight", "do not trust", "not a posterior", "refused")


def samplers(found: Iterable[Agreement]) -> str:
    """Our NUTS beside posteriordb's draws."""
    rows = [
        [
            one.name, str(len(one.z_mean)), f"{max(map(abs, one.z_mean.values())):.2f}",
            f"{max(map(abs, one.z_sd.values())):.2f}", f"{one.worst[1]}", f"{one.least_ess:,.0f}",
            str(one.divergent), f"{one.seconds:.0f}", "yes" if one.agrees else "no",
        ]
        for one in found
    ]  # fmt: skip
    head = ["posterior", "parameters", "worst z of a mean", "worst z of an sd", "worst", "least ESS",
            "divergent", "seconds", f"within {LIMIT:g}"]  # fmt: skip
    return _table(head, rows)


def section(page: str, title: str) -> str:
    """A page's section of a title; "" where it has none."""
    parts = page.rstrip("\n").split("\n## ")[1:]
    return next((f"## {part}".rstrip("\n") for part in parts if part.partition("\n")[0] == title), "")


def with_section(page: str, section: str) -> str:
    """A page with a section in the place of that of the same title, or behind its introduction."""
    if not section:
        return page
    title = section.partition("\n")[0].removeprefix("## ")
    intro, *parts = page.rstrip("\n").split("\n## ")
    kept = [part for part in parts if part.partition("\n")[0] != title]
    return "\n## ".join([intro, section.removeprefix("## ") + "\n", *kept]) + "\n"


def say(line: Line, left: int) -> None:
    """One case as it is finished."""
    result = line.failure or f"{line.outcome()}: {line.verdict}: {line.reason}"
    print(
        f"{line.case.name}: {result} [{line.check_seconds:.0f} s, {left} left]", file=sys.stderr, flush=True
    )


def study(lines: Sequence[Line], missing: Sequence[Case] = ()) -> str:
    """The counts, by kind of guide and without each family, then every case, and those that are missing."""
    run = [line for line in lines if not line.failure and line.truth is not None]
    apart = [line for line in run if refused(line)]
    judged = [line for line in run if not refused(line)]
    grey = [line for line in judged if line.outcome() == "grey"]
    families, posteriors = ({getattr(line.case, name) for line in run} for name in ("family", "problem"))
    counts = [f"- {name}: {found}" for name, found in count(judged).items()]
    best = [line for line in run if line.case.guide in BEST]
    warned = sum(line.said.get("family") == "warn" for line in best)
    counts.append(f"- of the best of its family, that it is not: {warned} of {len(best)}")
    counts.append(f"- between good and bad, where either verdict is right: {len(grey)}")
    parts = [
        f"{len(run)} cases: {len(posteriors)} posteriors of {len(families)} families, each with good guides "
        "and with broken ones. A false alarm is a good guide that is not trusted; a miss is a bad one that "
        "is, or one that is to be reweighted where reweighting does not help.",
        "\n".join(counts),
        _by_group(judged), _points(judged), _refusals(apart), _alone(judged), _by_guide(judged),
    ]  # fmt: skip
    # Thresholds are chosen on what was known before, and never see the rest.
    before = [line for line in judged if line.case.group == "known before" and not line.case.point]
    if len({line.case.family for line in before}) > 1:
        parts.append(_left_out(before))
    wrong = [line for line in run if line.outcome() in ("false alarm", "miss")]
    parts.append("## Wrong verdicts\n\n" + (_cases(wrong) if wrong else "None."))
    parts += [f"Could not be run: {line.case.name}: {line.failure}" for line in lines if line.failure]
    parts += [_not_run(missing), "## All cases\n\n" + _cases(run)]
    return "\n\n".join(part for part in parts if part)


def refused(line: Line) -> bool:
    """Whether a case is counted apart: refusing is what it asks for, or one right answer, which it got."""
    return line.case.refusal == "required" or (line.case.refusal == "allowed" and line.verdict == REFUSED)


def _not_run(cases: Sequence[Case]) -> str:
    """Cases that there are, and that were not run, by posterior."""
    if not cases:
        return ""
    by_posterior: dict[str, list[str]] = {}
    for case in cases:
        by_posterior.setdefault(case.problem, []).append(case.guide)
    rows = [[name, str(len(guides)), "; ".join(guides)] for name, guides in by_posterior.items()]
    table = _table(["posterior", "how many", "guides"], rows)
    return f"## Not run\n\n{len(cases)} cases of posteriors with reference draws.\n\n{table}"


def _by_group(lines: Sequence[Line]) -> str:
    """Posteriors that the rule was made beside, and those that nobody tuned on."""
    rows = []
    for group in dict.fromkeys(line.case.group for line in lines):
        some = [line for line in lines if line.case.group == group]
        found = count(some).values()
        rows.append(
            [group, str(len({line.case.problem for line in some})), *(f"{c.wrong} of {c.of}" for c in found)]
        )
    head = ["posteriors", "how many", "false alarms", "misses"]
    return f"## Posteriors known before, and others\n\n{_table(head, rows)}"


def _points(lines: Sequence[Line]) -> str:
    """What was said of guides that are no posterior."""
    points = [line for line in lines if line.case.point]
    if not points:
        return ""
    verdicts = Counter(line.verdict for line in points)
    said = ", ".join(f"{number} times *{verdict}*" for verdict, number in verdicts.most_common())
    return f"## Guides that are a point, wholly or in part\n\nOf {len(points)}: {said}."


def _refusals(lines: Sequence[Line]) -> str:
    """Programs of which a refusal in a sentence is the right answer, or one of them."""
    if not lines:
        return ""
    rows = [
        [line.case.problem, line.case.guide, line.case.refusal, line.verdict, line.outcome(), line.reason]
        for line in lines
    ]
    wrong = sum(line.outcome() != "right" for line in lines)
    head = ["program", "guide", "refusing is", "said", "outcome", "sentence"]
    return f"## Refused, counted apart\n\n{wrong} of {len(lines)} wrong.\n\n{_table(head, rows)}"


def _alone(lines: Sequence[Line]) -> str:
    rows = [
        [one.name, f"{one.false_alarms} of {one.good}", f"{one.misses} of {one.bad}", str(one.silent)]
        for one in alone(lines)
    ]
    head = ["check", "good guides that it would not trust", "bad ones that it would", "says nothing of"]
    return (
        "## Each check alone\n\nWhat reference, weights and calibration would say without the others; "
        "calibration only where it was run. Guides that read the data it takes as they are; others it fits "
        "anew to each simulated data set, and speaks of their family and not of them."
        f"\n\n{_table(head, rows)}"
    )


def families(found: Sequence[Found]) -> str:
    """What is said of guides that are the best of their family, and of those a known way short of it."""
    rows = []
    for guide in FAMILIES:
        some = [one for one in found if one.guide == guide]
        if not some:
            continue
        said, nats = Counter(one.status for one in some), [one.nats for one in some]
        rows.append([
            guide, str(len(some)), *(str(said[status]) for status in ("pass", "warn", "cannot tell")),
            str(said["skipped"]), f"{_nats(min(nats))} to {_nats(max(nats))}",
            _nats(np.nanmax([abs(one.said - one.nats) for one in some])),
            f"{np.nanmax([one.z for one in some]):.1f}", f"{np.median([one.seconds for one in some]):.1f}",
            f"{max(one.seconds for one in some):.1f}",
        ])  # fmt: skip
    head = ["guide", "posteriors", "pass", "warn", "cannot tell", "skipped", "nats short", "largest error",
            "in standard errors", "median s", "longest s"]  # fmt: skip
    return (
        f"## {OF_FAMILIES}\n\nThe finding *family* passes where no more than "
        f"{LIMIT_OF_FAMILY:.3f} nats can be gained, and warns where more certainly can; what is true "
        "is measured by other draws and stock Pyro's densities. `python -m benchmarks.alarms --family` "
        "prints this.\n\n" + _table(head, rows)
    )


def _by_guide(lines: Sequence[Line]) -> str:
    """Gross errors are easily seen: each way of breaking a guide is counted on its own."""
    rows = []
    for guide in sorted({line.case.guide for line in lines}):
        some = [line for line in lines if line.case.guide == guide]
        found = count(some)
        verdicts = [line.verdict for line in some]
        rows.append([
            guide, str(len(some)), *(f"{one.wrong} of {one.of}" for one in found.values()),
            *(str(verdicts.count(verdict)) for verdict in VERDICTS),
        ])  # fmt: skip
    head = ["guide", "cases", "false alarms", "misses", *VERDICTS]
    return f"## By guide\n\n{_table(head, rows)}"


def _cases(lines: Sequence[Line]) -> str:
    head = ["family", "posterior", "guide", "truth", "error", "in", "reweighted", "verdict", "outcome",
            "reason", "seconds"]  # fmt: skip
    note = (
        "An error is the worst deviation over its tolerance: good up to 1, "
        f"bad above {TOLERANCES.bad:g}, else grey."
    )
    return f"{_table(head, [_cells(line) for line in lines])}\n\n{note}"


def _cells(line: Line) -> list[str]:
    case, true = line.case, line.truth
    assert true is not None
    return [
        case.family, case.problem, case.guide, true.kind, _short(true.raw.score), true.raw.worst,
        _short(true.reweighted.score), line.verdict, line.outcome(), line.reason, f"{line.check_seconds:.0f}",
    ]  # fmt: skip


def _left_out(lines: Sequence[Line]) -> str:
    held, alarms, misses = leave_one_family_out(lines)
    names = [one.name for one in fields(held[0].rule)]
    rows = [
        [
            one.family, f"{one.false_alarms.wrong} of {one.false_alarms.of}",
            f"{one.misses.wrong} of {one.misses.of}", *(f"{getattr(one.rule, name):g}" for name in names),
        ]
        for one in held
    ]  # fmt: skip
    table = _table(["family left out", "false alarms", "misses", *names], rows)
    return (
        f"## Leaving one family out\n\nThresholds tuned without each family, counted on it.\n\n{table}\n\n"
        f"- left out, false alarms: {alarms}\n- left out, misses: {misses}"
    )


def _nats(number: float) -> str:
    return f"{number:z.3f}" if abs(number) < 1000 else f"{number:.0e}"


def _short(number: float) -> str:
    return f"{number:.2f}" if number < 1000 else f"{number:.0e}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
