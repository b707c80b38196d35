"""Gaussians over all unconstrained latents: independent ones, dense ones by block, low-rank plus diagonal.

A member of a family is u = m + R z with z standard normal and R block by block, linear in what describes it:
a scale a coordinate, a square root of the block's covariance, or a scale a coordinate beside a factor of a
few columns. An ELBO of a log-concave density is concave in (m, R) (Challis and Barber, "Gaussian
Kullback–Leibler Approximate Inference", JMLR 14 (2013); Domke, "Provable Smoothness Guarantees for Black-Box
Variational Inference", ICML 2020), for fixed z as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Block", "Family", "Gaussian", "antithetic", "common_noise", "log_volume", "symmetric"]

Kind = Literal["diagonal", "dense", "low-rank"]


@dataclass(frozen=True, eq=False)
class Block:
    """Coordinates that are independent of all others.

    Attributes:
        columns: their numbers, shape (d,).
        kind: of their covariance.
        rank: columns of a low-rank factor.
    """

    columns: Tensor
    kind: Kind
    rank: int = 0

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.columns)

    @property
    def noise_dim(self) -> int:
        """Standard normals that a draw takes."""
        return self.dim + self.rank

    def spread(self, root: Tensor, noise: Tensor) -> Tensor:
        """R z, shape (n, d), of noise (n, noise_dim)."""
        if self.kind == "diagonal":
            return noise * root
        if self.kind == "dense":
            return noise @ root.T
        own, shared = noise.split([self.dim, self.rank], 1)
        return own * root[:, 0] + shared @ root[:, 1:].T

    def pull(self, slopes: Tensor, noise: Tensor) -> Tensor:
        """The gradient in R of the mean over draws of a function with gradients (n, d) at them."""
        count = len(slopes)
        if self.kind == "diagonal":
            return (slopes * noise).sum(0) / count
        if self.kind == "dense":
            return slopes.T @ noise / count
        own, shared = noise.split([self.dim, self.rank], 1)
        return torch.cat([(slopes * own).sum(0).unsqueeze(1), slopes.T @ shared], 1) / count

    def covariance(self, root: Tensor) -> Tensor:
        """R Rᵀ, shape (d, d)."""
        if self.kind == "diagonal":
            return torch.diag(root**2)
        if self.kind == "dense":
            return root @ root.T
        return torch.diag(root[:, 0] ** 2) + root[:, 1:] @ root[:, 1:].T

    def variances(self, root: Tensor) -> Tensor:
        """The diagonal of the covariance, shape (d,)."""
        return root**2 if self.kind == "diagonal" else (root**2).sum(1)

    def whiten(self, root: Tensor, values: Tensor) -> Tensor:
        """(R Rᵀ)⁻¹ x for rows x, shape (n, d)."""
        if self.kind == "diagonal":
            return values / root**2
        if self.kind == "dense":
            return torch.linalg.solve(root.T, torch.linalg.solve(root, values.T)).T
        return torch.linalg.solve(self.covariance(root), values.T).T


def log_volume(block: Block, root: Tensor) -> Tensor:
    """½ log |R Rᵀ|, a scalar."""
    if block.kind == "diagonal":
        return root.abs().log().sum()
    if block.kind == "dense":
        return torch.linalg.slogdet(root)[1]
    scale, factor = root[:, 0], root[:, 1:] / root[:, :1]
    inner = torch.eye(block.rank).to(root) + factor.T @ factor
    return scale.abs().log().sum() + 0.5 * torch.linalg.slogdet(inner)[1]


@dataclass(frozen=True, eq=False)
class Family:
    """Gaussians whose covariances have the same blocks.

    Attributes:
        blocks: which together hold every coordinate once.
    """

    blocks: tuple[Block, ...]

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return sum(block.dim for block in self.blocks)

    @property
    def noise_dim(self) -> int:
        """Standard normals that a draw takes."""
        return sum(block.noise_dim for block in self.blocks)

    @property
    def largest(self) -> int:
        """Coordinates of the largest dense block; 0 where there is none."""
        return max((block.dim for block in self.blocks if block.kind == "dense"), default=0)

    @property
    def name(self) -> str:
        """What the field calls it."""
        kinds = {block.kind for block in self.blocks}
        if kinds == {"diagonal"}:
            return "mean-field"
        if len(self.blocks) == 1:
            return "full-rank" if kinds == {"dense"} else "low-rank"
        return "block-diagonal"

    def split(self, noise: Tensor) -> list[Tensor]:
        """Noise (n, noise_dim) by block."""
        return list(noise.split([block.noise_dim for block in self.blocks], 1))

    def closest(self, loc: Tensor, covariance: Tensor) -> Gaussian:
        """The member with the same mean that is closest to a Gaussian p of full covariance, by KL(q ‖ p).

        Exact for independent and dense blocks, whose precisions are p's; a low-rank block takes the leading
        directions of the covariance that its precision gives.
        """
        precision = torch.linalg.inv(covariance)
        roots = []
        for block in self.blocks:
            own = precision[block.columns][:, block.columns]
            if block.kind == "diagonal":
                roots.append(own.diagonal() ** -0.5)
            elif block.kind == "dense":
                roots.append(torch.linalg.cholesky(symmetric(torch.linalg.inv(own))))
            else:
                roots.append(_low_rank(symmetric(torch.linalg.inv(own)), block.rank))
        return Gaussian(self, loc, tuple(roots))


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(m, R Rᵀ) in unconstrained space.

    Attributes:
        family: its blocks.
        loc: m, shape (dim,).
        roots: R by block: (d,), (d, d), or (d, 1 + rank) with the scales in front of the factor.
    """

    family: Family
    loc: Tensor
    roots: tuple[Tensor, ...]

    def draws(self, noise: Tensor) -> Tensor:
        """m + R z, shape (n, dim), of standard normals (n, noise_dim)."""
        found = self.loc.expand(len(noise), -1).clone()
        for block, root, own in self._by_block(noise):
            found[:, block.columns] += block.spread(root, own)
        return found

    def entropy(self) -> float:
        """In nats."""
        pairs = zip(self.family.blocks, self.roots, strict=True)
        volume = sum(float(log_volume(block, root)) for block, root in pairs)
        return volume + 0.5 * self.family.dim * (1 + math.log(2 * math.pi))

    def whiten(self, values: Tensor) -> Tensor:
        """Σ⁻¹ x for rows x, shape (n, dim)."""
        found = torch.empty_like(values)
        for block, root in zip(self.family.blocks, self.roots, strict=True):
            found[:, block.columns] = block.whiten(root, values[:, block.columns])
        return found

    def variances(self) -> Tensor:
        """The diagonal of Σ, shape (dim,)."""
        found = torch.empty_like(self.loc)
        for block, root in zip(self.family.blocks, self.roots, strict=True):
            found[block.columns] = block.variances(root)
        return found

    def covariance(self) -> Tensor:
        """Σ, shape (dim, dim)."""
        found = self.loc.new_zeros(self.family.dim, self.family.dim)
        for block, root in zip(self.family.blocks, self.roots, strict=True):
            found[block.columns.unsqueeze(1), block.columns] = block.covariance(root)
        return found

    def replaced(self, loc: Tensor, roots: Sequence[Tensor]) -> Gaussian:
        """Another member of the family."""
        return replace(self, loc=loc, roots=tuple(roots))

    def _by_block(self, noise: Tensor) -> list[tuple[Block, Tensor, Tensor]]:
        return list(zip(self.family.blocks, self.roots, self.family.split(noise), strict=True))


def antithetic(half: int, dim: int, seed: int) -> Tensor:
    """So many standard normal draws, and their negatives after them: float64, shape (2 half, dim)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(half, dim, dtype=torch.float64).normal_(generator=generator)
    return torch.cat([drawn, -drawn])


def common_noise(count: int, dim: int, seed: int) -> Tensor:
    """Standard normal draws, each with its negative, whose second moments are those of a normal.

    Where half of them are at least as many as the dimensions, their covariance is the identity exactly, so
    that whatever is quadratic is integrated exactly; else each coordinate has variance one.

    Args:
        count: how many, rounded up to an even number.
        dim: of each.
        seed: of the draws.

    Returns:
        float64, shape (count, dim).
    """
    half = -(-count // 2)
    drawn = antithetic(half, dim, seed)[:half]
    if half >= dim:
        values, vectors = torch.linalg.eigh(drawn.T @ drawn / half)
        drawn = drawn @ (vectors * values.clamp_min(1e-12).rsqrt()) @ vectors.T
    else:
        drawn = drawn / (drawn**2).mean(0).sqrt()
    return torch.cat([drawn, -drawn])


def symmetric(matrix: Tensor) -> Tensor:
    """Its symmetric part."""
    return 0.5 * (matrix + matrix.mT)


def _low_rank(covariance: Tensor, rank: int) -> Tensor:
    """Scales and a factor (d, 1 + rank) whose covariance has the same variances."""
    sd = covariance.diagonal().sqrt()
    values, vectors = torch.linalg.eigh(covariance / sd.unsqueeze(1) / sd)
    # In units of sd; what the leading directions leave over stays with the coordinates.
    least = values[: max(len(sd) - rank, 1)].mean()
    factor = vectors[:, -rank:] * (values[-rank:] - least).clamp_min(0).sqrt()
    own = (1 - (factor**2).sum(1)).clamp_min(1e-4).sqrt()
    return torch.cat([own.unsqueeze(1), factor], 1) * sd.unsqueeze(1)
