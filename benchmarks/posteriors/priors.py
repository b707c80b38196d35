"""Priors that Stan programs have and Pyro has not: flat ones, and vectors in order."""

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["WIDE", "PositiveOrdered", "positive", "real", "vector"]

# Of the normals that stand in for flat priors where draws of them are needed.
WIDE = 1e7
ONE_DRAW = torch.Size()


def real(flat: bool, like: Tensor, wide: float = WIDE) -> Any:
    """A flat prior of a number, or a normal of sd ``wide``."""
    if flat:
        return dist.ImproperUniform(constraints.real, (), ())
    return dist.Normal(like.new_zeros(()), wide)


def vector(size: int, flat: bool, like: Tensor, wide: float = WIDE) -> Any:
    """The same of a vector."""
    if flat:
        return dist.ImproperUniform(constraints.real_vector, (), (size,))
    return dist.Normal(like.new_zeros(size), wide).to_event(1)


def positive(flat: bool, like: Tensor, wide: float = WIDE) -> Any:
    """The same of a positive number: flat on its own scale, not on that of its logarithm."""
    if flat:
        return dist.ImproperUniform(constraints.positive, (), ())
    return dist.HalfNormal(like.new_tensor(wide))


class PositiveOrdered(dist.TorchDistribution):  # type: ignore[misc]
    """0 < x₁ < … < x_n with the density of independent normals, up to a constant; drawn by sorting.

    Args:
        loc: of each normal, shape (n,); their sd is 1.
    """

    arg_constraints: Mapping[str, Any] = {}
    support = constraints.positive_ordered_vector
    has_rsample = True

    def __init__(self, loc: Tensor, batch_shape: torch.Size = ONE_DRAW) -> None:
        self.loc = loc
        super().__init__(batch_shape, loc.shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "PositiveOrdered":
        """The same for a larger batch."""
        return PositiveOrdered(self.loc, torch.Size(batch_shape))

    def rsample(self, sample_shape: torch.Size = ONE_DRAW) -> Tensor:
        """Magnitudes in order: where the density is, and not exactly from it."""
        drawn = self.loc + torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype)
        return drawn.abs().sort(-1).values

    def log_prob(self, value: Tensor) -> Tensor:
        """Of shape (*batch)."""
        found: Tensor = dist.Normal(self.loc, 1.0).log_prob(value).sum(-1)
        return found
