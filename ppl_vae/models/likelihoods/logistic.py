"""Greys on a grid, as the mass that a logistic distribution of one scale has around each level."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.models.likelihoods.grid import GREYS, GridLikelihood, GridLogistic, location_of_mean

if TYPE_CHECKING:
    from ppl_vae.models.likelihoods.options import LikelihoodOptions

__all__ = ["DiscretisedLogistic"]


class DiscretisedLogistic(GridLikelihood):
    """Greys x_d on a grid: the mass around x_d of a logistic distribution at output_d.

    The scale is learnt, one a channel. log p(x) is of masses: −log p / (d ln 2) is bits per dimension,
    without dequantisation.

    Args:
        num_channels: channels of an image, whose values stand side by side.
        num_levels: L.
    """

    name = "discretised-logistic"
    own_options: ClassVar[tuple[str, ...]] = ("num_levels",)
    # Less than a fifth of a step of bytes: a pixel can be all but certain, and numbers stay finite.
    MIN_SCALE, START_SCALE = 1e-3, 0.1

    def __init__(self, num_channels: int = 1, num_levels: int = GREYS) -> None:
        super().__init__(num_levels)
        start = math.log(math.expm1(self.START_SCALE - self.MIN_SCALE))
        self.raw_scale = nn.Parameter(torch.full((num_channels,), start))

    @classmethod
    def from_options(cls, options: LikelihoodOptions, num_features: int, num_channels: int) -> Self:
        """See `Likelihood.from_options`."""
        return cls(num_channels, GREYS if options.num_levels is None else options.num_levels)

    @property
    def scale(self) -> Tensor:
        """The logistic distributions' scales, of shape (channels,), in units in which the greys end at 1."""
        return softplus(self.raw_scale) + self.MIN_SCALE

    def _of_features(self, num_features: int) -> Tensor:
        return self.scale.repeat(num_features // len(self.raw_scale))

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution over the last axis of the decoder's outputs, which are locations."""
        return self._distribution(outputs).to_event(1)

    def _distribution(self, outputs: Tensor) -> GridLogistic:
        return GridLogistic(outputs, self._of_features(outputs.shape[-1]), self.num_levels)

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], in [0, 1]."""
        return self._distribution(outputs).mean

    def start(self, x: Tensor) -> Tensor:
        """Decoder biases that give the data's mean."""
        return location_of_mean(x.mean(0), self._of_features(x.shape[1]).detach())
