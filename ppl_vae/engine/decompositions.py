"""Operations written out as plain arithmetic when a program is traced.

Cholesky factors and triangular solves of small matrices: for the two to four dimensions of a latent space a
call of LAPACK's costs more than its arithmetic, and written out it is fused with what stands around it. And
log Φ, for which PyTorch has no rule of batching.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_vae.engine.torch_internals import check_errors

__all__ = ["DECOMPOSITIONS"]

# Written out, a routine has about n³/3 operations, which take time to compile.
LARGEST = 4


def solve_triangular(
    matrix: Tensor, right: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    """X with matrix @ X = right (or X @ matrix = right), by substitution; see ``torch.linalg``."""
    size = matrix.shape[-1]
    if size > LARGEST or unitriangular:
        return NotImplemented
    if not left:
        return solve_triangular(matrix.mT, right.mT, upper=not upper).mT
    rows: dict[int, Tensor] = {}
    for i in reversed(range(size)) if upper else range(size):
        row = right[..., i, :]
        for j, known in rows.items():
            row = row - matrix[..., i, j, None] * known
        rows[i] = row / matrix[..., i, i, None]
    return torch.stack([rows[i] for i in range(size)], -2)


def cholesky_ex(matrix: Tensor, *, upper: bool = False, check_errors: bool = False) -> Any:
    """The lower Cholesky factor, NaN where the matrix is not positive definite, and no error codes."""
    size = matrix.shape[-1]
    if size > LARGEST or upper:
        return NotImplemented
    factor: list[list[Tensor]] = []
    for i in range(size):
        row: list[Tensor] = []
        for j in range(i + 1):
            rest = matrix[..., i, j]
            for k in range(j):
                rest = rest - row[k] * (factor[j][k] if j < i else row[k])
            row.append(rest.sqrt() if i == j else rest / factor[j][j])
        factor.append(row)
    zero = torch.zeros_like(matrix[..., 0, 0])
    rows = [torch.stack([*row, *[zero] * (size - len(row))], -1) for row in factor]
    codes = torch.zeros(matrix.shape[:-2], dtype=torch.int32, device=matrix.device)
    return torch.stack(rows, -2), codes


def log_ndtr(x: Tensor) -> Tensor:
    """log Φ(x), by the scaled complementary error function where Φ is small."""
    scaled = x / math.sqrt(2.0)
    low = torch.log(torch.special.erfcx(-scaled) / 2) - scaled.square()
    high = torch.log1p(-torch.erfc(scaled) / 2)
    return torch.where(x < -1.0, low, high)


def ignore_errors(info: Tensor, api_name: str, *, is_matrix: bool) -> None:
    """Raise nothing: a graph cannot. What is not positive definite shows as NaN."""


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.linalg_solve_triangular.default: solve_triangular,
    torch.ops.aten.linalg_cholesky_ex.default: cholesky_ex,
    torch.ops.aten.special_log_ndtr.default: log_ndtr,
    **dict.fromkeys(check_errors(), ignore_errors),
}
