"""How results are shown: a table in the terminal, and RESULTS.md."""

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.table import Table

from benchmarks.harness import Outcome

__all__ = ["cells", "machine", "notes", "table", "write"]

COLUMNS = ("row", "work", "against", "ours", "peer", "ratio", "spread", "target", "met")
PACKAGES = ("torch", "pyro-ppl", "jax", "numpyro", "nutpie", "scikit-learn", "arviz-stats", "numpy")
# A ratio measured while other programs took more than this share of the cores is marked.
BUSY = 0.15


def cells(outcome: Outcome) -> tuple[str, ...]:
    """One row of the table, in words."""
    row, measured = outcome.row, outcome.measured
    target = f"{'≥' if row.at_least else '≤'} {row.target:g}"
    if measured is None:
        return (row.name, row.work, row.against, "", "", "", "", target, f"failed: {outcome.failure}")
    ours = _quantity(statistics.median(measured.ours), measured.unit)
    peer = _quantity(statistics.median(measured.peer), measured.unit) if measured.peer else ""
    spread = "–".join(_number(end) for end in measured.spread) if len(measured.ours) > 1 else "one run"
    met = "yes" if row.met(measured) else "no"
    return (row.name, row.work, row.against, ours, peer, _number(measured.ratio), spread, target, met)


def notes(outcomes: Sequence[Outcome]) -> list[str]:
    """What the reader must know beyond the numbers, row by row."""
    found = []
    for outcome in outcomes:
        said = [outcome.measured.note] if outcome.measured and outcome.measured.note else []
        if outcome.others > BUSY:
            said.append(f"other programs took {outcome.others:.0%} of the cores meanwhile")
        if said:
            found.append(f"{outcome.row.name}: {'; '.join(said)}.")
    return found


def table(outcomes: Sequence[Outcome]) -> Table:
    """For the terminal."""
    shown = Table(title="Speed: medians, and ratios of ours over the peer's", title_justify="left")
    for column in COLUMNS:
        shown.add_column(column, overflow="fold")
    for outcome in outcomes:
        shown.add_row(*cells(outcome))
    return shown


def write(outcomes: Sequence[Outcome], path: Path, *, quick: bool) -> None:
    """RESULTS.md of a run of all rows."""
    lines = [
        "# Speed, side by side",
        "",
        "Written by `python -m benchmarks`. Both sides of a row run in one fresh process, in turn, after a",
        "check that they compute the same quantity. Medians; the ratio is ours over the peer's, its spread",
        "the smallest and largest ratio of any repeat.",
        "",
        f"{datetime.date.today():%Y-%m-%d}. {machine()}"
        + (" A quick run: at most two repeats a row." if quick else ""),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(o)) + " |" for o in outcomes]
    if said := notes(outcomes):
        lines += ["", "Notes:", "", *(f"- {line}" for line in said)]
    beside = path.with_suffix(".new")
    beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    beside.replace(path)


def machine() -> str:
    """Processor, cores, memory, system and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {system}; "
        f"Python {platform.python_version()}, {versions}."
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _quantity(value: float, unit: str) -> str:
    if unit != "s":
        return f"{_number(value)} {unit}".strip()
    for scale, name in ((1.0, "s"), (1e-3, "ms")):
        if value >= scale:
            return f"{_number(value / scale)} {name}"
    return f"{_number(value / 1e-6)} µs"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
