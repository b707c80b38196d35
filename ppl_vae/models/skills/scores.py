"""Scores as the outcome of a game of two sides: their difference is normal, or goals are Poisson."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

__all__ = ["Goals", "ScoreDifference", "goals_log_prob"]


def goals_log_prob(log_rate: Tensor, goals: Tensor) -> Tensor:
    """The log probability of counts under Poisson's law in nats, elementwise.

    Args:
        log_rate: log λ, any shape that broadcasts with ``goals``.
        goals: whole numbers.
    """
    return goals * log_rate - log_rate.exp() - torch.lgamma(goals + 1)


class ScoreDifference(TorchDistribution):  # type: ignore[misc]
    """Two scores y of which only the difference is modelled: y₁ − y₂ ~ N(d, c²).

    The density is that of the difference, the same for all y that have it; draws are centred, y₁ = −y₂.

    Args:
        difference: d, of the batch shape.
        scale: c.
    """

    arg_constraints = {  # noqa: RUF012
        "difference": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real_vector

    def __init__(self, difference: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.difference, self.scale = broadcast_all(difference, scale)
        super().__init__(self.difference.shape, torch.Size([2]), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> ScoreDifference:
        """A copy of another batch shape."""
        return ScoreDifference(
            self.difference.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False
        )

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Scores that sum to 0."""
        with torch.no_grad():
            noise = torch.randn(
                (*sample_shape, *self.batch_shape), dtype=self.scale.dtype, device=self.scale.device
            )
            half = (self.difference + self.scale * noise) / 2
        return torch.stack([half, -half], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log N(y₁ − y₂; d, c²) in nats, of the batch shape."""
        law = dist.Normal(self.difference, self.scale, validate_args=False)
        found: Tensor = law.log_prob(value[..., 0] - value[..., 1])
        return found


class Goals(TorchDistribution):  # type: ignore[misc]
    """Two counts, independent given their rates: Poisson.

    Args:
        log_rate: log λ of the sides, shape (…, 2).
    """

    arg_constraints = {"log_rate": constraints.real_vector}  # noqa: RUF012
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape[:-1], log_rate.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Goals:
        """A copy of another batch shape."""
        return Goals(self.log_rate.expand((*batch_shape, *self.event_shape)), validate_args=False)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Whole numbers, as reals."""
        with torch.no_grad():
            rate: Tensor = self.log_rate.exp().expand((*sample_shape, *self.log_rate.shape))
            return torch.poisson(rate)

    def log_prob(self, value: Tensor) -> Tensor:
        """See `goals_log_prob`; the sides' terms are summed."""
        return goals_log_prob(self.log_rate, value).sum(-1)
