"""A normal likelihood of data of which some values are missing."""

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["NormalWhereObserved"]


class NormalWhereObserved(dist.Normal):  # type: ignore[misc]
    """A normal whose log density is 0 at a value that is missing (NaN); its draws are complete.

    As Pyro's `NanMaskedNormal`, and without the selection by values that cannot be traced. What stands in the
    place of a missing value has no part in the density nor in its gradient.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """log N(value; loc, scale) where there is a value, else 0."""
        there = value == value
        density = super().log_prob(torch.where(there, value, 0.0))
        return torch.where(there, density, 0.0)
