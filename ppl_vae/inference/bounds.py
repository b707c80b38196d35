"""Lower bounds on log p(x) from groups of importance weights: the ELBO (K = 1) and the IWAE bounds.

Source: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2016), section 3 and theorem 1.
"""

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.evidence import Evidence
from ppl_vae.inference.elbo import unit_chunks
from ppl_vae.inference.graph import Compile, check_compile
from ppl_vae.inference.iwae import grouped_bound
from ppl_vae.inference.terms import layout
from ppl_vae.inference.weights import CHUNK, LogWeights, block_size, engine_for
from ppl_vae.program import Pair
from ppl_vae.progress import progress_bar
from ppl_vae.rng import seeded

__all__ = ["iwae"]


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
    for name, count in (("num_particles", num_particles), ("num_repeats", num_repeats)):
        if count < 1:
            raise InputError(f"{name} is {count}; it must be at least 1")
    check_compile(compile)
    start = time.perf_counter()
    shape = layout(pair, *data)
    total = num_particles * num_repeats
    units = shape.num_units if index is None else len(index)
    engine = engine_for(compile, total, units, shape.event_size)
    with seeded(seed), progress_bar(f"IWAE({num_particles})", units, show=progress) as advance:
        chunks = unit_chunks(shape, min(total, 1000), index, CHUNK)
        first = units if chunks[0] is None else len(chunks[0])
        particles = block_size(total, shape, first)
        weights = LogWeights(pair, data, shape, particles, chunks[0], 0.0, None, engine)
        columns, curve = [], []
        for chunk in chunks:
            drawn = torch.cat([weights(chunk).cpu() for _ in range(math.ceil(total / particles))])[:total]
            columns.append((drawn.mean(0), *_mean_and_error(grouped_bound(drawn, num_particles))))
            curve.append(_curve(drawn, num_particles))
            advance(drawn.shape[1], "")
    elbo, bound, error = (torch.cat(column).numpy() for column in zip(*columns, strict=True))
    return Evidence(
        log_evidence=bound,
        method="iwae",
        unit="datum" if shape.unit_plate else "dataset",
        kind="lower bound",
        std_error=error,
        bias=0.0 * bound,
        elbo=elbo,
        index=None if index is None else index.cpu().numpy(),
        curve=_over_units(curve, units),
        num_samples=num_particles,
        proposal="guide",
        seconds=time.perf_counter() - start,
        compile_seconds=weights.compile_seconds,
    )


def _mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first axis and its standard error; NaN for a single value."""
    mean = values.mean(0)
    if len(values) == 1:
        return mean, torch.full_like(mean, torch.nan)
    return mean, values.std(0) / math.sqrt(len(values))


def _curve(drawn: Tensor, num_particles: int) -> Tensor:
    """K' = 1, 2, 4, …, K, and the sums over units of the bound of K' and of its variance, (points, 3)."""
    sizes = [2**power for power in range((num_particles - 1).bit_length())]
    points = []
    for size in [*sizes, num_particles]:
        whole = len(drawn) // size * size
        mean, error = _mean_and_error(grouped_bound(drawn[:whole], size))
        points.append(torch.stack([mean.new_tensor(size), mean.sum(), error.square().sum()]))
    return torch.stack(points)


def _over_units(curves: list[Tensor], units: int) -> np.ndarray:
    """The means over all units and their standard errors, from the sums of every chunk."""
    total = torch.stack(curves).sum(0).numpy()
    return np.column_stack([curves[0][:, 0].numpy(), total[:, 1] / units, np.sqrt(total[:, 2]) / units])
