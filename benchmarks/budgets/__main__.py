"""Do budgets hold? ``python -m benchmarks.budgets [PROGRAM …]``.

Twenty programs are checked with a time budget, each in fresh processes: with an empty cache of compiled
programs and with a filled one, alone and beside two busy loops. A row says how long the check took beside
its budget, whether it was refused, when the verdict stood, and whether two runs with one seed gave the same
numbers in all that the output does not name as cut short.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import MARK, child

BUDGET, QUICK = 30.0, 15.0
# Whether the cache is filled, and whether loops run beside; the first two are compared.
RUNS = ((False, False), (True, False), (False, True), (True, True))
# Starting Python and importing is not part of the budget of a call.
BEFORE, MOST = 120.0, 4.0
HEADER = (
    "| program | cache | beside | seconds | of | over | stands | verdict | next step | cut short | same |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


def measure(name: str, budget: float) -> dict[str, Any]:
    """Check one program, in this process."""
    import torch

    from benchmarks.budgets.programs import PROGRAMS
    from ppl_vae import InputError, check

    torch.manual_seed(0)
    model, guide, data = PROGRAMS[name]()
    begun, stands = time.perf_counter(), []
    try:
        found = check(
            model, guide, *data, budget=budget, callback=lambda _: stands.append(time.perf_counter() - begun),
            progress=False,
        )  # fmt: skip
    except InputError as error:
        return {"seconds": time.perf_counter() - begun, "refused": str(error)}
    return {
        "seconds": time.perf_counter() - begun,
        "cpu": time.process_time(),
        "stands": stands[0],
        "verdict": found.verdict,
        "reason": found.reason,
        "next_step": found.next_step,
        "cut": list(found.cut),
        "findings": {f.name: [f.status, f.sentence] for f in found.findings},
    }


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing but use a processor."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(name: str, budget: float, cases: tuple[tuple[bool, bool], ...]) -> list[str]:
    """Check a program in every case; rows of the table."""
    found, rows = [], []
    with tempfile.TemporaryDirectory() as filled:
        for warm, crowded in cases:
            with tempfile.TemporaryDirectory() as empty, busy(2 if crowded else 0):
                cache = filled if warm or not crowded else empty
                env = {
                    "PPL_VAE_CACHE": cache,
                    "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
                    "OMP_NUM_THREADS": "1",
                }
                try:
                    one = child(
                        ["benchmarks.budgets", "--measure", name, "--budget", str(budget)],
                        MOST * budget + BEFORE, env,
                    )  # fmt: skip
                except (RuntimeError, TimeoutError) as error:
                    one = {"seconds": float("nan"), "refused": f"FAILED: {error}"}
            found.append(one)
            rows.append(row(name, warm, crowded, budget, one, found))
            print(rows[-1], flush=True)
    return rows


def row(
    name: str, warm: bool, crowded: bool, budget: float, one: dict[str, Any], runs: list[dict[str, Any]]
) -> str:
    """One line of the table."""
    over = max(0.0, one["seconds"] / budget - 1)
    refused = one.get("refused")
    cells = [
        name, "filled" if warm else "empty", "two loops" if crowded else "—", f"{one['seconds']:.1f}",
        f"{budget:.0f}", f"{over:.0%}", "—" if refused else f"{one['stands']:.1f}",
        f"refused: {refused}" if refused else one["verdict"], "—" if refused else one["next_step"],
        "—" if refused else ", ".join(one["cut"]) or "nothing", same(runs),
    ]  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "∣") for cell in cells) + " |"


def same(runs: list[dict[str, Any]]) -> str:
    """Whether the last run's numbers are the first's, in what neither names as cut."""
    one, two = runs[0], runs[-1]
    if len(runs) == 1 or "findings" not in one or "findings" not in two:
        return "—"
    names = [name for name in one["findings"] if name in two["findings"]]
    names = [name for name in names if name not in {*one["cut"], *two["cut"]}]
    wrong = [name for name in names if one["findings"][name] != two["findings"][name]]
    return f"differs: {', '.join(wrong)}" if wrong else f"{len(names)} of {len(names)}"


def main() -> None:
    """Read the command line, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budgets", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="names of programs, all by default")
    parser.add_argument("--list", action="store_true", help="list the programs")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds a check (default: %(default)g)")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK:g} s a check, cold beside loops and warm alone"
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--measure", metavar="PROGRAM", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(MARK + json.dumps(measure(given.measure, given.budget)), flush=True)
        return
    from benchmarks.budgets.programs import PROGRAMS

    if unknown := [name for name in given.programs if name not in PROGRAMS]:
        parser.error(f"no such program: {', '.join(unknown)}; --list shows them all")
    if given.list:
        print("\n".join(PROGRAMS))
        return
    budget = QUICK if given.quick else given.budget
    cases = ((False, True), (True, False)) if given.quick else RUNS
    print("\n".join(HEADER), flush=True)
    rows = [line for name in given.programs or PROGRAMS for line in run(name, budget, cases)]
    if given.results:
        load = os.getloadavg()[0]
        head = (
            f"# Budgets\n\n`{' '.join(['python -m benchmarks.budgets', *sys.argv[1:]])}`, load {load:.1f}\n"
        )
        given.results.write_text("\n".join([head, *HEADER, *rows, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
