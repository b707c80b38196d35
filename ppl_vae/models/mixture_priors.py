"""Priors of a Bayesian mixture of Gaussians, and the distribution of its rows."""

import math
from dataclasses import dataclass
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.base.arguments import check_real
from ppl_vae.base.errors import InputError

__all__ = ["MixturePriors", "mixture_of"]


@dataclass(frozen=True)
class MixturePriors:
    """The priors, of features that are centred and divided by their standard deviations.

    Attributes:
        concentration: of the weights' Dirichlet distribution.
        mean_sd: standard deviation of the means.
        sd: of the standard deviations, "log-normal" of median ``sd_scale`` and log-scale ``sd_spread``, which
            keeps them away from 0, or "half-normal" of that scale.
        sd_scale, sd_spread: see there.
        correlation: η of the LKJ distribution; 1 is uniform over correlation matrices.
    """

    concentration: float = 2.0
    mean_sd: float = 1.0
    sd: Literal["log-normal", "half-normal"] = "log-normal"
    sd_scale: float = 0.5
    sd_spread: float = 0.75
    correlation: float = 1.0

    def __post_init__(self) -> None:
        positive = {name: value for name, value in vars(self).items() if name != "sd"}
        check_real(lambda v: 0 < v < math.inf, "must be positive", **positive)
        if self.sd not in ("log-normal", "half-normal"):
            raise InputError(f"sd is {self.sd!r}; it is log-normal or half-normal")

    def of_sds(self, like: Tensor) -> dist.TorchDistribution:
        """The prior of standard deviations, of the shape of a tensor."""
        if self.sd == "half-normal":
            return dist.HalfNormal(self.sd_scale * torch.ones_like(like))
        return dist.LogNormal(math.log(self.sd_scale) * torch.ones_like(like), self.sd_spread)


def mixture_of(weights: Tensor, means: Tensor, sd: Tensor, factor: Tensor | None) -> dist.TorchDistribution:
    """Of batch shape (*lead, 1): weights (*lead, 1, K), means and sds that broadcast to (*lead, 1, K, d)."""
    if factor is None:
        components = dist.Normal(means, sd).to_event(1)
    else:
        components = dist.MultivariateNormal(means, scale_tril=sd.unsqueeze(-1) * factor.unsqueeze(-4))
    which = dist.Categorical(probs=weights.expand(components.batch_shape))
    return dist.MixtureSameFamily(which, components)
