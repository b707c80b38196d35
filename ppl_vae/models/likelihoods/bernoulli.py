"""Binary values."""

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from torch import Tensor

from ppl_vae.models.likelihoods.base import Likelihood, check_values, taking

__all__ = ["Bernoulli"]


class Bernoulli(Likelihood):
    """Pixels x_d ~ Bernoulli(sigmoid(logit_d)); takes only 0 and 1."""

    name = "bernoulli"

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution over the last axis of the decoder's outputs, which are logits."""
        return dist.Bernoulli(logits=outputs).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], in [0, 1]."""
        return outputs.sigmoid()

    def start(self, x: Tensor) -> Tensor:
        """Decoder biases that give the data's mean."""
        return x.mean(0).clamp(1e-3, 1 - 1e-3).logit()

    def check(self, x: Tensor) -> None:
        """Refuse anything but 0 and 1.

        Raises:
            InputError: naming the first other value and the likelihoods that would take it.
        """
        check_values(
            x,
            lambda rows: (rows != 0) & (rows != 1),
            "a Bernoulli likelihood takes only 0 and 1",
            "binarise the data (static or dynamic), or use a likelihood that takes other values "
            f"({taking('grey', 'real')})",
        )
