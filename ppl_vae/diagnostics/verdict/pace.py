"""How many draws fit into a time: one of a few sizes, by the pace of very few draws."""

import time
from collections.abc import Sequence

from ppl_vae.inference.samplers import guide
from ppl_vae.program.problem import Problem

__all__ = ["WEIGHTS_SHARE", "affordable"]

# Share of the time left that draws of the guide may take, and weights.
WEIGHTS_SHARE = 0.1
# Numbers, in the largest site of all draws together, that take no time worth measuring.
SMALL = 2**24
# Draws that are timed, twice: the first call also pays for what is made only once. Few where each runs the
# programs anew.
TIMED, ONE_BY_ONE = 200, 5


def affordable(problem: Problem, sizes: Sequence[int], seconds: float, seed: int) -> tuple[int, bool]:
    """The largest of some sizes whose draws fit into so many seconds, else the smallest.

    Small work is not timed at all. The sizes are far apart, so that a clock that runs a little otherwise
    hardly ever changes the choice among the others.

    Args:
        problem: the pair whose guide is drawn from and whose weights are evaluated, with the rows meant.
        sizes: in descending order.
        seconds: the time there is.
        seed: of the draws that are timed.

    Returns:
        The size, and whether it is smaller than the first.
    """
    pair, layout, units = problem.pair, problem.layout, problem.num_units
    if layout.vectorized and sizes[0] * units * layout.event_size <= SMALL:
        return sizes[0], False
    timed = min(TIMED, layout.particles_per_chunk(units)) if layout.vectorized else ONE_BY_ONE
    paces = []
    for _ in range(2):
        start = time.perf_counter()
        guide.draws(pair, *problem.data, num_draws=timed, index=problem.index, seed=seed)
        paces.append((time.perf_counter() - start) / timed)
    size = next((size for size in sizes if size * min(paces) <= seconds), sizes[-1])
    return size, size < sizes[0]
