"""P(p_1 > p_2 > … > p_K) of independent normal performances, and their moments given that order.

The orthant probability is a chain of one-dimensional integrals, A_k(x) = ∫_{−∞}^x φ_k A_{k+1}, which costs as
much as there are sides. Three things keep its digits where the order is absurd:

* The mode of the performances given the order is the isotonic regression of their means, and its multipliers
  λ_k ≥ 0 say how hard neighbours press on each other. With ∏ φ_k tilted by exp(Σ λ_k (p_k − p_{k+1})), what
  is carried along is ∫ exp(−λ_k (x − t)) … dt: a smooth function, where A_k itself rises by exp(30) within a
  standard deviation.
* A panel of Gauss and Legendre's nodes integrates a polynomial times that exponential exactly, by one
  constant matrix for each of a few values of λ (any tilt near the multiplier will do, since whatever it is,
  it cancels).
* Every side has panels around its own mode only, on one lattice a game; the next side's are so many panels
  away.

Modes, tilts and panels are numerical choices that the answer does not depend on, and carry no gradient.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.models.skills.links import log_normal_cdf

__all__ = ["isotonic_means", "log_orders", "num_panels", "order_moments"]

# Of a panel; with sixteen, half as many points are needed for 1e-10 as with eight.
NODES = 16
# Panels reach this many standard deviations to either side of the mode: beyond are 1e-12 of the mass.
SPAN = 7.0
# Tilts that have matrices, in units of one over the largest standard deviation: a rest of two does no harm.
# The largest are of orders that are wrong by a thousand of them.
STEP, LEVELS = 4.0, 256
# How many times too few panels may be before an answer is refused: it may be off by 1e-6 nats then.
TOO_FEW = 2.2
LOG_SQRT_TWO_PI = 0.5 * math.log(2 * math.pi)
TINY = 1e-300
# Numbers of (games, sides, points) that are worked on together: what stays in the cache; but a graph, which
# lists every operation, shall not be of more than so many parts while they are no larger than this.
CACHED, LARGEST, PARTS = 2**20, 2**23, 8


def num_panels(sides: int, ratio: float = 1.0) -> int:
    """Panels that keep log P to 1e-9 nats: more for many sides, whose performances are pressed together.

    Args:
        sides: K.
        ratio: of the largest to the smallest standard deviation in a game.
    """
    return math.ceil(max(8.0, 2 + sides / 3) * ratio)


def isotonic_means(location: Tensor, precision: Tensor) -> Tensor:
    """The decreasing sequence that is nearest to the locations, weighted by the precisions; shape (…, K).

    By minima of maxima of averages (Robertson, Wright and Dykstra 1988, section 1.4), all at once.
    """
    sides = location.shape[-1]
    totals = torch.nn.functional.pad((location * precision).cumsum(-1), (1, 0))
    weights = torch.nn.functional.pad(precision.cumsum(-1), (1, 0))
    upper = torch.ones(sides, sides, dtype=torch.bool, device=location.device).triu()
    summed, weight = (part[..., None, 1:] - part[..., :-1, None] for part in (totals, weights))
    averages = torch.where(upper, summed / torch.where(upper, weight, 1.0), -math.inf)
    largest = averages.flip(-1).cummax(-1).values.flip(-1)
    return torch.where(upper, largest, math.inf).cummin(-2).values.diagonal(dim1=-2, dim2=-1)


def log_orders(
    location: Tensor, scale: Tensor, panels: int | None = None, last: Tensor | None = None
) -> Tensor:
    """log P(p_1 > p_2 > … > p_K), in nats, shape (rows,); differentiable in location and scale.

    To 1e-8 nats where it is above −2,000, and to a part in 10⁹ below. An order that is wrong by more than
    some hundred standard deviations (a log P below about −10⁵) is refused: it has −∞, and no gradient. So is
    one of sides whose scales differ so much that there are too few panels.

    Args:
        location, scale: of the performances, best first, shape (rows, K), float64.
        panels: of a window; those of `num_panels` by default, for sides of one scale.
        last: of shape (rows, K): the sides that share the last place, in whatever order, if some do.
    """
    rows, sides = location.shape
    panels = panels or num_panels(sides)
    each = sides * panels * NODES
    size = max(1, max(CACHED, min(LARGEST, rows * each // PARTS)) // each)
    parts = [slice(at, at + size) for at in range(0, rows, size)]
    shared = [None if last is None else last[i] for i in parts]
    found = [
        _LogOrder.apply(location[i], scale[i], panels, mask) for i, mask in zip(parts, shared, strict=True)
    ]
    return torch.cat(found)


def order_moments(
    location: Tensor, scale: Tensor, panels: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """log P of the order, and means and variances of the performances given it: exact for a whole game.

    Args:
        location, scale, panels: as for `log_orders`.

    Returns:
        log P (rows,) in nats; means and variances (rows, K), NaN where log P is −∞.
    """
    panels = panels or num_panels(location.shape[-1])
    size = max(1, CACHED // (location.shape[-1] * panels * NODES))
    chains = (_Chain(u, c, panels) for u, c in zip(location.split(size), scale.split(size), strict=True))
    found = [(chain.log_probability, *chain.moments()) for chain in chains]
    log_z, mean, variance = (torch.cat(part) for part in zip(*found, strict=True))
    return log_z, mean, variance


class _LogOrder(torch.autograd.Function):
    """log P of an order, whose gradient is made of moments: cheaper than that of the chain's operations.

    Where the gradient is to be differentiated, it is computed again with all that it depends on.
    """

    @staticmethod
    def forward(context: Any, location: Tensor, scale: Tensor, panels: int, last: Tensor | None) -> Tensor:
        context.save_for_backward(location, scale)
        context.chain = _Chain(location, scale, panels, last)
        return context.chain.log_probability

    @staticmethod
    def backward(context: Any, outer: Tensor) -> tuple[Tensor, Tensor, None, None]:
        location, scale = context.saved_tensors
        chain = context.chain
        if torch.is_grad_enabled():
            chain = _Chain(location, scale, chain.panels, chain.last)
        by_location, by_scale = chain.slopes()
        return outer[:, None] * by_location, outer[:, None] * by_scale, None, None


@dataclass(frozen=True)
class _Rule:
    """∫ exp(−κ (x − t)) f(t) dt over panels of [−1, 1], from the left or the right, for every level of κ.

    Attributes:
        inner: from f at a panel's nodes to the integrals within it, up to each node and to its end; (L, 16,
            17).
        carry: from the panels' integrals to what has come before each, and to the end of all; (L, P + 1, P).
        decay: of what has come before, at the nodes; (L, 16).
    """

    inner: Tensor
    carry: Tensor
    decay: Tensor

    def __call__(self, f: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """At all nodes, (rows, P, 16), and at the end, (rows,), by f at the nodes and the rows' levels."""
        inner = f @ self.inner[level]
        before = (self.carry[level] @ inner[..., NODES:])[..., 0]
        inside = before[:, :-1, None] * self.decay[level][:, None] + inner[..., :NODES]
        return inside, before[:, -1]


@dataclass(frozen=True)
class _Rules:
    """Nodes and weights of a panel, and the rules from either side."""

    nodes: Tensor
    weights: Tensor
    from_left: _Rule
    from_right: _Rule


@lru_cache
def _rules(panels: int, device: torch.device) -> _Rules:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    # Lagrange's polynomials at fine nodes of the integrals up to each node and to the end.
    fine, fine_weights = np.polynomial.legendre.leggauss(160)
    ends = np.append(nodes, 1.0)
    half = (ends + 1)[:, None] / 2
    at = half * (fine + 1) - 1
    apart = nodes[:, None] - nodes + np.eye(NODES)
    barycentric = 1 / (apart.prod(1) * (at[..., None] - nodes))
    lagrange = barycentric / barycentric.sum(-1, keepdims=True)
    tilts = (np.arange(LEVELS) * STEP * SPAN / (panels - 1))[:, None, None]
    inner = np.einsum("kiq,iqj->kij", np.exp(-tilts * (ends[:, None] - at)) * half * fine_weights, lagrange)
    gap = np.arange(panels + 1)[:, None] - 1 - np.arange(panels)
    carry = np.where(gap >= 0, np.exp(-2 * tilts * np.maximum(gap, 0)), 0.0)
    decay = np.exp(-tilts[..., 0] * (nodes + 1))
    within, total = inner[:, :NODES], inner[:, NODES:]
    mirrored = np.concatenate([within[:, ::-1, ::-1], total[:, :, ::-1]], 1)
    back = np.concatenate([carry[:, -2::-1, ::-1], carry[:, -1:, ::-1]], 1)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.tensor(np.ascontiguousarray(values), device=device)

    left = _Rule(tensor(inner.swapaxes(1, 2)), tensor(carry), tensor(decay))
    right = _Rule(tensor(mirrored.swapaxes(1, 2)), tensor(back), tensor(decay[:, ::-1]))
    return _Rules(tensor(nodes), tensor(weights), left, right)


class _Chain:
    """The chain of integrals of some games of K sides each, best first.

    Args:
        location, scale: of the performances, shape (rows, K).
        panels: P of a side's window.
        last: sides that share the last place, shape (rows, K).
    """

    def __init__(self, location: Tensor, scale: Tensor, panels: int, last: Tensor | None = None) -> None:
        self.scale, self.panels, self.last = scale, panels, last
        self.rules = _rules(panels, location.device)
        with torch.no_grad():
            self.mode = isotonic_means(location, scale.pow(-2))
            self.widest = scale.amax(-1, keepdim=True)
            pressure = ((self.mode - location) / scale.square()).cumsum(-1)
            level = (pressure * self.widest / STEP).round().clamp_min(0)[:, :-1]
            # These are answered apart, as if in order, so that nothing is NaN.
            needed = num_panels(location.shape[-1]) * self.widest / scale.amin(-1, keepdim=True)
            self.absurd = (level >= LEVELS).any(-1, keepdim=True) | (needed > TOO_FEW * panels)
        self.location = torch.where(self.absurd, self.mode, location)
        with torch.no_grad():
            self._place_windows(level.masked_fill(self.absurd, 0.0))
        z = (self.x - self.location[..., None, None]) / scale[..., None, None]
        exponent = self.tilt[..., None, None] * (self.x - self.mode[..., None, None]) - z.square() / 2
        # Of the mode's height, which the answer's logarithm gets back.
        exponent = exponent + (self.height - LOG_SQRT_TWO_PI)[..., None, None]
        self.density = exponent.exp() / scale[..., None, None]

    def _place_windows(self, level: Tensor) -> None:
        """Tilts and panels: what is chosen and carries no gradient."""
        panels = self.panels
        self.half = SPAN * self.widest / (panels - 1)
        width = 2 * self.half
        level = torch.nn.functional.pad(level, (0, 1))
        self.level, self.pressure = level.long(), level * STEP / self.widest
        self.tilt = torch.diff(self.pressure, dim=-1, prepend=torch.zeros_like(level[:, :1]))
        self.height = ((self.mode - self.location) / self.scale).square() / 2
        panel = ((self.mode - self.mode[:, -1:]) / width).round()
        if self.last is not None:
            panel = torch.where(self.last, _at(panel, self._lowest())[:, None], panel)
        start = self.mode[:, -1:] + (panel - panels / 2) * width
        inside = torch.arange(panels, device=level.device)[:, None] + (self.rules.nodes + 1) / 2
        self.x = start[..., None, None] + width[..., None, None] * inside
        self.shift = (panel[:, :-1] - panel[:, 1:]).clamp(0, panels).long()

    def _lowest(self) -> Tensor:
        """Position of the last side that has its place for itself, shape (rows,)."""
        assert self.last is not None
        return ((~self.last).sum(-1) - 1).clamp_min(0)

    @cached_property
    def log_probability(self) -> Tensor:
        """log P of the order, shape (rows,)."""
        return self._upwards[0].masked_fill(self.absurd[:, 0], -math.inf)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and variances (rows, K) of the performances given the order."""
        away = self.x - self.mode[..., None, None]
        mean = (self._posterior * away).sum((-1, -2))
        variance = (self._posterior * (away - mean[..., None, None]).square()).sum((-1, -2))
        mean = self.mode + mean
        return mean.masked_fill(self.absurd, math.nan), variance.masked_fill(self.absurd, math.nan)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """Derivatives of log P by locations and by scales, (rows, K): expectations given the order."""
        mean, variance = self.moments()
        away, c = mean - self.location, self.scale
        by_u, by_c = away / c.square(), ((variance + away.square()) / c.square() - 1) / c
        if self.last is not None:
            # Of sides that are all below x, in expectation over the x of the side before them.
            lowest = self._lowest()
            share, x = (_at(part, lowest)[:, None] for part in (self._posterior, self.x))
            z = (x - self.location[..., None, None]) / c[..., None, None]
            ratio = (-z.square() / 2 - LOG_SQRT_TWO_PI - log_normal_cdf(z)).exp() * share / c[..., None, None]
            known = ~self.last.all(-1, keepdim=True)
            by_u = torch.where(self.last, -ratio.sum((-1, -2)), by_u) * known
            by_c = torch.where(self.last, -(ratio * z).sum((-1, -2)), by_c) * known
        return by_u.masked_fill(self.absurd, 0.0), by_c.masked_fill(self.absurd, 0.0)

    @cached_property
    def _posterior(self) -> Tensor:
        """Probabilities of a side's nodes given the order, shape (rows, K, P, nodes)."""
        below, above = torch.stack(self._upwards[1], 1), torch.stack(self._downwards(), 1)
        weight = self.density * below * above * self.rules.weights
        return weight / weight.sum((-1, -2), keepdim=True)

    @cached_property
    def _upwards(self) -> tuple[Tensor, list[Tensor]]:
        """log P, and for every side P(all after it in order and below x), scaled, at its own nodes."""
        current, log_z = self._start()
        end, below = torch.ones_like(log_z), [current]
        for k in reversed(range(self.location.shape[-1])):
            level = self.level[:, k - 1] if k else torch.zeros_like(self.level[:, 0])
            found, found_end, log_scale = self._integrate(self.rules.from_left, k, current, level)
            if self.last is not None:
                shared = self.last[:, k]
                found = torch.where(shared[:, None, None], current, found)
                found_end, log_scale = torch.where(shared, end, found_end), log_scale.masked_fill(shared, 0.0)
            current, end, log_z = found, found_end, log_z + log_scale
            if k:
                current = self._moved(current, end, self.shift[:, k - 1])
                below.append(current)
        log_z = log_z + end.log()
        return (log_z if self.last is None else log_z.masked_fill(self.last.all(-1), 0.0)), below[::-1]

    def _downwards(self) -> list[Tensor]:
        """For every side P(all before it in order and above x), scaled, at its own nodes."""
        current = torch.ones_like(self.density[:, 0])
        above = [current]
        for k in range(self.location.shape[-1] - 1):
            found, end, _ = self._integrate(self.rules.from_right, k, current, self.level[:, k])
            current = self._moved(found, end, -self.shift[:, k])
            above.append(current)
        return above

    def _start(self) -> tuple[Tensor, Tensor]:
        """P(all in the shared last place are below x) at nodes of the side before them, and log P so far."""
        log_z = -self.height.sum(-1)
        if self.last is None:
            return torch.ones_like(self.density[:, 0]), log_z
        lowest = self._lowest()
        x, mode, pressure = (_at(part, lowest)[:, None] for part in (self.x, self.mode, self.pressure))
        z = (x - self.location[..., None, None]) / self.scale[..., None, None]
        each = log_normal_cdf(z) + self.height[..., None, None]
        log_below = torch.where(self.last[..., None, None], each, 0.0).sum(1)
        log_below = log_below - (pressure[..., None] * (x[:, 0] - mode[..., None]))
        top = log_below.detach().amax((-1, -2))
        return (log_below - top[:, None, None]).exp(), log_z + top

    def _integrate(
        self, rule: _Rule, k: int, current: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next function at nodes and end, scaled to a maximum of one, and log of the scale."""
        found, end = rule(self.density[:, k] * current, level)
        scale = found.detach().flatten(1).amax(1).clamp_min(TINY)
        return found / scale[:, None, None], end / scale, (scale * self.half[:, 0]).log()

    def _moved(self, values: Tensor, end: Tensor, shift: Tensor) -> Tensor:
        """The same function on a window that lies so many panels higher; it is constant beyond its end."""
        place = torch.arange(self.panels, device=shift.device) + shift[:, None]
        held = place.clamp(0, self.panels - 1)
        moved = values.gather(1, held[..., None].expand(-1, -1, NODES))
        return torch.where((place == held)[..., None], moved, end[:, None, None])


def _at(values: Tensor, position: Tensor) -> Tensor:
    """One position of every row: from (rows, K, …) to (rows, …)."""
    return values[torch.arange(len(position), device=position.device), position]
