"""How far a Gaussian's ELBO is below the best of its family, in nats, by draws that it was not fitted to.

Near an optimum the ELBO is quadratic, and a gradient ψ says how far it is: ½ ψᵀ K⁻¹ ψ, with K the negative
Hessian. The square of an estimated gradient is too large by its noise; the product of two independent
estimates is not, so that the mean over pairs of groups of draws is free of bias. ψ is the path derivative,
∇(log p − log q) along the draws alone (Roeder, Wu and Duvenaud, "Sticking the Landing", NeurIPS 2017), whose
noise vanishes where q is the posterior. K is C of `newton` for the mean, and the Fisher information for the
covariance, which the ELBO shares where the posterior is normal; elsewhere a distance is right to a factor,
and zero at zero.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.fitting.fit_result import Distance
from ppl_vae.inference.fitting.gaussians.gaussian import Block, Gaussian, antithetic, symmetric
from ppl_vae.inference.fitting.gaussians.newton import FLAT, direction
from ppl_vae.inference.fitting.gaussians.target import Expectation, Target

__all__ = ["distance", "pooled"]

GROUPS = 8


def distance(target: Target, at: Gaussian, num_draws: int, seed: int) -> Distance:
    """Of a Gaussian from the best of its family.

    Args:
        target: the density.
        at: the Gaussian.
        num_draws: normals and as many negatives, together; at least 2 a dimension of the density.
        seed: of the draws, another than that of draws the Gaussian was fitted to.
    """
    half = max(num_draws // 2, GROUPS)
    here = target.expect(at, antithetic(half, at.family.noise_dim, seed))
    rows = _gradients(here)
    return pooled(rows @ rows.T, 2 * half)


def pooled(gram: Tensor, num_draws: int) -> Distance:
    """From the products ½ ψ_kᵀ K⁻¹ ψ_l of the gradients of groups of draws, shape (groups, groups)."""
    count = len(gram)
    total, own = gram.sum(), gram.diagonal()
    value = float((total - own.sum()) / (count * (count - 1)))
    # Each group left out in turn.
    left = (total - 2 * gram.sum(1) + 2 * own - own.sum()) / ((count - 1) * (count - 2))
    variance = (count - 1) / count * ((left - left.mean()) ** 2).sum()
    return Distance(value, float(variance.sqrt()), num_draws)


def _gradients(here: Expectation) -> Tensor:
    """Path derivatives by group of draws, whitened by √(2 K)."""
    at, count = here.at, len(here.noise)
    weighted = at.whiten(here.positions - at.loc)
    path = here.slopes + weighted
    sd = at.variances().sqrt()
    curvature = direction(here).curvature
    values, vectors = torch.linalg.eigh(curvature * sd * sd.unsqueeze(1))
    root = vectors / values.abs().clamp_min(max(FLAT * float(values.abs().max()), 1e-300)).sqrt()
    downward = (-path * weighted).mean(0).clamp_min(0)
    rows = []
    for group in range(GROUPS):
        own = torch.arange(group, count // 2, GROUPS)
        chosen = torch.cat([own, own + count // 2])
        slopes, weights = path[chosen], weighted[chosen]
        parts = [0.5**0.5 * ((slopes.mean(0) * sd) @ root)]
        for block, scale in zip(at.family.blocks, at.roots, strict=True):
            columns = block.columns
            of_block = slopes[:, columns], weights[:, columns]
            parts.append(_of_covariance(block, scale, *of_block, downward[columns]))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def _of_covariance(block: Block, root: Tensor, slopes: Tensor, weights: Tensor, downward: Tensor) -> Tensor:
    """½ of the gradient in a block's covariance, in coordinates where that is the identity.

    The closest covariance of a low-rank block may leave such a gradient, across what its family can do: of it
    what lies along the family counts.
    """
    if block.kind == "diagonal":
        return 0.5 * (slopes * weights).mean(0) * root**2
    gradient = symmetric(slopes.T @ weights / len(slopes))
    if block.kind == "dense":
        return 0.5 * (root.T @ gradient @ root).reshape(-1)
    dense = torch.linalg.cholesky(symmetric(block.covariance(root)))
    return 0.5 * _along(root, dense, dense.T @ gradient @ dense, downward)


def _along(root: Tensor, dense: Tensor, gradient: Tensor, downward: Tensor) -> Tensor:
    """What of a gradient (d, d) lies along what a low-rank family's covariances can do, whitened by a root.

    The ELBO changes with a scale's square, which is at least 0. The best may want none, as in factor
    analysis; what such a scale has left to gain is no more than the slope in its square times that. A metric
    of covariances does not know it, but the curvature in the scale does, which has that slope: a row a scale.

    Args:
        root: scales beside the factor, shape (d, 1 + rank).
        dense: the covariance's root.
        gradient: in covariance, whitened.
        downward: minus its diagonal, not whitened, by all draws, where that is positive; shape (d,).
    """
    from scipy.sparse.linalg import LinearOperator, lsqr

    inverse, bends, count = torch.linalg.inv(dense), (2 * downward).sqrt(), dense.numel()

    def change(flat: np.ndarray) -> np.ndarray:
        step = torch.from_numpy(np.asarray(flat)).reshape(root.shape)
        half = torch.diag(step[:, 0] * root[:, 0]) + step[:, 1:] @ root[:, 1:].T
        whitened = inverse @ (half + half.T) @ inverse.T
        return torch.cat([whitened.reshape(-1), bends * step[:, 0]]).numpy()

    def adjoint(flat: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(np.asarray(flat))
        pulled = inverse.T @ symmetric(given[:count].reshape(dense.shape)) @ inverse
        own = pulled.diagonal() * root[:, 0] + 0.5 * bends * given[count:]
        return 2 * torch.cat([own.unsqueeze(1), pulled @ root[:, 1:]], 1).reshape(-1).numpy()

    operator = LinearOperator(
        (count + len(root), root.numel()), matvec=change, rmatvec=adjoint, dtype=np.float64
    )
    wanted = torch.cat([gradient.reshape(-1), torch.zeros_like(downward)]).numpy()
    found = lsqr(operator, wanted, atol=1e-6, btol=1e-6)[0]
    return torch.from_numpy(change(found))
