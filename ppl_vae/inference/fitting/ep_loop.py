"""Steps of expectation propagation until they move nothing, damped where they would not come to rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ppl_vae.base.errors import InputError
from ppl_vae.inference.fitting.ep_steps import Factors, Sites, step
from ppl_vae.program.chains import Smoother

__all__ = ["Propagated", "propagate"]

# Steps that do not come nearer in a row, after which they are halved, and the shortest.
PATIENCE, SHORTEST = 2, 1 / 32


@dataclass(frozen=True, eq=False)
class Propagated:
    """Where expectation propagation ended.

    Attributes:
        sites: at the end.
        smoother: of the states' prior with the sites' precisions.
        log_evidence: EP's estimate of log p(x) before every step and at the end, in nats, no bound.
        change: how far the last step would have moved means, in the states' sds, and log variances.
        converged: whether that is within the tolerance.
        length: of the last step; 1: undamped.
    """

    sites: Sites
    smoother: Smoother
    log_evidence: tuple[float, ...]
    change: float
    converged: bool
    length: float


def propagate(
    factors: Factors,
    *,
    start: Sites | None = None,
    tolerance: float = 1e-8,
    max_steps: int = 200,
    damping: float = 0.0,
    seen: Callable[[float, float], None] = lambda log_evidence, change: None,
) -> Propagated:
    """Go to a fixed point.

    Args:
        factors: of a model and its data.
        start: sites to start at, of the same shapes; none by default, which is the prior.
        tolerance: change of the means, in sds, and of log variances at which to stop.
        max_steps: most steps.
        damping: part of the way that a step leaves out at least, from 0 to less than 1.
        seen: is told the estimate of log p(x) and the change after every step.

    Raises:
        InputError: where a step gives no numbers.
    """
    sites, length = start or Sites.none(factors), 1.0 - damping
    values: list[float] = []
    least, worse, variance = math.inf, 0, None
    for _ in range(max_steps):
        done = step(factors, sites, length)
        if not math.isfinite(done.change) or not math.isfinite(done.log_evidence):
            raise InputError(
                "expectation propagation comes to no numbers: a factor has no finite integral under the "
                "states' cavities"
            )
        moved = 1.0 if variance is None else float((done.variance / variance).log().abs().max()) / length
        change, variance, sites = max(done.change, moved), done.variance, done.sites
        values.append(done.log_evidence)
        seen(done.log_evidence, change)
        if change <= tolerance:
            break
        worse = worse + 1 if change >= least else 0
        least = min(least, change)
        if worse >= PATIENCE and length > SHORTEST:
            length, worse = length / 2, 0
    return Propagated(sites, sites.smoother(factors), tuple(values), change, change <= tolerance, length)
