"""NUTS by nutpie on a compiled gradient: the chains are threads that never wait for Python.

Each chain is a sampler of nutpie's own, from a start that has been tried: a failed one leaves nothing
running, and stopping one waits for its thread. Densities that need Python are never given to nutpie, whose
threads would then outlive an error; `batched_nuts` takes those.

Source: Hoffman and Gelman, "The No-U-Turn Sampler" (2014); nutpie adapts its mass matrix from draws and
gradients (Seyboldt, Carlson and Carpenter 2026).
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import derived
from ppl_vae.engine.gradients import Gradient
from ppl_vae.engine.graph import Untraceable
from ppl_vae.engine.native import NativeDensity
from ppl_vae.inference.samplers.chains import ChainSettings
from ppl_vae.inference.samplers.nutpie_densities import DRAWS, import_nutpie, mass_matrix, native_model

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
    starts: Tensor,
    settings: ChainSettings,
    *,
    low_rank: bool,
    advance: Callable[[int, str], None],
) -> tuple[Tensor, xr.Dataset]:
    """Chains in unconstrained space.

    Args:
        gradient: compiled, of the log density in float64.
        starts: positions (chains, dim) where the density is finite.
        settings: counts and tuning.
        low_rank: adapt a low-rank correction of the diagonal mass matrix.
        advance: called with (n, text) after n more iterations.

    Returns:
        Positions of shape (chains, num_draws, dim), and statistics under ArviZ's names.

    Raises:
        Untraceable: if the gradient is no C function, or nutpie does not take it.
        InputError: if nutpie refuses the density.
    """
    import xarray as xr

    if gradient.compiled is None:
        raise Untraceable("the density is not compiled")
    nutpie = import_nutpie()
    threads = min(settings.chains, os.cpu_count() or 1)
    with NativeDensity(gradient.compiled, gradient.density.tensors, threads) as native:

        def begin(chain: int) -> Any:
            point = starts[chain].numpy()
            return nutpie.sample(
                native_model(native, len(point), lambda seed: point),
                draws=settings.num_draws,
                tune=settings.warmup,
                chains=1,
                cores=1,
                seed=derived(settings.seed, chain) % 2**32,
                target_accept=settings.target_accept,
                maxdepth=settings.max_tree_depth,
                **mass_matrix(low_rank),
                save_warmup=False,
                progress_bar=False,
                blocking=False,
            )

        found = _run(begin, settings.chains, threads, native, advance)
    positions = np.concatenate([chain.posterior[DRAWS].to_numpy() for chain in found])
    stats = xr.Dataset(
        {
            ours: (("chain", "draw"), np.concatenate([one.sample_stats[theirs].to_numpy() for one in found]))
            for theirs, ours in STATISTICS.items()
            if theirs in found[0].sample_stats
        },
        coords={"chain": np.arange(settings.chains), "draw": np.arange(settings.num_draws)},
    )
    return torch.from_numpy(np.ascontiguousarray(positions)), stats


def _run(
    begin: Callable[[int], Any],
    chains: int,
    threads: int,
    native: NativeDensity,
    advance: Callable[[int, str], None],
) -> list[Any]:
    """The finished traces of all chains, so many at a time. Waiting in Python lets Ctrl-C through.

    Whatever ends this early ends the chains first.
    """
    running: dict[int, Any] = {}
    found: dict[int, Any] = {}
    pause, told = 1e-3, 0
    try:
        while len(found) < chains:
            while len(running) < threads and len(running) + len(found) < chains:
                chain = len(running) + len(found)
                running[chain] = begin(chain)
            for chain in [one for one, sampler in running.items() if _is_finished(sampler)]:
                found[chain] = running.pop(chain).wait()
                pause = 1e-3
            if native.broken:
                raise Untraceable("the compiled density fails when it is called")
            now = native.kept
            advance(now - told, "")
            told = now
            if running:
                time.sleep(pause)
                pause = min(0.05, 1.2 * pause)
    except RuntimeError as error:
        raise InputError(f"NUTS could not run on this density: {str(error).splitlines()[0]}") from error
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # Rust's, which is no Exception
            raise RuntimeError(f"nutpie failed: {str(error).splitlines()[0]}") from error
        raise
    finally:
        for sampler in running.values():
            _stop(sampler)
    return [found[chain] for chain in range(chains)]


def _is_finished(sampler: Any) -> bool:
    try:
        return bool(sampler.is_finished)
    except TimeoutError:  # how nutpie says "not yet"
        return False


def _stop(sampler: Any) -> None:
    """End a chain and wait for its thread."""
    with warnings.catch_warnings(), contextlib.suppress(BaseException):
        # It says that the chain is short, which is what stopping it does.
        warnings.simplefilter("ignore")
        sampler.abort()
