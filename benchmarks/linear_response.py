"""Linear response beside reference draws: ``python -m benchmarks.linear_response [TEXT …]``.

A table of the posteriors whose reference draws are near a normal (`benchmarks.posteriors`): of all numbers,
on the unconstrained scale, the standard deviation by linear response that is farthest from the draws', over
theirs, with the largest Monte Carlo error of any; the same of the mean-field optimum that it comes from; the
largest error of a correlation, likewise; and what it took, its fit and the tracing of the program included.
``--all`` takes the others too.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from pyro.infer.autoguide import AutoNormal

from benchmarks.posteriors import Entry, Target, posteriors
from benchmarks.posteriors.measures import nearness
from ppl_vae.base.errors import InputError
from ppl_vae.inference.fitting.linear_response import covariances
from ppl_vae.program.pair import Pair

HEAD = ("posterior", "numbers", "sd by linear response", "Monte Carlo error", "sd of mean-field",
        "correlation off by", "mean-field's", "seconds", "processor seconds")  # fmt: skip
TITLE = "Standard deviations over those of reference draws, the worst of each posterior; .9 to 1.1 is wanted."


def main() -> None:
    """Read the command line, print the table, and keep it where that is asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear_response", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="TEXT", help="posteriors whose name holds one of these")
    parser.add_argument("--all", action="store_true", help="those that are not near a normal, too")
    parser.add_argument("--results", type=Path, help="write the table to this file, as Markdown")
    given = parser.parse_args()
    chosen = [one for name, one in posteriors().items()
              if not given.only or any(text in name for text in given.only)]  # fmt: skip
    lines = [f"| {' | '.join(HEAD)} |", "| " + " | ".join("---" for _ in HEAD) + " |"]
    print("\n".join(lines), flush=True)
    for one in chosen:
        if not one.present:
            print(f"{one.draws_file} is missing: {one.name} is skipped", file=sys.stderr)
        elif (row := _row(one, every=given.all)) is not None:
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
    if given.results is not None:
        given.results.write_text("\n".join(["# Linear response", "", TITLE, "", *lines, ""]))


def _row(one: Entry, *, every: bool) -> list[str] | None:
    """One posterior's; None where it is not near a normal."""
    target = Target.of(one)
    draws = target.reference().flatten(0, 1)
    if not (every or nearness(target, draws).near):
        return None
    begun, used = time.perf_counter(), time.process_time()
    try:
        found = covariances(
            Pair(one.model, AutoNormal(one.proper)), *target.data, functions="unconstrained", progress=False
        )
    except InputError as reason:
        return [one.name, str(target.density.dim), str(reason), *("–" for _ in HEAD[3:])]
    spent = time.perf_counter() - begun, time.process_time() - used
    truth, correlation = draws.std(0).numpy(), np.corrcoef(draws.numpy().T)
    alone = np.eye(len(truth))
    return [
        one.name, str(target.density.dim), f"{_farthest(found.sds / truth):.3f}",
        f"{(found.sd_errors / truth).max():.1g}", f"{_farthest(found.mean_field_sds / truth):.3f}",
        f"{np.abs(found.correlation - correlation).max():.3f}", f"{np.abs(alone - correlation).max():.3f}",
        *(f"{seconds:.1f}" for seconds in spent),
    ]  # fmt: skip


def _farthest(ratios: np.ndarray) -> float:
    """The ratio that is farthest from 1, as a factor."""
    return float(ratios[np.abs(np.log(ratios)).argmax()])


if __name__ == "__main__":
    main()
