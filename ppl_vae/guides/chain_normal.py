"""A guide that keeps every chain of Gaussian states whole, and chains independent of each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae.base.errors import InputError
from ppl_vae.program.chains import Chains, Smoother
from ppl_vae.program.pair import Program
from ppl_vae.program.program_names import name_of

__all__ = ["ChainNormal", "SmoothedChains", "chains_of"]

ONE_DRAW = torch.Size()


class SmoothedChains(TorchDistribution):  # type: ignore[misc]
    """N(loc, (P + diag x)⁻¹) as one vector, event shape (N,).

    Args:
        loc: the mean, shape (N,).
        smoother: of the chains with the sites x.
    """

    arg_constraints: Mapping[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, smoother: Smoother, batch_shape: torch.Size = ONE_DRAW) -> None:
        self.loc, self.smoother = loc, smoother
        super().__init__(torch.Size(batch_shape), loc.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Of batch and event shape."""
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Of batch and event shape."""
        return self.smoother.variance.expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> SmoothedChains:
        """The same for a larger batch."""
        return SmoothedChains(self.loc, self.smoother, batch_shape)

    def rsample(self, sample_shape: torch.Size = ONE_DRAW) -> Tensor:
        """Draws, of shape (*sample, *batch, N)."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.smoother.sample(noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of shape (*batch)."""
        found = self.smoother.log_prob(value - self.loc)
        return found.expand(np.broadcast_shapes(found.shape, self.batch_shape))


def chains_of(model: Any) -> tuple[str, Chains]:
    """The site and prior of a model of Gaussian chains, without gradients.

    Raises:
        InputError: for another model.
    """
    site, prior = model.normal_prior() if hasattr(model, "normal_prior") else ("", None)
    if not isinstance(prior, Chains):
        raise InputError(
            f"{name_of(model)} is no model of Gaussian chains (of the abilities LinearFactors or "
            "RankingFactors), of which this guide is made"
        )
    mean, variance, phi = (part.detach() for part in (prior.mean, prior.variance, prior.transition))
    return site, Chains(mean, variance, phi, prior.rounds)


class ChainNormal(PyroModule):  # type: ignore[misc]
    """N(m, (P + diag x)⁻¹) over the states of a model's chains, with P their prior's precision.

    A chain's posterior is a Markov chain as its prior is; what the data say of a state is a Gaussian factor
    of precision x. Where all chains have one state, this is mean-field. P follows the model's parameters,
    which have no gradients here.

    Source: Khan and Lin, "Conjugate-Computation Variational Inference", AISTATS 2017; Opper and Archambeau,
    "The Variational Gaussian Approximation Revisited", *Neural Computation* 21 (2009).

    Args:
        model: with the ability `LinearFactors` or `RankingFactors`, and a `ChainPrior`.
        site_scale: the site precisions at the start, as a share of the states' prior precisions given their
            predecessors.

    Attributes:
        loc: m, shape (N,), at first the prior's mean.
        site_precision: x, positive, shape (N,).

    Raises:
        InputError: for another model.
    """

    made_whole = True

    def __init__(self, model: Program, *, site_scale: float = 1e-3) -> None:
        super().__init__()
        self._plain = (model,)
        _, chains = chains_of(model)
        self.loc = nn.Parameter(chains.mean.clone())
        self.site_precision = PyroParam(site_scale / chains.variance, constraints.positive)

    def posterior(self) -> tuple[str, SmoothedChains]:
        """The site and its distribution."""
        site, chains = chains_of(self._plain[0])
        return site, SmoothedChains(self.loc, chains.smoother(self.site_precision))

    def forward(self, *data: Any) -> Tensor:
        """The Pyro program."""
        site, posterior = self.posterior()
        drawn: Tensor = pyro.sample(site, posterior)
        return drawn
