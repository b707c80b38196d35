"""Products of a sparse design matrix with states and with numbers of its rows, in bounded memory.

SciPy's CSR matrix needs a value of every entry and another matrix for the squares, and makes whole products.
Where all rows have the same number of entries, the positions alone do: products are made of blocks of rows,
which a caller can take one at a time, and values that all rows have alike are kept once. Sums are in SciPy's
order, so that the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ppl_vae.program.design import Design

__all__ = ["EvenProducts", "OfRows", "Products", "RaggedProducts", "products_of"]

# Rows at once, so that a block stays within a core's cache.
BLOCK = 2**14


class OfRows(Protocol):
    """A number of every row, in memory or made when it is asked for."""

    def __getitem__(self, rows: slice) -> Tensor:
        """Those of some rows."""
        ...

    def max(self) -> Tensor:
        """The largest."""
        ...


class Products(Protocol):
    """Products of A with itself left alone or squared, entry by entry; all in float64 on the CPU."""

    def times(self, states: Tensor, *, squared: bool = False) -> OfRows:
        """A s for s (N,), of shape (R,)."""
        ...

    def gathered(self, of_rows: Tensor, *, squared: bool = False) -> Tensor:
        """Aᵀ y for y (R,), shape (N,)."""
        ...

    def curved(self, of_rows: Tensor, states: Tensor) -> Tensor:
        """Aᵀ diag(y) A s, shape (N,)."""
        ...


def products_of(design: Design, num_states: int) -> Products:
    """The products of a matrix."""
    if isinstance(design.ends, int):
        return EvenProducts(num_states, design.ends, design.column, design.values)
    return RaggedProducts.of(design, num_states)


@dataclass(frozen=True, eq=False)
class EvenProducts:
    """Of a matrix whose rows have the same number of entries.

    Attributes:
        num_states: N.
        width: the number K of entries of a row.
        column, values: see `Design`.
    """

    num_states: int
    width: int
    column: Tensor
    values: Tensor

    def times(self, states: Tensor, *, squared: bool = False) -> OfRows:
        """See `Products`."""
        return _Times(self, states, squared)

    def gathered(self, of_rows: Tensor, *, squared: bool = False) -> Tensor:
        """See `Products`."""
        found = of_rows.new_zeros(self.num_states)
        for here in _blocks(len(of_rows)):
            self._add(found, here, of_rows[here], squared)
        return found

    def curved(self, of_rows: Tensor, states: Tensor) -> Tensor:
        """See `Products`."""
        found = torch.zeros_like(states)
        for here in _blocks(len(of_rows)):
            self._add(found, here, of_rows[here] * self.of(states, here), False)
        return found

    def of(self, states: Tensor, rows: slice, squared: bool = False) -> Tensor:
        """A s of some rows: entries are summed from the first to the last."""
        entries = states.index_select(0, self.column[self._entries(rows)]).view(-1, self.width)
        values = self._values(rows, squared)
        found = entries[:, 0] * values[..., 0]
        for k in range(1, self.width):
            found += entries[:, k] * values[..., k]
        return found

    def _add(self, found: Tensor, rows: slice, of_rows: Tensor, squared: bool) -> None:
        entries = (of_rows[:, None] * self._values(rows, squared)).view(-1)
        found.index_add_(0, self.column[self._entries(rows)], entries)

    def _entries(self, rows: slice) -> slice:
        return slice(rows.start * self.width, rows.stop * self.width)

    def _values(self, rows: slice, squared: bool) -> Tensor:
        """Shape (rows, K), or (1, K) for all."""
        values = self.values if len(self.values) == self.width else self.values[self._entries(rows)]
        return (values**2 if squared else values).view(-1, self.width)


@dataclass(frozen=True, eq=False)
class _Times:
    """A s, made when it is asked for."""

    products: EvenProducts
    states: Tensor
    squared: bool

    def __getitem__(self, rows: slice) -> Tensor:
        return self.products.of(self.states, rows, self.squared)

    def max(self) -> Tensor:
        """The largest."""
        num_rows = len(self.products.column) // self.products.width
        return torch.stack([self[here].max() for here in _blocks(num_rows)]).max()


@dataclass(frozen=True, eq=False)
class RaggedProducts:
    """Of any matrix, by SciPy.

    Attributes:
        matrix, squares: A and A∘A as SciPy's CSR arrays, which share their pattern.
    """

    matrix: Any
    squares: Any

    @classmethod
    def of(cls, design: Design, num_states: int) -> RaggedProducts:
        """Of a design matrix."""
        from scipy.sparse import csr_array

        matrix = design.csr(num_states)
        squares = csr_array((matrix.data**2, matrix.indices, matrix.indptr), shape=matrix.shape)
        return cls(matrix, squares)

    def times(self, states: Tensor, *, squared: bool = False) -> OfRows:
        """See `Products`."""
        return torch.from_numpy((self.squares if squared else self.matrix) @ states.numpy())

    def gathered(self, of_rows: Tensor, *, squared: bool = False) -> Tensor:
        """See `Products`."""
        return torch.from_numpy((self.squares if squared else self.matrix).T @ of_rows.numpy())

    def curved(self, of_rows: Tensor, states: Tensor) -> Tensor:
        """See `Products`."""
        return torch.from_numpy(self.matrix.T @ (of_rows.numpy() * (self.matrix @ states.numpy())))


def _blocks(num_rows: int) -> Iterator[slice]:
    for start in range(0, num_rows, BLOCK):
        yield slice(start, min(start + BLOCK, num_rows))
