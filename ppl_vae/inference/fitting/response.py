"""How means move where a posterior is tilted: the covariances of functions, from a mean-field optimum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.engine.density import Density
from ppl_vae.inference.fitting.fixed_noise import Objective, solve
from ppl_vae.inference.fitting.gaussians.curvature import hessians
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian
from ppl_vae.inference.fitting.response_optimum import Optimum, best_near, by_matrix

__all__ = ["Asked", "Functions", "Moments", "chosen", "errors", "moments"]

Functions = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
# Functions, the most that are solved for by conjugate gradients.
MOST_SOLVED = 500
# The smallest curvature at an optimum, over the largest.
STRICT = 1e-10


@dataclass(frozen=True, eq=False)
class Asked:
    """Functions of unconstrained vectors.

    Attributes:
        names: one a number.
        of: values (n, functions) at positions (n, dim).
    """

    names: tuple[str, ...]
    of: Callable[[Tensor], Tensor]

    def slopes(self, positions: Tensor) -> Iterator[Tensor]:
        """Gradients (n, dim) at positions, of one function after another."""
        with torch.enable_grad():
            at = positions.detach().requires_grad_(True)
            values = self.of(at)
            for column in values.T:
                (slope,) = torch.autograd.grad(column.sum(), at, retain_graph=True, materialize_grads=True)
                yield slope

    def values(self, positions: Tensor) -> Tensor:
        """At positions, without a graph."""
        with torch.no_grad():
            return self.of(positions)


def chosen(functions: Functions | str, density: Density) -> Asked:
    """What a caller names, of a density's latents.

    Args:
        functions: "latents", "unconstrained", or a function of values by site.
        density: of the model.

    Raises:
        InputError: for others, and functions that are not differentiable draw by draw.
    """
    if functions not in ("latents", "unconstrained") and not callable(functions):
        raise InputError(
            f"functions={functions!r} is not known; it is 'latents', 'unconstrained', or a function of the "
            "latents' values by site"
        )

    def by_name(positions: Tensor) -> Mapping[str, Tensor]:
        if functions == "unconstrained":
            return density.unflatten(positions)
        values = density.constrain(positions)
        return functions(values) if callable(functions) else values

    def of(positions: Tensor) -> Tensor:
        parts = by_name(positions).values()
        return torch.cat([part.reshape(len(positions), -1) for part in parts], 1)

    at = torch.zeros(3, density.dim, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        found = by_name(at)
    _refuse_others(found, len(at))
    names = tuple(name for key, part in found.items() for name in _names(key, tuple(part.shape[1:])))
    return Asked(names, of)


def _refuse_others(found: Any, count: int) -> None:
    """What is no differentiable function of draws."""
    if not isinstance(found, Mapping) or not all(isinstance(part, Tensor) for part in found.values()):
        raise InputError("functions of the latents give tensors by name: {'ratio': sites['a'] / sites['b']}")
    for name, part in found.items():
        if part.dim() == 0 or len(part) != count:
            raise InputError(
                f"{name} has the shape {tuple(part.shape)} at {count} draws; functions of the latents keep a "
                "leading dimension of draws"
            )
    if not any(part.requires_grad for part in found.values()):
        raise InputError(f"{', '.join(found)} do not depend on the latents")


def _names(name: str, shape: tuple[int, ...]) -> list[str]:
    """One a number, as `Posterior.scalars` has them; dimensions of size one that pad plates are left out."""
    places = [", ".join(map(str, place)) for place in np.ndindex(*shape)]
    return [f"{name}[{place}]" if place else name for place in places]


@dataclass(frozen=True, eq=False)
class Moments:
    """Of functions, at an optimum on common draws.

    Attributes:
        means: E_q of each, shape (functions,).
        covariance: by linear response, shape (functions, functions).
        curvatures: Hessians of −ELBO by group of the draws, where they were made.
    """

    means: np.ndarray
    covariance: np.ndarray
    curvatures: Tensor | None

    @property
    def sds(self) -> np.ndarray:
        """Standard deviations by linear response, shape (functions,)."""
        found: np.ndarray = np.sqrt(self.covariance.diagonal())
        return found


def moments(optimum: Optimum, asked: Asked, progress: bool) -> Moments:
    """By all draws.

    Raises:
        InputError: where the optimum is no strict one, or too many functions of too many latents are asked.
        NoCurvature: where the density has no second derivatives.
    """
    objective, curvatures = Objective(optimum.target, optimum.at, torch.cat(optimum.groups)), None
    if by_matrix(objective, len(asked.names)):
        curvatures = hessians(objective, len(optimum.groups) * [objective.origin], progress)
    whole = None if curvatures is None else curvatures.mean(0)
    return Moments(*_answer(objective, objective.origin, whole, asked), curvatures)


def errors(
    optimum: Optimum, asked: Asked, together: Moments, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Monte Carlo errors of means and standard deviations, by what groups of draws would have answered alone.

    Each group has an optimum of its own; one that is no strict one makes the errors NaN.
    """
    target, groups = optimum.target, optimum.groups
    alone = [Objective(target, optimum.at, noise) for noise in groups]
    near = there = len(alone) * [None] if together.curvatures is None else list(together.curvatures)
    members = [best_near(*each) for each in zip(alone, near, strict=True)]
    if together.curvatures is not None:
        there = list(hessians(Objective(target, optimum.at, torch.cat(groups)), members, progress))
    answers = [_alone(*each, asked) for each in zip(alone, members, there, strict=True)]
    of_means, of_sds = (np.stack(each) for each in zip(*answers, strict=True))
    return _errors(of_means, together.means), _errors(of_sds, together.sds)


def _alone(
    objective: Objective, at: Gaussian, matrix: Tensor | None, asked: Asked
) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations by one group; NaN where its optimum is no strict one."""
    try:
        means, covariance = _answer(objective, at, matrix, asked)
    except InputError:
        return (np.full(len(asked.names), np.nan),) * 2
    return means, np.sqrt(covariance.diagonal())


def _errors(alone: np.ndarray, together: np.ndarray) -> np.ndarray:
    """Root mean squared errors of answers by all draws, from those of groups, shape (groups, functions).

    A bias falls with the number of draws, so that the groups' own is so many times as large.
    """
    bias = (alone.mean(0) - together) / (len(alone) - 1)
    found: np.ndarray = np.sqrt(alone.var(0, ddof=1) / len(alone) + bias**2)
    return found


def _answer(
    objective: Objective, at: Gaussian, matrix: Tensor | None, asked: Asked
) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariance at a member, by its Hessian in an objective's coordinates or, where there is none,
    by conjugate gradients."""
    noise = objective.noise
    if matrix is None:
        objective = Objective(objective.target, at, noise)
    positions = at.draws(noise)
    slopes = np.stack([objective.pull(slope, noise) for slope in asked.slopes(positions)], 1)
    moves = _by_products(objective, slopes) if matrix is None else _solved(matrix.numpy(), slopes)
    covariance = 0.5 * (slopes.T @ moves + moves.T @ slopes)
    if not (covariance.diagonal() > 0).all():
        _refuse_flat(float(covariance.diagonal().min() / covariance.diagonal().max()))
    return asked.values(positions).mean(0).numpy(), covariance


def _by_products(objective: Objective, slopes: np.ndarray) -> np.ndarray:
    """H⁻¹ times slopes (coordinates, functions), without a matrix."""
    if slopes.shape[1] > MOST_SOLVED:
        raise InputError(
            f"linear response of {slopes.shape[1]:,} functions at once takes too many products with "
            "Hessians; name those that matter (functions=)"
        )
    return np.stack([solve(objective, objective.start, own, 1e-8) for own in slopes.T], 1)


def _solved(matrix: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """H⁻¹ times slopes (coordinates, functions), of an H that is certainly positive."""
    values, vectors = np.linalg.eigh(matrix)
    if not values[0] > STRICT * values[-1]:
        _refuse_flat(float(values[0] / values[-1]))
    found: np.ndarray = vectors @ ((vectors.T @ slopes) / values[:, None])
    return found


def _refuse_flat(smallest: float) -> None:
    raise InputError(
        "linear response needs a strict optimum of the mean-field family, and this is no strict one: the "
        f"smallest curvature of the ELBO is {smallest:.2g} of the largest (the data leave some combination "
        "of latents undetermined, or draws are too few: num_draws)"
    )
