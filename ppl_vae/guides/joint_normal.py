"""A Gaussian guide over all states at once, with as many parameters as there are states and rows of data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyro
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae.base.errors import InputError
from ppl_vae.guides.chain_normal import chains_of
from ppl_vae.program.block_tridiagonal import Blocks, Eliminated, blocks_of
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from ppl_vae.program.factors import RankingFactors
from ppl_vae.program.pair import Program
from ppl_vae.program.pairwise import as_linear
from ppl_vae.program.program_names import name_of
from ppl_vae.program.solving import conjugate_gradients

__all__ = ["MOST_DENSE", "JointNormal", "SparsePrecision", "links_of", "rows_of", "sparse_precision"]

# States up to which the precision is factored as a dense matrix, and its density known.
MOST_DENSE = 4000
# Of a draw's residual, what is left over where its system is solved by conjugate gradients.
DRAWN_TOLERANCE = 1e-8
ONE_DRAW = torch.Size()


def links_of(chains: Chains, design: Design) -> Any:
    """Which entries of P + Aᵀ diag(w) A are not zero whatever w, as a CSR array of SciPy's of ones."""
    matrix = design.csr(chains.num_states).copy()  # which shares no memory with the design
    matrix.eliminate_zeros()
    matrix.data[:] = 1.0
    like = torch.ones_like(chains.mean)
    links = (matrix.T @ matrix + abs(_chain_precision(Chains(like, like, like, chains.rounds)))).tocsr()
    links.data[:] = 1.0
    return links


def sparse_precision(chains: Chains, design: Design, weight: Tensor) -> Any:
    """P + Aᵀ diag(w) A, as a CSR array of SciPy's."""
    matrix = design.csr(chains.num_states)
    scaled = matrix.copy()
    scaled.data *= np.repeat(weight.numpy(force=True), np.diff(matrix.indptr))
    return (matrix.T @ scaled + _chain_precision(chains)).tocsr()


def _chain_precision(chains: Chains) -> Any:
    from scipy.sparse import coo_array

    first, size = chains.num_chains, chains.num_states
    phi, variance = (part.detach().numpy(force=True) for part in (chains.transition, chains.variance))
    states, before = np.arange(size), chains.previous.numpy(force=True)
    ratio = phi[first:] / variance[first:]
    rows = np.concatenate([states, before, states[first:], before])
    columns = np.concatenate([states, before, before, states[first:]])
    values = np.concatenate([1 / variance, ratio * phi[first:], -ratio, -ratio])
    return coo_array((values, (rows, columns)), shape=(size, size)).tocsr()


class SparsePrecision(TorchDistribution):  # type: ignore[misc]
    """N(loc, (P + Aᵀ diag(w) A)⁻¹) as one vector, event shape (N,).

    Of at most 4,000 states the precision is factored as a dense matrix. Of more it is eliminated block by
    block where its links allow, without gradients. Elsewhere draws solve a sparse system each (perturb and
    solve: the right-hand side has the precision for its covariance), and the density is not known.

    Source: Papandreou and Yuille, "Gaussian sampling by local perturbations", NIPS 2010.

    Args:
        loc: the mean, shape (N,).
        chains: the prior, of precision P.
        design: A.
        weight: w, not negative, shape (R,).
        blocks: an order of the states in which the precision is sparse, of more than 4,000.
    """

    arg_constraints: Mapping[str, Any] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        chains: Chains,
        design: Design,
        weight: Tensor,
        batch_shape: torch.Size = ONE_DRAW,
        blocks: Blocks | None = None,
    ) -> None:
        self.loc, self.chains, self.design, self.weight = loc, chains, design, weight
        self.blocks = blocks
        super().__init__(torch.Size(batch_shape), loc.shape[-1:], validate_args=False)

    @cached_property
    def root(self) -> Tensor:
        """The lower Cholesky factor of the precision, shape (N, N).

        Raises:
            InputError: beyond 4,000 states.
        """
        size = self.chains.num_states
        if size > MOST_DENSE:
            raise InputError(
                f"the density of a joint guide of {size:,} states is not known: it takes a dense matrix, "
                f"which serves up to {MOST_DENSE:,}; its draws are"
            )
        gram = self.design.gram(self.weight, size)
        return torch.linalg.cholesky(self.chains.dense_precision() + gram)

    @property
    def mean(self) -> Tensor:
        """Of batch and event shape."""
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def covariance_matrix(self) -> Tensor:
        """Shape (N, N), of at most 4,000 states."""
        return torch.cholesky_inverse(self.root)

    @property
    def variance(self) -> Tensor:
        """Of batch and event shape, of at most 4,000 states."""
        return self.covariance_matrix.diagonal().expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> SparsePrecision:
        """The same for a larger batch."""
        found = SparsePrecision(self.loc, self.chains, self.design, self.weight, batch_shape, self.blocks)
        for name in ("root", "eliminated"):
            if name in self.__dict__:
                found.__dict__[name] = self.__dict__[name]
        return found

    def rsample(self, sample_shape: torch.Size = ONE_DRAW) -> Tensor:
        """Draws, of shape (*sample, *batch, N)."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        if self.chains.num_states > MOST_DENSE:
            with torch.no_grad():
                columns = noise.reshape(-1, shape[-1])
                if self.eliminated is not None:
                    rows = self.eliminated.sample(columns.T.cpu().double()).T.to(noise)
                else:
                    rows = torch.stack([self._perturbed(own) for own in columns])
            return self.loc + rows.reshape(shape)
        flat = noise.reshape(-1, shape[-1]).T
        solved = torch.linalg.solve_triangular(self.root.T, flat, upper=True)
        return self.loc + solved.T.reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of shape (*batch); of more than 4,000 states where blocks serve, and without gradients.

        Raises:
            InputError: where it is not known, or its gradients are asked for.
        """
        if self.chains.num_states > MOST_DENSE:
            return self._sparse_log_prob(value)
        squares = ((value - self.loc) @ self.root).square().sum(-1)
        volume = self.root.diagonal().log().sum() - 0.5 * len(self.root) * math.log(2 * math.pi)
        found = volume - 0.5 * squares
        return found.expand(np.broadcast_shapes(found.shape, self.batch_shape))

    @cached_property
    def eliminated(self) -> Eliminated | None:
        """The precision, block by block; None where there are no blocks."""
        if self.blocks is None:
            return None
        return self.blocks.eliminate(sparse_precision(self.chains, self.design, self.weight))

    def _sparse_log_prob(self, value: Tensor) -> Tensor:
        size = self.chains.num_states
        if self.eliminated is None:
            raise InputError(
                f"the density of a joint guide of {size:,} states is not known: no order leaves its "
                f"precision sparse, and a dense matrix serves up to {MOST_DENSE:,}; its draws are known"
            )
        if torch.is_grad_enabled() and self.weight.requires_grad:
            raise InputError(
                f"a joint guide of {size:,} states has no gradients, which SVI needs; natural gradients and "
                "expectation propagation do without"
            )
        away = (value - self.loc).detach()
        seen = away.reshape(-1, size).cpu().double().numpy() @ self._matrix.T
        told = torch.from_numpy(seen**2 @ self.weight.numpy(force=True)).reshape(away.shape[:-1])
        squares = (away * self.chains.precision_times(away)).sum(-1) + told.to(away)
        found = 0.5 * (self.eliminated.log_det.to(away) - size * math.log(2 * math.pi) - squares)
        return found.expand(np.broadcast_shapes(found.shape, self.batch_shape))

    def _perturbed(self, noise: Tensor) -> Tensor:
        """Λ⁻¹ of a vector whose covariance is Λ."""
        matrix, weight = self._matrix, self.weight.detach()
        own = torch.randn(len(weight), dtype=noise.dtype, device=noise.device)

        def gather(of_rows: Tensor) -> Tensor:
            return torch.from_numpy(matrix.T @ of_rows.numpy(force=True)).to(noise)

        def times(x: Tensor) -> Tensor:
            seen = torch.from_numpy(matrix @ x.numpy(force=True)).to(noise)
            return self.chains.precision_times(x) + gather(weight * seen)

        right = self.chains.precision_root(noise) + gather(weight.sqrt() * own)
        return conjugate_gradients(times, right, self._solver.solve, DRAWN_TOLERANCE, 10_000)

    @cached_property
    def _matrix(self) -> Any:
        return self.design.csr(self.chains.num_states)

    @cached_property
    def _solver(self) -> Any:
        """Of the precision, what concerns every chain alone."""
        matrix = self._matrix
        squares = (matrix.multiply(matrix)).T @ self.weight.detach().numpy(force=True)
        return self.chains.smoother(torch.from_numpy(squares).to(self.loc), plain=True)


def rows_of(model: Any, *data: Any) -> Design:
    """What a model's data see of its states: predictors, or of rankings the differences of a game's sides.

    Raises:
        InputError: for another model, and games of so many sides that their pairs are too many.
    """
    if isinstance(model, RankingFactors) and (ranked := model.rankings(*data)) is not None:
        design, sizes = ranked
        return design.contrasts(sizes, chains_of(model)[1].num_states)[0]
    linear = as_linear(model)
    if linear is None:
        raise InputError(f"{name_of(model)} has neither rankings nor linear factors for these data")
    return linear.rows(*data)


class JointNormal(PyroModule):  # type: ignore[misc]
    """N(m, (P + Aᵀ diag(w) A)⁻¹) over the states of a model's chains, with P their prior's precision.

    The best Gaussian of all has a precision of this form, for any likelihood of linear predictors A s: what
    the data say of a row's predictor is a Gaussian factor of precision w. It is the answer that full-rank
    gives, with R instead of N²/2 parameters. P follows the model's parameters, which have no gradients here;
    A is that of the data with which the guide runs first, equal rows merged. Rankings depend on differences
    of their sides alone: their rows are those of all pairs of sides.

    Source: Opper and Archambeau, "The Variational Gaussian Approximation Revisited", *Neural Computation* 21
    (2009), equation 12.

    Args:
        model: with the ability `LinearFactors` or `RankingFactors`, and a `ChainPrior`.
        init_weight: w at the start.

    Attributes:
        loc: m, shape (N,), at first the prior's mean.
        weight: w, positive, shape (R,); made with the first data.

    Raises:
        InputError: for another model.
    """

    def __init__(self, model: Program, *, init_weight: float = 1e-3) -> None:
        super().__init__()
        self._plain, self.init_weight = (model,), init_weight
        _, chains = chains_of(model)
        self.loc = nn.Parameter(chains.mean.clone())
        self._design: Design | None = None
        self._blocks: Blocks | None = None
        self._has_looked = False

    def design(self, *data: Any) -> Design:
        """A, read off the first data; the same for any others, and for none.

        Raises:
            InputError: for none before there were any.
        """
        if self._design is None:
            if not data:
                raise InputError("the joint guide has seen no data yet")
            merged = rows_of(self._plain[0], *data).merged()
            like = self.loc
            self._design = Design(merged.ends, merged.column, merged.values.detach().to(like))
            weight = torch.full((merged.num_rows,), self.init_weight).to(like)
            self.weight = PyroParam(weight, constraints.positive)
        return self._design

    def posterior(self, *data: Any) -> tuple[str, SparsePrecision]:
        """The site and its distribution."""
        site, chains = chains_of(self._plain[0])
        design = self.design(*data)
        if chains.num_states > MOST_DENSE and not self._has_looked:
            self._blocks, self._has_looked = blocks_of(links_of(chains, design)), True
        return site, SparsePrecision(self.loc, chains, design, self.weight, blocks=self._blocks)

    def forward(self, *data: Any) -> Tensor:
        """The Pyro program."""
        site, posterior = self.posterior(*data)
        drawn: Tensor = pyro.sample(site, posterior)
        return drawn
