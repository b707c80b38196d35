"""Expectations of a model of linear predictors under a Gaussian: one-dimensional quadrature of every row.

Where Gaussian states s meet data only through rows of a sparse A, a row's predictor d_r = (A s)_r is normal
under any Gaussian guide, and the data's part of the ELBO is Σ_r c_r E[ℓ(d_r)]. With g_r = c_r E[ℓ′(d_r)] and
h_r = c_r E[ℓ″(d_r)], which are derivatives with respect to the mean and (doubled) the variance of d_r by
Bonnet's and Price's theorems, the gradients in the guide's moments are Aᵀ g and ½ Aᵀ diag(h) A.

Source: Opper and Archambeau, "The Variational Gaussian Approximation Revisited", Neural Computation 21
(2009).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from ppl_vae.program.factors import LinearFactors

__all__ = ["Expected", "Factors", "hermite_rule", "meeting_of"]

# Rows times nodes at once: bounds the memory, and stays within a core's cache.
CHUNK = 2**17
# Of the largest standard deviation of a predictor, what is taken for none.
LEAST_SD = 1e-7


def hermite_rule(num_nodes: int) -> Tensor:
    """Nodes and weights of the expectation over N(0, 1), shape (2, num_nodes), float64."""
    from scipy.special import roots_hermitenorm

    nodes, weights = roots_hermitenorm(num_nodes)
    return torch.from_numpy(np.stack([nodes, weights / weights.sum()]))


@dataclass(frozen=True, eq=False)
class Expected:
    """What the data say of a Gaussian's predictors.

    Attributes:
        value: Σ_r c_r E[ℓ(d_r)], in nats.
        slope, curvature: g and h of every row, shape (R,).
    """

    value: float
    slope: Tensor
    curvature: Tensor


@dataclass(frozen=True, eq=False)
class Factors:
    """A model's prior and its distinct rows, in float64 on the CPU.

    Attributes:
        site: the latent site.
        chains: its prior, as the model's parameters are now.
        design: the distinct rows.
        log_likelihood: the model's ℓ.
        matrix, squares: A and A∘A as SciPy's CSR arrays, which share their pattern.
        meeting: the first row of the data that reads two states of one chain, and its states.
    """

    site: str
    chains: Chains
    design: Design
    log_likelihood: Callable[..., Tensor]
    matrix: Any
    squares: Any
    meeting: tuple[int, list[int]] | None

    @classmethod
    def of(cls, model: LinearFactors, *data: Any) -> Factors:
        """Read a model.

        Raises:
            InputError: for a design matrix that does not fit the prior, or sees no data.
        """
        from scipy.sparse import csr_array

        site, prior = model.normal_prior()
        chains, design = prior.detach(), model.rows(*data)
        design.check(chains.num_states)
        if not design.num_rows:
            raise InputError("the design matrix has no rows: there are no data to fit")
        meeting = meeting_of(design, chains)
        design = _plain(design.merged())
        matrix = design.csr(chains.num_states)
        squares = csr_array((matrix.data**2, matrix.indices, matrix.indptr), shape=matrix.shape)
        return cls(site, chains, design, model.log_likelihood, matrix, squares, meeting)

    def under(self, model: LinearFactors) -> Factors:
        """The same data with the parameters that the model has now."""
        return replace(self, chains=model.normal_prior()[1].detach())

    @cached_property
    def size(self) -> int:
        """Number of distinct rows."""
        return self.design.num_rows

    def predictor(self, states: Tensor) -> Tensor:
        """A s, shape (R,)."""
        return torch.from_numpy(self.matrix @ states.numpy())

    def gather(self, of_rows: Tensor) -> Tensor:
        """Aᵀ y, shape (N,)."""
        return torch.from_numpy(self.matrix.T @ of_rows.numpy())

    def gather_squares(self, of_rows: Tensor) -> Tensor:
        """(A∘A)ᵀ y, shape (N,)."""
        return torch.from_numpy(self.squares.T @ of_rows.numpy())

    def predictor_variance(self, variance: Tensor) -> Tensor:
        """(A∘A) v of independent states, shape (R,)."""
        return torch.from_numpy(self.squares @ variance.numpy())

    def expect(self, predictor: Tensor, variance: Tensor, rule: Tensor) -> Expected:
        """Integrate every row's ℓ over N(predictor, variance).

        The curvature is E[x ℓ′]/sd by Stein's lemma: slope and curvature are then derivatives of the
        quadrature's own ELBO, to rounding, at any number of nodes, and ℓ need be differentiable only once.
        """
        nodes, weights = rule
        count = self.design.count
        least = LEAST_SD**2 * float(variance.max()) or LEAST_SD**2
        slope, curvature, values = torch.empty_like(predictor), torch.empty_like(predictor), []
        for here, observed in self._chunks(len(nodes)):
            spread = variance[here].clamp_min(least).sqrt()
            with torch.enable_grad():
                at = torch.addcmul(predictor[here], nodes[:, None], spread).requires_grad_()
                likelihood = self.log_likelihood(at, *observed)
                (derivative,) = torch.autograd.grad(likelihood.sum(), at)
            value = weights @ likelihood.detach()
            values.append(float(value.sum() if count is None else value @ count[here]))
            slope[here] = weights @ derivative
            curvature[here] = (weights * nodes) @ derivative / spread
        if count is not None:
            slope *= count
            curvature *= count
        return Expected(math.fsum(values), slope, curvature)

    def expected_likelihood(self, predictor: Tensor, variance: Tensor, rule: Tensor) -> Iterator[Tensor]:
        """Σ_r c_r E[ℓ(d_r)] chunk by chunk, differentiable in the model's parameters."""
        nodes, weights = rule
        sd = variance.clamp_min(0).sqrt()
        for here, observed in self._chunks(len(nodes)):
            at = torch.addcmul(predictor[here], nodes[:, None], sd[here])
            value = weights @ self.log_likelihood(at, *observed)
            yield value.sum() if self.design.count is None else value @ self.design.count[here]

    def _chunks(self, num_nodes: int) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        size = max(1, CHUNK // num_nodes)
        for start in range(0, self.size, size):
            here = slice(start, min(start + size, self.size))
            yield here, tuple(part[here] for part in self.design.observed)


def meeting_of(design: Design, chains: Chains) -> tuple[int, list[int]] | None:
    """The first row that reads two states of one chain, and its states; None where none does."""
    offsets = torch.tensor(chains.rounds)
    chain, there = design.column.cpu(), design.value.detach().cpu() != 0
    if len(offsets) > 2:
        chain = chain - offsets[torch.searchsorted(offsets, chain, right=True) - 1]
    if width := design.width:
        # What weighs nothing, as entries that fill a row up, is not read.
        chain = torch.where(there, chain, -1).reshape(-1, width)
        twice = torch.zeros(design.num_rows, dtype=torch.bool)
        for first, second in combinations(chain.unbind(1), 2):
            twice |= (first == second) & (first >= 0)
        found = twice.nonzero()[:1, 0].tolist()
    else:
        rows = torch.repeat_interleave(torch.arange(design.num_rows), design.pointer.cpu().diff())
        codes = (rows * chains.num_chains + chain)[there].sort().values
        again = codes[1:][codes[1:] == codes[:-1]]
        found = (again[:1] // chains.num_chains).tolist()
    if not found:
        return None
    start, end = design.pointer[found[0] : found[0] + 2].tolist()
    return found[0], design.column[start:end].tolist()


def _plain(design: Design) -> Design:
    """On the CPU, its floats in float64, and as small as it goes."""
    pointer, column = design.pointer.cpu(), design.column.cpu()
    if len(column) < 2**31:  # then SciPy's matrix has the same memory
        pointer, column = pointer.int(), column.int()
    value = design.value.detach().cpu().double()
    observed = tuple(
        part.detach().cpu().double() if part.is_floating_point() else part.detach().cpu()
        for part in design.observed
    )
    count = None if design.count is None else design.count.detach().cpu().double()
    return Design(pointer, column, value.contiguous(), observed, count)
