"""Greys on a grid, as the mass that a mixture of logistic distributions has around each level."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Self

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.base.arguments import check_whole
from ppl_vae.models.likelihoods.grid import GREYS, GridLikelihood, GridLogistic, location_of_mean
from ppl_vae.models.likelihoods.scaled import inverse_softplus

if TYPE_CHECKING:
    from ppl_vae.models.likelihoods.options import LikelihoodOptions

__all__ = ["LogisticMixture"]

COMPONENTS = 5
# In units in which the greys end at 1.
MIN_SCALE = 1e-3
# Values that are sorted together.
SORTED = 2**22


class LogisticMixture(GridLikelihood):
    """Greys x_d on a grid: the mass around x_d of a mixture of K logistic distributions.

    3K outputs a feature: K logits of the weights, K locations, K scales before their softplus. Channels are
    independent given the outputs.

    Source: Salimans et al., "PixelCNN++" (2017), section 2.1.

    Args:
        num_components: K.
        num_levels: L, as of `GridLogistic`.

    Raises:
        InputError: for no component.
    """

    name = "logistic-mixture"
    own_options: ClassVar[tuple[str, ...]] = ("num_levels", "mixture_components")

    def __init__(self, num_components: int = COMPONENTS, num_levels: int = GREYS) -> None:
        super().__init__(num_levels)
        check_whole(1, mixture_components=num_components)
        self.num_components = num_components

    @classmethod
    def from_options(cls, options: LikelihoodOptions, num_features: int, num_channels: int) -> Self:
        """See `Likelihood.from_options`."""
        components, levels = options.mixture_components, options.num_levels
        return cls(COMPONENTS if components is None else components, GREYS if levels is None else levels)

    def num_outputs(self, num_features: int) -> int:
        """A weight, a location and a scale for each component of each feature."""
        return 3 * self.num_components * num_features

    def _components(self, outputs: Tensor) -> tuple[Tensor, GridLogistic]:
        """Logits of the weights and the components, of batch shape (*lead, d, K)."""
        blocks = outputs.unflatten(-1, (3, self.num_components, -1)).transpose(-1, -2)
        logits, loc, raw = blocks.unbind(-3)
        return logits, GridLogistic(loc, softplus(raw) + MIN_SCALE, self.num_levels)

    def forward(self, outputs: Tensor) -> TorchDistribution:
        """The distribution for outputs of shape (*lead, 3Kd)."""
        logits, components = self._components(outputs)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), components).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], in [0, 1]."""
        logits, components = self._components(outputs)
        return (logits.softmax(-1) * components.mean).sum(-1)

    def start(self, x: Tensor) -> Tensor:
        """One component for each K-th of a feature's sorted values, at their mean: together the data's mean.

        Its scale is that of their spread, and at least half the distance over which K components reach.
        """
        width = max(1, SORTED // len(x))
        blocks = [self._starts(columns.sort(0).values) for columns in x.split(width, 1)]
        return torch.cat(blocks, -1).flatten()

    def _starts(self, ordered: Tensor) -> Tensor:
        """Outputs of shape (3, K, columns) of sorted columns."""
        parts = ordered.tensor_split(self.num_components)
        shares = torch.tensor([len(part) for part in parts], dtype=ordered.dtype).clamp_min(1e-6)
        means = torch.stack([part.mean(0) if len(part) else ordered.mean(0) for part in parts])
        spread = torch.stack([part.std(0, correction=0) if len(part) else 0 * ordered[0] for part in parts])
        scale = (spread * math.sqrt(3) / math.pi).clamp_min(0.25 / self.num_components)
        logits = (shares / shares.sum()).log()[:, None].expand_as(means)
        return torch.stack([logits, location_of_mean(means, scale), inverse_softplus(scale - MIN_SCALE)])
