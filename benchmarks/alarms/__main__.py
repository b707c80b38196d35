"""The verdict on posteriors whose truth is known: how often it is wrong.

Run as ``python -m benchmarks.alarms``: every case is checked, and the table of false alarms and misses is
printed, with the thresholds tuned anew without each family. ``--posteriordb`` compares our NUTS with
reference draws instead.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.alarms import tables
from benchmarks.alarms.nuts_study import against_reference
from benchmarks.posteriors import posteriors


def main() -> None:
    """Read the command line and run what it asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alarms", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="TEXT", help="cases whose name holds one of these texts")
    parser.add_argument("--posteriordb", action="store_true", help="our NUTS against reference draws")
    parser.add_argument("--family", action="store_true", help="only what is said of a guide's family")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--out", type=Path, help="keep what is measured here, and go on from it")
    parser.add_argument("--from", dest="kept", type=Path, help="only show and tune what this file keeps")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds a check")
    parser.add_argument("--seed", type=int, default=0, help="of the checks")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--again", action="store_true", help="check anew what --out keeps; truths stay")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a case is ended")
    parser.add_argument("--calibrate", action="store_true", help="spend what is left of the budget on SBC")
    parser.add_argument("--results", type=Path, help="write the tables to this file, as Markdown")
    given = parser.parse_args()
    if given.posteriordb:
        sys.exit(0 if compare_samplers(given.only, given.seed, given.results) else 1)
    if given.family:
        of_families(given.only, given.seed, given.results)
    else:
        study(given)


def of_families(only: list[str], seed: int, results: Path | None) -> None:
    """Print what is said of the best guides of their families, and of those short of it; a page keeps it."""
    from benchmarks.alarms.family_study import Found, families

    def told(one: Found) -> None:
        said = f"{one.status}, {one.said:.3f} ± {one.said_error:.3f} of {one.nats:.3f} ± {one.error:.3f} nats"
        print(f"{one.posterior}, {one.guide}: {said} [{one.seconds:.1f} s]", file=sys.stderr, flush=True)

    text = tables.families(list(families(only, seed, told)))
    print(text)
    if results is not None:
        results.write_text(tables.with_section(results.read_text() if results.exists() else "", text))


def compare_samplers(only: list[str], seed: int, results: Path | None) -> bool:
    """Print how far the samplers are apart; False if anything exceeds 4 Monte Carlo errors."""
    found = []
    for one in posteriors().values():
        if only and not any(text in one.name for text in only):
            continue
        if not one.present:
            print(f"{one.draws_file} is missing: skipped (benchmarks.posteriors says how)", file=sys.stderr)
            continue
        found.append(against_reference(one, seed))
        print(f"{one.name}: {found[-1].seconds:.0f} s", file=sys.stderr, flush=True)
    text = tables.samplers(found)
    print(text)
    if results is not None:
        results.write_text(f"# Our NUTS against posteriordb's reference draws\n\n{text}\n")
    return all(one.agrees for one in found)


def study(given: argparse.Namespace) -> None:
    """Run the cases, or read what a file keeps of them, and print the tables."""
    from benchmarks.alarms import study as studies
    from benchmarks.alarms.cases import Case, all_cases
    from benchmarks.alarms.cases_posteriordb import problems

    missing: list[Case] = []
    if given.kept is not None:
        lines = studies.load(given.kept)
        run = {line.case for line in lines}
        # The others take minutes to make.
        missing = [case for case in all_cases(tuple(problems())) if case not in run]
    else:
        cases = all_cases(given.only)
        if given.list:
            print("\n".join(f"{case.family:22} {case.name}" for case in cases))
            return
        settings = studies.Settings(given.budget, given.seed, given.calibrate, given.limit)
        lines = studies.run(
            cases, settings, workers=given.workers, out=given.out, again=given.again, said=tables.say
        )
    if given.only:
        lines = [line for line in lines if any(text in line.case.name for text in given.only)]
    text = tables.study(lines, missing)
    print(text)
    if given.results is not None:
        before = given.results.read_text() if given.results.exists() else ""
        page = f"# How often the verdict is wrong\n\n`make alarms` writes this page.\n\n{text}\n"
        given.results.write_text(tables.with_section(page, tables.section(before, tables.OF_FAMILIES)))


if __name__ == "__main__":
    main()
