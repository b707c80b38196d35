"""Mixtures of Gaussians over all latents at once, for posteriors with several modes."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoContinuous
from pyro.nn import PyroParam
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.guides.normal import COVARIANCES, multivariate_normal
from ppl_vae.program.constrain import flat, unconstrained
from ppl_vae.program.pair import Program

__all__ = ["MixtureNormal", "Strata"]

ONE_DRAW = torch.Size()


class MixtureNormal(AutoContinuous):  # type: ignore[misc]
    """Σ_k w_k N(μ_k, Σ_k) in unconstrained space, with free weights, means and covariances.

    `svi.fit` learns it with every component's own draws, weighted by w_k (`Strata`): no hidden choice of a
    component is drawn, and the gradients go through the draws, those of the weights through w_k. Any other
    ELBO takes plain draws, whose gradient is the score's, unbiased and noisy.

    Source: Morningstar et al., "Automatic differentiation variational inference with mixtures", *AISTATS*
    (2021), the stratified ELBO.

    Args:
        model: a Pyro model with continuous latents.
        num_components: K ≥ 1; that of ``locs`` if they are given.
        covariance: "full" or "diagonal".
        locs: means at the start, shape (K, latents), sites one after another in unconstrained space; draws of
            the prior by default.
        scale_trils: Cholesky factors of the covariances, shape (K, latents, latents).
        weights: at the start, positive, shape (K,); equal ones by default.
        init_scale: standard deviation at the start where ``scale_trils`` are not given.

    Raises:
        InputError: for arguments out of range.
    """

    def __init__(
        self,
        model: Program,
        num_components: int = 3,
        *,
        covariance: str = "full",
        locs: Tensor | None = None,
        scale_trils: Tensor | None = None,
        weights: Tensor | None = None,
        init_scale: float = 0.1,
    ) -> None:
        super().__init__(model)
        self.num_components = num_components if locs is None else len(locs)
        check_whole(1, num_components=self.num_components)
        if covariance not in COVARIANCES:
            raise InputError(f"covariance {covariance!r} is not known; it is {' or '.join(COVARIANCES)}")
        self.covariance, self.init_scale = covariance, init_scale
        self._plain = (model,)
        self._start = locs, scale_trils, weights
        self.strata: Strata | None = None

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        locs, trils, weights = self._start
        like, size = flat(unconstrained(self.prototype_trace)), self.num_components
        self.locs = nn.Parameter(self._drawn(*args, **kwargs) if locs is None else locs.to(like))
        if trils is None:
            trils = self.init_scale * torch.eye(self.latent_dim).expand(size, -1, -1)
        trils = trils.to(like).contiguous()
        if self.covariance == "full":
            self.scale = PyroParam(trils, constraints.softplus_lower_cholesky)
        else:
            sd = trils.square().sum(-1).sqrt()
            self.scale = PyroParam(sd, constraints.softplus_positive)
        weights = torch.ones(size) if weights is None else weights
        self.logits = nn.Parameter((weights / weights.sum()).log().to(like))

    def _drawn(self, *args: Any, **kwargs: Any) -> Tensor:
        """A draw of the prior for every component; its start where the draw is not finite."""
        start, found = flat(unconstrained(self.prototype_trace)), []
        for _ in range(self.num_components):
            trace = poutine.block(poutine.trace(self._plain[0]).get_trace)(*args, **kwargs)
            at = flat(unconstrained(self.prototype_trace, trace))
            found.append(torch.where(at.isfinite(), at, start))
        return torch.stack(found)

    def get_posterior(self, *args: Any, **kwargs: Any) -> dist.TorchDistribution:
        """q over the unconstrained latents, event shape (latent_dim,)."""
        if self.covariance == "full":
            each = multivariate_normal(self.locs, self.scale)
        else:
            each = dist.Normal(self.locs, self.scale).to_event(1)
        if self.strata is None:
            return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), each)
        found = _Stratified(dist.Categorical(logits=self.logits), each)
        found.only = self.strata.turn()
        return found


class _Stratified(dist.MixtureSameFamily):  # type: ignore[misc]
    """A mixture whose draws are those of its components in turn, along the first dimension.

    Attributes:
        only: the component that all draws are of, instead.
    """

    has_rsample = True
    only: int | None = None

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Stratified:
        found: _Stratified = super().expand(batch_shape, _instance=_instance)
        found.only = self.only
        return found

    def rsample(self, sample_shape: Any = ONE_DRAW) -> Tensor:
        each = self.component_distribution.rsample(sample_shape)
        if self.only is not None:
            return each[..., self.only, :]
        chosen = torch.arange(len(each), device=each.device) % each.shape[-2]
        where = chosen.reshape(-1, *(1,) * (each.dim() - 1)).expand(*each.shape[:-2], 1, each.shape[-1])
        return each.gather(-2, where).squeeze(-2)


class Strata(Messenger):  # type: ignore[misc]
    """In a block, a mixture guide draws from its components in turn, and all terms are weighted by K w_k.

    The mean over K, 2 K, … particles is then the ELBO's Σ_k w_k E_k[log p − log q].

    Args:
        guide: the mixture.
        num_particles: draws, a multiple of K.
        nesting: dimensions of plates below the particles'; None where particles are drawn one by one.
    """

    def __init__(self, guide: MixtureNormal, num_particles: int, nesting: int | None) -> None:
        super().__init__()
        self.guide, self.num_particles, self.nesting = guide, num_particles, nesting
        self.draws = -1

    def turn(self) -> int | None:
        """The component of the next draw; None where all are drawn side by side."""
        self.draws += 1
        return None if self.nesting is not None else self.draws % self.guide.num_components

    def __enter__(self) -> Any:
        self.guide.strata = self
        return super().__enter__()

    def __exit__(self, *raised: Any) -> Any:
        self.guide.strata = None
        return super().__exit__(*raised)

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            return
        size = self.guide.num_components
        weights = size * self.guide.logits.softmax(-1)
        if self.nesting is None:
            weight = weights[self.draws % size]
        else:
            weight = weights.repeat(self.num_particles // size).reshape(-1, *(1,) * self.nesting)
        msg["scale"] = msg["scale"] * weight
