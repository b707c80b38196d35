"""Greys as densities on [0, 1] that are exponential in x."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.models.likelihoods.base import Likelihood, check_values
from ppl_vae.models.likelihoods.own import OwnDistribution

__all__ = ["ContinuousBernoulli", "LogitContinuousBernoulli"]

# Closer to 0 the series are exact to 1e-12 where the closed forms lose digits.
NEAR = 0.1


class LogitContinuousBernoulli(OwnDistribution):
    """p(x) ∝ λˣ(1 − λ)¹⁻ˣ on [0, 1], in terms of the logit η of λ: p(x) = exp(ηx) η / (exp(η) − 1).

    Torch's is of λ, which float32 rounds to 1 from η = 17 on: its density then no longer integrates to 1,
    and its mean stays below 0.94.

    Source: Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational
    autoencoders" (NeurIPS 2019), section 3 and equations 6–8.

    Args:
        logits: η, any real.
    """

    support = constraints.unit_interval

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value): that of a Bernoulli and its normaliser log (η / tanh(η/2))."""
        (logits,) = self.parameters
        return value * logits - torch.nn.functional.softplus(logits) + log_normaliser(logits)

    @property
    def mean(self) -> Tensor:
        """E[x] = 1 / (1 − exp(−η)) − 1/η, in (0, 1)."""
        (logits,) = self.parameters
        near, square = logits.abs() < NEAR, logits.square()
        series = logits / 12 * (1 - square / 60 * (1 - square / 42))
        far = torch.where(near, torch.ones_like(logits), logits)
        return 0.5 + torch.where(near, series, 0.5 / (far / 2).tanh() - 1 / far)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Any:  # noqa: B008
        """Draws by the inverse of the distribution function."""
        (logits,) = self.parameters
        u = self.uniform(sample_shape)
        # The density of −η is the mirror image of that of η: only exp of negative numbers is needed.
        size = logits.abs().clamp_min(1e-6 if logits.dtype == torch.float32 else 1e-10)
        drawn = -torch.log1p(u * torch.expm1(-size)) / size
        return torch.where(logits > 0, 1 - drawn, drawn).clamp(0, 1)


def log_normaliser(logits: Tensor) -> Tensor:
    """log (η / tanh(η/2)), what the Bernoulli's mass lacks to be a density on [0, 1]; log 2 at η = 0."""
    size = logits.abs()
    near, square = size < NEAR, (logits / 2).square()
    series = math.log(2) + square / 3 * (1 - square * (7 / 30) * (1 - square * (124 / 441)))
    far = torch.where(near, torch.ones_like(size), size)
    return torch.where(near, series, far.log() + torch.log1p((-far).exp()) - (-torch.expm1(-far)).log())


class ContinuousBernoulli(Likelihood):
    """Greys x_d in [0, 1] with density ∝ exp(η_d x_d), η_d the output; see `LogitContinuousBernoulli`."""

    name = "continuous-bernoulli"

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution over the last axis of the decoder's outputs, which are logits of λ."""
        return LogitContinuousBernoulli(outputs).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], in (0, 1); not λ."""
        return LogitContinuousBernoulli(outputs).mean

    def start(self, x: Tensor) -> Tensor:
        """Decoder biases that give the data's mean, which counts as 0.02 where it is nearer to an end."""
        mean = x.mean(0).double().clamp(0.02, 0.98)
        low, high = torch.full_like(mean, -100.0), torch.full_like(mean, 100.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = LogitContinuousBernoulli(middle).mean < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(x.dtype)

    def check(self, x: Tensor) -> None:
        """Refuse anything outside [0, 1].

        Raises:
            InputError: naming the first.
        """
        check_values(
            x,
            lambda rows: (rows < 0) | (rows > 1),
            "a continuous Bernoulli likelihood takes greys in [0, 1]",
            "divide greys by their largest possible value, and do not standardise them",
        )
