"""Covariances of a mixture by free parameters: Σ_k = δ I + F_k F_kᵀ, or variances δ + exp(2 l)."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.models.mixture_em import Covariance

__all__ = ["covariances_of", "factors_of"]


def covariances_of(factors: Tensor, kind: Covariance, floor: float, count: int, size: int) -> Tensor:
    """Covariances of all components: variances of shape (K, d), or matrices (K, d, d).

    Args:
        factors: l of shape (K,) or (K, d) for "spherical" and "diagonal", F of (d, d) or (K, d, d) else.
        kind: "full", "diagonal", "spherical" or "tied".
        floor: δ.
        count, size: K and d.
    """
    if kind == "spherical":
        factors = factors[:, None].expand(count, size)
    if kind in ("diagonal", "spherical"):
        return floor + (2 * factors).exp()
    product = factors @ factors.transpose(-1, -2)
    lifted = product + floor * torch.eye(size, dtype=product.dtype, device=product.device)
    return lifted.expand(count, size, size)


def factors_of(covariances: Tensor, kind: Covariance, floor: float) -> Tensor:
    """The free parameters of covariances, as `covariances_of` gives these.

    What lies at the floor itself is lifted a little: no gradient would move it.
    """
    if kind in ("diagonal", "spherical"):
        logs = 0.5 * (covariances - floor).clamp_min(1e-3 * floor).log()
        return logs if kind == "diagonal" else logs[:, 0]
    values, vectors = torch.linalg.eigh(covariances)
    roots = (values - floor).clamp_min(1e-3 * floor).sqrt()
    roots = vectors * roots[:, None] @ vectors.transpose(1, 2)
    return roots if kind == "full" else roots[0]
