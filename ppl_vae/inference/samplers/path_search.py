"""Which Gaussian of a quasi-Newton path has the largest ELBO, and what finding it costs.

Source: Zhang, Carpenter, Gelman and Vehtari, "Pathfinder: Parallel quasi-Newton variational inference"
(2022), algorithms 1 and 6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae.base.clock import check_time
from ppl_vae.engine.choice import engine_for
from ppl_vae.engine.density import Density
from ppl_vae.engine.gradients import Gradient, gradient, side_by_side
from ppl_vae.engine.graph import Compile
from ppl_vae.inference.samplers.inverse_hessians import InverseHessian, LowRankNormal

__all__ = ["Counted", "PathSearch"]

# Positions of one batch, where memory allows.
BATCH = 128
# Numbers of the largest tensor of a batch.
NUMBERS = 2**22
# Nats that a Newton step from the end of a path may promise, for the path to have arrived.
ARRIVED = 1.0


class Counted:
    """A log density, one position at a time with its gradient or many without, and how often each.

    Args:
        slope: the gradient at one position.
        many: at many.
    """

    def __init__(self, slope: Gradient, many: Gradient) -> None:
        self.slope, self.many, self.target = slope, many, slope.density
        self.gradients = self.densities = 0

    @classmethod
    def of(cls, target: Density, compile: Compile, most: int) -> Counted:
        """Trace a density.

        Args:
            target: the log density.
            compile: as in `PathfinderOptions`.
            most: how many positions fit into a batch by the model's sites.
        """
        slope = gradient(target, engine_for(compile, 0, compiled=1))
        # A product of latents and a table of data is as large as the table.
        largest = max((tensor.numel() for tensor in target.tensors), default=1)
        return cls(slope, side_by_side(slope, max(1, min(BATCH, most, NUMBERS // largest))))

    def one(self, position: Tensor) -> tuple[float, Tensor]:
        """The log density at a position (dim,), and its gradient."""
        check_time()
        self.gradients += 1
        values, slopes = self.slope.of_each(position[None])
        return float(values[0]), slopes[0]

    def each(self, positions: Tensor) -> Tensor:
        """Log densities (n,) of positions (n, dim), −∞ where they are not finite."""
        self.densities += len(positions)
        size = self.many.chains or len(positions)
        values = []
        for part in positions.split(size):
            check_time()
            # Batches have one size: the last is filled up.
            full = torch.cat([part, part[-1:].expand(size - len(part), -1)])
            values.append(self.many.values(full)[: len(part)])
        found = torch.cat(values)
        return torch.where(found.isfinite(), found, -torch.inf)


class PathSearch:
    """The Gaussian of the largest ELBO among those of a path, with the same draws for all of them."""

    def __init__(self, counted: Counted, noise: Tensor, history: int) -> None:
        self.counted, self.noise = counted, noise
        self.hessian = InverseHessian(noise.shape[1], history, noise)
        self.before: tuple[Tensor, Tensor] | None = None
        self.waiting: list[LowRankNormal] = []
        self.best: LowRankNormal | None = None
        self.elbo, self.last, self.promise = -math.inf, False, 0.0

    def step(self, position: Tensor, slope: Tensor) -> None:
        """Take a point of the path in; Gaussians wait until they fill a batch."""
        if self.before is not None:
            self.hessian.update(position - self.before[0], self.before[1] - slope)
        normal = self.hessian.normal(position, slope)
        self.before = position, slope
        self.promise = math.inf if normal is None else float(slope @ (normal.loc - position)) / 2
        self.last = False
        if normal is not None:
            self.waiting.append(normal)
            if len(self.waiting) * len(self.noise) >= (self.counted.many.chains or 1):
                self.look()

    def look(self) -> None:
        """Weigh those that wait."""
        if not self.waiting:
            return
        draws = torch.stack([normal.place(self.noise) for normal in self.waiting])
        log_p = self.counted.each(draws.flatten(0, 1)).reshape(draws.shape[:2])
        for normal, at, values in zip(self.waiting, draws, log_p, strict=True):
            elbo = float((values - normal.log_prob(at)).mean())
            self.last = elbo > self.elbo
            if self.last:
                self.elbo, self.best = elbo, normal
        self.waiting = []

    @property
    def failure(self) -> str:
        """Why no Gaussian of the path is meant; empty where one is."""
        if self.best is None:
            return "its Gaussians have none" if self.hessian.steps else "its log density does not curve"
        if self.last and not self.promise < ARRIVED:
            return (
                "its log density still rises where it ends, as an improper posterior's does, or after too "
                "few iterations"
            )
        return ""
