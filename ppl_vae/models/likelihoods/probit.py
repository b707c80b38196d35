"""Outcomes whose probability is a normal distribution function."""

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["BernoulliProbit"]


class BernoulliProbit(TorchDistribution):  # type: ignore[misc]
    """Bernoulli with success probability Φ(t), accurate for large |t| where Φ rounds to 0 or 1.

    Args:
        t: any real tensor; its shape is the batch shape.
    """

    arg_constraints = {"t": constraints.real}  # noqa: RUF012
    support = constraints.boolean

    def __init__(self, t: Tensor, validate_args: bool | None = None) -> None:
        self.t = t
        super().__init__(t.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "BernoulliProbit":
        """A copy of another batch shape."""
        return BernoulliProbit(self.t.expand(batch_shape), validate_args=False)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of 0 and 1."""
        return torch.special.ndtr(self.t).expand(sample_shape + self.t.shape).bernoulli()

    def log_prob(self, value: Tensor) -> Tensor:
        """log Φ(t) for 1, log Φ(−t) for 0."""
        return torch.special.log_ndtr((2 * value - 1) * self.t)
