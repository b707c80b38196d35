"""Large symmetric systems, solved as far as one needs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["SOLVER_ITERATIONS", "conjugate_gradients"]

# A Newton step is solved to this fraction of its first residual: any error is mended by the next one.
SOLVER_TOLERANCE = 0.05
SOLVER_ITERATIONS = 200


def conjugate_gradients(
    times: Callable[[Tensor], Tensor],
    right: Tensor,
    precondition: Callable[[Tensor], Tensor],
    tolerance: float = SOLVER_TOLERANCE,
    most: int = SOLVER_ITERATIONS,
) -> Tensor:
    """x with H x ≈ b, from zero, until the residual has fallen by the tolerance in the preconditioner's norm.

    SciPy's measures it in the plain norm, in which the states of a slow chain drown all others.

    Args:
        times: x ↦ H x, symmetric and positive definite.
        right: b, shape (N,).
        precondition: r ↦ M⁻¹ r.
        tolerance: of √(rᵀ M⁻¹ r), relative to b's.
        most: iterations.
    """
    found, left = torch.zeros_like(right), right.clone()
    solved = precondition(left)
    way, size = solved.clone(), torch.dot(left, solved)
    enough = tolerance**2 * size
    for _ in range(most):
        if size <= enough:
            break
        product = times(way)
        length = size / torch.dot(way, product)
        found.add_(way, alpha=float(length))
        left.sub_(product, alpha=float(length))
        solved = precondition(left)
        size, before = torch.dot(left, solved), size
        way.mul_(size / before).add_(solved)
    return found
