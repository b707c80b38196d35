"""Real values with normal noise of one size, or of one a feature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.models.likelihoods.scaled import (
    MIN_SCALE,
    START_SCALE,
    ScaledLikelihood,
    scales_of,
)

if TYPE_CHECKING:
    from ppl_vae.models.likelihoods.options import LikelihoodOptions

__all__ = ["SCALES", "Gaussian"]

# How each of them has its scale.
SCALES = {"gaussian": "global", "gaussian-fixed": "fixed", "gaussian-pixel": "pixel"}


class Gaussian(ScaledLikelihood):
    """Features x_d ~ N(output_d, σ_d²), σ bounded below so that no pixel can be explained away.

    Args:
        num_features: d.
        scale: "fixed" (σ stays where it starts), "global" (one learnt σ) or "pixel" (one a feature).
        start_scale: where σ starts, in the units of x.
        min_scale: lower bound of σ, in the units of x; None for none.
    """

    def __init__(
        self, num_features: int, scale: str, *, start_scale: float = START_SCALE,
        min_scale: float | None = MIN_SCALE,
    ) -> None:  # fmt: skip
        count = num_features if scale == "pixel" else 1
        super().__init__(count, learnt=scale != "fixed", start_scale=start_scale, min_scale=min_scale)
        self.name = next(name for name, kind in SCALES.items() if kind == scale)

    @classmethod
    def from_options(cls, options: LikelihoodOptions, num_features: int, num_channels: int) -> Self:
        """See `Likelihood.from_options`."""
        start, least = scales_of(options)
        return cls(num_features, SCALES[options.likelihood], start_scale=start, min_scale=least)

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution over the last axis of the decoder's outputs, which are means."""
        return dist.Normal(outputs, self.scale.expand(outputs.shape[-1])).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], in the units of x."""
        return outputs

    def start(self, x: Tensor) -> Tensor:
        """Decoder biases that give the data's mean."""
        return x.mean(0)
