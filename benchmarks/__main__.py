"""Side-by-side speed against peers. Run as ``python -m benchmarks [ROW …]``.

Every row runs in a fresh Python process, where both sides are first checked to compute the same quantity
and then timed in turn. Ratios travel between machines better than seconds do.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks import results
from benchmarks.harness import Outcome, Row, measure, run_row
from benchmarks.rows import ROWS

RESULTS = Path(__file__).parent / "RESULTS.md"
QUICK_REPEATS = 2


def main() -> None:
    """Read the command line and run the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names of rows, all by default")
    parser.add_argument("--list", action="store_true", help="list the rows and their targets")
    parser.add_argument("--quick", action="store_true", help="at most two repeats a row")
    parser.add_argument("--measure", metavar="ROW", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    known = {row.name: row for row in ROWS}
    if unknown := [name for name in given.rows if name not in known]:
        parser.error(f"no such row: {', '.join(unknown)}; --list shows them all")
    if given.measure:
        measure(known[given.measure], given.repeats)
    elif given.list:
        for row in ROWS:
            sign = "≥" if row.at_least else "≤"
            print(f"{row.name:28} {sign} {row.target:<5g} {row.work} | {row.against}")
    else:
        run([known[name] for name in given.rows] or list(ROWS), given.quick, whole=not given.rows)


def run(rows: list[Row], quick: bool, whole: bool) -> None:
    """Run rows one after another; a row that fails is reported, and the rest go on."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    outcomes: list[Outcome] = []
    # One cache of compiled programs for this run: what ran here before must not matter.
    with tempfile.TemporaryDirectory() as folder:
        env = {"PPL_VAE_CACHE": folder, "TORCHINDUCTOR_CACHE_DIR": folder}
        for row in rows:
            repeats = min(QUICK_REPEATS, row.repeats) if quick else row.repeats
            outcomes.append(run_row(row, repeats, env))
            if whole:  # after every row: what is measured is kept, however the run ends
                results.write(outcomes, RESULTS, quick=quick)
            shown = dict(zip(results.COLUMNS, results.cells(outcomes[-1]), strict=True))
            ratio = f"{shown['ratio']} ({shown['spread']}), target {shown['target']}: {shown['met']}"
            print(f"{row.name}: {ratio} [{outcomes[-1].seconds:.0f} s]", file=sys.stderr, flush=True)
    console.print(results.table(outcomes))
    for line in results.notes(outcomes):
        console.print(line, highlight=False)


if __name__ == "__main__":
    main()
