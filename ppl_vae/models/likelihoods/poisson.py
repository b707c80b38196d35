"""Counts whose variance is their mean."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.models.likelihoods.counts import CountLikelihood, bounded
from ppl_vae.models.likelihoods.own import OwnDistribution

__all__ = ["LogPoisson", "Poisson"]


class LogPoisson(OwnDistribution):
    """Poisson of a log rate, which may be anything: a rate that underflows to 0 keeps a finite log mass.

    Args:
        log_rate: any real.
    """

    support = constraints.nonnegative_integer

    def log_prob(self, value: Tensor) -> Tensor:
        """value · log rate − rate − log value!."""
        (log_rate,) = self.parameters
        return value * log_rate - log_rate.exp() - torch.lgamma(value + 1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Any:  # noqa: B008
        """Counts, as reals."""
        (log_rate,) = self.parameters
        return torch.poisson(log_rate.exp().expand(self.shape(sample_shape)))


class Poisson(CountLikelihood):
    """Counts x_d ~ Poisson(exp(output_d)), or of shares of the row's total; see `CountLikelihood`.

    With exposure "total" p(x | z) is a multinomial mass times Poisson(l_n; l_n), which does not depend on z:
    the posterior of z is that of multinomial counts.
    """

    name = "poisson"

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution over the last axis of the outputs, which are log means."""
        return LogPoisson(bounded(outputs)).to_event(1)

    def start(self, x: Tensor) -> Tensor:
        """Decoder biases that give the data's mean."""
        return self.log_means(x)
