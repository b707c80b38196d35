"""Normal distributions from a network's raw outputs, bounded away from zero variance."""

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ppl_vae.base.errors import InputError

__all__ = [
    "COVARIANCES",
    "VARIANCE_FLOOR",
    "multivariate_normal",
    "num_raw",
    "raw_normal",
    "raw_scale_tril",
    "raw_spread",
]

COVARIANCES = ("diagonal", "full")
VARIANCE_FLOOR = 1e-6

# Where a MultivariateNormal keeps the factor as it was given, not spread over the batch.
_FACTOR = "_unbroadcasted_scale_tril"


def num_raw(latent_dim: int, covariance: str) -> int:
    """How many raw numbers describe one Normal of the given dimension.

    Raises:
        InputError: for a covariance that is neither "diagonal" nor "full".
    """
    if covariance not in COVARIANCES:
        raise InputError(f"covariance {covariance!r} is not known; it is {' or '.join(COVARIANCES)}")
    if covariance == "diagonal":
        return 2 * latent_dim
    return latent_dim + latent_dim * (latent_dim + 1) // 2


def raw_normal(raw: Tensor, latent_dim: int, covariance: str, floor: float) -> dist.TorchDistribution:
    """A Normal over the last axis whose variance is softplus(raw) + floor.

    softplus underflows to zero in float32 near −104, and log 0 ends a fit with NaN: hence the floor.

    Args:
        raw: shape (..., `num_raw`): the mean, then the raw variances or the raw Cholesky factor.
        latent_dim: q, the size of the event.
        covariance: "diagonal", or "full" with the squared diagonal of the Cholesky factor bounded.
        floor: lower bound on the (conditional) variances.
    """
    loc, spread = raw[..., :latent_dim], raw[..., latent_dim:]
    if covariance == "diagonal":
        return dist.Normal(loc, (softplus(spread) + floor).sqrt()).to_event(1)
    return multivariate_normal(loc, raw_scale_tril(spread, latent_dim, floor))


def multivariate_normal(loc: Tensor, scale_tril: Tensor) -> dist.MultivariateNormal:
    """`MultivariateNormal(loc, scale_tril=…)` without what its constructor imports.

    The constructor calls `torch.broadcast_shapes`, whose first call in a process imports SymPy: a tenth of
    the processor time of a short fit. Where this version of PyTorch keeps the factor elsewhere, its
    constructor is called.

    Args:
        loc: shape (..., q).
        scale_tril: the Cholesky factor, shape (..., q, q).
    """
    if _FACTOR not in dist.MultivariateNormal.rsample.__code__.co_names:
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)
    batch = torch.Size(np.broadcast_shapes(scale_tril.shape[:-2], loc.shape[:-1]))
    made = dist.MultivariateNormal.__new__(dist.MultivariateNormal)
    made.loc = loc.expand(*batch, -1)
    made.scale_tril = scale_tril.expand(*batch, -1, -1)
    setattr(made, _FACTOR, scale_tril)
    torch.distributions.Distribution.__init__(made, batch, made.loc.shape[-1:])
    return made


def raw_scale_tril(raw: Tensor, latent_dim: int, floor: float) -> Tensor:
    """A Cholesky factor of shape (..., q, q) from q diagonal and q(q−1)/2 strictly lower raw numbers."""
    diagonal = torch.diag_embed((softplus(raw[..., :latent_dim]) + floor).sqrt())
    rows, columns = torch.tril_indices(latent_dim, latent_dim, offset=-1, device=raw.device)
    # A constant 0/1 tensor places the entries; in-place writes would defeat vmap and tracing.
    place = torch.zeros(rows.numel(), latent_dim, latent_dim, dtype=raw.dtype, device=raw.device)
    place[torch.arange(rows.numel()), rows, columns] = 1.0
    return diagonal + torch.einsum("...k,kij->...ij", raw[..., latent_dim:], place)


def raw_spread(precision: Tensor, covariance: str, floor: float) -> Tensor:
    """The raw numbers of a Normal's spread, as `raw_normal` and `raw_scale_tril` take them.

    Args:
        precision: shape (..., q, q).
        covariance: "full", or "diagonal" for the best Normal of independent coordinates: variances 1 / Λ_ii.
        floor: lower bound on the (conditional) variances; what lies below it comes to lie just above.
    """
    if covariance == "diagonal":
        return _before_softplus(precision.diagonal(dim1=-2, dim2=-1).reciprocal() - floor)
    scale_tril = torch.linalg.cholesky(torch.linalg.inv(precision))
    rows, columns = torch.tril_indices(precision.shape[-1], precision.shape[-1], offset=-1)
    diagonal = _before_softplus(scale_tril.diagonal(dim1=-2, dim2=-1).square() - floor)
    return torch.cat([diagonal, scale_tril[..., rows, columns]], -1)


def _before_softplus(x: Tensor) -> Tensor:
    """The numbers whose softplus is x > 0, without overflow."""
    x = x.clamp_min(1e-12)
    return x + (-(-x).expm1()).log()
