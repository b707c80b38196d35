"""SVI within a time budget, by the pace of its first steps."""

import math
import time
from collections.abc import Mapping
from typing import Any, Literal

import pyro
import torch

from ppl_vae.diagnostics.budget import Clock
from ppl_vae.errors import InputError
from ppl_vae.inference import svi
from ppl_vae.inference.sites import Layout
from ppl_vae.inference.svi import Fit
from ppl_vae.inference.terms import terms
from ppl_vae.program import Pair
from ppl_vae.rng import seeded

__all__ = ["FIT_SHARE", "affordable_steps", "fit_within", "refuse_short"]

# Fewer steps say nothing.
FEWEST_STEPS = 400
# Share of a whole check's budget that its fit may take.
FIT_SHARE = 0.4
# Units of the smallest look at a pair.
FEW_UNITS = 8
# Importing the engine and compiling what is small take about this long before a fit, in seconds.
STARTING = 2.0


def fit_within(
    pair: Pair,
    data: tuple[Any, ...],
    shape: Layout,
    num_steps: int,
    lr: float,
    train: Literal["both", "guide"],
    seconds: float,
    seed: int,
    progress: bool,
) -> Fit:
    """SVI until it comes to rest, in at most so many seconds by the pace of its first steps."""
    particles = 8 if shape.vectorized and shape.num_units * shape.event_size <= 10_000 else 1
    pair.initialise(*data, seed=seed)
    options: dict[str, Any] = {"lr": lr, "train": train, "num_particles": particles, "seed": seed}
    most = affordable_steps(pair, data, seconds, options)
    return svi.fit(pair, *data, num_steps=min(num_steps, most), stop=True, progress=progress, **options)


def affordable_steps(pair: Pair, data: tuple[Any, ...], seconds: float, options: Mapping[str, Any]) -> int:
    """How many steps of SVI fit into so many seconds, by the pace of a few; the pair is left as it was.

    The few run through stock Pyro, so that a fit that is traced or compiled takes less.

    Args:
        pair: initialised.
        data: the programs' data.
        seconds: the time there is.
        options: of `svi.fit`.

    Raises:
        InputError: if they are too few to say anything; it names a budget that works.
    """
    before = pair.state_dict()
    paces = []
    for steps in (10, 60):
        start = time.perf_counter()
        svi.fit(pair, *data, num_steps=steps, progress=False, **options)
        paces.append(time.perf_counter() - start)
        pair.load_state_dict(before)
    pace = max(1e-5, (paces[1] - paces[0]) / 50)
    affordable = int(max(seconds - sum(paces), 0.0) / pace)
    if affordable < FEWEST_STEPS:
        raise InputError(
            f"the budget leaves {seconds:.3g} s for a fit whose step takes {1000 * pace:.2g} ms; give at "
            f"least {(FEWEST_STEPS * pace + sum(paces)) / FIT_SHARE:.2g} s, or fit first and check after"
        )
    return affordable


def refuse_short(clock: Clock, pair: Pair, data: tuple[Any, ...], shape: Layout, fit: bool) -> None:
    """A budget in which not even the weights of the guide's draws can be had.

    Raises:
        InputError: saying the least that works.
    """
    start = time.perf_counter()
    index = torch.arange(min(FEW_UNITS, shape.num_units)) if shape.can_index else None
    with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
        terms(
            pair,
            *data,
            layout=shape,
            num_particles=min(100, shape.particles_per_chunk(FEW_UNITS)),
            index=index,
        )
    least = clock.spent + 100 * (time.perf_counter() - start) + (STARTING if fit else 0.0)
    if clock.budget < least:
        raise InputError(
            f"a budget of {clock.budget:g} s is too short for any check; the least that works here is about "
            f"{math.ceil(least)} s"
        )
