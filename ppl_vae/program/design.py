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


@dataclass(frozen=True, eq=False)
class Design:
    """A sparse matrix A of R rows in CSR form, with what is observed of every row.

    Attributes:
        pointer: row r has the entries ``pointer[r] : pointer[r + 1]``; int64, shape (R + 1,).
        column: of every entry, int64, shape (E,).
        value: of every entry, shape (E,).
        observed: what a row's log likelihood takes beside its predictor, each of shape (R, ...).
        count: how many times the row's log likelihood counts, not negative, shape (R,); None for once.
    """

    pointer: Tensor
    column: Tensor
    value: Tensor
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
        pointer = torch.arange(0, rows * each + 1, max(each, 1), device=column.device)
        values = value.expand(column.shape).reshape(-1)
        return cls(pointer[: rows + 1], column.reshape(-1), values, observed, count)

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.pointer) - 1

    @property
    def width(self) -> int | None:
        """The number of entries of every row, where all have the same."""
        lengths = self.pointer.diff()
        return int(lengths[0]) if len(lengths) and bool((lengths == lengths[0]).all()) else None

    @cached_property
    def padded(self) -> tuple[list[Tensor], list[Tensor]]:
        """Columns and values of the k-th entries of all rows, each (R,); zeros where a row has fewer."""
        starts, lengths = self.pointer[:-1], self.pointer.diff()
        columns, values = [], []
        for k in range(int(lengths.max())):
            there = k < lengths
            entry = torch.where(there, starts + k, 0)
            columns.append(torch.where(there, self.column[entry], 0).long())
            values.append(torch.where(there, self.value[entry], 0.0))
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
        found = torch.zeros_like(self.value[:1]).expand(self.num_rows).clone()
        for first, own in zip(*self.padded, strict=True):
            for second, other in zip(*self.padded, strict=True):
                found += own * other * covariance[first, second]
        return found

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
        lengths = self.pointer.diff()
        if (
            self.pointer[:1].tolist() != [0]
            or int(self.pointer[-1]) != len(self.column)
            or (lengths < 0).any()
        ):
            raise InputError(
                "the pointers of a design matrix go from 0 to its number of entries and do not fall"
            )
        entries = {"value": len(self.value), "column": len(self.column)}
        rows = {f"observed[{k}]": len(part) for k, part in enumerate(self.observed)}
        rows |= {} if self.count is None else {"count": len(self.count)}
        wrong = {k: v for k, v in entries.items() if v != len(self.column)}
        wrong |= {k: v for k, v in rows.items() if v != self.num_rows}
        if wrong:
            raise InputError(
                f"a design matrix of {self.num_rows} rows and {len(self.column)} entries has {wrong}; its "
                "parts are as long as one or the other"
            )
        outside = (self.column < 0) | (self.column >= num_states)
        if outside.any():
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
        columns = self.column.numpy(force=True).astype(np.int32).reshape(-1, width)
        parts = [columns, self.value.numpy(force=True).reshape(-1, width)]
        parts += [part.numpy(force=True).reshape(self.num_rows, -1) for part in self.observed]
        order = _order(columns, parts)
        new = np.zeros(self.num_rows, dtype=bool)
        new[:1] = True
        for part in parts:
            for k in range(part.shape[1]):
                values = part[order, k]
                new[1:] |= values[1:] != values[:-1]
        starts = np.flatnonzero(new)
        if len(starts) == self.num_rows:
            return self
        count = np.ones(self.num_rows) if self.count is None else self.count.numpy(force=True)[order]
        counts = torch.from_numpy(np.add.reduceat(count, starts).astype(np.float64))
        kept = torch.from_numpy(order[starts])
        entries = (part.reshape(-1, width)[kept] for part in (self.column, self.value))
        observed = (part[kept] for part in self.observed)
        return Design.of_entries(*entries, *observed, count=counts.to(self.value.device))


def _order(columns: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """An order in which rows with the same first column are together, and of them those that are equal."""
    mixed = np.zeros(len(columns), dtype=np.uint64)
    for part in parts:
        for k in range(part.shape[1]):
            bits = np.ascontiguousarray(part[:, k], dtype=np.float64).view(np.uint64)
            mixed ^= bits
            mixed *= MIXING
            mixed ^= mixed >> np.uint64(32)
    rest = np.uint64(64 - COLUMN_BITS)
    first = columns[:, 0].astype(np.uint64) & np.uint64(2**COLUMN_BITS - 1)
    return np.argsort((first << rest) | (mixed >> np.uint64(COLUMN_BITS)))
