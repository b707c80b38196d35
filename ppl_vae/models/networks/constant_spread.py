"""Normals whose means a network gives, and whose spread is the same everywhere."""

import torch
from torch import Tensor, nn

__all__ = ["ConstantSpread"]


class ConstantSpread(nn.Module):
    """A network that gives means, with raw variances beside them that do not depend on its inputs.

    Args:
        means: (*lead, inputs) to (*lead, size).
        size: number of means, and of variances.
    """

    def __init__(self, means: nn.Module, size: int) -> None:
        super().__init__()
        self.means, self.raw_spread = means, nn.Parameter(torch.zeros(size))

    def forward(self, above: Tensor) -> Tensor:
        """Means and raw variances, shape (*lead, 2 size)."""
        means = self.means(above)
        return torch.cat([means, self.raw_spread.expand(means.shape)], -1)
