"""Categories, numbered from 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.models.likelihoods.base import Likelihood, check_values

if TYPE_CHECKING:
    from ppl_vae.models.likelihoods.options import LikelihoodOptions

__all__ = ["Categorical"]


class Categorical(Likelihood):
    """Features x_d that are one of K levels, numbered 0, …, K−1; K outputs a feature, the levels' logits.

    The network reads the levels' numbers, so that levels with an order should be numbered in it.

    Args:
        num_levels: K.

    Raises:
        InputError: for fewer than two levels.
    """

    name = "categorical"
    own_options: ClassVar[tuple[str, ...]] = ("num_levels",)

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        check_whole(2, num_levels=num_levels)
        self.num_levels = num_levels

    @classmethod
    def from_options(cls, options: LikelihoodOptions, num_features: int, num_channels: int) -> Self:
        """See `Likelihood.from_options`."""
        if options.num_levels is None:
            raise InputError("a categorical likelihood must be told how many levels there are: num_levels")
        return cls(options.num_levels)

    def num_outputs(self, num_features: int) -> int:
        """A logit for every level of each feature."""
        return self.num_levels * num_features

    def _logits(self, outputs: Tensor) -> Tensor:
        """Shape (*lead, d, K)."""
        return outputs.unflatten(-1, (self.num_levels, -1)).transpose(-1, -2)

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution for outputs of shape (*lead, Kd)."""
        return dist.Categorical(logits=self._logits(outputs)).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """The mean of the levels' numbers, which says something where they are ordered."""
        levels = torch.arange(self.num_levels, dtype=outputs.dtype, device=outputs.device)
        return (self._logits(outputs).softmax(-1) * levels).sum(-1)

    def start(self, x: Tensor) -> Tensor:
        """The levels' shares in the data; one that never occurs counts as half a datum."""
        counts = torch.stack([(x == level).sum(0) for level in range(self.num_levels)])
        shares = counts.to(x.dtype).clamp_min(0.5)
        return (shares / shares.sum(0)).log().flatten()

    def check(self, x: Tensor) -> None:
        """Refuse anything but the levels' numbers.

        Raises:
            InputError: naming the first.
        """
        check_values(
            x,
            lambda rows: (rows < 0) | (rows >= self.num_levels) | (rows != rows.round()),
            f"a categorical likelihood of {self.num_levels} levels takes whole numbers from 0 to "
            f"{self.num_levels - 1}",
            "number the levels from 0, and give --num-levels where the training rows lack some",
        )
