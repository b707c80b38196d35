"""Real values with normal noise whose size the decoder gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.models.likelihoods.base import Likelihood
from ppl_vae.models.likelihoods.scaled import (
    MIN_SCALE,
    START_SCALE,
    ScaledLikelihood,
    check_scale,
    inverse_softplus,
    no_floor,
    scales_of,
)

if TYPE_CHECKING:
    from ppl_vae.models.likelihoods.options import LikelihoodOptions

__all__ = ["HeteroscedasticGaussian"]


class HeteroscedasticGaussian(Likelihood):
    """Features x_d ~ N(μ_d, σ_d²), both given by 2 outputs a feature: μ, and σ before its softplus.

    Source: Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), appendix C.2; without a lower bound
    of σ the likelihood has no upper bound (Mattei and Frellsen 2018, section 2).

    Args:
        min_scale: lower bound of σ, in the units of x; None for none.
        start_scale: where σ starts; the data's standard deviation by default.
    """

    name = "gaussian-heteroscedastic"
    own_options: ClassVar[tuple[str, ...]] = ScaledLikelihood.own_options

    def __init__(self, *, min_scale: float | None = MIN_SCALE, start_scale: float | None = None) -> None:
        super().__init__()
        check_scale(float("inf") if start_scale is None else start_scale, min_scale)
        self.min_scale, self.start_scale = min_scale or 0.0, start_scale

    @classmethod
    def from_options(cls, options: LikelihoodOptions, num_features: int, num_channels: int) -> Self:
        """See `Likelihood.from_options`."""
        return cls(min_scale=scales_of(options)[1], start_scale=options.start_scale)

    def num_outputs(self, num_features: int) -> int:
        """A mean and a scale a feature."""
        return 2 * num_features

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution for outputs of shape (*lead, 2d)."""
        mean, raw = outputs.chunk(2, -1)
        return dist.Normal(mean, softplus(raw) + self.min_scale).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """The first half of the outputs, in the units of x."""
        return outputs.chunk(2, -1)[0]

    def start(self, x: Tensor) -> Tensor:
        """The data's means, and their standard deviations, or the scale asked for."""
        scale = (
            x.std(0, correction=0) if self.start_scale is None else torch.full_like(x[0], self.start_scale)
        )
        # What never changes starts at a tenth of the usual scale, or at twice the bound.
        above = (scale - self.min_scale).clamp_min(max(self.min_scale, START_SCALE / 10))
        return torch.cat([x.mean(0), inverse_softplus(above)])

    def unbounded(self) -> str | None:
        """That σ has no lower bound, where it has none."""
        return None if self.min_scale else no_floor(self.name)
