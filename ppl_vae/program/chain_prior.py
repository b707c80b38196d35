"""The prior of Gaussian Markov chains as one vector of states, unconstrained as its innovations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints, transform_to

from ppl_vae.program.chains import ONE_DRAW, Chains

__all__ = ["ChainPrior", "Innovations"]


class Innovations(constraints.Constraint):
    """Vectors of states of given chains, whose unconstrained space is that of their innovations.

    Samplers and AutoGuides, which work in unconstrained space, meet independent N(0, 1) in the prior: the
    non-centred parametrisation.

    Args:
        chains: theirs.
    """

    event_dim = 1
    is_discrete = False

    def __init__(self, chains: Chains) -> None:
        self.chains = chains
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Which vectors are of real numbers, shape (...)."""
        return (value == value).all(-1)  # false for NaN alone


class _Unwhiten(Transform):
    """Innovations to states."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, chains: Chains) -> None:
        super().__init__()
        self.chains = chains

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unwhiten) and other.chains is self.chains

    def _call(self, x: Tensor) -> Tensor:
        return self.chains.unwhiten(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.chains.whiten(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        volume = 0.5 * self.chains.variance.log().sum(-1)
        return volume.expand(np.broadcast_shapes(volume.shape, x.shape[:-1]))


def _unwhiten(support: Innovations) -> _Unwhiten:
    return _Unwhiten(support.chains)


biject_to.register(Innovations, _unwhiten)
transform_to.register(Innovations, _unwhiten)


class ChainPrior(TorchDistribution):  # type: ignore[misc]
    """The states of Gaussian Markov chains as one vector, event shape (N,).

    Args:
        chains: whose.
    """

    arg_constraints: Mapping[str, Any] = {}
    has_rsample = True

    def __init__(self, chains: Chains, batch_shape: torch.Size | None = None) -> None:
        self.chains = chains
        batch = chains.batch_shape if batch_shape is None else torch.Size(batch_shape)
        super().__init__(batch, torch.Size([chains.num_states]), validate_args=False)

    @property
    def support(self) -> Innovations:
        """Real vectors, unconstrained as innovations of the chains as they are now.

        AutoGuides and samplers keep it: coordinates stay where they are while the chains' own numbers are
        learnt.
        """
        mean, variance = self.chains.mean.detach(), self.chains.variance.detach()
        return Innovations(Chains(mean, variance, self.chains.transition.detach(), self.chains.rounds))

    @property
    def mean(self) -> Tensor:
        """μ, of batch and event shape."""
        return self.chains.mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Marginal variances, of batch and event shape."""
        return self.chains.marginal_variance.expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> ChainPrior:
        """The same for a larger batch."""
        return ChainPrior(self.chains, batch_shape)

    def rsample(self, sample_shape: torch.Size = ONE_DRAW) -> Tensor:
        """Draws, of shape (*sample, *batch, N)."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        like = self.chains.mean
        return self.chains.unwhiten(torch.randn(shape, dtype=like.dtype, device=like.device))

    def log_prob(self, value: Tensor) -> Tensor:
        """Of shape (*batch)."""
        found = self.chains.log_prob(value)
        return found.expand(np.broadcast_shapes(found.shape, self.batch_shape))
