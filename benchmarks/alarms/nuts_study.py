"""Our NUTS against posteriordb's reference draws: every parameter's mean and sd."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from arviz_stats.base import array_stats
from numpy.typing import NDArray

from benchmarks.posteriors.entry import Entry, parameters
from benchmarks.sd_error import sd_error
from ppl_vae import Posterior, nuts

__all__ = ["LIMIT", "Agreement", "against_reference", "sample", "z_scores"]

Floats = NDArray[np.floating[Any]]
LIMIT = 4.0


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far the two samplers are apart, in Monte Carlo errors.

    Attributes:
        name: the posterior's.
        z_mean, z_sd: by parameter, under Stan's names.
        least_ess: our smallest bulk ESS.
        divergent: our divergent transitions.
        seconds: of our chains.
    """

    name: str
    z_mean: Mapping[str, float]
    z_sd: Mapping[str, float]
    least_ess: float
    divergent: int
    seconds: float

    @property
    def worst(self) -> tuple[float, str]:
        """The largest |z|, and of what."""
        means = {f"mean of {name}": abs(z) for name, z in self.z_mean.items()}
        spreads = {f"sd of {name}": abs(z) for name, z in self.z_sd.items()}
        everything = means | spreads
        name = max(everything, key=lambda key: everything[key])
        return everything[name], name

    @property
    def agrees(self) -> bool:
        """Whether every mean and sd lies within 4 Monte Carlo errors."""
        return self.worst[0] <= LIMIT


def sample(one: Entry, seed: int = 0) -> Posterior:
    """Four chains of our NUTS, in the reference's parameters."""
    at = one.settings
    found = nuts.sample(
        one.model, *one.data(), chains=4, num_draws=at.num_draws, warmup=at.warmup, sampler=at.sampler,
        target_accept=at.target_accept, mass=at.mass, seed=seed, progress=False,
    )  # fmt: skip
    return replace(found, draws=one.identifiable(found.draws))


def against_reference(one: Entry, seed: int = 0) -> Agreement:
    """Sample, and compare with the stored draws."""
    start = time.perf_counter()
    found = sample(one, seed)
    seconds = time.perf_counter() - start
    ours = parameters({str(name): value.to_numpy() for name, value in found.draws.data_vars.items()})
    theirs = parameters(one.reference_draws())
    if missing := theirs.keys() ^ ours.keys():
        raise ValueError(f"{one.name}: the parameters differ in {', '.join(sorted(missing))}")
    scores = {name: z_scores(ours[name], theirs[name]) for name in theirs}
    return Agreement(
        one.name,
        {name: z[0] for name, z in scores.items()},
        {name: z[1] for name, z in scores.items()},
        min(float(array_stats.ess(values, method="bulk")) for values in ours.values()),
        int(found.stats["diverging"].sum()) if "diverging" in found.stats else 0,
        seconds,
    )


def z_scores(ours: Floats, theirs: Floats) -> tuple[float, float]:
    """The differences of mean and of sd, over their Monte Carlo errors; arrays of (chains, draws)."""
    means = [float(array_stats.mcse(values, method="mean")) for values in (ours, theirs)]
    return (
        float((ours.mean() - theirs.mean()) / np.hypot(*means)),
        float((ours.std() - theirs.std()) / np.hypot(sd_error(ours), sd_error(theirs))),
    )
