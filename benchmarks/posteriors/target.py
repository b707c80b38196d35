"""A posterior on the unconstrained scale: log densities and scores of many positions, and draws."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from benchmarks.posteriors.entry import Entry
from ppl_vae.engine.density import Density, density
from ppl_vae.guides import Prior
from ppl_vae.program.improper import Feasible
from ppl_vae.program.layout import Substitute, log_prob_per_unit, particle_plate, site_value
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["Target"]

# Numbers in the largest tensor of positions that are evaluated together.
BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class Target:
    """A posterior with its data.

    Attributes:
        entry: the posterior.
        problem: its program, with flat priors, and data.
        density: the way to unconstrained space and back.
    """

    entry: Entry
    problem: Problem
    density: Density

    @classmethod
    def of(cls, entry: Entry, data: tuple[Tensor, ...] | None = None) -> "Target":
        """Read the program's sites.

        Args:
            entry: the posterior.
            data: other data than its own.
        """
        found = entry.data() if data is None else data
        pair = Pair(entry.model, Prior(entry.model))
        # Draws of the prior may lie where the data cannot.
        with pyro.validation_enabled(False), Feasible():
            return cls(entry, Problem.of(pair, *found), density(pair, *found))

    @property
    def pair(self) -> Pair:
        """The program, with its prior for a guide."""
        return self.problem.pair

    @property
    def data(self) -> tuple[Any, ...]:
        """The program's arguments."""
        return self.problem.data

    def reference(self) -> Tensor:
        """The reference draws in unconstrained space: shape (chains, draws, dim)."""
        sites = self.entry.sites(self.entry.reference_draws())
        parts = []
        for name in self.density.names:
            free = self.density.transforms[name].inv(torch.from_numpy(sites[name]))
            parts.append(free.reshape(*free.shape[:2], -1))
        return torch.cat(parts, -1)

    def evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The log densities (n,) and scores (n, dim) of unconstrained positions (n, dim)."""
        widest = max([self.density.dim**2, *(t.numel() for t in self.data)])
        blocks: Iterable[Tensor] = positions.split(max(1, BLOCK // widest))
        values, scores = zip(*(self._block(block) for block in blocks), strict=True)
        return torch.cat(values), torch.cat(scores)

    def _block(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        size, layout = len(positions), self.problem.layout
        at = positions.detach().clone().requires_grad_(True)
        given, volume = {}, torch.zeros(size, dtype=at.dtype)
        for name, free in self.density.unflatten(at).items():
            transform = self.density.transforms[name]
            value = transform(free)
            volume = volume + transform.log_abs_det_jacobian(free, value).reshape(size, -1).sum(-1)
            given[name] = site_value(name, value, layout)
        with (
            self.pair.scope(), Substitute(given), particle_plate(layout, size),
            pyro.validation_enabled(False),
        ):  # fmt: skip
            trace = poutine.trace(self.pair.model).get_trace(*self.data)
        found = log_prob_per_unit(trace, layout, size).sum(-1) + volume
        (score,) = torch.autograd.grad(found.sum(), at)
        return found.detach(), score
