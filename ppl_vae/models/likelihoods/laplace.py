"""Real values with outliers: absolute errors in place of squared ones."""

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.models.likelihoods.scaled import ScaledLikelihood

__all__ = ["Laplace"]


class Laplace(ScaledLikelihood):
    """Features x_d ~ Laplace(output_d, b_d): density exp(−|x − output| / b) / 2b, one learnt b a feature."""

    name = "laplace"

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution over the last axis of the decoder's outputs, which are medians."""
        return dist.Laplace(outputs, self.scale.expand(outputs.shape[-1])).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], which is the median, in the units of x."""
        return outputs

    def start(self, x: Tensor) -> Tensor:
        """The data's medians, which maximise the likelihood."""
        return x.median(0).values
