"""Expectation maximisation of Gaussian mixtures, from several starts, with singular solutions told apart.

The likelihood of a mixture has no maximum: a component that sits on one row with a covariance that shrinks
to nothing has it grow beyond all bounds (Day 1969). What is sought is the highest of its proper local maxima
(McLachlan and Peel, "Finite Mixture Models", 2000, section 3.10), here of covariances whose eigenvalues have
a floor; a run that ends near that floor is singular, and is never the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import derived

__all__ = ["COVARIANCES", "Covariance", "EMRun", "Mixture", "best_of", "em", "k_means_start", "smallest"]

Covariance = Literal["full", "diagonal", "spherical", "tied"]
COVARIANCES: tuple[Covariance, ...] = ("full", "diagonal", "spherical", "tied")
# The floor of eigenvalues lies so far below the bound at which a run is called singular.
FLOOR = 0.1
# Nats that a run is expected to gain still when it ends, and EM steps at most.
TOLERANCE, MOST_STEPS = 1e-4, 5000
LLOYD_STEPS = 10
# Rows that a component has at least, as a share of one: it keeps an empty one's mean a number.
EMPTY = 1e-10


@dataclass(frozen=True, eq=False)
class Mixture:
    """Parameters of a Gaussian mixture.

    Attributes:
        weights: shape (K,), positive, of sum 1.
        means: shape (K, d).
        covariances: variances of shape (K, d) for "diagonal" and "spherical", else matrices (K, d, d).
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def log_joint(self, x: Tensor) -> Tensor:
        """log π_k + log N(x_n; μ_k, Σ_k) of rows (N, d), shape (N, K)."""
        return self.weights.log() + log_normals(x, self.means, self.covariances)


@dataclass(frozen=True, eq=False)
class EMRun:
    """What EM found from one start.

    Attributes:
        mixture: the parameters where it ended.
        log_likelihood: log p(x) in nats before every step and at the end; it never falls.
        smallest: smallest eigenvalue of any covariance.
        singular: whether that lies below the bound.
        converged: whether it ended because little was left to gain.
    """

    mixture: Mixture
    log_likelihood: Tensor
    smallest: float
    singular: bool
    converged: bool


def log_normals(x: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """log N(x_n; μ_k, Σ_k), shape (N, K)."""
    constant = x.shape[1] * math.log(2 * math.pi)
    if covariances.dim() == 2:
        precision = covariances.reciprocal()
        # Squares of centred rows: expanding them would lose digits.
        squares = torch.einsum("nkd,kd->nk", (x[:, None] - means).square(), precision)
        return -0.5 * (squares + covariances.log().sum(1) + constant)
    factor = torch.linalg.cholesky(covariances)
    centred = (x - means[:, None]).transpose(1, 2)
    squares = torch.linalg.solve_triangular(factor, centred, upper=False).square().sum(1)
    log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1, keepdim=True)
    return -0.5 * (squares + log_det + constant).T


def em(
    x: Tensor,
    start: Mixture,
    covariance: Covariance,
    bound: float,
    seen: Callable[[float], None] = lambda value: None,
) -> EMRun:
    """EM from one start to a local maximum.

    It ends where the gains, which fall geometrically in the end, add up to less than a ten thousandth of a
    nat (Aitken's estimate; McLachlan and Peel 2000, section 2.11).

    Args:
        x: rows, shape (N, d), of about unit scale.
        start: where to begin.
        covariance: which covariances are allowed.
        bound: eigenvalues below it are called singular; a tenth of it is their floor.
        seen: told the log likelihood at every step.
    """
    mixture, trace, gain, converged = start, [], math.inf, False
    for _ in range(MOST_STEPS):
        check_time()
        joint = mixture.log_joint(x)
        trace.append(joint.logsumexp(1).sum())
        seen(float(trace[-1]))
        if len(trace) > 1:
            before, gain = gain, float(trace[-1] - trace[-2])
            if converged := gain < TOLERANCE and gain * gain < TOLERANCE * (before - gain):
                break
        mixture = maximised(x, joint.softmax(1), covariance, FLOOR * bound)
    least = smallest(mixture.covariances)
    return EMRun(mixture, torch.stack(trace), least, least < bound, converged)


def maximised(x: Tensor, shares: Tensor, covariance: Covariance, floor: float) -> Mixture:
    """The M-step: weights, means and covariances that maximise the expected log-likelihood.

    Of covariances whose eigenvalues are at least the floor, the best is the plain one with its eigenvalues
    raised to it.

    Args:
        x: rows, shape (N, d).
        shares: responsibilities, shape (N, K).
        covariance: which covariances are allowed.
        floor: of their eigenvalues.
    """
    counts = shares.sum(0) + EMPTY
    means = (shares.T @ x) / counts[:, None]
    weights = counts / counts.sum()
    if covariance in ("diagonal", "spherical"):
        squares = torch.einsum("nk,nkd->kd", shares, (x[:, None] - means).square()) / counts[:, None]
        if covariance == "spherical":
            squares = squares.mean(1, keepdim=True).expand_as(squares)
        return Mixture(weights, means, squares.clamp_min(floor))
    rooted = shares.sqrt().T[:, :, None] * (x - means[:, None])
    scatter = rooted.transpose(1, 2) @ rooted
    if covariance == "tied":
        scatter = (scatter.sum(0) / counts.sum()).expand_as(scatter)
    else:
        scatter = scatter / counts[:, None, None]
    values, vectors = torch.linalg.eigh(scatter)
    lifted = vectors * values.clamp_min(floor)[:, None] @ vectors.transpose(1, 2)
    return Mixture(weights, means, lifted)


def smallest(covariances: Tensor) -> float:
    """The smallest eigenvalue of any covariance, matrices or variances."""
    values = covariances if covariances.dim() == 2 else torch.linalg.eigvalsh(covariances)
    return float(values.min())


def k_means_start(x: Tensor, num_components: int, covariance: Covariance, bound: float, seed: int) -> Mixture:
    """The mixture of a k-means clustering that begins with k-means++: its groups, one covariance for all.

    Source: Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding" (2007), section 2.2.

    Args:
        x: rows, shape (N, d).
        num_components: K.
        covariance: which covariances are allowed.
        bound: as for `em`; no eigenvalue starts below it.
        seed: of the choice of rows.
    """
    centres = _spread_out(x, num_components, seed)
    for _ in range(LLOYD_STEPS):
        nearest = torch.cdist(x, centres).argmin(1)
        shares = torch.eye(num_components, dtype=x.dtype)[nearest]
        counts = shares.sum(0)[:, None]
        centres = torch.where(counts > 0, shares.T @ x / counts.clamp_min(1), centres)
    # One row or two in a group have no covariance of their own.
    pooled = maximised(x, shares, "tied" if covariance in ("full", "tied") else "diagonal", bound)
    if covariance in ("full", "tied"):
        return pooled
    variances = (pooled.weights @ pooled.covariances).expand_as(pooled.covariances)
    if covariance == "spherical":
        variances = variances.mean(1, keepdim=True).expand_as(variances)
    return Mixture(pooled.weights, pooled.means, variances)


def _spread_out(x: Tensor, number: int, seed: int) -> Tensor:
    """Rows to begin with, each drawn with a probability proportional to its squared distance from others."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    for _ in range(number - 1):
        distance = torch.cdist(x, x[chosen]).square().min(1).values
        # Rows that all coincide with a chosen one are as good as each other.
        odds = distance if bool(distance.sum() > 0) else torch.ones_like(distance)
        chosen.append(int(torch.multinomial(odds, 1, generator=generator)))
    return x[chosen]


def best_of(
    x: Tensor,
    num_components: int,
    covariance: Covariance,
    *,
    num_starts: int,
    bound: float,
    seed: int,
    seen: Callable[[float], None] = lambda value: None,
) -> tuple[EMRun, list[EMRun]]:
    """EM from several starts: the highest run that is not singular, and all of them.

    Args:
        x, covariance, bound, seen: as for `em`.
        num_components: K.
        num_starts: runs, each from a k-means++ start of its own.
        seed: of the starts.

    Raises:
        InputError: if every run is singular.
    """
    runs = []
    for number in range(num_starts):
        start = k_means_start(x, num_components, covariance, bound, derived(seed, "start", number))
        runs.append(em(x, start, covariance, bound, seen))
    proper = [run for run in runs if not run.singular]
    if not proper:
        raise InputError(
            f"all of the {num_starts} runs of EM ended in singular solutions: a component of a covariance "
            f"whose smallest eigenvalue is below {bound:g} of the features' variance sits on a few rows or "
            "on columns that depend on each other; take fewer components or fewer covariances (spherical, "
            "diagonal, tied)"
        )
    return max(proper, key=lambda run: float(run.log_likelihood[-1])), runs
