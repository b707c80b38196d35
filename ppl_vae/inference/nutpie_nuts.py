"""NUTS by nutpie on a compiled gradient: the chains are threads that never wait for Python.

Source: Hoffman and Gelman, "The No-U-Turn Sampler" (2014); nutpie adapts its mass matrix from draws and
gradients (Seyboldt, Carlson and Carpenter 2026).
"""

from __future__ import annotations

import os
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.inference.chains import ChainSettings
from ppl_vae.inference.compiler import fall_back
from ppl_vae.inference.gradients import Gradient
from ppl_vae.inference.graph import Untraceable
from ppl_vae.inference.native import NativeDensity
from ppl_vae.inference.nutpie_densities import (
    DRAWS,
    Evaluate,
    NotFinite,
    Start,
    import_nutpie,
    mass_matrix,
    native_model,
    python_model,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["sample_positions"]

STATISTICS = {
    "diverging": "diverging",
    "mean_tree_accept": "acceptance_rate",
    "step_size": "step_size",
    "n_steps": "n_steps",
    "depth": "tree_depth",
    "energy": "energy",
    "logp": "lp",
}


def sample_positions(
    gradient: Gradient,
    settings: ChainSettings,
    *,
    low_rank: bool,
    progress: bool,
) -> tuple[Tensor, xr.Dataset]:
    """Chains in unconstrained space.

    Args:
        gradient: of the log density, in float64.
        settings: counts and tuning.
        low_rank: adapt a low-rank correction of the diagonal mass matrix.
        progress: whether to show nutpie's progress bar on a terminal.

    Returns:
        Positions of shape (chains, num_draws, dim), and statistics under ArviZ's names.

    Raises:
        InputError: if no starting point of finite density is found.
    """
    import xarray as xr

    nutpie = import_nutpie()
    raised: list[Exception] = []
    context, model, threads = _model(
        gradient, min(settings.chains, os.cpu_count() or 1), settings.seed, raised
    )
    with context:
        sampler = nutpie.sample(
            model,
            draws=settings.num_draws,
            tune=settings.warmup,
            chains=settings.chains,
            cores=threads,
            seed=settings.seed,
            target_accept=settings.target_accept,
            maxdepth=settings.max_tree_depth,
            **mass_matrix(low_rank),
            save_warmup=False,
            progress_bar=progress,
            blocking=False,
        )
        found = _wait(sampler, raised)
    positions = found.posterior[DRAWS].to_numpy()
    stats = xr.Dataset(
        {
            ours: (("chain", "draw"), found.sample_stats[theirs].to_numpy())
            for theirs, ours in STATISTICS.items()
            if theirs in found.sample_stats
        },
        coords={"chain": np.arange(settings.chains), "draw": np.arange(settings.num_draws)},
    )
    return torch.from_numpy(np.ascontiguousarray(positions)), stats


def _wait(sampler: Any, raised: list[Exception]) -> Any:
    """The finished trace. Waiting in Python lets Ctrl-C through.

    Args:
        sampler: nutpie's.
        raised: what the program itself raised.
    """
    pause = 1e-3
    try:
        while not _is_finished(sampler):
            time.sleep(pause)
            pause = min(0.05, 1.2 * pause)
        return sampler.wait()
    except RuntimeError as error:
        if raised:
            raise raised[0] from error
        raise InputError(f"NUTS could not run on this density: {str(error).splitlines()[0]}") from error
    except BaseException:
        with warnings.catch_warnings():
            # It says that the chains are short, which is what stopping them does.
            warnings.simplefilter("ignore")
            sampler.abort()
        raise


def _is_finished(sampler: Any) -> bool:
    try:
        return bool(sampler.is_finished)
    except TimeoutError:  # how nutpie says "not yet"
        return False


def _start(dim: int, seed: int) -> Start:
    """Starting points, uniform in [−2, 2] as Stan's and Pyro's."""

    def draw(chain_seed: int) -> np.ndarray:
        return np.random.default_rng([seed, chain_seed]).uniform(-2.0, 2.0, dim)

    return draw


def _model(
    gradient: Gradient, threads: int, seed: int, raised: list[Exception]
) -> tuple[AbstractContextManager[Any], Any, int]:
    """What must stay open while nutpie samples, what it samples from, and in how many threads."""
    dim = gradient.density.dim
    if gradient.compiled is not None:
        try:
            native = NativeDensity(gradient.compiled, gradient.density.tensors, threads)
            return native, native_model(native, dim, _start(dim, seed)), threads
        except Untraceable as reason:
            fall_back("NUTS", reason, "calls its compiled gradient from Python, one chain at a time")
    # Python's lock lets one chain run at a time, and Pyro's handlers are not made for threads.
    return nullcontext(), python_model(dim, _evaluate(gradient, raised), _start(dim, seed)), 1


def _evaluate(gradient: Gradient, raised: list[Exception]) -> Evaluate:
    """The gradient as nutpie calls it; what the program raises is kept, since nutpie keeps only its text."""

    def evaluate(position: np.ndarray) -> tuple[float, np.ndarray]:
        try:
            value, slope = gradient(torch.from_numpy(position.copy()))
        except Exception as error:
            raised.append(error)
            raise
        number, array = float(value), np.array(slope.detach().numpy(), dtype=np.float64, ndmin=1)
        if not (np.isfinite(number) and np.isfinite(array).all()):
            raise NotFinite
        return number, array

    return evaluate
