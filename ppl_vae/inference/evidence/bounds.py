"""Lower bounds on log p(x) from groups of importance weights: the ELBO (K = 1) and the IWAE bounds.

Source: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2016), section 3 and theorem 1.
"""

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.arguments import check_whole
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.seeds import seeded
from ppl_vae.engine.graph import Compile, check_compile
from ppl_vae.inference.evidence.weights import CHUNK, LogWeights, block_size, engine_of_weights
from ppl_vae.program.defined import about_weights, weighable
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = ["grouped_bound", "iwae"]


def grouped_bound(log_weights: Tensor, num_particles: int) -> Tensor:
    """log 1/K Σ_k w_k of consecutive groups of K weights, from (R K, units) to (R, units)."""
    groups = log_weights.unflatten(0, (-1, num_particles))
    return groups.logsumexp(1) - math.log(num_particles)


@torch.no_grad()
def iwae(
    pair: Pair,
    *data: Any,
    num_particles: int = 50,
    num_repeats: int = 20,
    index: Tensor | None = None,
    compile: Compile = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Evidence:
    """L_K = E[log 1/K Σ_k w_k] of every unit, with ELBO = L_1 ≤ L_K ≤ L_{K+1} ≤ log p(x).

    The draws are a function of the seed and of ``num_particles * num_repeats``: where the products are equal,
    bounds of different K are made of the very same weights, and their differences are precise.

    Args:
        pair: model and guide; nothing is trained.
        data: the programs' data.
        num_particles: K, at least 1.
        num_repeats: groups of K draws a unit, at least 2 for a standard error.
        index: the units (all by default).
        compile: whether to compile the weights, as in `importance.log_evidence`.
        seed: of the draws.
        progress: whether to show a progress bar on a terminal.

    Returns:
        Evidence of kind "lower bound"; its standard error is that of the mean over groups, unbiased for the
        bound, NaN with one group. ``num_samples`` is K.

    Raises:
        InputError: for a count that is not positive.
    """
    check_whole(1, num_particles=num_particles, num_repeats=num_repeats)
    check_compile(compile)
    start = time.perf_counter()
    problem = weighable(Problem.of(pair, *data)).rows(index)
    total = num_particles * num_repeats
    units = problem.num_units
    engine = engine_of_weights(compile, problem, total)
    with seeded(seed), progress_bar(f"IWAE({num_particles})", units, show=progress) as advance:
        chunks = problem.chunks(min(total, 1000), CHUNK)
        particles = block_size(total, chunks[0])
        weights = LogWeights(chunks[0], particles, engine)
        # Results go into one block of memory: kept one by one, they would tear the heap to pieces.
        elbo, bound, error = torch.empty(3, units, dtype=torch.float64)
        curve = torch.zeros(len(_sizes(num_particles)), 2, dtype=torch.float64)
        done = 0
        for chunk in chunks:
            firsts = range(0, total, particles)
            drawn = torch.cat([weights(chunk.index, seed=seed, first=first).cpu() for first in firsts])[
                :total
            ]
            columns = slice(done, done := done + drawn.shape[1])
            elbo[columns] = drawn.mean(0)
            bound[columns], error[columns] = _mean_and_error(grouped_bound(drawn, num_particles))
            curve += _curve(drawn, num_particles)
            advance(drawn.shape[1], "")
    return Evidence(
        log_evidence=bound.numpy(),
        method="iwae",
        unit=problem.layout.unit,
        kind="lower bound",
        std_error=error.numpy(),
        bias=np.zeros(units),
        elbo=elbo.numpy(),
        index=None if index is None else index.cpu().numpy(),
        curve=_over_units(curve, num_particles, units),
        num_samples=num_particles,
        proposal="guide",
        notes=about_weights(problem.layout),
        seconds=time.perf_counter() - start,
        compile_seconds=weights.compile_seconds,
    )


def _mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first axis and its standard error; NaN for a single value."""
    mean = values.mean(0)
    if len(values) == 1:
        return mean, torch.full_like(mean, torch.nan)
    return mean, values.std(0) / math.sqrt(len(values))


def _sizes(num_particles: int) -> list[int]:
    """K' = 1, 2, 4, …, K."""
    return [*(2**power for power in range((num_particles - 1).bit_length())), num_particles]


def _curve(drawn: Tensor, num_particles: int) -> Tensor:
    """For each K', the sums over units of its bound and of the bound's variance, (points, 2)."""
    points = []
    for size in _sizes(num_particles):
        mean, error = _mean_and_error(grouped_bound(drawn[: len(drawn) // size * size], size))
        points.append(torch.stack([mean.sum(), error.square().sum()]))
    return torch.stack(points)


def _over_units(curve: Tensor, num_particles: int, units: int) -> np.ndarray:
    """The means over all units and their standard errors, from the sums."""
    value, variance = curve.numpy().T
    return np.column_stack([_sizes(num_particles), value / units, np.sqrt(variance) / units])
