"""Places of two sides, as data hold them: the first wins (0, 1), draws (0, 0) or loses (1, 0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.models.skills.links import Duel

__all__ = ["THREE_WAYS", "TWO_WAYS", "TwoSides", "number_of", "result_of"]

# Outcomes of a game, by the first side.
THREE_WAYS, TWO_WAYS = ("win", "draw", "loss"), ("win", "loss")


def result_of(places: Tensor) -> Tensor:
    """1 where the first side finished ahead, 0 where the second did, .5 where they tied, shape (…).

    Args:
        places: shape (…, 2), 0 the best.
    """
    return 0.5 * (1 + torch.sign(places[..., 1] - places[..., 0]))


def number_of(result: Tensor, num_outcomes: int) -> Tensor:
    """Which of win, draw and loss a result of 1, ½ or 0 is, from 0; −1 for a draw where there is none."""
    if num_outcomes == 3:
        return (2 * (1 - result)).long()
    return torch.where(result == 0.5, -1, (1 - result).long())


class TwoSides(TorchDistribution):  # type: ignore[misc]
    """`links.Duel` over the places of both sides.

    Args:
        duel: of the batch shape.
    """

    arg_constraints: Mapping[str, constraints.Constraint] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, duel: Duel, validate_args: bool | None = None) -> None:
        self.duel = duel
        super().__init__(duel.batch_shape, torch.Size([2]), validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> TwoSides:
        """A copy of another batch shape."""
        return TwoSides(self.duel.expand(batch_shape), validate_args=False)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of places."""
        ended = self.duel.sample(sample_shape)
        return torch.stack([(ended < 0.5).to(ended.dtype), (ended > 0.5).to(ended.dtype)], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(places), of the batch shape, in nats."""
        found: Tensor = self.duel.log_prob(result_of(value))
        return found
