"""Steps of expectation propagation until they move nothing, damped where they would not come to rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ppl_vae.base.errors import InputError
from ppl_vae.inference.fitting.factors.spreads import Spread
from ppl_vae.inference.fitting.propagation.steps import Factors, Sites, step

__all__ = ["Propagated", "propagate"]

# Steps in a row that come no nearer, after which they are halved; that come nearer, after which they are
# doubled, but to no length that was halved twice; and the shortest.
PATIENCE, TRUST, SHORTEST = 2, 3, 1 / 32


@dataclass(frozen=True, eq=False)
class Propagated:
    """Where expectation propagation ended.

    Attributes:
        sites: at the end.
        around: what the sites make of the prior, but for its mean: a smoother where chains are apart.
        log_evidence: EP's estimate of log p(x) before every step and at the end, in nats, no bound.
        change: how far the last step would have moved means, in the states' sds, and log variances.
        converged: whether that is within the tolerance.
        length: of the last step; 1: undamped.
    """

    sites: Sites
    around: Spread
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
    sites, pace = start or Sites.none(factors), _Pace(1.0 - damping)
    values: list[float] = []
    variance = None
    for _ in range(max_steps):
        length = pace.length
        done = step(factors, sites, length)
        if not math.isfinite(done.change) or not math.isfinite(done.log_evidence):
            raise InputError(
                "expectation propagation comes to no numbers: factors have no finite integrals, or it runs "
                "away, as it may where they are not log-concave"
            )
        moved = 1.0 if variance is None else float((done.variance / variance).log().abs().max()) / length
        change, variance, sites = max(done.change, moved), done.variance, done.sites
        values.append(done.log_evidence)
        seen(done.log_evidence, change)
        if change <= tolerance:
            break
        pace.saw(change)
    return Propagated(sites, sites.around(factors), tuple(values), change, change <= tolerance, length)


class _Pace:
    """How long steps are: halved where they come no nearer, and doubled where they do."""

    def __init__(self, longest: float) -> None:
        self.length = self.longest = longest
        self.last, self.worse, self.better = math.inf, 0, 0
        self.halved: dict[float, int] = {}

    def saw(self, change: float) -> None:
        """Note what a whole step would have changed."""
        nearer, self.last = change < self.last, change
        self.worse, self.better = (0, self.better + 1) if nearer else (self.worse + 1, 0)
        if self.worse >= PATIENCE and self.length > SHORTEST:
            self.halved[self.length] = self.halved.get(self.length, 0) + 1
            self.length, self.worse = self.length / 2, 0
        elif self.better >= TRUST and self.length < self.longest and self.halved[2 * self.length] < 2:
            self.length, self.better = 2 * self.length, 0
