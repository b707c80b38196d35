"""The optimum of a mean-field guide's family on common draws, from which linear response starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import derived
from ppl_vae.inference.fitting.fit_result import Distance
from ppl_vae.inference.fitting.fixed_noise import FixedNoise, Objective
from ppl_vae.inference.fitting.gaussians.curvature import hessians, settled
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian, antithetic, common_noise
from ppl_vae.inference.fitting.gaussians.gaussian_fit import JUDGES, GaussianOptions
from ppl_vae.inference.fitting.gaussians.starts import best_start
from ppl_vae.inference.fitting.gaussians.target import Target
from ppl_vae.inference.fitting.natural import MOST_DIMENSIONS, NaturalGradients

__all__ = ["GROUPS", "Optimum", "best_near", "by_matrix", "optimum"]

# Groups of common draws, by which errors are estimated.
GROUPS = 8
# Coordinates (a mean and a scale a latent) of the largest Hessian that is made as a matrix, and for how many
# latents a function: fewer functions take fewer products by conjugate gradients.
MOST_DENSE, A_FUNCTION = 2000, 30
# A Gaussian counts as fitted at this distance on the common draws, in nats; a guide as arrived below the
# other.
POLISHED, NEAR = 1e-8, 0.05
# The most iterations of natural gradients; what is left then is done on the common draws.
CLIMBS = 30


@dataclass(frozen=True, eq=False)
class Optimum:
    """A family's best member on common draws.

    Attributes:
        target: the density.
        at: the member.
        groups: the draws, of equal numbers.
        distance: from the best of the family, by other draws.
        note: what was done before.
    """

    target: Target
    at: Gaussian
    groups: tuple[Tensor, ...]
    distance: Distance
    note: str


def optimum(target: Target, num_draws: int, num_functions: int, seed: int, progress: bool) -> Optimum:
    """Where the guide's family is best on common draws, from the guide or, if that is far, from a start.

    Args:
        target: the density and the guide, which stays as it is.
        num_draws: in all; of dense blocks more where they need them.
        num_functions: that will be asked for.
        seed: of the draws.
        progress: whether to show a progress bar on a terminal.

    Raises:
        InputError: for a guide of full or low rank, and where the ELBO is finite at no start.
        NoCurvature: where the density has no second derivatives.
    """
    own = target.guide.read()
    _refuse_mended(own)
    method = FixedNoise()
    size = -(-max(num_draws, method.first_draws(own)) // (2 * GROUPS))
    groups = tuple(
        antithetic(size, own.family.noise_dim, derived(seed, "common draws", group))
        for group in range(GROUPS)
    )
    judges = max(JUDGES, 4 * target.dim)

    def distance(at: Gaussian, name: str) -> Distance:
        return method.distance(target, at, groups[0], judges, derived(seed, name))

    far, start = distance(own, "guide"), own
    arrived = far.upper <= NEAR
    if not arrived:
        start = _climbed(target, seed)
    objective = Objective(target, start, torch.cat(groups))
    matrix = None
    if by_matrix(objective, num_functions):
        (matrix,) = hessians(objective, [objective.origin], progress)
    at = best_near(objective, matrix)
    below = f"the guide was {far} below the best of the {own.family.name} family, and a copy of it was "
    return Optimum(target, at, groups, distance(at, "distance"), "" if arrived else f"{below}fitted first")


def by_matrix(objective: Objective, num_functions: int) -> bool:
    """Whether the Hessian is made as a matrix: not for few functions of many latents."""
    return len(objective.start) <= MOST_DENSE and objective.target.dim <= A_FUNCTION * num_functions


def best_near(objective: Objective, matrix: Tensor | None) -> Gaussian:
    """The best member on an objective's draws, by a Hessian at its origin where that suffices."""
    found = None if matrix is None else settled(objective, matrix, POLISHED)
    if found is not None:
        return found
    options = GaussianOptions(tolerance=100 * POLISHED)
    return FixedNoise().maximise(
        objective.target, objective.origin, objective.noise, options, lambda elbo: None
    )[0]


def _climbed(target: Target, seed: int) -> Gaussian:
    """Near the best member, by natural gradients on draws of their own; a start where they take none."""
    start = best_start(target, "best", derived(seed, "start"))[0].at
    if target.dim > MOST_DIMENSIONS:
        return start
    method = NaturalGradients()
    noise = common_noise(method.first_draws(start), start.family.noise_dim, derived(seed, "climb"))
    options = GaussianOptions(tolerance=NEAR, max_iterations=CLIMBS)
    return method.maximise(target, start, noise, options, lambda elbo: None)[0]


def _refuse_mended(own: Gaussian) -> None:
    family = own.family
    if family.name == "full-rank":
        raise InputError(
            "linear response gives a mean-field guide the correlations that it lacks, and this full-rank one "
            "has its correlations already: natural.fit brings it to its optimum"
        )
    if any(block.kind == "low-rank" for block in family.blocks):
        raise InputError(
            "linear response takes mean-field guides and blocks of full covariance; the factor of a low-rank "
            "one may be turned without changing it, so that its optimum is no strict one"
        )
