"""Real values with heavy tails, whose weight is learnt."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.models.likelihoods.scaled import MIN_SCALE, START_SCALE, ScaledLikelihood

__all__ = ["StudentT"]

# Above 2 the variance is finite; it starts where the tails are clearly not normal.
LEAST_DEGREES, START_DEGREES = 2.0, 5.0


class StudentT(ScaledLikelihood):
    """Features x_d ~ t_ν(output_d, σ_d): one learnt σ a feature, and one learnt ν > 2 for all of them.

    Source: Takahashi et al., "Student-t Variational Autoencoder for Robust Density Estimation" (IJCAI 2018),
    section 4, where the decoder gives σ and ν; here they are held for all data.

    Args:
        num_features: d.
        start_scale: where σ starts, in the units of x.
        min_scale: lower bound of σ, in the units of x; None for none.
    """

    name = "student-t"

    def __init__(
        self, num_features: int, *, start_scale: float = START_SCALE, min_scale: float | None = MIN_SCALE
    ) -> None:
        super().__init__(num_features, start_scale=start_scale, min_scale=min_scale)
        self.raw_degrees = nn.Parameter(torch.tensor(START_DEGREES - LEAST_DEGREES).expm1().log())

    @property
    def degrees(self) -> Tensor:
        """ν, of shape ()."""
        return softplus(self.raw_degrees) + LEAST_DEGREES

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution over the last axis of the decoder's outputs, which are locations."""
        return dist.StudentT(self.degrees, outputs, self.scale.expand(outputs.shape[-1])).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], in the units of x."""
        return outputs

    def start(self, x: Tensor) -> Tensor:
        """The data's medians, which outliers do not move."""
        return x.median(0).values
