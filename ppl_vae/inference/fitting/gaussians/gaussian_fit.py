"""What natural gradients and deterministic VI share: a start, rounds of more and more common draws, an
answer.

A round maximises the ELBO on common draws. Then draws to which the guide was not fitted say how far it is
from the best of its family (`distance`); where that is more than asked, four times the draws are taken, and
the guide goes on from where it is. Nothing is tuned: there is no learning rate, and no rule that guesses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.arguments import check_real, check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.seeds import check_seed, derived
from ppl_vae.inference.evidence.elbo import ELBO, elbo
from ppl_vae.inference.fitting.fit_result import Distance, Fit, final_particles
from ppl_vae.inference.fitting.gaussians.gaussian import Gaussian, common_noise
from ppl_vae.inference.fitting.gaussians.proper import refuse_flat, refuse_receding
from ppl_vae.inference.fitting.gaussians.starts import STARTS, Start, best_start
from ppl_vae.inference.fitting.gaussians.target import Target, target_of
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["Climb", "GaussianKeywords", "GaussianOptions", "Method", "climb", "fit_gaussian"]

# Draws by which the distance is judged, at least; draws over those of the round before.
JUDGES, FACTOR = 512, 4
# Draws behind the ELBO that is reported, at most; fewer where its error is this part of the tolerance.
FINAL, EXACT = 2000, 0.25
# Numbers in the draws of a round.
MOST_NUMBERS = 2**25


@dataclass(frozen=True, kw_only=True)
class GaussianOptions:
    """The options of natural gradients and of deterministic VI. Values out of range raise `InputError`.

    Attributes:
        tolerance: distance to the best of the guide's family at which to stop, in nats for the whole data.
        start: where to start: "best" of what is there, tried on the ELBO, or "guide" for where its parameters
            stand, "mode" for the posterior's mode with its curvature, "prior", or "pathfinder".
        max_draws: most common draws.
        max_iterations: most iterations on the same draws.
    """

    tolerance: float = 0.01
    start: Literal["best", "guide", "mode", "prior", "pathfinder"] = "best"
    max_draws: int = 2**14
    max_iterations: int = 200

    def __post_init__(self) -> None:
        check_real(lambda v: 0 < v < math.inf, "must be a positive number of nats", tolerance=self.tolerance)
        check_whole(1, max_draws=self.max_draws, max_iterations=self.max_iterations)
        if self.start not in ("best", *STARTS):
            raise InputError(
                f"start={self.start!r} is not known; it is 'best' or {', '.join(map(repr, STARTS))}"
            )


class GaussianKeywords(TypedDict, total=False):
    """The fields of `GaussianOptions` as keywords; a test holds the two equal."""

    tolerance: float
    start: Literal["best", "guide", "mode", "prior", "pathfinder"]
    max_draws: int
    max_iterations: int


class Method(Protocol):
    """How a round is done."""

    name: str

    def first_draws(self, start: Gaussian) -> int:
        """Common draws of the first round.

        Raises:
            InputError: for a family that the method does not take.
        """

    def maximise(
        self,
        target: Target,
        start: Gaussian,
        noise: Tensor,
        options: GaussianOptions,
        seen: Callable[[float], None],
    ) -> tuple[Gaussian, str]:
        """The best of the family on common draws, and what found it; ``seen`` is told each ELBO."""

    def distance(self, target: Target, at: Gaussian, noise: Tensor, num_draws: int, seed: int) -> Distance:
        """How far that is from the best of the family, by other draws."""


@dataclass(frozen=True, eq=False)
class Climb:
    """Where a Gaussian went.

    Attributes:
        at: where it ended.
        distance: from the best of its family there.
        history: ELBOs on the common draws, in nats.
        draws: how many of them in the last round.
        how: what maximised them.
    """

    at: Gaussian
    distance: Distance
    history: list[float]
    draws: int
    how: str


def climb(
    method: Method,
    target: Target,
    start: Gaussian,
    options: GaussianOptions,
    seed: int,
    advance: Callable[[int, str], None] = lambda count, text: None,
) -> Climb:
    """From a Gaussian to the best of its family, in rounds.

    Raises:
        Improper: where the density has no integral, as far as that is seen.
    """
    found, history = start, []
    refuse_flat(target.batches, start, derived(seed, "flat"))

    def seen(value: float) -> None:
        history.append(value)
        advance(1, f"ELBO {value:.4f}")

    draws = method.first_draws(start)
    most = min(max(options.max_draws, draws), MOST_NUMBERS // start.family.noise_dim)
    while True:
        noise = common_noise(draws, start.family.noise_dim, derived(seed, "common draws", draws))
        found, how = method.maximise(target, found, noise, options, seen)
        if not history:
            seen(target.expect(found, noise).elbo)
        far = _judged(method, target, found, noise, options, most, derived(seed, "distance", draws))
        arrived = far.upper <= options.tolerance
        if not arrived:
            refuse_receding(target.batches, start, found, derived(seed, "receding", draws))
        if arrived or draws >= most:
            return Climb(found, far, history, draws, how)
        draws = min(FACTOR * draws, most)


def _judged(
    method: Method,
    target: Target,
    found: Gaussian,
    noise: Tensor,
    options: GaussianOptions,
    most: int,
    seed: int,
) -> Distance:
    """The distance, by more draws where it is not certainly too far: to judge costs less than to go on."""
    judges = max(JUDGES, len(noise), 4 * target.dim)
    while True:
        far = method.distance(target, found, noise, judges, derived(seed, judges))
        unknown = far.upper > options.tolerance > far.value - 2 * far.std_error
        if not unknown or judges >= most:
            return far
        judges *= FACTOR


def fit_gaussian(
    method: Method, pair: Pair, data: tuple[Any, ...], options: GaussianOptions, seed: int, progress: bool
) -> Fit:
    """Fit a pair's Gaussian guide, in place."""
    check_seed(seed)
    begun = time.perf_counter()
    bar = progress_bar(method.name, options.max_iterations, open_ended=True, show=progress)
    with target_of(pair, *data) as target, bar as advance:
        method.first_draws(target.guide.read())
        start, _ = best_start(target, options.start, seed)
        found = climb(method, target, start.at, options, seed, advance)
        target.guide.write(found.at)
        value = _value(target, target.guide.read(), options.tolerance, seed)
        engine = target.batches.ran
    return Fit(
        elbo=np.asarray(found.history),
        held_out=np.empty((0, 2)),
        final=_parts(pair, data, value, seed),
        steps=len(found.history),
        seconds=time.perf_counter() - begun,
        converged=found.distance.upper <= options.tolerance,
        reason=_reason(found, start),
        engine=engine,
        compile_seconds=0.0,
        method=method.name,
        distance=found.distance,
    )


def _value(target: Target, at: Gaussian, tolerance: float, seed: int) -> tuple[float, float, int]:
    """The ELBO by draws of the density's graph, its standard error, and how many draws those were."""
    drawn = torch.empty(FINAL, at.family.noise_dim, dtype=torch.float64)
    drawn.normal_(generator=torch.Generator().manual_seed(derived(seed, "final")))
    spread = drawn.new_empty(0)
    for part in drawn.split(FINAL // FACTOR):
        positions = at.draws(part)
        away = positions - at.loc
        # log p − log q, whose spread is small where the guide is good; the entropy's mean is known.
        found = target.batches.values(positions) + 0.5 * (away * at.whiten(away)).sum(1)
        spread = torch.cat([spread, found])
        error = float(spread.std()) / math.sqrt(len(spread))
        if error <= EXACT * tolerance:
            break
    return float(spread.mean()) + at.entropy() - 0.5 * at.family.dim, error, len(spread)


def _parts(pair: Pair, data: tuple[Any, ...], found: tuple[float, float, int], seed: int) -> ELBO:
    """The ELBO of the density's draws, its KL by Pyro's programs on as many as they take lightly."""
    few = elbo(
        pair, *data, num_particles=final_particles(Problem.of(pair, *data).layout, late=False), seed=seed
    )
    value, error, count = found
    return replace(few, value=value, std_error=error, reconstruction=value + few.kl, num_particles=count)


def _reason(found: Climb, start: Start) -> str:
    count = len(found.history)
    return (
        f"the ELBO is {found.distance} below the best of the {found.at.family.name} family, by "
        f"{found.distance.num_draws:,} draws to which the guide was not fitted; {count} "
        f"iteration{'s' * (count != 1)} of {found.how} from the {start.name}, on {found.draws:,} common draws"
    )
