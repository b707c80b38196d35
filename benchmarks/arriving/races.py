"""Adam in Pyro and NumPyro, as they come, until its ELBO is as good as another or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO

from benchmarks.arriving.cases import Case
from benchmarks.arriving.judge import Judge
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian

__all__ = ["Race", "Racer", "best_race", "numpyro_racer", "pyro_racer", "race"]

# Learning rates, the likeliest first: none is run for longer than the fastest of those before it.
RATES = (0.03, 0.1, 0.01)
# Steps between two looks at the ELBO, and how much of the steps so far where that is more.
LEAST, SHARE = 100, 0.1
MOST = 10_000_000


class Racer(Protocol):
    """A fit by Adam that can be looked at."""

    def run(self, steps: int) -> None:
        """So many steps."""

    def gaussian(self) -> Gaussian:
        """Where its guide is."""


@dataclass(frozen=True)
class Race:
    """How one went.

    Attributes:
        seconds: of CPU time, set-up and compiling included, looks not.
        steps: that were taken.
        arrived: whether the ELBO was reached.
        below: nats below the best at the end.
        rate: of learning.
    """

    seconds: float
    steps: int
    arrived: bool
    below: float
    rate: float


def race(make: Callable[[], Racer], below: Callable[[Gaussian], float], near: float, cap: float,
         rate: float = 0.0) -> Race:  # fmt: skip
    """Run until a guide is nearer than ``near`` nats to the best, or steps or seconds are over."""
    start = time.process_time()
    racer, steps = make(), 0
    spent = time.process_time() - start
    while True:
        start = time.process_time()
        # Whole hundreds, so that a scan is compiled but once.
        for _ in range(max(1, int(SHARE * steps / LEAST))):
            racer.run(LEAST)
            steps += LEAST
        spent += time.process_time() - start
        far = below(racer.gaussian())
        if far <= near or steps >= MOST or spent >= cap:
            return Race(spent, steps, far <= near, far, rate)


def best_race(make: Callable[[float], Racer], below: Callable[[Gaussian], float], near: float, cap: float,
              rates: Iterable[float] = RATES) -> Race:  # fmt: skip
    """The fastest of several learning rates; where none arrives, the one that came nearest."""
    best: Race | None = None
    for rate in rates:
        most = best.seconds if best is not None and best.arrived else cap
        found = race(lambda rate=rate: make(rate), below, near, most, rate)
        if best is None or _better(found, best):
            best = found
    assert best is not None
    return best


def _better(one: Race, other: Race) -> bool:
    if one.arrived != other.arrived:
        return one.arrived
    return one.seconds < other.seconds if one.arrived else one.below < other.below


def pyro_racer(case: Case, family: str, judge: Judge) -> Callable[[float], Racer]:
    """``SVI.step`` in a loop, the guide where Pyro starts it, in float64."""

    class Steps:
        def __init__(self, rate: float) -> None:
            pyro.clear_param_store()
            torch.set_default_dtype(torch.float64)
            self.pair = case.pair(family)
            optimiser = pyro.optim.Adam({"lr": rate})
            self.svi = SVI(self.pair.model, self.pair.guide, optimiser, Trace_ELBO())
            self.svi.step(*case.data)

        def run(self, steps: int) -> None:
            for _ in range(steps):
                self.svi.step(*case.data)

        def gaussian(self) -> Gaussian:
            return judge.guide(self.pair.guide)

    return Steps


def numpyro_racer(case: Case, family: str, judge: Judge) -> Callable[[float], Racer]:
    """A compiled scan over ``SVI.update``, the guide where NumPyro starts it, in float64."""
    import jax.numpy as jnp
    import numpy as np
    from numpyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal

    from benchmarks.peers.numpyro_posteriors import PROGRAMS
    from benchmarks.peers.numpyro_runs import Steps as Scanned

    density, like = judge.target.batches.density, judge.target.guide.family
    kind = AutoMultivariateNormal if family == "full-rank" else AutoDiagonalNormal

    class Steps:
        def __init__(self, rate: float) -> None:
            self.guide = kind(PROGRAMS[case.name])
            data = tuple(np.asarray(each) for each in case.data)
            self.scanned = Scanned(PROGRAMS[case.name], self.guide, data, rate)

        def run(self, steps: int) -> None:
            self.scanned.run(steps)

        def gaussian(self) -> Gaussian:
            found = self.scanned.svi.get_params(self.scanned.state)
            # NumPyro flattens the sites in an order of its own.
            places = self.guide._unpack_latent(jnp.arange(density.dim))
            order = np.concatenate([np.asarray(places[name]).reshape(-1) for name in density.names])
            loc = torch.from_numpy(np.array(found["auto_loc"])[order])
            root = np.array(found["auto_scale_tril" if family == "full-rank" else "auto_scale"])[order]
            (block,) = like.blocks
            assert torch.equal(block.columns, torch.arange(density.dim))
            return Gaussian(like, loc, (torch.from_numpy(root),))

    return Steps
