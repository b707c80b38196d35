"""Sparse design matrices: what data see of a Gaussian latent vector, a linear predictor a row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError

__all__ = ["Design"]

# Entries a row up to which equal rows are looked for; longer rows seldom are.
MOST_ENTRIES = 8
# An odd number whose multiples mix all bits (Steele and Vigna 2022), modulo 2^64.
MIXING = np.uint64(0xD1342543DE82EF95)
COLUMN_BITS = 24
# Rows that are worked on at once: bounds the memory.
BLOCK = 2**16
# Pairs of rows of all groups together.
MOST_PAIRS = 2**22


@dataclass(frozen=True, eq=False)
class Design:
    """A sparse matrix A of R rows in CSR form, with what is observed of every row.

    Of ten million games, positions and values that all rows have alike would take most of the memory: both
    may be given once for all rows.

    Attributes:
        ends: row r has the entries ``ends[r] : ends[r + 1]``, shape (R + 1,); or the number K of entries that
            every row has.
        column: of every entry, integers of shape (E,).
        values: of every entry, shape (E,); or of the K entries of every row, shape (K,).
        observed: what a row's log likelihood takes beside its predictor, each of shape (R, ...).
        count: how many times the row's log likelihood counts, not negative, shape (R,); None for once.
    """

    ends: Tensor | int
    column: Tensor
    values: Tensor
    observed: tuple[Tensor, ...] = ()
    count: Tensor | None = None

    @classmethod
    def of_entries(
        cls, column: Tensor, value: Tensor, *observed: Tensor, count: Tensor | None = None
    ) -> Design:
        """A matrix with the same number of entries in every row.

        Args:
            column: shape (R, K).
            value: shape (R, K), or what can be expanded to it.
            observed, count: of the rows.
        """
        rows, each = column.shape
        if not each:
            return cls(torch.zeros(rows + 1, dtype=torch.int64), column.reshape(-1), value, observed, count)
        once = value.dim() < 2 or len(value) == 1
        values = value.expand(1 if once else rows, each).reshape(-1)
        return cls(each, column.reshape(-1), values, observed, count)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.column) // self.ends if isinstance(self.ends, int) else len(self.ends) - 1

    @property
    def width(self) -> int | None:
        """The number of entries of every row, where all have the same."""
        if isinstance(self.ends, int):
            return self.ends
        lengths = self.ends.diff()
        return int(lengths[0]) if len(lengths) and bool((lengths == lengths[0]).all()) else None

    @property
    def pointer(self) -> Tensor:
        """Row r has the entries ``pointer[r] : pointer[r + 1]``; shape (R + 1,)."""
        if isinstance(self.ends, int):
            return torch.arange(0, len(self.column) + 1, self.ends, device=self.column.device)
        return self.ends

    @property
    def rows_are_alike(self) -> bool:
        """Whether the values are given once for all rows."""
        return isinstance(self.ends, int) and len(self.values) == self.ends

    @property
    def value(self) -> Tensor:
        """Of every entry, shape (E,)."""
        return self.values.repeat(self.num_rows) if self.rows_are_alike else self.values

    @cached_property
    def padded(self) -> tuple[list[Tensor], list[Tensor]]:
        """Columns and values of the k-th entries of all rows, each (R,); zeros where a row has fewer."""
        pointer, value = self.pointer, self.value
        starts, lengths = pointer[:-1], pointer.diff()
        columns, values = [], []
        for k in range(int(lengths.max())):
            there = k < lengths
            entry = torch.where(there, starts + k, 0)
            columns.append(torch.where(there, self.column[entry], 0).long())
            values.append(torch.where(there, value[entry], 0.0))
        return columns, values

    def gram(self, weight: Tensor, num_states: int) -> Tensor:
        """Aᵀ diag(w) A, dense, shape (N, N), differentiable in w (R,)."""
        found = weight.new_zeros(num_states**2)
        for first, own in zip(*self.padded, strict=True):
            for second, other in zip(*self.padded, strict=True):
                found = found.index_add(0, first * num_states + second, weight * own * other)
        return found.reshape(num_states, num_states)

    def row_variances(self, covariance: Tensor) -> Tensor:
        """The diagonal of A S Aᵀ for a dense S (N, N), shape (R,)."""
        found = torch.zeros_like(self.values[:1]).expand(self.num_rows).clone()
        for first, own in zip(*self.padded, strict=True):
            for second, other in zip(*self.padded, strict=True):
                found += own * other * covariance[first, second]
        return found

    def contrasts(self, sizes: Tensor, num_states: int) -> tuple[Design, Tensor, Tensor]:
        """Differences of all pairs of rows of a group, such as the sides of a game.

        What depends on a group's predictors by their differences alone sees the states through these rows.

        Args:
            sizes: rows of every group, one group after another, int64, shape (F,).
            num_states: N.

        Returns:
            The differences, each state of a row once and the first with a positive sign, nothing observed;
            and the two rows of each, int64.

        Raises:
            InputError: for more than four million pairs.
        """
        from scipy.sparse import csr_array

        first, second = _pairs(sizes.numpy(force=True))
        rows = np.arange(len(first))
        ends = np.concatenate([rows, rows]), np.concatenate([first, second])
        signs = np.repeat([1.0, -1.0], len(rows))
        found = csr_array((signs, ends), shape=(len(rows), self.num_rows)) @ self.csr(num_states)
        found.eliminate_zeros()
        found.sort_indices()
        lengths = np.diff(found.indptr)
        leading = np.ones(len(rows))
        leading[lengths > 0] = np.sign(found.data[found.indptr[:-1][lengths > 0]])
        values = found.data * np.repeat(leading, lengths)
        pointer, column = (torch.from_numpy(part.astype(np.int64)) for part in (found.indptr, found.indices))
        made = Design(pointer, column, torch.from_numpy(values))
        return made, torch.from_numpy(first), torch.from_numpy(second)

    def csr(self, num_states: int) -> Any:
        """A as SciPy's CSR array, on the CPU."""
        from scipy.sparse import csr_array

        small = np.int32 if max(num_states, self.num_rows, len(self.column)) < 2**31 else np.int64
        index, pointer = (
            part.numpy(force=True).astype(small, copy=False) for part in (self.column, self.pointer)
        )
        return csr_array((self.value.numpy(force=True), index, pointer), shape=(self.num_rows, num_states))

    def check(self, num_states: int) -> None:
        """Refuse what is no matrix of so many columns.

        Raises:
            InputError: naming the first wrong row.
        """
        if isinstance(self.ends, int):
            fits = self.ends > 0 and len(self.column) % self.ends == 0
            needed = f"{len(self.column)} entries of a design matrix make no rows of {self.ends} each"
        else:
            fits = self.ends[:1].tolist() == [0] and int(self.ends[-1]) == len(self.column)
            fits = fits and not bool((self.ends.diff() < 0).any())
            needed = "the pointers of a design matrix go from 0 to its number of entries and do not fall"
        if not fits:
            raise InputError(needed)
        entries = {"value": len(self.column if self.rows_are_alike else self.values)}
        rows = {f"observed[{k}]": len(part) for k, part in enumerate(self.observed)}
        rows |= {} if self.count is None else {"count": len(self.count)}
        wrong = {k: v for k, v in entries.items() if v != len(self.column)}
        wrong |= {k: v for k, v in rows.items() if v != self.num_rows}
        if wrong:
            raise InputError(
                f"a design matrix of {self.num_rows} rows and {len(self.column)} entries has {wrong}; its "
                "parts are as long as one or the other"
            )
        if len(self.column) and not 0 <= int(self.column.min()) <= int(self.column.max()) < num_states:
            outside = (self.column < 0) | (self.column >= num_states)
            entry = int(outside.nonzero()[0])
            row = int(torch.searchsorted(self.pointer, entry, right=True)) - 1
            raise InputError(
                f"row {row} of the design matrix reads state {int(self.column[entry])}; they are 0 to "
                f"{num_states - 1}"
            )

    def merged(self) -> Design:
        """The distinct rows, in the order of their first columns, with how many times each counts.

        Rows are equal where entries, their order and all that is observed are. Only matrices with the same,
        small number of entries in every row are merged, and others are as they were.
        """
        width = self.width
        if not width or width > MOST_ENTRIES or any(part.requires_grad for part in self.observed):
            return self
        parts = [
            self.column.numpy(force=True).astype(np.int32, copy=False).reshape(-1, width),
            self.values.numpy(force=True).reshape(-1, width),
            *(part.numpy(force=True).reshape(self.num_rows, -1) for part in self.observed),
        ]
        order = np.argsort(_keys(parts))
        starts = np.flatnonzero(_is_new(parts, order))
        if len(starts) == self.num_rows:
            return self
        if self.count is None:
            counts = np.diff(starts, append=self.num_rows)
        else:
            counts = np.add.reduceat(self.count.numpy(force=True)[order], starts)
        kept = order[starts]
        del order
        device = self.column.device
        rows = torch.from_numpy(kept).to(device)
        return Design(
            width,
            torch.from_numpy(parts[0][kept].reshape(-1)).to(device),
            self.values if self.rows_are_alike else self.values.reshape(-1, width)[rows].reshape(-1),
            tuple(part[rows] for part in self.observed),
            torch.from_numpy(counts.astype(np.float64)).to(self.values.device),
        )


def _pairs(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of rows of the same group, the groups of one size together."""
    count = int((sizes * (sizes - 1) // 2).sum())
    if count > MOST_PAIRS:
        raise InputError(
            f"groups of up to {int(sizes.max()):,} rows have {count:,} pairs of them; at most {MOST_PAIRS:,} "
            "are compared"
        )
    starts = np.cumsum(sizes) - sizes
    found = []
    for size in np.unique(sizes):
        at = starts[sizes == size][:, None]
        found.append(np.stack([(at + part).reshape(-1) for part in np.triu_indices(int(size), 1)]))
    first, second = np.concatenate(found, 1).astype(np.int64)
    return first, second


def _keys(parts: list[np.ndarray]) -> np.ndarray:
    """Numbers by which rows with the same first column are together, and of them those that are equal.

    Args:
        parts: columns, values and what is observed, each of shape (R, ...), or (1, ...) for all rows.
    """
    rest = np.uint64(64 - COLUMN_BITS)
    keys = np.empty(len(parts[0]), dtype=np.uint64)
    for start in range(0, len(keys), BLOCK):
        here = slice(start, start + BLOCK)
        mixed = np.zeros(len(keys[here]), dtype=np.uint64)
        for part in parts:
            block = part if len(part) == 1 else part[here]
            for k in range(part.shape[1]):
                mixed ^= np.ascontiguousarray(block[:, k], dtype=np.float64).view(np.uint64)
                mixed *= MIXING
                mixed ^= mixed >> np.uint64(32)
        first = parts[0][here, 0].astype(np.uint64) & np.uint64(2**COLUMN_BITS - 1)
        keys[here] = (first << rest) | (mixed >> np.uint64(COLUMN_BITS))
    return keys


def _is_new(parts: list[np.ndarray], order: np.ndarray) -> np.ndarray:
    """Which rows in this order differ from the one before, shape (R,)."""
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for start in range(0, len(order), BLOCK):
        rows = order[max(0, start - 1) : start + BLOCK]
        found = new[max(1, start) : start + BLOCK]
        for part in parts:
            if len(part) > 1:
                block = part[rows]
                found |= (block[1:] != block[:-1]).any(1)
    return new
