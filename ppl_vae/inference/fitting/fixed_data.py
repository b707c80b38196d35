"""The ELBO of fixed data under fixed noise: differences between parameters without the noise of draws."""

import math
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from ppl_vae.base.seeds import seeded
from ppl_vae.engine.graph import Untraceable
from ppl_vae.inference.evidence.bounds import grouped_bound
from ppl_vae.inference.evidence.weights import LogWeights
from ppl_vae.inference.fitting.iwae import IWAE
from ppl_vae.inference.fitting.settling import Settling
from ppl_vae.program.layout import sizes
from ppl_vae.program.problem import Problem

__all__ = ["FixedData", "convergence"]

# Numbers in the largest site of one part: its arrays stay in the processor's cache, and memory is used again.
CACHED = 2**19
# Draws of all units together: noise in common leaves so little in a difference that more only take time.
MOST_DRAWS = 2**16


class FixedData:
    """The log weights of some fixed data under fixed noise, for judging progress.

    Args:
        problem: a pair, whose parameters change from call to call, with the data to judge by.
        seed: of the noise, and of the choice of units.
        weighted: the IWAE objective, or None for the ELBO.
        most_units: of more units, so many are chosen.
        most_particles: draws a unit, where units are few: all together there are at most `MOST_DRAWS`, or
            eight a unit.
        budget: entries of an array in memory.
        traced: whether the programs are traced once into a graph, which then runs on parts of the draws
            that fit the processor's cache. The random numbers are the same, the values to rounding.
        settling: settles the pair's open layers for the parameters of the moment; its buffers are put back.
    """

    def __init__(
        self,
        problem: Problem,
        seed: int,
        weighted: IWAE | None,
        *,
        most_units: int = 512,
        most_particles: int = 256,
        budget: int = 2**20,
        traced: bool = False,
        settling: Settling | None = None,
    ) -> None:
        self.seed, self.settling = seed, settling
        self.group = 1 if weighted is None else weighted.num_particles
        layout = problem.layout
        if layout.can_index and layout.num_units > most_units:
            generator = torch.Generator().manual_seed(seed)
            problem = problem.rows(torch.randperm(layout.num_units, generator=generator)[:most_units])
        self.problem, units = problem, problem.num_units
        most = most_particles if layout.vectorized else 16
        fitting = layout.particles_per_chunk(units, budget=budget)
        particles = min(most, max(8, min(fitting, MOST_DRAWS // units)))
        self.particles = max(2, particles // self.group) * self.group
        # Where the fewest that say anything do not fit together, they come one after another.
        self.together = self.particles if fitting >= 8 else max(1, fitting // self.group) * self.group

        self.traced = traced and layout.vectorized
        self._parts: _Parts | None = None

    @torch.no_grad()
    def log_weights(self) -> Tensor:
        """log p(x, z) − log q(z), or bounds of groups of particles, in nats, shape (particles, units)."""
        with nullcontext() if self.settling is None else self.settling.for_now():
            return self._log_weights()

    def _log_weights(self) -> Tensor:
        if self.traced and self._parts is None:
            try:
                self._parts = _Parts(self)
            except Untraceable:  # the fit's own steps say so
                self.traced = False
        if self._parts is not None:
            return grouped_bound(self._parts(), self.group)
        with seeded(self.seed):
            parts = [
                self.problem.terms(size).log_weights.double().cpu()
                for size in sizes(self.particles, self.together)
            ]
        return grouped_bound(torch.cat(parts), self.group)


class _Parts:
    """Log weights through a graph of a few particles, which runs on one part of the noise after another.

    Raises:
        Untraceable: if the programs cannot be traced, or draw noise that has no dimension of particles.
    """

    def __init__(self, task: FixedData) -> None:
        fitting = task.problem.layout.particles_per_chunk(task.problem.num_units, CACHED)
        self.size = min(task.particles, fitting)
        self.particles = task.particles
        self.weights = LogWeights(task.problem, self.size, "traced")
        graph = self.weights.graph
        if graph is None:
            raise Untraceable("the log weights cannot be traced")
        if any(not noise.in_place or noise.shape[:1] != (self.size,) for noise in graph.noise):
            raise Untraceable("the noise has no dimension of particles")
        # Drawn as the programs would draw for all particles at once, site by site.
        with seeded(task.seed):
            self.noise = [
                replace(noise, shape=torch.Size((task.particles, *noise.shape[1:]))).draw()
                for noise in graph.noise
            ]

    def __call__(self) -> Tensor:
        found = []
        for first in range(0, self.particles, self.size):
            # The last part reaches back to have as many particles as the others.
            start = min(first, self.particles - self.size)
            part = self.weights.at([noise[start : start + self.size] for noise in self.noise])
            found.append(part[first - start :].cpu())
        return torch.cat(found)


def convergence(
    earlier: Tensor, later: Tensor, tolerance: float = 0.05, *, what: str = "the ELBO"
) -> tuple[bool, str]:
    """Whether the ELBO has levelled off, for a fit of a fixed number of steps.

    The ELBO is evaluated on the same data with the same noise three quarters through the fit and at
    its end; it has levelled off if it rose by no more than the tolerance. Common random numbers make
    the difference far more precise than the noisy ELBO of single steps. The test sees only the ELBO:
    passing it says nothing about the quality of the posterior, and where the learning rate falls along a
    cosine, the last quarter gains little whether or not more steps would. ``stop`` judges that.

    Args:
        earlier, later: log p(x, z) − log q(z), or bounds of groups of particles, at the two moments, of
            shape (particles, units).
        tolerance: in nats a unit.
        what: "the ELBO", or another objective in a sentence.

    Returns:
        Whether it is met, and a sentence with the numbers.
    """
    rise = (later - earlier).mean(1)
    mean = rise.mean().item()
    error = rise.std().item() / math.sqrt(len(rise)) if len(rise) > 1 else math.nan
    return mean <= tolerance, (
        f"over the last quarter of the steps {what} rose by {mean:.2g} ± {error:.1g} nats a unit "
        f"(tolerance {tolerance:g})"
    )
