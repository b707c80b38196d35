"""Deterministic variational inference: an ELBO on draws that are held is a function like any other.

With z_1 … z_S standard normal and held, the ELBO of N(m, R Rᵀ) is (1/S) Σ log p(x, m + R z_s) + log |R|:
nothing about it is random, so that SciPy's trust-region Newton method finds its maximum, by products with the
density's Hessians, and the norm of its gradient says that it has arrived. What the draws cost is estimated
from others, to which the guide was not fitted, and where that is more than asked more are taken.

Source: Giordano, Ingram and Broderick, "Black Box Variational Inference with a Deterministic Objective:
Faster, More Accurate, and Even More Black Box", JMLR 25 (2024). A dense covariance needs more draws than it
has dimensions, or its scale grows without bound in directions that no draw spans.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import derived
from ppl_vae.engine.batches import NoCurvature
from ppl_vae.inference.fitting.fit_result import Distance, Fit
from ppl_vae.inference.fitting.gaussians.distance import GROUPS, distance, pooled
from ppl_vae.inference.fitting.gaussians.gaussian import Block, Gaussian, antithetic, log_volume
from ppl_vae.inference.fitting.gaussians.gaussian_fit import GaussianKeywords, GaussianOptions, fit_gaussian
from ppl_vae.inference.fitting.gaussians.target import Expectation, Target
from ppl_vae.program.pair import Pair

__all__ = ["FixedNoise", "Objective", "fit", "solve"]

# Common draws at first: at least, and a dimension of the largest dense block.
FEWEST, A_DIMENSION = 64, 4
# Dense covariances of more coordinates are left to natural gradients, and distances by dense matrices are
# none.
MOST_DENSE, MOST_JUDGED = 100, 1000
# What SciPy is given in place of an ELBO that is not finite.
BAD = 1e100


def fit(
    pair: Pair, *data: Any, seed: int = 0, progress: bool = True, **options: Unpack[GaussianKeywords]
) -> Fit:
    """Fit a Gaussian guide by maximising its ELBO on common draws.

    Args:
        pair: with one of Pyro's Gaussian AutoGuides, or an AutoGuideList of them. The guide's parameters are
            changed in place, in their own precision; all arithmetic is in float64. The model's are held.
        data: the programs' full data.
        seed: of the draws.
        progress: whether to show a progress bar on a terminal.
        options: the fields of `GaussianOptions`.

    Returns:
        A `Fit` whose ``elbo`` holds the ELBO on the common draws after every iteration and whose ``distance``
        is the estimated distance to the best of the family.

    Raises:
        InputError: if the guide is another, a dense covariance has more than 100 dimensions, or the ELBO is
            finite at no start.
    """
    return fit_gaussian(FixedNoise(), pair, data, GaussianOptions(**options), seed, progress)


class FixedNoise:
    """SciPy's trust-region Newton method, or L-BFGS where the density has no second derivatives."""

    name = "deterministic VI"

    def first_draws(self, start: Gaussian) -> int:
        """See `Method`."""
        largest = start.family.largest
        if largest > MOST_DENSE:
            raise InputError(
                f"on draws that are held, a dense covariance of {largest} dimensions needs more draws than "
                "that and half its square in parameters: take natural.fit, or a mean-field or low-rank guide"
            )
        return max(FEWEST, A_DIMENSION * largest)

    def maximise(
        self,
        target: Target,
        start: Gaussian,
        noise: Tensor,
        options: GaussianOptions,
        seen: Callable[[float], None],
    ) -> tuple[Gaussian, str]:
        """See `Method`."""
        return _maximise(Objective(target, start, noise), options, seen)

    def distance(self, target: Target, at: Gaussian, noise: Tensor, num_draws: int, seed: int) -> Distance:
        """See `Method`; beyond dense matrices by products with Hessians."""
        if target.dim <= MOST_JUDGED:
            return distance(target, at, num_draws, seed)
        own, slopes = Objective(target, at, noise), []
        half = num_draws // GROUPS // 2 + 1
        for group in range(GROUPS):
            drawn = antithetic(half, at.family.noise_dim, derived(seed, group))
            slopes.append(own.path_gradient(target.expect(own.origin, drawn)))
        try:
            steps = np.stack([solve(own, own.start, slope) for slope in slopes])
        except NoCurvature as reason:
            raise InputError(
                f"of more than {MOST_JUDGED:,} latents the distance from the best of the family needs second "
                f"derivatives, and autograd has none ({reason}); take svi.fit"
            ) from reason
        return pooled(0.5 * torch.from_numpy(np.stack(slopes) @ steps.T), 2 * GROUPS * half)


class Objective:
    """−ELBO on common draws, with its gradient and products with its Hessian, over a vector of coordinates.

    The coordinates are those of the family's members (m, R), relative to one of them: m in units of its
    scales, R likewise, a dense R lower-triangular. They are linear, so that second derivatives are the
    density's own and those of log |R|.

    Args:
        target: the density.
        origin: the member that the coordinates are relative to.
        noise: the draws, shape (n, noise_dim).
    """

    def __init__(self, target: Target, origin: Gaussian, noise: Tensor) -> None:
        self.target, self.noise = target, noise
        family = origin.family
        roots = [
            _triangular(root) if block.kind == "dense" else root
            for block, root in zip(family.blocks, origin.roots, strict=True)
        ]
        self.origin = origin.replaced(origin.loc, roots)
        self.units = [
            root if block.kind == "dense" else block.variances(root).sqrt()
            for block, root in zip(family.blocks, roots, strict=True)
        ]
        self.start = self._flat(
            torch.zeros(family.dim, dtype=torch.float64),
            [_unscaled(unit, root) for unit, root in zip(self.units, roots, strict=True)],
        )
        self._seen: tuple[bytes, Expectation] | None = None

    def member(self, flat: np.ndarray) -> Gaussian:
        """The Gaussian at coordinates."""
        shift, roots = self._moved(flat)
        return self.origin.replaced(self.origin.loc + shift, roots)

    def expectation(self, flat: np.ndarray) -> Expectation:
        """What the draws say there; the last is remembered."""
        key = flat.tobytes()
        if self._seen is None or self._seen[0] != key:
            self._seen = key, self.target.expect(self.member(flat), self.noise)
        return self._seen[1]

    def value(self, flat: np.ndarray) -> float:
        """−ELBO in nats; a very large number where it is not finite."""
        found = -self.expectation(flat).elbo
        return found if math.isfinite(found) else BAD

    def gradient(self, flat: np.ndarray) -> np.ndarray:
        """Of the value."""
        here = self.expectation(flat)
        if not math.isfinite(here.elbo):
            return np.zeros_like(flat)
        _, roots = self._moved(flat)
        volumes = [
            _volume(block, root, None)[0]
            for block, root in zip(self.origin.family.blocks, roots, strict=True)
        ]
        return -self._pulled(here.slopes, here.noise, volumes)

    def path_gradient(self, here: Expectation) -> np.ndarray:
        """Of the value's negative, by path derivatives: of draws that the coordinates were not fitted to."""
        return self.pull(here.slopes + here.at.whiten(here.positions - here.at.loc), here.noise)

    def pull(self, slopes: Tensor, noise: Tensor) -> np.ndarray:
        """Of the mean of a function of draws, by its gradients (n, dim) at those of some noise."""
        return self._pulled(slopes, noise, [torch.zeros_like(root) for root in self.origin.roots])

    def product(self, flat: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """The value's Hessian times a direction.

        Raises:
            NoCurvature: where the density has no second derivatives.
        """
        here, (shift, steps) = self.expectation(flat), self._moved(direction)
        along = self.origin.replaced(shift, steps).draws(self.noise)
        bent = self.target.batches.products(here.positions, along)
        _, roots = self._moved(flat)
        volumes = [
            _volume(block, root, step)[1]
            for block, root, step in zip(self.origin.family.blocks, roots, steps, strict=True)
        ]
        return -self._pulled(bent, self.noise, volumes)

    def _moved(self, flat: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        """A shift of the mean and roots by block, from coordinates; linear."""
        own = torch.from_numpy(np.ascontiguousarray(flat))
        shift = torch.empty(self.origin.family.dim, dtype=torch.float64)
        roots, start = [], self.origin.family.dim
        for block, root, unit in zip(self.origin.family.blocks, self.origin.roots, self.units, strict=True):
            shift[block.columns] = _scaled(unit, own[block.columns])
            if block.kind == "dense":
                size = block.dim * (block.dim + 1) // 2
                part = torch.zeros_like(root)
                part[self._lower(block)] = own[start : start + size]
            else:
                size = root.numel()
                part = own[start : start + size].reshape(root.shape)
            roots.append(_scaled(unit, part))
            start += size
        return shift, roots

    def _flat(self, shift: Tensor, parts: list[Tensor]) -> np.ndarray:
        pieces = [shift]
        for block, part in zip(self.origin.family.blocks, parts, strict=True):
            pieces.append(part[self._lower(block)] if block.kind == "dense" else part.reshape(-1))
        return torch.cat(pieces).numpy()

    def _pulled(self, slopes: Tensor, noise: Tensor, extra: list[Tensor]) -> np.ndarray:
        """The gradient in coordinates of the mean of a function of draws, given its slopes at them."""
        blocks, by_block = self.origin.family.blocks, self.origin.family.split(noise)
        shift, parts = torch.empty(self.origin.family.dim, dtype=torch.float64), []
        for block, own, unit, more in zip(blocks, by_block, self.units, extra, strict=True):
            of_block = slopes[:, block.columns]
            shift[block.columns] = _scaled(unit.mT if unit.dim() == 2 else unit, of_block.mean(0))
            root = block.pull(of_block, own) + more
            parts.append(_scaled(unit.mT if unit.dim() == 2 else unit, root))
        return self._flat(shift, parts)

    @staticmethod
    def _lower(block: Block) -> tuple[Tensor, Tensor]:
        rows, columns = torch.tril_indices(block.dim, block.dim)
        return rows, columns


def _maximise(
    objective: Objective, options: GaussianOptions, seen: Callable[[float], None]
) -> tuple[Gaussian, str]:
    """The best member on an objective's draws, to a hundredth of the tolerance, and by what it was found."""
    from scipy.optimize import minimize

    at, slope, count = objective.start, 0.1 * math.sqrt(options.tolerance), 0

    def look(flat: np.ndarray) -> None:
        nonlocal count
        count += 1
        seen(-objective.value(flat))
        objective.target.refuse_far(objective.member(flat))

    try:
        while True:
            at = minimize(
                objective.value, at, jac=objective.gradient, hessp=objective.product, method="trust-ncg",
                callback=look,
                options={"gtol": slope, "maxiter": options.max_iterations - count, "max_trust_radius": 1e6},
            ).x  # fmt: skip
            downhill = objective.gradient(at)
            left = 0.5 * float(solve(objective, at, downhill) @ downhill)
            if left <= options.tolerance / 100 or slope < 1e-10 or count >= options.max_iterations - 1:
                if not count:  # it stood there already
                    look(at)
                return objective.member(at), "trust-region Newton"
            slope /= 10
    except NoCurvature as reason:
        limits = {
            "maxiter": 10 * options.max_iterations,
            "maxfun": 10**5,
            "gtol": 1e-4 * slope,
            "ftol": 1e-14,
        }
        found = minimize(
            objective.value, at, jac=objective.gradient, method="L-BFGS-B", callback=look, options=limits
        )
        if not count:
            look(found.x)
        return objective.member(found.x), f"L-BFGS (no second derivatives: {reason})"


def solve(objective: Objective, at: np.ndarray, slope: np.ndarray, rtol: float = 1e-2) -> np.ndarray:
    """The Hessian's inverse times a slope, by conjugate gradients to a residual of so much of the slope's."""
    from scipy.sparse.linalg import LinearOperator, cg

    size = len(objective.start)
    operator = LinearOperator((size, size), matvec=lambda v: objective.product(at, np.ravel(v)), dtype=float)
    with np.errstate(all="ignore"):  # where the density does not curve there is no answer, but NaN
        found: np.ndarray = cg(operator, slope, rtol=rtol, maxiter=500)[0]
    return found


def _scaled(unit: Tensor, part: Tensor) -> Tensor:
    if unit.dim() == 2:
        return unit @ part
    return unit * part if part.dim() == 1 else unit.unsqueeze(1) * part


def _unscaled(unit: Tensor, part: Tensor) -> Tensor:
    if unit.dim() == 2:
        return torch.eye(len(unit)).to(part)
    return part / unit if part.dim() == 1 else part / unit.unsqueeze(1)


def _triangular(root: Tensor) -> Tensor:
    """The lower-triangular root of the same covariance."""
    return torch.linalg.qr(root.T)[1].T


def _volume(block: Block, root: Tensor, step: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradient of log |R| in R, and its derivative along a step."""
    if block.kind == "diagonal":
        return 1 / root, root if step is None else -step / root**2
    if block.kind == "dense":  # triangular: only its diagonal counts
        scale = root.diagonal()
        slope = torch.diag(1 / scale)
        return slope, slope if step is None else torch.diag(-step.diagonal() / scale**2)
    with torch.enable_grad():
        at = root.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(log_volume(block, at), at, create_graph=step is not None)
        if step is None:
            return slope, slope
        (bent,) = torch.autograd.grad((slope * step).sum(), at, materialize_grads=True)
    return slope.detach(), bent
