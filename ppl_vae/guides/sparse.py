"""A Gaussian over all latents at once whose precision has the zeros of the model's dependence graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoContinuous
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import Transform

from ppl_vae.base.errors import InputError
from ppl_vae.program.constrain import Constrain, flat, unconstrained
from ppl_vae.program.pair import Program

__all__ = ["SparseNormal", "elimination"]

# Latents at most (a draw solves with a matrix of their square), and the share of pairs that counts as dense.
MOST, DENSE = 3000, 0.5
# Points at which second derivatives are looked at, how far they are apart, and what of them is rounding.
POINTS, RADIUS, ROUNDING = 3, 2.0, 1e-9
# Rows of a Hessian at once.
ROWS = 64


class SparseNormal(AutoContinuous):  # type: ignore[misc]
    """N(μ, (L Lᵀ)⁻¹) in unconstrained space, with L as sparse as the posterior's own precision allows.

    Two coordinates are linked where a second derivative of the log density is not zero at one of three random
    points. The coordinates are put into an order of small fill (minimum degree), and L has entries where the
    Cholesky factor of a matrix with those links has: the family holds the exact posterior of every
    linear-Gaussian model. A chain of T states has about 3 T parameters, and full-rank has T²/2.

    The parameters are those of regressions: every coordinate, given those after it, is normal with a mean
    linear in the ones it is linked to. Links that show in no second derivative (absolute values, steps) are
    not seen.

    Source: Tan and Nott, "Gaussian variational approximation with sparse precision matrices", *Statistics and
    Computing* 28 (2018); George and Liu, "The evolution of the minimum degree ordering algorithm" (1989).

    Args:
        model: a Pyro model with continuous latents.
        links: which coordinates are linked, shape (latents, latents), symmetric; sites one after another in
            unconstrained space. Read off the model where it is run first, by default.
        init_scale: conditional standard deviation of every coordinate at the start.

    Raises:
        InputError: where it runs first, if the links leave no sparse factor, or there are too many latents.
    """

    def __init__(self, model: Program, *, links: Tensor | None = None, init_scale: float = 0.1) -> None:
        super().__init__(model)
        self._plain, self._links, self.init_scale = (model,), links, init_scale

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        if self.latent_dim > MOST:
            raise InputError(f"a sparse guide takes {MOST:,} latent numbers at most, not {self.latent_dim:,}")
        links = self._read_links(args, kwargs) if self._links is None else self._links
        _refuse_dense(int(links.triu(1).sum()), self.latent_dim)
        order, later = elimination(links.numpy())
        _refuse_dense(sum(map(len, later)), self.latent_dim)
        place = np.argsort(order)
        self.register_buffer("order", torch.from_numpy(order))
        self.register_buffer("place", torch.from_numpy(place))
        size = self.latent_dim
        cells = [place[j] * size + place[i] for j, others in zip(order, later, strict=True) for i in others]
        # Of the flattened matrix in the new order: each row has the coordinates after its own.
        self.register_buffer("cells", torch.tensor(cells, dtype=torch.long))
        self.loc = nn.Parameter(flat(unconstrained(self.prototype_trace)))
        scale = torch.full_like(self.loc, self.init_scale)
        self.scale = PyroParam(scale, constraints.softplus_positive)
        self.coefficients = nn.Parameter(self.loc.new_zeros(len(cells)))

    def get_posterior(self, *args: Any, **kwargs: Any) -> dist.TransformedDistribution:
        """q over the unconstrained latents, event shape (latent_dim,)."""
        base = dist.Normal(torch.zeros_like(self.scale), self.scale).to_event(1)
        size = self.latent_dim
        matrix = self.loc.new_zeros(size * size).scatter(0, self.cells, self.coefficients)
        matrix = matrix.reshape(size, size) + torch.eye(size).to(self.loc)
        return dist.TransformedDistribution(base, [_Regressions(self.loc, matrix, self.order, self.place)])

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        regressions = self.get_posterior().transforms[0]
        root = torch.linalg.solve_triangular(regressions.matrix, self.scale.diag(), upper=True)
        return self.loc, root.square().sum(-1).sqrt()[self.place]

    def _read_links(self, args: Any, kwargs: Any) -> Tensor:
        start = unconstrained(self.prototype_trace)

        def log_density(at: Tensor) -> Tensor:
            parts = at.split([own.numel() for own in start.values()])
            values = {
                name: part.reshape(own.shape) for part, (name, own) in zip(parts, start.items(), strict=True)
            }
            with Constrain(values) as constrained:
                trace = poutine.trace(self._plain[0]).get_trace(*args, **kwargs)
            return trace.log_prob_sum() + constrained.log_jacobian

        around = flat(start)
        with torch.enable_grad(), poutine.block():
            points = around + RADIUS * (2 * torch.rand(POINTS, len(around)).to(around) - 1)
            hessians = torch.stack([_hessian(log_density, point) for point in points])
        known = hessians[hessians.isfinite().all(-1).all(-1)].abs()
        if not len(known):
            raise InputError("a sparse guide needs second derivatives, which are not finite at random points")
        largest = known.amax(-1, keepdim=True)
        linked = known > ROUNDING * (largest * largest.mT).sqrt()
        return (linked | linked.mT).any(0)


def _refuse_dense(pairs: int, size: int) -> None:
    every = size * (size - 1) // 2
    if pairs > DENSE * every:
        raise InputError(
            f"a sparse guide needs a sparse dependence graph: given the data, {pairs} of {every} pairs of "
            "latent numbers depend on each other, or would where others are eliminated; full-rank serves"
        )


def _hessian(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Second derivatives at a point, shape (d, d)."""
    at = point.detach().requires_grad_()
    (slope,) = torch.autograd.grad(function(at), at, create_graph=True)
    if not slope.requires_grad:
        return torch.zeros(len(at), len(at)).to(at)
    rows = torch.eye(len(at)).to(at)

    def of(some: Tensor, together: bool) -> Tensor:
        (found,) = torch.autograd.grad(
            slope, at, some, retain_graph=True, is_grads_batched=together, materialize_grads=True
        )
        return found

    try:
        return torch.cat([of(some, True) for some in rows.split(ROWS)])
    except RuntimeError:  # an operation that has no rule for many at once
        return torch.stack([of(row, False) for row in rows])


def elimination(links: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    """The order of least degree in which to eliminate the nodes of a graph, and the fill that it leaves.

    Args:
        links: symmetric, shape (d, d), booleans; the diagonal is not read.

    Returns:
        The nodes in order, and for each of them those after it to which it is linked when it is eliminated:
        the entries below the diagonal of its column of a Cholesky factor.
    """
    near = [set(np.flatnonzero(row).tolist()) - {node} for node, row in enumerate(links)]
    left, order, later = set(range(len(near))), [], []
    while left:
        node = min(left, key=lambda each: (len(near[each]), each))
        left.remove(node)
        for other in near[node]:
            near[other] |= near[node]
            near[other] -= {node, other}
        order.append(node)
        later.append(sorted(near[node]))
    return np.array(order), later


class _Regressions(Transform):
    """e ↦ μ + x, where each x, in an order, is e less a linear function of those after it: B x = e."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, loc: Tensor, matrix: Tensor, order: Tensor, place: Tensor) -> None:
        super().__init__(cache_size=1)
        self.loc, self.matrix, self.order, self.place = loc, matrix, order, place

    def _call(self, x: Tensor) -> Tensor:
        solved = torch.linalg.solve_triangular(
            self.matrix, x.reshape(-1, x.shape[-1]).mT, upper=True, unitriangular=True
        )
        return self.loc + solved.mT.reshape(x.shape)[..., self.place]

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - self.loc)[..., self.order] @ self.matrix.mT

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])
