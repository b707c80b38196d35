"""Twenty-three posteriors as Pyro programs, with data and reference draws.

    one = posterior("nes2000")            # by short or full name; posteriors() has them all
    target = Target.of(one)               # target.pair, target.data; log density and score of positions
    draws = target.reference()            # (10, 1000, dim), unconstrained, in the order of `density`

Each program states the density of the Stan program that it is named after, in the program's own parameters,
flat priors included. Nineteen have posteriordb's reference draws, four our own. Source: Magnusson et al.,
"posteriordb: Testing, Benchmarking and Developing Bayesian Inference Algorithms" (2025).
"""

from benchmarks.posteriors import hierarchical, others, regressions, time_series
from benchmarks.posteriors.entry import Entry
from benchmarks.posteriors.target import Target

__all__ = ["Entry", "Target", "posterior", "posteriors"]

_ALL = (*regressions.ENTRIES, *time_series.ENTRIES, *hierarchical.ENTRIES, *others.ENTRIES)


def posteriors() -> dict[str, Entry]:
    """Every posterior by posteriordb's name."""
    return {one.name: one for one in sorted(_ALL, key=lambda one: one.name)}


def posterior(name: str) -> Entry:
    """One posterior, by posteriordb's name or the short one.

    Raises:
        KeyError: for a name that none has.
    """
    return posteriors().get(name) or {one.short: one for one in _ALL}[name]
