"""``python -m benchmarks.arriving [PART …]``: the tables of `benchmarks.arriving`, printed as they come.

Parts: full-rank, peers, mean-field, skills, regression; all by default. Rows that were measured before are
kept in ``--keep`` and not measured again. NumPyro's side needs NumPyro (``pip install -e ".[bench]"``).
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.arriving.cases import warm_up
from benchmarks.arriving.parts import PARTS
from benchmarks.posteriors import Entry, posteriors
from ppl_vae.inference.fitting import fixed_noise, natural, svi

TITLE = "# Variational inference that arrives"
ABOUT = (
    "Made by `python -m benchmarks.arriving --results benchmarks/ARRIVING.md` on one thread. Times are the "
    "process's CPU time, imports excluded, tracing and compiling included."
)
# By part and posterior: the cells of a row, and its numbers.
Kept = dict[str, dict[str, Any]]


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arriving", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--only", nargs="*", metavar="TEXT", help="posteriors whose name holds one of these")
    parser.add_argument("--keep", type=Path, default=Path("arriving.json"), help="rows that are known")
    parser.add_argument("--results", type=Path, help="write the tables of all rows to this file")
    parser.add_argument("--why", default="", help="why rows are missing, said behind their names")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kept: Kept = json.loads(given.keep.read_text()) if given.keep.is_file() else {}
    asked = given.parts or list(PARTS)
    chosen = {name: one for name, one in posteriors().items()
              if one.present and (not given.only or any(text in name for text in given.only))}  # fmt: skip
    _prepare()
    for part in asked:
        _measure(part, chosen, kept, given.keep)
    text = document(kept, given.why)
    print(text)
    if given.results is not None:
        given.results.write_text(text, encoding="utf-8")


def _prepare() -> None:
    try:
        from benchmarks.peers import numpyro_runs
    except ImportError:
        print("NumPyro is not installed: its side is left out", file=sys.stderr)
    else:
        numpyro_runs.prepare()
    warm_up(natural.fit, fixed_noise.fit, lambda pair, *data, progress: svi.fit(
        pair, *data, num_steps=100, progress=progress))  # fmt: skip


def _measure(name: str, chosen: Mapping[str, Entry], kept: Kept, path: Path) -> None:
    """The rows of a part that are not known yet, each kept as soon as it is."""
    part, known = PARTS[name], kept.setdefault(name, {})
    cases: dict[str, tuple[Entry, ...]] = {name: ()}
    if part.posteriors:
        cases = {case: (entry,) for case, entry in chosen.items()}
    for case in sorted(cases.keys() - known.keys()):
        known[case] = part.row(*cases[case])
        print(_line(known[case][0]), flush=True)
        path.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def document(kept: Kept, why: str = "") -> str:
    """All tables whose rows are known, in Markdown, and which are not, with the reason."""
    sections = [f"{TITLE}\n\n{ABOUT}"]
    for name, part in PARTS.items():
        if known := [row for _, row in sorted(kept.get(name, {}).items())]:
            lines = [_line(part.head), _line("---" for _ in part.head), *(_line(cells) for cells, _ in known)]
            said = part.sums([numbers for _, numbers in known])
            if part.posteriors and (missing := sorted(posteriors().keys() - kept[name].keys())):
                said += f" Measured: {len(known)} of {len(posteriors())} posteriors; not {', '.join(missing)}"
                said += f": {why}." if why else "."
            sections += [f"## {part.title}", part.about, "\n".join(lines), said]
    return "\n\n".join(sections) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
