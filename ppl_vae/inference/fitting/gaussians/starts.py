"""Where Gaussian guides start: the guide itself, the mode with its curvature, the prior, Pathfinder's best
path.

All are tried on the ELBO with common draws, and the best is taken. A start costs little beside what a bad one
costs: far from the posterior, where its density is not log-concave, a covariance that has shrunk in one
direction takes hundreds of steps to grow again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import derived
from ppl_vae.engine.batches import Batches, NoCurvature
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian, common_noise, symmetric
from ppl_vae.inference.fitting.gaussians.newton import ascend
from ppl_vae.inference.fitting.gaussians.target import Target
from ppl_vae.inference.samplers.path_search import Counted
from ppl_vae.inference.samplers.pathfinder import PathfinderOptions, climbed
from ppl_vae.inference.samplers.starts import Proposal, drawn_from

__all__ = ["STARTS", "Start", "best_start", "laplace"]

# Draws by which starts are compared; of the prior, to know its moments.
DRAWS, PRIOR_DRAWS = 64, 12
# Nats that a Newton step gains at most, where a start is as near the best of the family as the mode would be.
NEAR = 0.5
# Newton's iterations towards a mode, and what is left to gain at one, in nats.
ITERATIONS, AT_REST = 100, 1e-4
# Lengths of a step that are tried side by side: 4, 2, 1, 1/2, …
LENGTHS = 2.0 ** torch.arange(2, -30, -1, dtype=torch.float64)
# Dense matrices of more coordinates are not made for a start.
MOST_DENSE = 500


@dataclass(frozen=True, eq=False)
class Start:
    """One of the starts.

    Attributes:
        name: "guide", "mode", "prior" or "pathfinder".
        at: the member of the guide's family.
        elbo: on the common draws, in nats.
    """

    name: str
    at: Gaussian
    elbo: float


def best_start(target: Target, name: str, seed: int) -> tuple[Start, list[Start]]:
    """The start with the highest ELBO, and all that were tried.

    The mode, whose search needs second derivatives, is not looked for where one variational Newton step from
    the best of the others gains next to nothing.

    Args:
        target: the density and the guide.
        name: "best", "own" for those in reach of where the guide stands (the guide, one path of Pathfinder
            from its mean, the mode above), or that of the only one to try.
        seed: of the draws.

    Raises:
        InputError: if the ELBO is finite at none.
    """
    own = target.guide.read()
    noise = common_noise(DRAWS, own.family.noise_dim, derived(seed, "starts"))
    tried: list[Start] = []
    for other in _TRIED.get(name, (name,)):
        near = max(tried, key=lambda start: start.elbo, default=None)
        if other == "mode" and near is not None and _is_near(target, near.at, noise, seed):
            continue
        at = _SOURCES[other](target, own if near is None else near.at, seed)
        if at is not None:
            tried.append(Start(other, at, target.expect(at, noise).elbo))
    best = max(tried, key=lambda start: start.elbo, default=None)
    if best is None or not math.isfinite(best.elbo):
        raise InputError(
            f"the ELBO is finite at no start ({', '.join(_TRIED.get(name, (name,)))}): give the guide other "
            "parameters, or check that the posterior can be normalised"
        )
    return best, tried


def _is_near(target: Target, at: Gaussian, noise: Tensor, seed: int) -> bool:
    """Whether a whole variational Newton step raises the ELBO a little, and no more."""
    if target.dim > MOST_DENSE:
        return False
    if 2 * target.dim > len(noise):  # a curvature needs more draws than dimensions
        noise = common_noise(2 * target.dim, at.family.noise_dim, derived(seed, "curvature"))
    here = target.expect(at, noise)
    if not math.isfinite(here.elbo):
        return False
    step = ascend(target, here)
    return step.length == 1 and step.rise <= NEAR


def laplace(batches: Batches, near: Gaussian) -> Gaussian | None:
    """The family's member closest to the Gaussian at the mode above a Gaussian's mean; None where there is
    none.

    Newton's method with the absolute values of the curvatures, which a maximum alone attracts, and many
    lengths of each step at once.
    """
    try:
        at, curvature, left = _climb(batches, near.loc)
    except NoCurvature:
        return None
    if not left <= AT_REST:
        return None
    sd = curvature.diagonal().abs().clamp_min(1e-300).rsqrt()
    values, vectors = torch.linalg.eigh(curvature * sd * sd.unsqueeze(1))
    if not float(values.min()) > 1e-10 * float(values.max()):
        return None
    half = (vectors * values.rsqrt()) * sd.unsqueeze(1)
    return near.family.closest(at, symmetric(half @ half.T))


def _climb(batches: Batches, start: Tensor) -> tuple[Tensor, Tensor, float]:
    """A point, the negative Hessian there, and what a quadratic would still gain, in nats."""
    at, best = start, -math.inf
    eye = torch.eye(len(start), dtype=torch.float64)
    for _ in range(ITERATIONS):
        values, slopes = batches(at.unsqueeze(0))
        best, slope = float(values[0]), slopes[0]
        curvature = -symmetric(batches.products(at.expand(len(at), -1), eye))
        if not (math.isfinite(best) and bool(curvature.isfinite().all() and slope.isfinite().all())):
            break
        unit = curvature.diagonal().abs().clamp_min(1e-300).rsqrt()
        sizes, vectors = torch.linalg.eigh(curvature * unit * unit.unsqueeze(1))
        pulled = vectors.T @ (slope * unit)
        sizes = sizes.abs().clamp_min(1e-12 * float(sizes.abs().max()))
        left = 0.5 * float((pulled**2 / sizes).sum())
        if left <= 1e-2 * AT_REST:
            return at, curvature, left
        points = at + LENGTHS.unsqueeze(1) * (vectors @ (pulled / sizes) * unit)
        found, _ = batches(points)
        found = found.nan_to_num(nan=-math.inf, posinf=-math.inf)
        if not float(found.max()) > best:
            return at, curvature, left
        at = points[int(found.argmax())]
    return at, torch.zeros_like(eye), math.inf


def _mode(target: Target, near: Gaussian, seed: int) -> Gaussian | None:
    """The mode above the best start so far."""
    return laplace(target.batches, near) if target.dim <= MOST_DENSE else None


def _pathfinder(target: Target, near: Gaussian, seed: int) -> Gaussian | None:
    """Of the path with the largest ELBO; None where every one fails."""
    density = target.batches.density
    prior = [drawn_from(density.pair.guide, density.pair, density.data)]
    return _of_paths(target, near, PathfinderOptions(num_draws=DRAWS), prior, None, seed)


def _path(target: Target, near: Gaussian, seed: int) -> Gaussian | None:
    """Of the path from a Gaussian's mean."""
    return _of_paths(target, near, PathfinderOptions(num_draws=DRAWS, num_paths=1), [], near.loc[None], seed)


def _of_paths(
    target: Target,
    near: Gaussian,
    asked: PathfinderOptions,
    proposals: list[Proposal],
    given: Tensor | None,
    seed: int,
) -> Gaussian | None:
    gradient, blocks = target.batches.gradient, near.family.blocks
    counted = Counted(gradient.one, gradient)
    try:
        best = climbed(counted, asked, proposals, given, derived(seed, "pathfinder"), False).best
    except InputError:
        return None
    normal = best.normal
    if normal is None:
        return None
    if all(block.kind == "diagonal" for block in blocks):
        precisions = (1 + normal.directions.square() @ (1 / normal.stretches - 1)) / normal.diagonal
        return near.replaced(normal.loc, [precisions[block.columns].rsqrt() for block in blocks])
    return near.family.closest(normal.loc, normal.covariance_matrix) if target.dim <= MOST_DENSE else None


def _prior(target: Target, near: Gaussian, seed: int) -> Gaussian | None:
    """Means and variances of the prior in unconstrained space; None where it has none."""
    seeds = (derived(seed, "prior", number) for number in range(PRIOR_DRAWS))
    try:
        drawn = torch.stack([target.batches.density.drawn(own) for own in seeds]).double()
    except (RuntimeError, ValueError, NotImplementedError):
        return None
    variance = drawn.var(0)
    if target.dim > MOST_DENSE or not bool(drawn.isfinite().all() and (variance > 0).all()):
        return None
    return near.family.closest(drawn.mean(0), torch.diag(variance))


# In the order in which they are tried: the mode is looked for above the best of the others.
_SOURCES: dict[str, Callable[[Target, Gaussian, int], Gaussian | None]] = {
    "guide": lambda target, near, seed: near,
    "prior": _prior,
    "pathfinder": _pathfinder,
    "path": _path,
    "mode": _mode,
}
STARTS = ("guide", "prior", "pathfinder", "mode")
_TRIED = {"best": STARTS, "own": ("guide", "path", "mode")}
