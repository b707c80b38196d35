"""Hamiltonian Monte Carlo with many chains in step: one batch of positions, one tuning learnt across them.

All chains take the same number of leapfrog steps, so that one call of the log density serves them all.
During the warm-up the chains together learn a step size, a diagonal metric and the trajectory length that
their slowest direction needs; then everything is frozen.

Sources: Neal, "MCMC using Hamiltonian dynamics" (2011), for the transition; Hoffman, Radul and Sountsov,
"An adaptive MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo" (2021), for adapting
across chains and the quasi-random jitter; Sountsov and Hoffman, "Focusing on difficult directions for
learning HMC trajectory lengths" (2021), for learning the principal direction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_vae.base.arguments import PROBABILITY, check_real, check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.engine.leapfrog import Leapfrog, LogDensity, leapfrog_of
from ppl_vae.inference.samplers.hmc_tuning import Learner

__all__ = [
    "ChainState",
    "Chains",
    "Leapfrog",
    "LogDensity",
    "Transition",
    "jittered",
    "jittered_length",
    "leapfrog_of",
    "run",
    "start_at",
    "transition",
]

# An energy error beyond which a trajectory has left the level set for good (Stan's limit).
_DIVERGENCE = 1000.0
# Trajectories run over [1 − JITTER, 1 + JITTER] times their mean length.
_JITTER = 0.5
# Shares of the warm-up: at first chains find the typical set, each with its own step size; in between the
# metric and the trajectory length are learnt; at last the step size settles with all else frozen.
_SEARCH, _SETTLE = 0.25, 0.2


class ChainState(NamedTuple):
    """Where the chains are: position (chains, dim), log density (chains,) and gradient (chains, dim), and
    whatever else the leapfrog gives at a position."""

    position: Tensor
    log_density: Tensor
    gradient: Tensor
    more: tuple[Tensor, ...] = ()


class Transition(NamedTuple):
    """What one transition did.

    Attributes:
        state: of the chains afterwards.
        acceptance: probability with which each proposal was to be accepted, (chains,).
        accepted: whether it was, (chains,).
        diverging: whether the energy rose by more than 1000 nats or was not finite, (chains,).
    """

    state: ChainState
    acceptance: Tensor
    accepted: Tensor
    diverging: Tensor


@dataclass(frozen=True, eq=False)
class Chains:
    """Draws of many chains, and the tuning that made them.

    Attributes:
        draws: (chains, num_draws, dim).
        acceptance_rate: acceptance probability of each transition, (chains, num_draws).
        diverging: whether its energy rose by more than 1000 nats or was not finite, (chains, num_draws).
        num_leapfrogs: gradients a chain that each draw took, (num_draws,).
        warmup_leapfrogs: gradients a chain that the warm-up took.
        step_size: of the leapfrog, in units of the metric.
        trajectory_length: mean of the jittered lengths (step size × steps) before ``max_leapfrogs``.
        inverse_mass: the metric's diagonal, which is the variance of each coordinate, (dim,).
        principal_direction: unit vector (dim,), in standardised coordinates, along which chains spread most.
        principal_sd: their standard deviation along it.
    """

    draws: Tensor
    acceptance_rate: Tensor
    diverging: Tensor
    num_leapfrogs: Tensor
    warmup_leapfrogs: int
    step_size: float
    trajectory_length: float
    inverse_mass: Tensor
    principal_direction: Tensor
    principal_sd: float


def start_at(log_density: LogDensity, position: Tensor) -> ChainState:
    """The state of chains at given positions (chains, dim).

    Raises:
        InputError: if positions are not a floating-point matrix, or the log density or its gradient is
            not finite at one of them.
    """
    if position.dim() != 2 or not position.is_floating_point() or position.numel() == 0:
        raise InputError(
            f"start is {position.dtype} of shape {tuple(position.shape)}; "
            "it must be floating-point of shape (chains, dim)"
        )
    value, gradient = log_density(position)
    fine = value.isfinite() & gradient.isfinite().all(1) & position.isfinite().all(1)
    if not fine.all():
        bad = (~fine).nonzero().flatten().tolist()
        raise InputError(
            f"the log density or its gradient is not finite at the start of chains {bad[:8]}; "
            "every chain must start where both are finite"
        )
    return ChainState(position.contiguous(), value, gradient.contiguous())


def transition(
    leapfrog: Leapfrog,
    state: ChainState,
    *,
    step_size: Tensor,
    num_leapfrogs: int,
    inverse_mass: Tensor,
    generator: torch.Generator,
) -> Transition:
    """One step of Hamiltonian Monte Carlo for every chain, leaving its density invariant.

    Proposals whose energy is not finite are rejected; other chains do not notice.

    Args:
        leapfrog: one leapfrog step under the density to keep, tempered or not.
        state: of the chains, with log density and gradient of that same density.
        step_size: a scalar, or (chains, 1) for one a chain.
        num_leapfrogs: steps of every chain's trajectory, at least 1.
        inverse_mass: diagonal of the inverse mass matrix, (dim,).
        generator: of the momenta and of the acceptance.
    """
    position, log_density, gradient, more = state
    momentum = torch.empty_like(position).normal_(generator=generator).mul_(inverse_mass.rsqrt())
    before = state.log_density - _kinetic(momentum, inverse_mass)
    for _ in range(num_leapfrogs):
        position, momentum, log_density, gradient, *more = leapfrog(  # type: ignore[assignment]
            position, momentum, gradient, step_size, inverse_mass
        )
    gain = (log_density - _kinetic(momentum, inverse_mass)).sub_(before)
    # An infinite density is as wrong as none.
    gain = gain.nan_to_num_(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
    acceptance = gain.clamp(max=0.0).exp_()
    accepted = torch.empty_like(gain).uniform_(generator=generator) < acceptance
    moved = accepted.unsqueeze(1)
    after = ChainState(
        torch.where(moved, position, state.position),
        torch.where(accepted, log_density, state.log_density),
        torch.where(moved, gradient, state.gradient),
        tuple(
            torch.where(accepted if new.dim() == 1 else moved, new, old)
            for new, old in zip(more, state.more, strict=True)
        ),
    )
    return Transition(after, acceptance, accepted, gain < -_DIVERGENCE)


def jittered(mean: float, iteration: int, max_leapfrogs: int) -> int:
    """Leapfrog steps of one transition: a mean number under quasi-random jitter of ±50 %.

    Trajectories of one fixed length can return to where they began; lengths that van der Corput's
    sequence spreads evenly cannot (Hoffman et al. 2021). At least 1, at most ``max_leapfrogs``.
    """
    steps = round(mean * (1 + _JITTER * (2 * _van_der_corput(iteration + 1) - 1)))
    return min(max(steps, 1), max_leapfrogs)


def jittered_length(mean: float, step_size: float, iteration: int, most: int = 64) -> tuple[float, int]:
    """A trajectory of quasi-randomly jittered length, as `jittered`, in whole steps of at most a given size.

    Args:
        mean: length, in units of the metric.
        step_size: the largest step.
        iteration: number of the transition.
        most: largest number of steps; trajectories are then shorter.

    Returns:
        A factor on the step size, at most 1, and the number of steps.
    """
    length = mean * (1 + _JITTER * (2 * _van_der_corput(iteration + 1) - 1))
    count = math.ceil(length / step_size) if length < most * step_size else most
    return min(1.0, length / (count * step_size)), count


def run(
    leapfrog: Leapfrog,
    log_density: LogDensity,
    start: Tensor,
    *,
    num_draws: int,
    warmup: int = 150,
    target_accept: float = 0.8,
    max_leapfrogs: int = 512,
    seed: int,
    advance: Callable[[int, str], None] | None = None,
) -> Chains:
    """Warm up all chains together, freeze what was learnt, and draw.

    Args:
        leapfrog: one leapfrog step of ``log_density``, such as `leapfrog_of` makes. Its step size is
            always of shape (chains, 1) here.
        log_density: evaluated once, at the start.
        start: positions (chains, dim); their dtype and device are the sampler's. Best scattered more
            widely than the posterior; far out is no harm.
        num_draws: kept draws a chain.
        warmup: adaptation steps a chain. 150 serve 64 chains; a few chains want several hundred.
        target_accept: mean acceptance probability that the step size is tuned to.
        max_leapfrogs: most steps of one transition.
        seed: of all random numbers; global generators stay as they are.
        advance: called with (1, text) after each transition.

    Raises:
        InputError: for settings out of range, or a start where the density is not finite.
    """
    check_whole(1, num_draws=num_draws, max_leapfrogs=max_leapfrogs)
    check_whole(20, warmup=warmup)
    check_real(lambda v: 0 < v < 1, PROBABILITY, target_accept=target_accept)
    generator = torch.Generator(start.device).manual_seed(seed)
    move = partial(transition, leapfrog, generator=generator)
    tell = advance or (lambda n, text: None)
    with torch.no_grad():
        state = start_at(log_density, start)
        step_size, searched = _first_step_sizes(move, state)
        learner = Learner(state.position, step_size, target_accept, generator)
        state, spent = _warm_up(move, state, learner, warmup, max_leapfrogs, tell)
        return _draw(move, state, learner, num_draws, max_leapfrogs, searched + spent, tell)


def _warm_up(
    move: "partial[Transition]",
    state: ChainState,
    learner: Learner,
    warmup: int,
    max_leapfrogs: int,
    tell: Callable[[int, str], None],
) -> tuple[ChainState, int]:
    """Let the chains find the typical set and the learner its tuning; also the number of gradients."""
    search, settle = round(_SEARCH * warmup), round((1 - _SETTLE) * warmup)
    spent = 0
    for iteration in range(warmup):
        if iteration == search:
            learner.pool()
        # Little more steps than there have been iterations: cheap while the chains are far out.
        count = jittered(learner.mean_leapfrogs, iteration, min(max_leapfrogs, 8 + iteration))
        step = move(
            state, step_size=learner.log_step.exp(), num_leapfrogs=count, inverse_mass=learner.variance
        )
        state = step.state
        spent += count
        learner.learn_step_size(step.acceptance, averaging=iteration >= settle)
        if iteration < settle:
            learner.learn_moments(state.position)
        tell(1, f"warm-up, step {learner.step_size:.2g}")
    learner.finish()
    return state, spent


def _draw(
    move: "partial[Transition]",
    state: ChainState,
    learner: Learner,
    num_draws: int,
    max_leapfrogs: int,
    spent: int,
    tell: Callable[[int, str], None],
) -> Chains:
    chains, dim = state.position.shape
    draws = state.position.new_empty(chains, num_draws, dim)
    acceptance = state.position.new_empty(chains, num_draws)
    diverging = torch.empty(chains, num_draws, dtype=torch.bool, device=draws.device)
    counts = [jittered(learner.mean_leapfrogs, draw, max_leapfrogs) for draw in range(num_draws)]
    step_size, inverse_mass = learner.log_step.exp(), learner.variance
    for draw, count in enumerate(counts):
        step = move(state, step_size=step_size, num_leapfrogs=count, inverse_mass=inverse_mass)
        state = step.state
        draws[:, draw] = state.position
        acceptance[:, draw] = step.acceptance
        diverging[:, draw] = step.diverging
        tell(1, "sampling")
    return Chains(
        draws=draws,
        acceptance_rate=acceptance,
        diverging=diverging,
        num_leapfrogs=torch.tensor(counts),
        warmup_leapfrogs=spent,
        step_size=learner.step_size,
        trajectory_length=learner.trajectory_length,
        inverse_mass=inverse_mass,
        principal_direction=learner.principal_direction,
        principal_sd=math.sqrt(learner.spread),
    )


def _first_step_sizes(move: "partial[Transition]", state: ChainState) -> tuple[Tensor, int]:
    """Double or halve each chain's step size until the acceptance of a single step crosses 1/2.

    Hoffman and Gelman (2014), Algorithm 4, for every chain at once.

    Returns:
        Step sizes (chains, 1) for a unit metric, and the number of gradients.
    """
    chains, dim = state.position.shape
    unit = state.position.new_ones(dim)
    step_size = state.position.new_ones(chains, 1)
    towards = state.position.new_zeros(chains, 1)
    for spent in range(1, 101):
        tried = move(state, step_size=step_size, num_leapfrogs=1, inverse_mass=unit)
        now = torch.where(tried.acceptance > 0.5, 1.0, -1.0).to(step_size).unsqueeze(1)
        towards = now if spent == 1 else torch.where(now == towards, towards, 0.0)
        if not towards.any():
            break
        step_size = step_size * torch.exp2(towards)
    return step_size, spent


def _kinetic(momentum: Tensor, inverse_mass: Tensor) -> Tensor:
    return 0.5 * (momentum.square() @ inverse_mass)


def _van_der_corput(number: int) -> float:
    """The binary digits of a number mirrored at the point: evenly spread over (0, 1)."""
    value, digit = 0.0, 0.5
    while number:
        value += digit * (number & 1)
        number >>= 1
        digit /= 2
    return value
