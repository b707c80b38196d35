"""Exact answers of models whose networks are linear and whose noise is Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor, nn

from ppl_vae.base.errors import InputError
from ppl_vae.models.likelihoods.base import Likelihood
from ppl_vae.models.likelihoods.gaussian import Gaussian

__all__ = ["LinearAnswers", "affine", "is_linear", "stacked"]

# A function that is linear is so to this share of the size of its values, in float32 as in float64.
ROUNDING = 1e-3


def is_linear(likelihood: Likelihood, *networks: nn.Module) -> bool:
    """Whether the noise is Gaussian, of a size that no latent changes, and all layers are linear."""
    every = [layer for network in networks for layer in network.modules()]
    linear = all(isinstance(layer, nn.Linear | nn.Identity | nn.Sequential) for layer in every)
    return linear and isinstance(likelihood, Gaussian)


@torch.no_grad()
def affine(function: Callable[[Tensor], Tensor], num_inputs: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """A and b of f(z) = A z + b, of shapes (outputs, inputs) and (outputs,), in float64.

    Args:
        function: maps (rows, inputs) to (rows, outputs).
        num_inputs: its number of inputs.
        like: a tensor of the precision and device that it takes.

    Raises:
        InputError: if it is not linear: a network that took the place of the one it had.
    """
    unit, far = torch.eye(num_inputs).to(like), like.new_full((1, num_inputs), -3.0)
    values = function(torch.cat([like.new_zeros(1, num_inputs), unit, far])).double()
    offset, columns = values[0], values[1:-1] - values[0]
    if (values[-1] - (offset - 3.0 * columns.sum(0))).abs().max() > ROUNDING * values.abs().max():
        raise InputError("exact answers are of linear networks, and one of these is not linear (any more)")
    return columns.T, offset


def stacked(
    mean: Tensor, precision: Tensor, slopes: Tensor, offset: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and precision of (u, v) for u | v ~ N(A v_1 + a, diag s²), v_1 being the first entries of v.

    Args:
        mean, precision: of v, shapes (n,) and (n, n).
        slopes, offset, scale: A of shape (k, m) with m ≤ n, a and s of shape (k,).
    """
    weights = torch.nn.functional.pad(slopes, (0, len(mean) - slopes.shape[1]))
    scaled = weights / scale.square()[:, None]
    first = torch.cat([scale.square().reciprocal().diag(), -scaled], 1)
    second = torch.cat([-scaled.T, precision + weights.T @ scaled], 1)
    return torch.cat([weights @ mean + offset, mean]), torch.cat([first, second])


@dataclass(frozen=True, eq=False)
class LinearAnswers:
    """z_n ~ N(m_n, P_n⁻¹), x_n | z_n ~ N(W z_n + b_n, Ψ): what is known of z_n given x_n, all in float64.

    With Λ_n = P_n + Wᵀ Ψ⁻¹ W the posterior is N(m_n + Λ_n⁻¹ Wᵀ Ψ⁻¹ (x_n − W m_n − b_n), Λ_n⁻¹); log p(x_n)
    follows by Woodbury's identity and the determinant lemma.

    Source: Bishop, "Pattern Recognition and Machine Learning" (2006), section 2.3.3.

    Attributes:
        mean: m, shape (q,), or (rows, q).
        precision: P, shape (q, q), or (rows, q, q).
        loadings: W, shape (d, q).
        offset: b, shape (d,), or (rows, d).
        noise: the diagonal of Ψ, shape (d,).
    """

    mean: Tensor
    precision: Tensor
    loadings: Tensor
    offset: Tensor
    noise: Tensor

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """p(z_n | x_n), of batch shape (rows,) and the precision of x, shape (rows, d)."""
        _, weighted, precision = self._parts(x)
        covariance = torch.linalg.inv(precision)
        loc = self.mean + (covariance @ weighted[..., None])[..., 0]
        root = torch.linalg.cholesky(covariance).expand(len(x), -1, -1)
        return MultivariateNormal(loc.to(x), scale_tril=root.to(x))

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x_n) in nats, shape (rows,), in float64."""
        residuals, weighted, precision = self._parts(x)
        explained = (weighted * torch.linalg.solve(precision, weighted[..., None])[..., 0]).sum(1)
        squares = (residuals.square() / self.noise).sum(1) - explained
        logs = torch.linalg.slogdet(precision).logabsdet - torch.linalg.slogdet(self.precision).logabsdet
        return -0.5 * (squares + logs + (2 * math.pi * self.noise).log().sum())

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Residuals at the prior's mean, Wᵀ Ψ⁻¹ times them, and Λ."""
        scaled = self.loadings / self.noise[:, None]
        residuals = x.double() - self.offset - self.mean @ self.loadings.T
        return residuals, residuals @ scaled, self.precision + self.loadings.T @ scaled
