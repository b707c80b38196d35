"""Hessians of the ELBO on common draws as matrices: from products of the density's at the draws.

With u = m + R z, a draw's own Hessian H enters that of its log density in (m, R) by H_ab, H_ab z_j and
H_ab z_i z_j: a product a latent and draw gives all of them, however many coordinates there are, and those of
groups of draws beside those of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.progress import progress_bar
from ppl_vae.inference.fitting.fixed_noise import Objective
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian

__all__ = ["hessians", "settled"]

# Positions at once, some batches of the density's.
POSITIONS = 4096
# Each step of `settled` leaves at most this of what a quadratic would gain; and its most steps.
SHRINKS, STEPS = 0.5, 100


def hessians(objective: Objective, members: Sequence[Gaussian], progress: bool) -> Tensor:
    """Of −ELBO by groups of an objective's draws, each at a Gaussian of its own.

    Args:
        objective: its coordinates, and its draws, of which each group has as many.
        members: of its family, one a group; lower-triangular where dense, none of low rank.
        progress: whether to show a progress bar on a terminal.

    Returns:
        float64, shape (groups, coordinates, coordinates).

    Raises:
        NoCurvature: where the density has no second derivatives.
    """
    count, noise = len(members), objective.noise
    positions = torch.cat([at.draws(own) for at, own in zip(members, noise.chunk(count), strict=True)])
    unit, (rows, factors) = _units(objective), _factors(objective)
    found = torch.empty(count, len(rows), len(rows), dtype=torch.float64)
    factor = factors.reshape(count, -1, len(rows))
    with progress_bar("linear response", len(unit), show=progress) as advance:
        for part in torch.arange(len(unit)).split(max(1, POSITIONS // len(positions))):
            along = unit[:, part].T.repeat_interleave(len(positions), 0)
            bent = objective.target.batches.products(positions.repeat(len(part), 1), along) @ unit
            for latent, own in zip(part, bent.split(len(positions)), strict=True):
                columns = rows == latent
                left = own[:, rows].reshape(factor.shape) * factor
                found[:, :, columns] = -(left.mT @ factor[:, :, columns]) / factor.shape[1]
            advance(len(part), "")
    for matrix, at in zip(found, members, strict=True):
        matrix.diagonal().add_(_of_volume(objective, at))
    return 0.5 * (found + found.mT)


def settled(objective: Objective, matrix: Tensor, tolerance: float) -> Gaussian | None:
    """The best member on an objective's draws, by Newton steps that keep a Hessian while it serves.

    Args:
        objective: whose origin is near its optimum.
        matrix: its Hessian there or on other draws, shape (coordinates, coordinates).
        tolerance: what may be left to gain, in nats.

    Returns:
        The member; None where steps do not get shorter fast: the optimum is far, or none is near.
    """
    flat = last = objective.start
    root, before, taken = _root(matrix), math.inf, 0
    for _ in range(STEPS):
        step, left = _newton(objective, flat, root)
        if left <= SHRINKS * before:
            last, flat, before, taken = flat, flat - step, left, taken + 1
            if left <= tolerance:
                return objective.member(flat)
        elif taken > 1:
            flat, before, taken = last, math.inf, 0
            root = _root(hessians(objective, [objective.member(flat)], progress=False)[0])
        else:
            break
    return None


def _root(matrix: Tensor) -> Tensor:
    """Cholesky's; NaN where there is none."""
    root, failed = torch.linalg.cholesky_ex(matrix)
    return torch.full_like(root, torch.nan) if int(failed) else root


def _newton(objective: Objective, flat: np.ndarray, root: Tensor) -> tuple[np.ndarray, float]:
    """A step, and what a quadratic would gain by it, in nats; NaN where there is no such step."""
    slope = objective.gradient(flat)
    step: np.ndarray = torch.cholesky_solve(torch.from_numpy(slope).unsqueeze(1), root).squeeze(1).numpy()
    finite = math.isfinite(objective.expectation(flat).elbo)
    return step, 0.5 * float(slope @ step) if finite else math.nan


def _units(objective: Objective) -> Tensor:
    """The linear map (dim, dim) from means' coordinates to latents."""
    found = torch.zeros(2 * [objective.target.dim], dtype=torch.float64)
    for block, unit in zip(objective.origin.family.blocks, objective.units, strict=True):
        found[block.columns.unsqueeze(1), block.columns] = unit if unit.dim() == 2 else torch.diag(unit)
    return found


def _factors(objective: Objective) -> tuple[Tensor, Tensor]:
    """Which latent a coordinate moves, before the units, and how far by draw: (P,) and (draws, P)."""
    family, noise = objective.origin.family, objective.noise
    rows, factors = [torch.arange(family.dim)], [torch.ones(len(noise), family.dim).to(noise)]
    for block, own in zip(family.blocks, family.split(noise), strict=True):
        if block.kind == "dense":
            lower, columns = torch.tril_indices(block.dim, block.dim)
        else:
            lower = columns = torch.arange(block.dim)
        rows.append(block.columns[lower])
        factors.append(own[:, columns])
    return torch.cat(rows), torch.cat(factors, 1)


def _of_volume(objective: Objective, at: Gaussian) -> Tensor:
    """The diagonal of the Hessian of −log |R| in coordinates, which has no more, shape (P,)."""
    parts = [torch.zeros(objective.target.dim, dtype=torch.float64)]
    for block, unit, root in zip(at.family.blocks, objective.units, at.roots, strict=True):
        if block.kind == "dense":
            own = torch.diag((unit.diagonal() / root.diagonal()) ** 2)
            parts.append(own[tuple(torch.tril_indices(block.dim, block.dim))])
        else:
            parts.append((unit / root) ** 2)
    return torch.cat(parts)
