"""Steps of SVI in coordinates in which a Gaussian guide starts with covariance I.

With m₀ and R₀ R₀ᵀ the mean and the covariance of a start (`gaussians.starts`), the guide's mean is m₀ + R₀ μ
and a full-rank one's root R₀ T, and Adam steps on (μ, T): one learning rate, in units of the posterior's own
sds and along its own axes, serves models of any units. A low-rank guide's factor is R₀ V; its diagonal can
only be in units of the start's.

Gradients are path derivatives: log q has none in its own parameters, whose mean is zero, so that their noise
vanishes where q is the posterior.

Source: Roeder, Wu and Duvenaud, "Sticking the Landing: Simple, Lower-Variance Gradient Estimators for
Variational Inference", NeurIPS 2017.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal
from torch import Tensor, nn
from torch.distributions import transform_to

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import derived
from ppl_vae.inference.fitting.fit_result import Distance
from ppl_vae.inference.fitting.gaussians.distance import distance
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian
from ppl_vae.inference.fitting.gaussians.starts import best_start
from ppl_vae.inference.fitting.gaussians.target import Target, at_work, target_of
from ppl_vae.inference.fitting.options import FitKeywords, FitOptions
from ppl_vae.program.pair import Pair
from ppl_vae.program.probe import check_data

__all__ = ["Whitened"]

# Draws by which the distance from the best of the family is estimated: at least, and a dimension.
DRAWS, A_DIMENSION = 512, 4


class _PathNormal(dist.MultivariateNormal):  # type: ignore[misc]
    """A normal whose log density has no gradient in its own parameters, only along its draws."""

    def log_prob(self, value: Tensor) -> Tensor:
        """As that of a normal, in nats."""
        held = self.scale_tril.detach()
        return dist.MultivariateNormal(self.loc.detach(), scale_tril=held).log_prob(value)


class _PathLowRank(dist.LowRankMultivariateNormal):  # type: ignore[misc]
    """The same of a low-rank covariance."""

    def log_prob(self, value: Tensor) -> Tensor:
        """As that of a normal, in nats."""
        factor, diagonal = self.cov_factor.detach(), self.cov_diag.detach()
        return dist.LowRankMultivariateNormal(self.loc.detach(), factor, diagonal).log_prob(value)


class _FullRank(AutoMultivariateNormal):  # type: ignore[misc]
    """A full-rank guide whose parameters are (μ, T)."""

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and root, in the guide's own coordinates."""
        own = self.scale.unsqueeze(-1) * self.scale_tril
        return self.start_loc + self.start_root @ self.loc, self.start_root @ own

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        """The normal in unconstrained space."""
        loc, root = self.moments()
        return _PathNormal(loc, scale_tril=root)


class _LowRank(AutoLowRankMultivariateNormal):  # type: ignore[misc]
    """A low-rank guide whose parameters are μ, its scales over the start's, and V of its factor R₀ V."""

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean, and the scales beside the scaled factor."""
        scale = (self.start_scale * self.scale).unsqueeze(-1)
        loc = self.start_loc + self.start_root @ self.loc
        return loc, torch.cat([scale, self.start_root @ self.cov_factor], -1)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Any:
        """The normal in unconstrained space."""
        loc, root = self.moments()
        return _PathLowRank(loc, root[:, 1:], root[:, 0] ** 2)


_KINDS: dict[type, type] = {AutoMultivariateNormal: _FullRank, AutoLowRankMultivariateNormal: _LowRank}


class Whitened:
    """A pair whose guide stands at a start, and another that steps from there in white coordinates.

    Args:
        pair: with Pyro's ``AutoMultivariateNormal`` or ``AutoLowRankMultivariateNormal``, which goes to the
            best of a few starts now, and where the steps ended by `write`.
        data: the programs' full data.
        seed: of the starts.

    Attributes:
        own: the pair to step with, of the same model.
        judged: whether the distance from the best of the family can be estimated: the model learns nothing.

    Raises:
        InputError: if the guide is another, or the ELBO is finite at no start.
    """

    def __init__(self, pair: Pair, data: tuple[Any, ...], seed: int) -> None:
        self.pair, self.data, self.seed = pair, data, seed
        check_data(pair.model, *data)
        pair.initialise(*data, seed=seed)
        if type(pair.guide) not in _KINDS:
            names = " or ".join(kind.__name__ for kind in _KINDS)
            raise InputError(
                f"whiten is for Pyro's {names}; this guide is {type(pair.guide).__name__}: natural.fit or "
                "fixed_noise.fit bring Gaussian guides of independent normals or blocks to their best"
            )
        self.judged = pair.parameters("guide").keys() == pair.parameters().keys()
        with target_of(pair, *data) as target:
            self.target: Target = target
            start, _ = best_start(target, "best", seed)
            target.guide.write(start.at)
            columns = target.guide.parts[0][1]
            covariance = start.at.covariance()[columns][:, columns]
            root = torch.linalg.cholesky(covariance)
        self.own = _stepped(pair, _white(pair.guide, root))

    def options(self, asked: FitOptions) -> FitKeywords:
        """A fit's options for the steps.

        Adam moves each of P coordinates by about the learning rate, which costs up to half its square in
        nats: the rate is at most √(tolerance / P).

        Raises:
            InputError: for another objective than the ELBO.
        """
        if asked.objective != "elbo":
            raise InputError(f"whiten is for the ELBO; the objective is {asked.objective!r}")
        dim, (_, root) = self.target.dim, self.own.guide.moments()  # type: ignore[attr-defined]
        count = dim + (root.numel() if root.shape[1] != dim else dim * (dim + 1) // 2)
        lr = min(asked.lr, math.sqrt(asked.tolerance / count))
        return replace(asked, whiten=False, lr=lr).keywords()

    def write(self) -> None:
        """Take the steps' guide over into the pair's."""
        self.target.guide.write(self._gaussian())

    def distance(self) -> Distance:
        """How far the steps' guide is from the best of its family, in nats for the whole data."""
        draws = max(DRAWS, A_DIMENSION * self.target.dim)
        with at_work():
            return distance(self.target, self._gaussian(), draws, derived(self.seed, "distance", draws))

    @torch.no_grad()
    def _gaussian(self) -> Gaussian:
        ((_, columns),) = self.target.guide.parts
        own, root = self.own.guide.moments()  # type: ignore[attr-defined]
        loc = torch.zeros(self.target.dim, dtype=torch.float64)
        loc[columns] = own.double().cpu()
        return Gaussian(self.target.guide.family, loc, (root.double().cpu(),))


def _stepped(pair: Pair, guide: Any) -> Pair:
    """A pair of the same model, whose parameters are the same tensors, with another guide."""
    own = Pair(pair.model, guide)
    for kind in ("params", "constraints"):
        kept = pair._store["params"]
        own._store[kind] = {
            name: value
            for name, value in pair._store[kind].items()
            if not isinstance(kept[name], nn.Parameter)
        }
    return own


@torch.no_grad()
def _white(part: Any, root: Tensor) -> Any:
    """A guide that draws what another does, in coordinates in which its covariance is I.

    Args:
        part: the guide.
        root: of its covariance, lower-triangular.
    """
    own = copy.copy(part)
    own.__class__ = _KINDS[type(part)]
    for name in ("_parameters", "_buffers", "_modules"):
        own.__dict__[name] = dict(own.__dict__[name])
    like = part.loc.detach()
    own.register_buffer("start_loc", like.clone())
    own.register_buffer("start_root", root.to(like))
    own.register_buffer("start_scale", part.scale.detach().clone())
    fresh = {"loc": torch.zeros_like(like)}
    ones = transform_to(part.scale_constraint).inv(torch.ones_like(like))
    fresh["scale_unconstrained"] = ones
    if isinstance(part, AutoMultivariateNormal):
        eye = torch.eye(len(like)).to(like)
        fresh["scale_tril_unconstrained"] = transform_to(part.scale_tril_constraint).inv(eye)
    else:
        factor = (part.cov_factor * part.scale.unsqueeze(-1)).double().cpu()
        fresh["cov_factor"] = torch.linalg.solve_triangular(root, factor, upper=False).to(like).contiguous()
    for name, value in fresh.items():
        own._parameters[name] = nn.Parameter(value)
    return own
