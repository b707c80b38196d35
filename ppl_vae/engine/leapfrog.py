"""One leapfrog step of Hamiltonian dynamics: what samplers call, and what an engine may fuse into a graph."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Leapfrog", "LogDensity", "leapfrog_of"]

LogDensity = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Positions (chains, dim) to log densities (chains,) and their gradients (chains, dim)."""

Leapfrog = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Sequence[Tensor]]
"""(position, momentum, gradient, step_size, inverse_mass) to (position, momentum, log_density, gradient, …).

Positions, momenta and gradients are (chains, dim), log densities (chains,), the step size a scalar or
(chains, 1) and the inverse mass (dim,). Further results, each (chains,) or (chains, dim), are functions of
the position that the state keeps beside its density.
"""


def leapfrog_of(log_density: LogDensity) -> Leapfrog:
    """One leapfrog step (Neal 2011, eq. 5.18–5.20) of a log density, one gradient each.

    An engine may pass a fused graph of the same composition instead.
    """

    def leapfrog(
        position: Tensor, momentum: Tensor, gradient: Tensor, step_size: Tensor, inverse_mass: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        half = 0.5 * step_size
        momentum = torch.addcmul(momentum, gradient, half)
        position = torch.addcmul(position, momentum, step_size * inverse_mass)
        value, gradient = log_density(position)
        return position, torch.addcmul(momentum, gradient, half), value, gradient

    return leapfrog
