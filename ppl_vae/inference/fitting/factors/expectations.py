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
from ppl_vae.guides.joint_normal import links_of
from ppl_vae.program.block_tridiagonal import Blocks, blocks_of
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from ppl_vae.program.factors import LinearFactors
from ppl_vae.program.products import OfRows, Products, products_of

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
        products: of A.
        meeting: the first row of the data that reads two states of one chain, and its states.
    """

    site: str
    chains: Chains
    design: Design
    log_likelihood: Callable[..., Tensor]
    products: Products
    meeting: tuple[int, list[int]] | None

    @classmethod
    def of(cls, model: LinearFactors, *data: Any) -> Factors:
        """Read a model.

        Raises:
            InputError: for a design matrix that does not fit the prior, or sees no data.
        """
        site, prior = model.normal_prior()
        chains, design = prior.detach(), model.rows(*data)
        design.check(chains.num_states)
        if not design.num_rows:
            raise InputError("the design matrix has no rows: there are no data to fit")
        meeting = meeting_of(design, chains)
        design = _plain(design.merged())
        products = products_of(design, chains.num_states)
        return cls(site, chains, design, model.log_likelihood, products, meeting)

    def under(self, model: LinearFactors) -> Factors:
        """The same data with the parameters that the model has now."""
        return replace(self, chains=model.normal_prior()[1].detach())

    @cached_property
    def size(self) -> int:
        """Number of distinct rows."""
        return self.design.num_rows

    @cached_property
    def blocks(self) -> Blocks | None:
        """An order in which the precision of all states is sparse; None where there is none."""
        return blocks_of(links_of(self.chains, self.design))

    def predictor(self, states: Tensor) -> OfRows:
        """A s, shape (R,)."""
        return self.products.times(states)

    def gather(self, of_rows: Tensor) -> Tensor:
        """Aᵀ y, shape (N,)."""
        return self.products.gathered(of_rows)

    def gather_squares(self, of_rows: Tensor) -> Tensor:
        """(A∘A)ᵀ y, shape (N,)."""
        return self.products.gathered(of_rows, squared=True)

    def curved(self, of_rows: Tensor, states: Tensor) -> Tensor:
        """Aᵀ diag(y) A s, shape (N,)."""
        return self.products.curved(of_rows, states)

    def predictor_variance(self, variance: Tensor) -> OfRows:
        """(A∘A) v of independent states, shape (R,)."""
        return self.products.times(variance, squared=True)

    def expect(self, predictor: OfRows, variance: OfRows, rule: Tensor) -> Expected:
        """Integrate every row's ℓ over N(predictor, variance).

        The curvature is E[x ℓ′]/sd by Stein's lemma: slope and curvature are then derivatives of the
        quadrature's own ELBO, to rounding, at any number of nodes, and ℓ need be differentiable only once.
        """
        nodes, weights = rule
        count = self.design.count
        least = LEAST_SD**2 * float(variance.max()) or LEAST_SD**2
        slope, curvature, values = rule.new_empty(self.size), rule.new_empty(self.size), []
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

    def expected_likelihood(self, predictor: OfRows, variance: OfRows, rule: Tensor) -> Iterator[Tensor]:
        """Σ_r c_r E[ℓ(d_r)] chunk by chunk, differentiable in the model's parameters."""
        nodes, weights = rule
        for here, observed in self._chunks(len(nodes)):
            sd = variance[here].clamp_min(0).sqrt()
            at = torch.addcmul(predictor[here], nodes[:, None], sd)
            value = weights @ self.log_likelihood(at, *observed)
            yield value.sum() if self.design.count is None else value @ self.design.count[here]

    def _chunks(self, num_nodes: int) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        size = max(1, CHUNK // num_nodes)
        for start in range(0, self.size, size):
            here = slice(start, min(start + size, self.size))
            yield here, tuple(part[here] for part in self.design.observed)


def meeting_of(design: Design, chains: Chains) -> tuple[int, list[int]] | None:
    """The first row that reads two states of one chain, and its states; None where none does."""
    if width := design.width:
        found = _meeting_in_even(design, chains, width)
    else:
        chain, there = _chain_of(design.column.cpu(), chains), design.value.detach().cpu() != 0
        rows = torch.repeat_interleave(torch.arange(design.num_rows), design.pointer.cpu().diff())
        codes = (rows * chains.num_chains + chain)[there].sort().values
        again = codes[1:][codes[1:] == codes[:-1]]
        found = (again[:1] // chains.num_chains).tolist()
    if not found:
        return None
    start, end = design.pointer[found[0] : found[0] + 2].tolist()
    return found[0], design.column[start:end].tolist()


def _meeting_in_even(design: Design, chains: Chains, width: int) -> list[int]:
    """The first such row of a matrix whose rows have the same number of entries; in blocks, for memory."""
    columns, values = design.column.reshape(-1, width), design.values.detach().reshape(-1, width)
    for start in range(0, len(columns), CHUNK):
        here = slice(start, start + CHUNK)
        chain = _chain_of(columns[here].cpu(), chains)
        # What weighs nothing, as entries that fill a row up, is not read.
        there = (values if design.rows_are_alike else values[here]).cpu() != 0
        chain = torch.where(there, chain, -1)
        twice = torch.zeros(len(chain), dtype=torch.bool)
        for first, second in combinations(chain.unbind(1), 2):
            twice |= (first == second) & (first >= 0)
        if found := twice.nonzero()[:1, 0].tolist():
            return [start + found[0]]
    return []


def _chain_of(column: Tensor, chains: Chains) -> Tensor:
    """The chain of each state, numbered by its first state."""
    if len(chains.rounds) <= 2:
        return column
    offsets = torch.tensor(chains.rounds)
    return column - offsets[torch.searchsorted(offsets, column, right=True) - 1]


def _plain(design: Design) -> Design:
    """On the CPU, its floats in float64, and as small as it goes."""
    ends, column = design.ends, design.column.cpu()
    small = len(column) < 2**31  # then SciPy's matrix has the same memory
    if isinstance(ends, Tensor):
        ends = ends.cpu().int() if small else ends.cpu()
    values = design.values.detach().cpu().double()
    observed = tuple(
        part.detach().cpu().double() if part.is_floating_point() else part.detach().cpu()
        for part in design.observed
    )
    count = None if design.count is None else design.count.detach().cpu().double()
    return Design(ends, column.int() if small else column, values.contiguous(), observed, count)
