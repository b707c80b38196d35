"""What is around the means of Gaussians over a model's states: moments, and solutions with the precision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ppl_vae.guides.joint_normal import sparse_precision
from ppl_vae.program.block_tridiagonal import Blocks, Eliminated
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design

__all__ = ["DenseSpread", "InnovationSpread", "JointSpread", "SparseSpread", "Spread", "joint_spread"]


class Spread(Protocol):
    """What is around a Gaussian's mean: the moments that the ELBO needs."""

    @property
    def variance(self) -> Tensor:
        """Of every state, shape (N,)."""
        ...

    @property
    def lag_covariance(self) -> Tensor:
        """Of the states from the second round on with their predecessors, shape (N − chains,)."""
        ...

    @property
    def log_det(self) -> Tensor:
        """log |Λ| − log |P|, a scalar."""
        ...


@dataclass(frozen=True, eq=False)
class InnovationSpread:
    """States of independent innovations: chains as the prior's, with variances of their own.

    Attributes:
        chains: the prior.
        own: the chains whose innovations are meant.
        innovation: the innovations' variances, 1 in these chains, shape (N,).
    """

    chains: Chains
    own: Chains
    innovation: Tensor

    @cached_property
    def variance(self) -> Tensor:
        """Of every state, shape (N,)."""
        return self.own.run_forward(self.own.transition**2, self.own.variance * self.innovation)

    @property
    def lag_covariance(self) -> Tensor:
        """Of the states from the second round on with their predecessors, shape (N − chains,)."""
        own = self.own
        return own.transition[own.num_chains :] * self.variance.index_select(0, own.previous)

    @property
    def log_det(self) -> Tensor:
        """log |Λ| − log |P|."""
        return (self.chains.variance / (self.own.variance * self.innovation)).log().sum()


@dataclass(frozen=True, eq=False)
class DenseSpread:
    """A Gaussian with a dense covariance.

    Attributes:
        chains: the prior.
        root: the lower Cholesky factor of Λ, shape (N, N).
    """

    chains: Chains
    root: Tensor

    @classmethod
    def of(cls, chains: Chains, precision: Tensor) -> DenseSpread | None:
        """Of a precision Λ; None where it is not positive definite."""
        root, info = torch.linalg.cholesky_ex(precision)
        return None if int(info) else cls(chains, root)

    @cached_property
    def covariance(self) -> Tensor:
        """Λ⁻¹."""
        return torch.cholesky_inverse(self.root)

    @property
    def variance(self) -> Tensor:
        """Its diagonal, shape (N,)."""
        return self.covariance.diagonal()

    @property
    def lag_covariance(self) -> Tensor:
        """Of the states from the second round on with their predecessors, shape (N − chains,)."""
        rows = torch.arange(self.chains.num_chains, self.chains.num_states)
        return self.covariance[rows, self.chains.previous]

    @property
    def log_det(self) -> Tensor:
        """log |Λ| − log |P|."""
        return 2 * self.root.diagonal().log().sum() + self.chains.variance.log().sum()

    def solve(self, right: Tensor) -> Tensor:
        """Λ⁻¹ b for b (N,)."""
        return torch.cholesky_solve(right[:, None], self.root)[:, 0]

    def row_variances(self, design: Design) -> Tensor:
        """The diagonal of A Λ⁻¹ Aᵀ, shape (R,)."""
        return design.row_variances(self.covariance)


@dataclass(frozen=True, eq=False)
class SparseSpread:
    """A Gaussian whose precision has the links of the prior and the rows, eliminated block by block.

    Attributes:
        chains: the prior.
        eliminated: Λ.
    """

    chains: Chains
    eliminated: Eliminated

    @cached_property
    def variance(self) -> Tensor:
        """Of every state, shape (N,)."""
        states = torch.arange(self.chains.num_states)
        return self.eliminated.covariance(states, states)

    @property
    def lag_covariance(self) -> Tensor:
        """Of the states from the second round on with their predecessors, shape (N − chains,)."""
        rows = torch.arange(self.chains.num_chains, self.chains.num_states)
        return self.eliminated.covariance(rows, self.chains.previous)

    @property
    def log_det(self) -> Tensor:
        """log |Λ| − log |P|."""
        return self.eliminated.log_det + self.chains.variance.log().sum()

    def solve(self, right: Tensor) -> Tensor:
        """Λ⁻¹ b for b (N,)."""
        return self.eliminated.solve(right)

    def row_variances(self, design: Design) -> Tensor:
        """The diagonal of A Λ⁻¹ Aᵀ, shape (R,)."""
        found = torch.zeros(design.num_rows, dtype=torch.float64)
        entries = list(zip(*design.padded, strict=True))
        for k, (first, own) in enumerate(entries):
            for second, other in entries[k:]:
                both = own * other
                # What fills a row up is linked to nothing.
                covariance = self.eliminated.covariance(first, torch.where(both != 0, second, first))
                found += (1.0 if first is second else 2.0) * both * covariance
        return found


JointSpread = DenseSpread | SparseSpread


def joint_spread(chains: Chains, design: Design, weight: Tensor, blocks: Blocks | None) -> JointSpread | None:
    """The Gaussian of precision P + Aᵀ diag(w) A; None where that is not positive definite.

    Args:
        chains: of precision P.
        design: A.
        weight: w, shape (R,).
        blocks: an order of the states in which the precision is sparse; None to take it as a dense matrix.
    """
    if blocks is None:
        return DenseSpread.of(chains, chains.dense_precision() + design.gram(weight, chains.num_states))
    found = blocks.eliminate(sparse_precision(chains, design, weight))
    return None if found is None else SparseSpread(chains, found)
