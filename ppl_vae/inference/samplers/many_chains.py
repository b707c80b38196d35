"""Many chains of HMC on the log density of a Pyro model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ppl_vae.base.progress import progress_bar
from ppl_vae.engine.compiler import fall_back
from ppl_vae.engine.density import Density
from ppl_vae.engine.gradients import Gradient, gradient, leapfrog
from ppl_vae.engine.graph import Untraceable
from ppl_vae.inference.samplers import hmc
from ppl_vae.inference.samplers.chains import ChainSettings

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sample_positions"]


def sample_positions(
    density: Density,
    settings: ChainSettings,
    engine: str,
    starts: Callable[[Gradient], Tensor],
    progress: bool,
) -> tuple[Tensor, xr.Dataset, float]:
    """Chains in unconstrained space, all in one batch.

    Args:
        density: of a model.
        settings: counts and tuning; transitions take at most 2^max_tree_depth gradients.
        engine: "pyro", "traced" or "compiled".
        starts: positions (chains, dim) of finite density, by the gradient.
        progress: whether to show a progress bar on a terminal.

    Returns:
        Positions of shape (chains, num_draws, dim), statistics under ArviZ's names, and the seconds that
        compiling took.

    Raises:
        InputError: if the warm-up is shorter than 20.
    """
    start = time.perf_counter()
    # Whole leapfrog steps are compiled; the gradient alone is only needed where the chains start.
    slope = gradient(density, "pyro" if engine == "pyro" else "traced", chains=settings.chains)
    try:
        step = leapfrog(slope, settings.chains, compiled=engine == "compiled")
    except Untraceable as reason:
        fall_back("HMC", reason)
        slope = gradient(density, "pyro", chains=settings.chains)
        step = hmc.leapfrog_of(slope)
    seconds = time.perf_counter() - start
    first = starts(slope)
    total = settings.warmup + settings.num_draws
    with progress_bar("HMC", total, show=progress) as advance:
        found = hmc.run(
            step,
            slope,
            first,
            num_draws=settings.num_draws,
            warmup=settings.warmup,
            target_accept=settings.target_accept,
            max_leapfrogs=2**settings.max_tree_depth,
            seed=settings.seed,
            advance=advance,
        )
    return found.draws, _statistics(found), seconds


def _statistics(found: hmc.Chains) -> xr.Dataset:
    import xarray as xr

    chains, draws = found.diverging.shape
    over = ("chain", "draw")
    return xr.Dataset(
        {
            "diverging": (over, found.diverging.cpu().numpy()),
            "acceptance_rate": (over, found.acceptance_rate.cpu().double().numpy()),
            "step_size": (over, np.full((chains, draws), found.step_size)),
            "n_steps": (over, np.tile(found.num_leapfrogs.numpy(), (chains, 1))),
        },
        coords={"chain": np.arange(chains), "draw": np.arange(draws)},
        attrs={"trajectory_length": found.trajectory_length, "warmup_leapfrogs": found.warmup_leapfrogs},
    )
