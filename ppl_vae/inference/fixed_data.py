"""The ELBO of fixed data under fixed noise: differences between parameters without the noise of draws."""

import math
from typing import Any

import torch
from torch import Tensor

from ppl_vae.inference.iwae import IWAE, grouped_bound
from ppl_vae.inference.sites import Layout, sizes
from ppl_vae.inference.terms import terms
from ppl_vae.program import Pair
from ppl_vae.rng import seeded

__all__ = ["FixedData", "convergence"]


class FixedData:
    """The log weights of some fixed data under fixed noise, for judging progress.

    Args:
        pair: whose parameters change from call to call.
        data: the data to judge by.
        shape: the pair's layout for these data.
        seed: of the noise, and of the choice of units.
        weighted: the IWAE objective, or None for the ELBO.
        most_units: of more units, so many are chosen.
        most_particles: draws a unit, where few units leave room for them.
        budget: entries of an array in memory.
    """

    def __init__(
        self,
        pair: Pair,
        data: tuple[Any, ...],
        shape: Layout,
        seed: int,
        weighted: IWAE | None,
        *,
        most_units: int = 512,
        most_particles: int = 256,
        budget: int = 2**20,
    ) -> None:
        self.pair, self.data, self.shape, self.seed = pair, data, shape, seed
        self.group = 1 if weighted is None else weighted.num_particles
        self.index: Tensor | None = None
        if shape.can_index and shape.num_units > most_units:
            generator = torch.Generator().manual_seed(seed)
            self.index = torch.randperm(shape.num_units, generator=generator)[:most_units]
        units = shape.num_units if self.index is None else len(self.index)
        most = most_particles if shape.vectorized else 16
        fitting = shape.particles_per_chunk(units, budget=budget)
        particles = min(most, max(8, fitting))
        self.particles = max(2, particles // self.group) * self.group
        # Where the fewest that say anything do not fit together, they come one after another.
        self.together = self.particles if fitting >= 8 else max(1, fitting // self.group) * self.group

    @torch.no_grad()
    def log_weights(self) -> Tensor:
        """log p(x, z) − log q(z), or bounds of groups of particles, in nats, shape (particles, units)."""
        with seeded(self.seed):
            parts = [
                terms(self.pair, *self.data, layout=self.shape, num_particles=size, index=self.index)
                .log_weights.double()
                .cpu()
                for size in sizes(self.particles, self.together)
            ]
        return grouped_bound(torch.cat(parts), self.group)


def convergence(earlier: Tensor, later: Tensor, tolerance: float = 0.05) -> tuple[bool, str]:
    """Whether the ELBO has stopped rising, for a fit of a fixed number of steps.

    The ELBO is evaluated on the same data with the same noise three quarters through the fit and at
    its end; the fit has converged if it rose by no more than the tolerance. Common random numbers make
    the difference far more precise than the noisy ELBO of single steps. The test sees only the ELBO:
    passing it says nothing about the quality of the posterior, and where the learning rate falls along a
    cosine, the last quarter gains little whether or not more steps would. ``stop`` judges that.

    Args:
        earlier, later: log p(x, z) − log q(z), or bounds of groups of particles, at the two moments, of
            shape (particles, units).
        tolerance: in nats a unit.

    Returns:
        Whether it is met, and a sentence with the numbers.
    """
    rise = (later - earlier).mean(1)
    mean = rise.mean().item()
    error = rise.std().item() / math.sqrt(len(rise)) if len(rise) > 1 else math.nan
    return mean <= tolerance, (
        f"over the last quarter of the steps the ELBO rose by {mean:.2g} ± {error:.1g} nats a unit "
        f"(tolerance {tolerance:g})"
    )
