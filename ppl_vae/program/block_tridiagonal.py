"""Sparse precision matrices that a good order makes block tridiagonal, but for a few rows: solved exactly.

States of players who meet again and again, as in a league, are linked to states of about the same time. In
the order of Cuthill and McKee links reach over few rows; blocks of that size have links to their neighbours
alone, and are eliminated one after another as in Kalman's filter and smoother. What all games share, such as
the advantage of the side at home, is left out of the order and bordered.

Sources: Cuthill and McKee, "Reducing the bandwidth of sparse symmetric matrices" (1969); Rue and Held,
*Gaussian Markov Random Fields* (2005), section 2.4; Takahashi, Fagan and Chen (1973), for the covariances of
what is linked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Blocks", "Eliminated", "blocks_of"]

# Numbers of all blocks that are held: a quarter of a gigabyte, twice.
MOST_NUMBERS = 2**25
# Rows linked to more others than this, or than this part of all, are bordered; and how many may be.
HUB, HUB_PART, MOST_HUBS = 400, 0.02, 64
# Rows of a block at least: smaller ones cost more calls than they save arithmetic.
LEAST_ROWS = 48


@dataclass(frozen=True, eq=False)
class Blocks:
    """An order of states in which links are between neighbouring blocks, and the states that are bordered.

    Attributes:
        order: the other states as they are eliminated, shape (N − hubs,).
        starts: where each block begins, and at last N − hubs.
        hubs: the bordered states, shape (hubs,).
    """

    order: np.ndarray
    starts: np.ndarray
    hubs: np.ndarray

    @cached_property
    def sizes(self) -> np.ndarray:
        """Rows of every block."""
        return np.diff(self.starts)

    @cached_property
    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Where blocks of the diagonal and those beside it begin, in one vector of all their numbers."""
        size = self.sizes
        beside = np.append(size[:-1] * size[1:], 0)
        ends = np.cumsum(size**2 + beside)
        begin = ends - size**2 - beside
        return begin, begin + size**2

    @cached_property
    def place(self) -> np.ndarray:
        """The position of every state in the order; of hubs, −1 less their number, shape (N,)."""
        found = np.empty(len(self.order) + len(self.hubs), dtype=np.int64)
        found[self.order] = np.arange(len(self.order))
        found[self.hubs] = -1 - np.arange(len(self.hubs))
        return found

    def eliminate(self, precision: Any) -> Eliminated | None:
        """Factor a sparse matrix with these links, in SciPy's CSR format; None where it is not positive
        definite."""
        ordered = precision[self.order][:, self.order].tocsr()
        border = torch.from_numpy(precision[self.order][:, self.hubs].toarray())
        roots: list[Tensor] = []
        gains: list[Tensor] = []
        known = torch.zeros((), dtype=torch.float64)
        for start, end, last in zip(self.starts, self.starts[1:], [*self.starts[2:], None], strict=False):
            rows = ordered[start:end]
            root, info = torch.linalg.cholesky_ex(torch.from_numpy(rows[:, start:end].toarray()) - known)
            if int(info):
                return None
            roots.append(root)
            if last is not None:
                beside = torch.from_numpy(rows[:, end:last].toarray())
                gains.append(torch.cholesky_solve(beside, root))
                known = beside.T @ gains[-1]
        found = Eliminated(self, roots, gains, border, torch.zeros(0, 0).double())
        corner = torch.from_numpy(precision[self.hubs][:, self.hubs].toarray())
        root, info = torch.linalg.cholesky_ex(corner - border.T @ found.answered)
        return None if int(info) else Eliminated(self, roots, gains, border, root)


@dataclass(frozen=True, eq=False)
class Eliminated:
    """A factored precision matrix Λ.

    Attributes:
        blocks: its order.
        roots: lower Cholesky factors of the blocks, given those before.
        gains: what the next block's states move a block's by, with their sign changed.
        border: Λ's columns of the hubs, in the order.
        corner: the lower Cholesky factor of the hubs' own precision, all other states unknown.
    """

    blocks: Blocks
    roots: list[Tensor]
    gains: list[Tensor]
    border: Tensor
    corner: Tensor

    @cached_property
    def answered(self) -> Tensor:
        """The ordered part's inverse times the border."""
        return self._solve_ordered(self.border)

    @property
    def log_det(self) -> Tensor:
        """log |Λ|, a scalar."""
        parts = [root.diagonal().log().sum() for root in (*self.roots, self.corner)]
        return 2 * torch.stack(parts).sum()

    def solve(self, right: Tensor) -> Tensor:
        """Λ⁻¹ b for b (N,) or (N, S)."""
        return self._placed(*self._solved(*self._parts(right)), right.shape)

    def sample(self, noise: Tensor) -> Tensor:
        """What independent N(0, 1), (N,) or (N, S), become with the covariance Λ⁻¹ along the first."""
        ordered, hubs = self._parts(noise)
        own = torch.linalg.solve_triangular(self.corner.T, hubs, upper=True)
        return self._placed(self._back(self._rooted(ordered)) - self.answered @ own, own, noise.shape)

    def covariance(self, first: Tensor, second: Tensor) -> Tensor:
        """Of pairs of states that are the same, linked, or in the same or neighbouring blocks, shape (…)."""
        at, to = (torch.from_numpy(self.blocks.place)[part] for part in (first, second))
        one, other = torch.maximum(at, to), torch.minimum(at, to)
        # A hub has a negative place: the smaller of the two, if it is but one.
        hub_one, hub_other = one < 0, other < 0
        found = torch.zeros(one.shape, dtype=torch.float64)
        inside = ~hub_other
        found[inside] = self._within(other[inside], one[inside])
        if len(self.blocks.hubs):
            inverse = torch.cholesky_inverse(self.corner)
            pull = self.answered @ inverse
            found[inside] += (pull[one[inside]] * self.answered[other[inside]]).sum(-1)
            mixed = hub_other & ~hub_one
            found[mixed] = -pull[one[mixed], -1 - other[mixed]]
            found[hub_one] = inverse[-1 - one[hub_one], -1 - other[hub_one]]
        return found

    def _within(self, low: Tensor, high: Tensor) -> Tensor:
        """Covariances of the ordered part alone, of places that do not fall."""
        starts = torch.from_numpy(self.blocks.starts)
        sizes, offsets = torch.from_numpy(self.blocks.sizes), self.blocks.offsets
        block, other = (torch.searchsorted(starts, part, right=True) - 1 for part in (low, high))
        own, beside = (torch.from_numpy(part)[block] for part in offsets)
        begin = torch.where(block == other, own, beside)
        row, column = low - starts[block], high - starts[other]
        return self._covariances[begin + row * sizes[other] + column]

    @cached_property
    def _covariances(self) -> Tensor:
        """Covariances of the ordered part, of blocks and of blocks with the next, one after another."""
        begin, beside = self.blocks.offsets
        sizes = self.blocks.sizes
        found = torch.empty(int(beside[-1]), dtype=torch.float64)
        own = torch.zeros(0, 0, dtype=torch.float64)
        for k in reversed(range(len(sizes))):
            later, own = own, torch.cholesky_inverse(self.roots[k])
            if k < len(self.gains):
                pulled = self.gains[k] @ later
                own = own + pulled @ self.gains[k].T
                found[beside[k] : beside[k] + pulled.numel()] = -pulled.reshape(-1)
            found[begin[k] : begin[k] + own.numel()] = own.reshape(-1)
        return found

    def _solved(self, ordered: Tensor, hubs: Tensor) -> tuple[Tensor, Tensor]:
        own = torch.cholesky_solve(hubs - self.answered.T @ ordered, self.corner)
        return self._solve_ordered(ordered) - self.answered @ own, own

    def _solve_ordered(self, right: Tensor) -> Tensor:
        parts = self._split(right)
        for k, gain in enumerate(self.gains):
            parts[k + 1] = parts[k + 1] - gain.T @ parts[k]
        solved = [torch.cholesky_solve(part, root) for part, root in zip(parts, self.roots, strict=True)]
        return self._back(torch.cat(solved))

    def _rooted(self, noise: Tensor) -> Tensor:
        parts = zip(self._split(noise), self.roots, strict=True)
        return torch.cat([torch.linalg.solve_triangular(root.T, part, upper=True) for part, root in parts])

    def _back(self, solved: Tensor) -> Tensor:
        """From the last block to the first: each by itself, and what it has of the next."""
        parts = self._split(solved)
        for k in reversed(range(len(self.gains))):
            parts[k] = parts[k] - self.gains[k] @ parts[k + 1]
        return torch.cat(parts)

    def _split(self, values: Tensor) -> list[Tensor]:
        return list(values.split(self.blocks.sizes.tolist()))

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor]:
        columns = values.reshape(len(values), -1)
        return columns[self.blocks.order], columns[self.blocks.hubs]

    def _placed(self, ordered: Tensor, hubs: Tensor, shape: torch.Size) -> Tensor:
        found = ordered.new_empty(len(self.blocks.place), ordered.shape[1])
        found[self.blocks.order], found[self.blocks.hubs] = ordered, hubs
        return found.reshape(shape)


def blocks_of(links: Any) -> Blocks | None:
    """An order for a symmetric sparse matrix of these links; None where its blocks would be too large.

    Args:
        links: SciPy's CSR array, shape (N, N), with an entry wherever the matrix has one.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    degree = np.diff(links.indptr)
    is_hub = degree > max(HUB, HUB_PART * len(degree))
    hubs, others = np.flatnonzero(is_hub), np.flatnonzero(~is_hub)
    if len(hubs) > MOST_HUBS:
        return None
    inner = csr_matrix(links[others][:, others])
    order = reverse_cuthill_mckee(inner, symmetric_mode=True)
    starts = np.fromiter(_starts(inner[order][:, order].tocsr()), dtype=np.int64)
    found = Blocks(others[order], starts, hubs)
    return found if int(found.offsets[1][-1]) <= MOST_NUMBERS else None


def _starts(links: Any) -> Iterator[int]:
    """Where blocks begin of which every row is linked to its own and the next block alone."""
    size = links.shape[0]
    reach = np.maximum(np.maximum.reduceat(np.append(links.indices, 0), links.indptr[:-1]), np.arange(size))
    reach = np.maximum.accumulate(reach)
    start, end = 0, min(size, LEAST_ROWS)
    while start < size:
        yield start
        start, end = end, min(size, max(int(reach[end - 1]) + 1, end + LEAST_ROWS))
    yield size
