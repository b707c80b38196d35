"""Gaussians whose covariance is the inverse Hessian that a quasi-Newton method has learnt on its way.

Source: Byrd, Nocedal and Schnabel, "Representations of quasi-Newton matrices and their use in limited memory
methods" (1994), theorem 2.2; Gilbert and Lemaréchal, "Some numerical experiments with variable-storage
quasi-Newton algorithms" (1989), equation 4.9, for the diagonal; Zhang, Carpenter, Gelman and Vehtari,
"Pathfinder: Parallel quasi-Newton variational inference" (2022), algorithms 3 to 5.
"""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

__all__ = ["InverseHessian", "LowRankNormal"]

# A step counts where s·y > CURVATURE ‖y‖²: the paper's condition.
CURVATURE = 1e-12
ONE_DRAW = torch.Size()


class LowRankNormal(Distribution):
    """N(μ, D½ (I + Q (Λ − I) Qᵀ) D½): a diagonal covariance that is stretched along a few directions.

    Nothing of it takes more memory than dim × rank, but for the two dense matrices, on demand.

    Args:
        loc: the mean μ, of shape (dim,).
        diagonal: D, positive, of shape (dim,).
        directions: Q, orthonormal columns, of shape (dim, rank).
        stretches: Λ, positive, of shape (rank,).
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, diagonal: Tensor, directions: Tensor, stretches: Tensor) -> None:
        self.loc, self.diagonal, self.directions, self.stretches = loc, diagonal, directions, stretches
        super().__init__(torch.Size(), loc.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """μ, of shape (dim,)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The covariance's diagonal, of shape (dim,)."""
        return self.diagonal * (1 + self.directions.square() @ (self.stretches - 1))

    @property
    def covariance_matrix(self) -> Tensor:
        """Dense, of shape (dim, dim)."""
        return _dense(self.diagonal, self.directions, self.stretches)

    @property
    def precision_matrix(self) -> Tensor:
        """Dense, of shape (dim, dim)."""
        return _dense(1 / self.diagonal, self.directions, 1 / self.stretches)

    @property
    def log_det(self) -> Tensor:
        """Of the covariance."""
        return self.diagonal.log().sum() + self.stretches.log().sum()

    def place(self, noise: Tensor) -> Tensor:
        """Draws of shape (*lead, dim) from standard normal ones."""
        along = noise @ self.directions
        stretched = noise + (along * (self.stretches.sqrt() - 1)) @ self.directions.T
        return self.loc + self.diagonal.sqrt() * stretched

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ONE_DRAW) -> Tensor:
        """Draws of shape (*sample_shape, dim)."""
        shape = torch.Size(sample_shape) + self.loc.shape
        return self.place(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, of shape (*lead), of values of shape (*lead, dim)."""
        white = (value - self.loc) / self.diagonal.sqrt()
        along = white @ self.directions
        distance = white.square().sum(-1) + (along.square() * (1 / self.stretches - 1)).sum(-1)
        return -0.5 * (distance + self.log_det + len(self.loc) * math.log(2 * math.pi))


def _dense(diagonal: Tensor, directions: Tensor, stretches: Tensor) -> Tensor:
    root = diagonal.sqrt()
    inside = (directions * (stretches - 1)) @ directions.T
    return root[:, None] * inside * root + diagonal.diag()


class InverseHessian:
    """What the last steps of an optimiser say of the inverse Hessian, from a diagonal that every step moves.

    Args:
        dim: of positions.
        history: how many steps are kept.
        like: a tensor of their precision and device.
    """

    def __init__(self, dim: int, history: int, like: Tensor) -> None:
        self.diagonal = torch.ones(dim, dtype=like.dtype, device=like.device)
        self.steps: deque[Tensor] = deque(maxlen=history)
        self.changes: deque[Tensor] = deque(maxlen=history)

    def update(self, step: Tensor, change: Tensor) -> bool:
        """Learn from a step s and the change y of the negative log density's gradient, each of shape (dim,).

        Returns:
            Whether it told anything: it does not where the density does not curve along the step.
        """
        along = step @ change
        if not along > CURVATURE * change.square().sum():
            return False
        self.diagonal = _moved(self.diagonal, step, change)
        self.steps.append(step)
        self.changes.append(change)
        return True

    def normal(self, position: Tensor, slope: Tensor) -> LowRankNormal | None:
        """The Gaussian of this covariance whose mean is a Newton step from a position.

        Args:
            position: of shape (dim,).
            slope: the log density's gradient there.

        Returns:
            None before the first step that told anything, or where rounding has made the matrix indefinite.
        """
        if not self.steps:
            return None
        root = self.diagonal.sqrt()
        steps, changes = torch.stack([*self.steps], -1), torch.stack([*self.changes], -1)
        # In coordinates where the diagonal is the identity.
        white, changed = steps / root[:, None], changes * root[:, None]
        upper = torch.linalg.inv((steps.T @ changes).triu())
        inner = upper.T @ ((steps * changes).sum(0).diag() + changed.T @ changed) @ upper
        middle = torch.cat([torch.cat([torch.zeros_like(upper), -upper], 1), torch.cat([-upper.T, inner], 1)])
        basis, rest = torch.linalg.qr(torch.cat([changed, white], 1))
        stretches, rotation = torch.linalg.eigh(
            torch.eye(len(rest), dtype=rest.dtype, device=rest.device) + rest @ middle @ rest.T
        )
        if not (stretches.isfinite().all() and (stretches > 0).all()):
            return None
        directions = basis @ rotation
        along = (root * slope) @ directions
        newton = root * (root * slope + directions @ (along * (stretches - 1)))
        return LowRankNormal(position + newton, self.diagonal, directions, stretches)


def _moved(diagonal: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """The diagonal after a step: of its BFGS update with the step's exact curvature."""
    a, b = (diagonal * change.square()).sum(), step @ change
    c = (step.square() / diagonal).sum()
    inverse = a / (b * diagonal) + change.square() / b - a * (step / diagonal).square() / (b * c)
    moved = 1 / inverse
    return moved if bool((moved.isfinite() & (moved > 0)).all()) else diagonal
