"""Independent normals in ascending order."""

import math
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["OrderedNormal"]

ONE_DRAW = torch.Size()


class OrderedNormal(dist.TorchDistribution):  # type: ignore[misc]
    """The order statistics of n independent normals: density n! Π N(x_k) on x_1 < … < x_n.

    Args:
        loc, scale: of each, scalars.
        size: n.
    """

    arg_constraints: Mapping[str, Any] = {}
    support = constraints.ordered_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: float, size: int, batch_shape: torch.Size | None = None) -> None:
        self.base, self.size = dist.Normal(loc, scale), size
        batch = self.base.batch_shape if batch_shape is None else batch_shape
        super().__init__(batch, torch.Size([size]), validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "OrderedNormal":
        """The same for a larger batch."""
        return OrderedNormal(self.base.loc, float(self.base.scale), self.size, torch.Size(batch_shape))

    def rsample(self, sample_shape: torch.Size = ONE_DRAW) -> Tensor:
        """Sorted draws."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        drawn: Tensor = self.base.expand(shape).rsample()
        return drawn.sort(-1).values

    def log_prob(self, value: Tensor) -> Tensor:
        """Of shape (*batch); nothing is said of vectors that are not ordered."""
        each: Tensor = self.base.log_prob(value)
        return each.sum(-1) + math.lgamma(self.size + 1.0)
