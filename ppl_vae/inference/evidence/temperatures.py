"""The schedule of an annealed run and the tuning of its transitions, learnt in a pilot run and then frozen.

What a pilot run adapts must not depend on the chains that are weighed: only frozen transitions leave the
weights unbiased.

Sources: Neal, "Annealed importance sampling" (2001); Grosse, Maddison and Salakhutdinov, "Annealing between
distributions by averaging moments" (2013), section 4, for temperatures at equal steps of thermodynamic
length.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.evidence.tempered import NOTHING, TemperedPath
from ppl_vae.inference.samplers.hmc import ChainState, jittered_length, transition

__all__ = ["LENGTH", "Plan", "by_row", "pilot", "tempered"]

# Standard deviation of log w that a step of the pilot run may add, and its longest step: few temperatures
# serve to find the schedule, but no fewer than the step sizes need to settle.
_PILOT_NATS, _PILOT_STEP, _MOST_STEPS = 1.0, 0.05, 400
# Transitions of the pilot run: to settle at the start, and at each temperature.
_SETTLING, _MOVES = 30, 4
# A log step size moves by this times the excess of a unit's mean acceptance.
_GAIN = 0.7
# Weight of a transition's covariance in the running one, and how many draws a coordinate the shrinkage of
# its correlations counts as.
_FORGETTING, _SHRINKAGE = 0.1, 5.0
# Share of temperatures that are spread evenly in β, whatever the pilot run saw.
_EVEN = 0.1
# Mean trajectory length in standard deviations: the best jump along a Gaussian per gradient, as in `hmc`.
LENGTH = 1.2


@dataclass(frozen=True, eq=False)
class Plan:
    """A frozen annealing run of T steps.

    Attributes:
        betas: temperatures 0 = β_0 < … < β_T = 1.
        step_size: of the transitions at β_1, …, β_{T−1}, by unit: (T − 1, units).
        length: thermodynamic length of the path by the pilot run, in nats.
        places: where these temperatures are among those of the pilot run, (T − 1,): 2.5 is halfway between
            the third and the fourth.
        factors: Cholesky factors of the chains' covariance in the pilot run, each (dim, dim).
    """

    betas: np.ndarray
    step_size: Tensor
    length: float
    places: np.ndarray
    factors: Tensor

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.betas) - 1

    def factor(self, inner: int) -> Tensor:
        """The metric's factor at β_{inner + 1}, between those of the pilot run."""
        lower = min(int(self.places[inner]), len(self.factors) - 2)
        return self.factors[lower].lerp(self.factors[lower + 1], float(self.places[inner] - lower))


def tempered(state: ChainState, before: float, after: float) -> ChainState:
    """The same positions under another temperature: no new gradient is needed."""
    difference, slope = state.more
    change = after - before
    return state._replace(
        log_density=state.log_density + change * difference, gradient=state.gradient + change * slope
    )


@torch.no_grad()
def pilot(
    path: TemperedPath,
    num_temperatures: int,
    *,
    target_accept: float,
    generator: torch.Generator,
    advance: Callable[[int, str], None],
) -> Plan:
    """Walk the path once, adapting, and plan T = ``num_temperatures`` steps.

    Args:
        path: to walk, with as many chains as it has.
        num_temperatures: T.
        target_accept: mean acceptance probability that each unit's step size is tuned to.
        generator: of momenta and acceptance; the starting draws come from the global one.
        advance: called with (0, text) at every temperature.
    """
    state = path.state(path.draw(), 0.0)
    tuner = _Tuner(path, state.position, target_accept)
    betas, speeds, steps, factors = [0.0], [], [], []
    while True:
        beta = betas[-1]
        for move in range(_SETTLING if len(betas) == 1 else _MOVES):
            state = tuner.move(state, beta, move, generator)
        speeds.append(_speed(state, path))
        steps.append(tuner.settled())
        factors.append(tuner.factor)
        advance(0, f"pilot run, β = {beta:.3g}")
        if beta == 1.0:
            break
        step = min(_PILOT_NATS / max(speeds[-1], 1e-12), _PILOT_STEP)
        # A path that is too long for small steps is taken in larger ones.
        least = (1 - beta) / max(1, _MOST_STEPS - len(betas))
        betas.append(min(1.0, beta + max(step, least)))
        state = tempered(state, beta, betas[-1])
    return _plan(np.array(betas), np.array(speeds), steps, factors, num_temperatures)


class _Tuner:
    """Step sizes of every unit and a metric common to them, adapted as the temperature moves."""

    def __init__(self, path: TemperedPath, position: Tensor, target_accept: float) -> None:
        self.path, self.target = path, target_accept
        self.log_step = position.new_zeros(path.units)
        self.covariance = self._spread(position)
        self.factor = self._factor()
        self._unit = position.new_ones(path.dim)
        self._recent: list[Tensor] = []

    def move(self, state: ChainState, beta: float, move: int, generator: torch.Generator) -> ChainState:
        """One transition of all chains, and what it teaches."""
        step_size = self.log_step.exp()
        scale, count = jittered_length(LENGTH, float(step_size.median()), move)
        tried = transition(
            self.path.leapfrog(beta, self.factor),
            state,
            step_size=by_row(step_size * scale, self.path),
            num_leapfrogs=count,
            inverse_mass=self._unit,
            generator=generator,
        )
        acceptance = tried.acceptance.reshape(self.path.num_chains, -1).mean(0)
        self.log_step = self.log_step + _GAIN * (acceptance - self.target)
        self._recent.append(self.log_step)
        before = self.covariance.diagonal()
        self.covariance = self.covariance.lerp(self._spread(tried.state.position), _FORGETTING)
        self.factor = self._factor()
        # Step sizes are in units of the metric: keep their physical length.
        self.log_step = self.log_step + 0.5 * (before / self.covariance.diagonal()).log().mean()
        return tried.state

    def settled(self) -> Tensor:
        """Log step sizes (units,) averaged over the last moves."""
        self._recent = self._recent[-3 * _MOVES :]
        return torch.stack(self._recent).mean(0)

    def _spread(self, position: Tensor) -> Tensor:
        """Covariance between a unit's chains, averaged over units, (dim, dim)."""
        chains = position.reshape(self.path.num_chains, self.path.units, -1)
        centred = (chains - chains.mean(0)).flatten(0, 1)
        return centred.T @ centred / (self.path.units * (self.path.num_chains - 1))

    def _factor(self) -> Tensor:
        """Its Cholesky factor, shrunk towards the diagonal as far as the chains are few."""
        dim = self.path.dim
        effective = self.path.units * (self.path.num_chains - 1) / _FORGETTING
        variances = self.covariance.diagonal().clamp_min(torch.finfo(self.covariance.dtype).tiny)
        trust = effective / (effective + _SHRINKAGE * dim)
        shrunk = trust * self.covariance + (1 - trust) * variances.diag()
        factor, failed = torch.linalg.cholesky_ex(shrunk)
        return variances.sqrt().diag() if failed else factor


def _speed(state: ChainState, path: TemperedPath) -> float:
    """sd of log p − log q between a unit's chains, root mean square over units: d(length)/dβ.

    Chains where p is zero have lost their weight whatever the temperatures, and say nothing about them.
    """
    difference = state.more[0].double().reshape(path.num_chains, -1)
    alive = difference > 0.5 * NOTHING
    count = alive.sum(0)
    known = torch.where(alive, difference, 0.0)
    mean = known.sum(0) / count.clamp_min(1)
    squares = torch.where(alive, (known - mean).square(), 0.0).sum(0)
    variance = (squares / (count - 1))[(count > 1) & squares.isfinite()]
    return float(variance.mean().sqrt()) if len(variance) else 0.0


def _plan(
    betas: np.ndarray, speeds: np.ndarray, steps: list[Tensor], factors: list[Tensor], num_temperatures: int
) -> Plan:
    """Temperatures at equal steps of thermodynamic length, mixed with some at equal steps of β."""
    pieces = 0.5 * (speeds[1:] + speeds[:-1]) * np.diff(betas)
    length = float(pieces.sum())
    travelled = np.concatenate([[0.0], np.cumsum(pieces)]) / max(length, 1e-300)
    travelled = (1 - _EVEN) * travelled + _EVEN * betas if length > 0 else betas
    even = np.linspace(0, 1, num_temperatures + 1)
    chosen = np.interp(even, travelled, betas)
    chosen[0], chosen[-1] = 0.0, 1.0
    places = np.interp(chosen[1:-1], betas, np.arange(len(betas)))
    lower = np.minimum(places.astype(int), len(betas) - 2)
    log_steps = torch.stack(steps)
    between = torch.as_tensor(places - lower).to(log_steps)[:, None]
    step_size = log_steps[lower].lerp(log_steps[lower + 1], between).exp()
    return Plan(chosen, step_size, length, places, torch.stack(factors))


def by_row(by_unit: Tensor, path: TemperedPath) -> Tensor:
    """A number by unit as one for every row, (rows, 1)."""
    return by_unit.expand(path.num_chains, -1).reshape(-1, 1).contiguous()
