"""Distributions of our own: of tensors that broadcast against each other."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

__all__ = ["OwnDistribution"]


class OwnDistribution(TorchDistribution):  # type: ignore[misc]
    """A distribution of single numbers, whose batch shape is that of its parameters together.

    Args:
        parameters: tensors that broadcast; subclasses say what they are.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, *parameters: Tensor) -> None:
        self.parameters = torch.broadcast_tensors(*parameters)
        super().__init__(self.parameters[0].shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> Self:
        """A copy of another batch shape."""
        return self.with_parameters(*(each.expand(batch_shape) for each in self.parameters))

    def with_parameters(self, *parameters: Tensor) -> Self:
        """The same distribution of other parameters."""
        return type(self)(*parameters)

    def uniform(self, sample_shape: torch.Size) -> Tensor:
        """Uniform draws inside (0, 1), of the shape of a sample."""
        first = self.parameters[0]
        drawn = torch.rand(self.shape(sample_shape), dtype=first.dtype, device=first.device)
        tiny = torch.finfo(first.dtype).eps
        return drawn.clamp(tiny / 2, 1 - tiny / 2)
