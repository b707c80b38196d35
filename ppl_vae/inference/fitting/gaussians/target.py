"""What Gaussian methods work on: a density in float64, and the guide that is to come close to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.precision import cast_data, default_dtype
from ppl_vae.base.seeds import keep_generator
from ppl_vae.base.threads import one_thread
from ppl_vae.engine.batches import Batches
from ppl_vae.engine.density import density
from ppl_vae.engine.graph import Untraceable
from ppl_vae.guides.prior import Prior
from ppl_vae.inference.fitting.gaussians.autoguides import GaussianGuide
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian
from ppl_vae.inference.fitting.gaussians.proper import FAR, Improper
from ppl_vae.program.improper import Feasible
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["Expectation", "Target", "at_work", "target_of"]


@dataclass(frozen=True, eq=False)
class Expectation:
    """What common draws say at one Gaussian.

    Attributes:
        at: the Gaussian.
        noise: standard normals (n, noise_dim).
        positions, slopes: u and ∇ log p(x, u), shape (n, dim).
        values: log p(x, u), shape (n,).
    """

    at: Gaussian
    noise: Tensor
    positions: Tensor
    values: Tensor
    slopes: Tensor

    @property
    def elbo(self) -> float:
        """In nats; −∞ where a draw has no finite density or slope."""
        if not bool(self.values.isfinite().all() and self.slopes.isfinite().all()):
            return -torch.inf
        return float(self.values.mean()) + self.at.entropy()


@dataclass(frozen=True, eq=False)
class Target:
    """log p(x, z) over unconstrained vectors in float64, and a Gaussian guide for it.

    Attributes:
        batches: the density.
        guide: read and written in place.
    """

    batches: Batches
    guide: GaussianGuide

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.batches.density.dim

    def expect(self, at: Gaussian, noise: Tensor) -> Expectation:
        """Evaluate the density at a Gaussian's draws."""
        positions = at.draws(noise)
        values, slopes = self.batches(positions)
        return Expectation(at, noise, positions, values.detach(), slopes.detach())

    def refuse_far(self, at: Gaussian) -> None:
        """Refuse a Gaussian that has left all bounds, as its ELBO rises without any.

        Raises:
            Improper: naming the site.
        """
        size = torch.maximum(at.loc.abs(), at.variances().sqrt())
        if float(size.max()) < FAR:  # false for NaN
            return
        raise Improper.along(self.batches.density, size)


@contextmanager
def at_work() -> Iterator[None]:
    """How densities are evaluated: in float64, on one thread, nothing validated, no random numbers used."""
    with (
        one_thread(),
        pyro.validation_enabled(False),
        keep_generator(),
        default_dtype(torch.float64),
        Feasible(),
    ):
        yield


@contextmanager
def target_of(pair: Pair, *data: Any, engine: str = "traced") -> Iterator[Target]:
    """A block that works on the posterior of a pair's model, its parameters held.

    Model and data are taken in float64; one thread, nothing validated, and nobody's random numbers used.

    Args:
        pair: with one of Pyro's Gaussian AutoGuides.
        data: the programs' data.
        engine: of the density: "pyro", "traced" or "compiled".

    Raises:
        InputError: if the guide is another, the model has discrete latents that cannot be summed out, or no
            continuous ones.
    """
    problem = Problem.of(pair, *data)
    cast = cast_data(data, torch.float64)
    with at_work():
        own = pair.cast_model(torch.float64, Prior)
        own.initialise(*cast)
        try:
            found = density(own, *cast)
        except Untraceable as reason:
            raise InputError(
                f"Gaussian methods need continuous latents: {reason}; mark it for enumeration "
                '(infer={"enumerate": "parallel"}), which sums it out, or use svi.fit'
            ) from reason
        yield Target(Batches(found, engine), GaussianGuide.of(pair.guide, found))
    del problem
