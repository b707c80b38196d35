"""NUTS for gradients that are called from Python: chains walk on their own, their gradients are one batch.

Each chain is a coroutine that asks for the gradient at a position and goes on when it gets one. No threads
are involved: what the program raises comes out as it is, and nothing lives on.

Sources: Hoffman and Gelman, "The No-U-Turn Sampler" (2014), for the tree and the step size; Betancourt, "A
Conceptual Introduction to Hamiltonian Monte Carlo" (2017), for multinomial sampling from the trajectory and
the criterion by summed momenta; Seyboldt, Carlson and Carpenter (2026), for a diagonal metric from draws and
gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.samplers.chains import ChainSettings
from ppl_vae.inference.samplers.metric import Metric, StepSize, windows

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LogDensities", "sample_positions"]

Array = np.ndarray
LogDensities = Callable[[Array, Sequence[int]], tuple[Array, Array]]
"""From positions (chains, dim) and the chains that wait to log densities (chains,) and gradients."""

Ask = Generator[Array, tuple[float, Array], "_Tree"]

# An energy error beyond which a trajectory has left the level set for good (Stan's limit).
_DIVERGENCE = 1000.0


class _Point(NamedTuple):
    """A point of a trajectory."""

    position: Array
    momentum: Array
    log_density: float
    gradient: Array


@dataclass
class _Tree:
    """A stretch of a trajectory.

    Attributes:
        left, right: its ends.
        chosen: one of its points, drawn by weight.
        log_weight: log of the sum of exp(−energy), relative to the start of the trajectory.
        momenta: their sum over the points.
        stop: whether it turned back or diverged.
        diverging: whether the energy rose beyond the limit.
        acceptance: sum of the acceptance probabilities of its points.
        size: number of its points.
    """

    left: _Point
    right: _Point
    chosen: _Point
    log_weight: float
    momenta: Array
    stop: bool
    diverging: bool
    acceptance: float
    size: int


@dataclass
class _Statistics:
    """What is kept of each draw, under ArviZ's names."""

    diverging: list[bool] = field(default_factory=list)
    acceptance_rate: list[float] = field(default_factory=list)
    step_size: list[float] = field(default_factory=list)
    n_steps: list[int] = field(default_factory=list)
    lp: list[float] = field(default_factory=list)


class _Chain:
    """One chain: its place, its tuning and its random numbers."""

    def __init__(self, start: Array, settings: ChainSettings, number: int, dense: bool) -> None:
        self.start, self.settings = start, settings
        self.rng = np.random.default_rng([settings.seed, number])
        self.metric = Metric(len(start), dense)
        self.step = StepSize(settings.target_accept)
        self.draws = np.empty((settings.num_draws, len(start)))
        self.statistics = _Statistics()

    def run(self, advance: Callable[[int, str], None]) -> Generator[Array, tuple[float, Array], None]:
        """Warm up and draw; yields positions, is sent (log density, gradient)."""
        settings = self.settings
        value, gradient = yield self.start
        here = _Point(self.start, np.zeros_like(self.start), value, gradient)
        yield from self._first_step(here)
        ends = windows(settings.warmup)
        for iteration in range(settings.warmup + settings.num_draws):
            warming = iteration < settings.warmup
            if iteration == settings.warmup:
                self.step.finish()
            tree = yield from self._transition(here)
            here = tree.chosen
            if warming:
                self.step.learn(tree.acceptance / max(tree.size, 1))
                self.metric.learn(here.position, here.gradient)
                if iteration + 1 in ends and self.metric.update():
                    yield from self._first_step(here)
            else:
                self._keep(iteration - settings.warmup, tree)
            advance(1, f"{'warm-up, ' if warming else ''}step {self.step.size:.2g}")

    def _keep(self, number: int, tree: _Tree) -> None:
        self.draws[number] = tree.chosen.position
        kept = self.statistics
        kept.diverging.append(tree.diverging)
        kept.acceptance_rate.append(tree.acceptance / max(tree.size, 1))
        kept.step_size.append(self.step.size)
        kept.n_steps.append(tree.size)
        kept.lp.append(tree.chosen.log_density)

    def _energy(self, point: _Point) -> float:
        """Its negative: log density less kinetic energy; −∞ where it is not finite."""
        with np.errstate(all="ignore"):
            found = point.log_density - 0.5 * float(point.momentum @ self.metric.velocity(point.momentum))
        return found if np.isfinite(found) else -np.inf

    def _leapfrog(self, point: _Point, step: float) -> Generator[Array, tuple[float, Array], _Point]:
        with np.errstate(all="ignore"):
            momentum = point.momentum + 0.5 * step * point.gradient
            position = point.position + step * self.metric.velocity(momentum)
            value, gradient = yield position
            return _Point(position, momentum + 0.5 * step * gradient, value, gradient)

    def _first_step(self, here: _Point) -> Generator[Array, tuple[float, Array], None]:
        """Double or halve the step size until one step is accepted half the time (2014, Algorithm 4)."""
        direction = 0.0
        for _ in range(50):
            at = here._replace(momentum=self.metric.momentum(self.rng))
            there = yield from self._leapfrog(at, self.step.size)
            towards = 1.0 if self._energy(there) - self._energy(at) > np.log(0.5) else -1.0
            if direction and towards != direction:
                break
            direction = towards
            self.step.size *= 2.0**direction
        self.step.restart()

    def _transition(self, here: _Point) -> Ask:
        """One draw: double the trajectory in either direction until it turns back."""
        here = here._replace(momentum=self.metric.momentum(self.rng))
        energy = self._energy(here)
        tree = _Tree(here, here, here, 0.0, here.momentum, False, False, 0.0, 0)
        for depth in range(self.settings.max_tree_depth):
            forwards = bool(self.rng.random() < 0.5)
            end = tree.right if forwards else tree.left
            grown = yield from self._build(end, forwards, depth, energy)
            chosen = tree.chosen
            if not grown.stop and np.log(self.rng.random()) < grown.log_weight - tree.log_weight:
                chosen = grown.chosen
            tree = self._join(tree, grown, forwards, chosen)
            if tree.stop:
                break
        return tree

    def _build(self, end: _Point, forwards: bool, depth: int, energy: float) -> Ask:
        """A stretch of 2^depth points beyond an end of the trajectory."""
        if depth == 0:
            point = yield from self._leapfrog(end, self.step.size if forwards else -self.step.size)
            gain = self._energy(point) - energy
            diverging = gain < -_DIVERGENCE
            acceptance = float(np.exp(min(0.0, gain)))
            return _Tree(point, point, point, gain, point.momentum, diverging, diverging, acceptance, 1)
        inner = yield from self._build(end, forwards, depth - 1, energy)
        if inner.stop:
            return inner
        outer = yield from self._build(inner.right if forwards else inner.left, forwards, depth - 1, energy)
        share = outer.log_weight - np.logaddexp(inner.log_weight, outer.log_weight)
        chosen = outer.chosen if np.log(self.rng.random()) < share else inner.chosen
        return self._join(inner, outer, forwards, chosen)

    def _join(self, inner: _Tree, outer: _Tree, forwards: bool, chosen: _Point) -> _Tree:
        """Two neighbouring stretches as one; it turns back if any of three stretches does."""
        first, second = (inner, outer) if forwards else (outer, inner)
        with np.errstate(all="ignore"):
            momenta = first.momenta + second.momenta
            stop = outer.stop or (
                self._turns(first.left, second.right, momenta)
                or self._turns(first.left, second.left, first.momenta + second.left.momentum)
                or self._turns(first.right, second.right, second.momenta + first.right.momentum)
            )
        log_weight = float(np.logaddexp(first.log_weight, second.log_weight))
        return _Tree(
            first.left, second.right, chosen, log_weight, momenta, bool(stop),
            outer.diverging, inner.acceptance + outer.acceptance, inner.size + outer.size,
        )  # fmt: skip

    def _turns(self, left: _Point, right: _Point, momenta: Array) -> bool:
        across = self.metric.velocity(momenta)
        return float(left.momentum @ across) <= 0 or float(right.momentum @ across) <= 0


def sample_positions(
    log_densities: LogDensities,
    starts: Tensor,
    settings: ChainSettings,
    *,
    dense: bool,
    advance: Callable[[int, str], None],
) -> tuple[Tensor, xr.Dataset]:
    """Chains in unconstrained space.

    Args:
        log_densities: of all chains at once.
        starts: positions (chains, dim) of finite density.
        settings: counts and tuning.
        dense: adapt a dense metric instead of a diagonal one.
        advance: called with (1, text) after each iteration of each chain.

    Returns:
        Positions of shape (chains, num_draws, dim), of the starts' dtype, and statistics under ArviZ's names.
    """
    positions = starts.double().cpu().numpy().copy()
    chains = [_Chain(start.copy(), settings, k, dense) for k, start in enumerate(positions)]
    walks = [chain.run(advance) for chain in chains]
    for k, walk in enumerate(walks):
        positions[k] = next(walk)
    waiting = list(range(len(chains)))
    while waiting:
        values, gradients = log_densities(positions, waiting)
        still = []
        for k in waiting:
            try:
                positions[k] = walks[k].send((float(values[k]), gradients[k]))
                still.append(k)
            except StopIteration:  # this chain is done; its last position fills its place in the batch
                pass
        waiting = still
    draws = torch.from_numpy(np.stack([chain.draws for chain in chains])).to(starts)
    return draws, _dataset([chain.statistics for chain in chains])


def _dataset(statistics: Sequence[_Statistics]) -> xr.Dataset:
    import xarray as xr

    over = ("chain", "draw")
    found = {
        name: (over, np.array([getattr(one, name) for one in statistics])) for name in vars(statistics[0])
    }
    chains, draws = found["diverging"][1].shape
    return xr.Dataset(found, coords={"chain": np.arange(chains), "draw": np.arange(draws)})
