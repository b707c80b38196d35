"""Counts whose variance exceeds their mean."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from ppl_vae.models.likelihoods.counts import CountLikelihood, bounded
from ppl_vae.models.likelihoods.own import OwnDistribution
from ppl_vae.models.likelihoods.scaled import inverse_softplus

__all__ = ["LogNegativeBinomial", "NegativeBinomial", "log_rising"]

# From here on Stirling's series of three terms is exact to 1e-10, and lgamma's difference loses digits.
LARGE = 10.0
LEAST_SHAPE = 1e-3


def log_rising(shape: Tensor, count: Tensor) -> Tensor:
    """log Γ(r + x) − log Γ(r); by Stirling's series for large r, where the difference would lose digits."""
    small, large = shape.clamp_max(LARGE), shape.clamp_min(LARGE)
    total = large + count
    stirling = (large - 0.5) * torch.log1p(count / large) + count * (total.log() - 1)
    series = stirling + _correction(total) - _correction(large)
    return torch.where(shape < LARGE, torch.lgamma(small + count) - torch.lgamma(small), series)


def _correction(x: Tensor) -> Tensor:
    inverse = 1 / x
    square = inverse.square()
    return inverse * (1 / 12 - square * (1 / 360 - square / 1260))


class LogNegativeBinomial(OwnDistribution):
    """Counts of mean μ and variance μ + μ²/r: Poisson with a rate that is gamma distributed, of shape r.

    Args:
        log_mean: log μ, any real.
        shape: r > 0; towards ∞ the Poisson distribution.
    """

    support = constraints.nonnegative_integer

    def log_prob(self, value: Tensor) -> Tensor:
        """log Γ(r+x) − log Γ(r) − log x! + r log (r / (r+μ)) + x log (μ / (r+μ))."""
        log_mean, shape = self.parameters
        log_shape = shape.log()
        log_total = torch.logaddexp(log_shape, log_mean)
        of_zero = -shape * softplus(log_mean - log_shape)
        return log_rising(shape, value) - torch.lgamma(value + 1) + of_zero + value * (log_mean - log_total)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Any:  # noqa: B008
        """Counts, as reals."""
        log_mean, shape = (each.expand(self.shape(sample_shape)) for each in self.parameters)
        rate = torch.distributions.Gamma(shape, 1.0).sample() * (log_mean - shape.log()).exp()
        return torch.poisson(rate)


class NegativeBinomial(CountLikelihood):
    """Counts x_d of mean exp(output_d) and shape r_d, given by 2 outputs a feature; see `CountLikelihood`.

    The first d are log means, or logits of shares of the row's total; the last d are r before its softplus.
    """

    name = "negative-binomial"

    def num_outputs(self, num_features: int) -> int:
        """A mean and a shape a feature."""
        return 2 * num_features

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution for outputs of shape (*lead, 2d)."""
        log_mean, raw = outputs.chunk(2, -1)
        return LogNegativeBinomial(bounded(log_mean), softplus(raw) + LEAST_SHAPE).to_event(1)

    def start(self, x: Tensor) -> Tensor:
        """Decoder biases that give the data's mean, and the shape that gives their variance."""
        mean = x.mean(0)
        excess = (x.var(0, correction=0) - mean).clamp_min(1e-6)
        shape = (mean.square() / excess).clamp(0.1, 100.0)
        return torch.cat([self.log_means(x), inverse_softplus(shape)])
