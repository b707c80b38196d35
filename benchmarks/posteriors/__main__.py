"""What the posteriors are like: ``python -m benchmarks.posteriors [TEXT …]``.

A table of those whose reference draws are at hand: how many numbers they have, whether their draws are the
density's by the score identities, how near a normal they are, and with ``--times`` what a gradient costs,
which has to be compiled first. ``--sample`` makes the reference draws that posteriordb has none of, in the
folder that PPL_VAE_POSTERIORS names (by default ``ppl_vae/posteriors`` in the user's cache), about six
minutes of CPU time.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.posteriors import Entry, Target, posteriors
from benchmarks.posteriors.measures import compiled_seconds, eager_seconds, identities, nearness
from benchmarks.posteriors.sampled import make

HEAD = ("posterior", "numbers", "near normal", "nats lost", "k̂", "skewness", "excess kurtosis",
        "largest z of the identities", "of")  # fmt: skip
CRITERION = (
    "Near a normal: the normal with the reference draws' moments loses less than .05 nats (KL(q ‖ p), "
    "unconstrained)."
)
TIMES = ("gradient, stock Pyro (µs)", "compiled (µs)", "compiling (s)")


def main() -> None:
    """Read the command line and run what it asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.posteriors", description=__doc__)
    parser.add_argument(
        "only", nargs="*", metavar="TEXT", help="posteriors whose name holds one of these texts"
    )
    parser.add_argument("--sample", action="store_true", help="make the reference draws of our own")
    parser.add_argument("--times", action="store_true", help="measure gradients, compiled ones too")
    parser.add_argument("--results", type=Path, help="write the table to this file, as Markdown")
    given = parser.parse_args()
    chosen = [one for name, one in posteriors().items()
              if not given.only or any(text in name for text in given.only)]  # fmt: skip
    if given.sample:
        kept = [_sampled(one) for one in chosen if one.thin]
        sys.exit(0 if all(kept) else 1)
    head = HEAD + (TIMES if given.times else ())
    lines = [f"| {' | '.join(head)} |", "| " + " | ".join("---" for _ in head) + " |"]
    print("\n".join(lines), flush=True)
    for one in chosen:
        if not one.present:
            print(f"{one.draws_file} is missing: {one.name} is skipped", file=sys.stderr)
            continue
        lines.append(f"| {' | '.join(_row(one, times=given.times))} |")
        print(lines[-1], flush=True)
    if given.results is not None:
        given.results.write_text(
            "\n".join(["# Posteriors with reference draws", "", CRITERION, "", *lines, ""])
        )


def _sampled(one: Entry) -> bool:
    wrong = make(one)
    print(f"{one.name}: {'; '.join(wrong) or f'kept in {one.draws_file}'}", flush=True)
    return not wrong


def _row(one: Entry, *, times: bool) -> list[str]:
    target = Target.of(one)
    draws = target.reference().flatten(0, 1)
    first, second = identities(target, draws)
    found = nearness(target, draws)
    return [
        one.name, str(target.density.dim), "yes" if found.near else "no",
        f"{found.gap:.3g} ± {found.error:.1g}", f"{found.pareto_k:.2f}", f"{found.skewness:.2f}",
        f"{found.kurtosis:.2f}", f"{max(float(first.abs().max()), float(second.abs().max())):.2f}",
        str(first.numel() + second.numel()), *(_times(target) if times else ()),
    ]  # fmt: skip


def _times(target: Target) -> list[str]:
    engine, compiled, compiling = compiled_seconds(target)
    how = "" if engine == "compiled" else f" ({engine})"
    return [f"{eager_seconds(target) * 1e6:,.0f}", f"{compiled * 1e6:,.0f}{how}", f"{compiling:.1f}"]


if __name__ == "__main__":
    main()
