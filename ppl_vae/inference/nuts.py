"""Markov chains from p(z | x) by the No-U-Turn sampler: Pyro's, with several chains in float64.

Source: Hoffman and Gelman, "The No-U-Turn Sampler" (2014).
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from pyro.infer import MCMC, NUTS
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.guides import Prior
from ppl_vae.inference.labels import to_dataset
from ppl_vae.inference.sites import Layout
from ppl_vae.inference.terms import check_data, layout
from ppl_vae.posterior import Posterior
from ppl_vae.program import Pair, Program
from ppl_vae.progress import progress_bar
from ppl_vae.rng import seeded
from ppl_vae.threads import one_thread

__all__ = ["sample"]


def sample(
    model: Program | Pair,
    *data: Any,
    num_draws: int = 500,
    warmup: int = 500,
    chains: int = 4,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    full_mass: bool = False,
    jit_compile: bool = False,
    dtype: torch.dtype = torch.float64,
    coords: dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Posterior:
    """Draw from the exact posterior of a model, its parameters held.

    The model is copied into ``dtype`` if it is a module, and floating-point data are cast; constants
    that a plain function makes get that precision too. Chains run one after another, each from its
    own start.

    Args:
        model: a Pyro model, or a pair whose model (with its ``pyro.param`` values) is meant.
        data: the model's data, all of it: NUTS takes no minibatches.
        num_draws: kept draws a chain.
        warmup: adaptation steps a chain.
        chains: number of chains; R-hat wants at least 2.
        target_accept: acceptance probability that the step size is tuned to.
        max_tree_depth: at most 2^depth gradients a draw.
        full_mass: adapt a dense mass matrix instead of a diagonal one.
        jit_compile: trace the log density with ``torch.jit`` (about twice as fast); only for models
            without data-dependent control flow.
        dtype: of the sampler's arithmetic.
        coords: labels of dimensions, such as the indices of the data given.
        seed: of the chains.
        progress: whether to show a progress bar on a terminal.

    Returns:
        Draws of shape (chains, num_draws, …) with ``diverging``, ``acceptance_rate`` and
        ``step_size`` among the statistics.

    Raises:
        InputError: for counts below 1, or a model that is not differentiable in ``dtype``.
    """
    for name, count, least in (("num_draws", num_draws, 4), ("warmup", warmup, 1), ("chains", chains, 1)):
        if count < least:
            raise InputError(f"{name} is {count}; it must be at least {least}")
    start = time.perf_counter()
    source = model if isinstance(model, Pair) else Pair(model, model)
    check_data(source.model, *data)
    cast = tuple(_cast(values, dtype) for values in data)
    with _default_dtype(dtype), one_thread(), pyro.validation_enabled(False), warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, message=".*torch.jit.*")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        if isinstance(model, Pair):
            model.initialise(*data)
        pair = source.cast_model(dtype, Prior)
        shape = _layout(pair, *cast)
        total = chains * (num_draws + warmup)
        with pair.scope(), progress_bar("NUTS", total, show=progress) as advance:
            runs = []
            for chain in range(chains):
                with seeded(seed * 1009 + chain):
                    kernel = NUTS(
                        pair.model,
                        target_accept_prob=target_accept,
                        max_tree_depth=max_tree_depth,
                        full_mass=full_mass,
                        jit_compile=jit_compile,
                        ignore_jit_warnings=True,
                    )
                    runs.append(_chain(kernel, cast, num_draws, warmup, advance))
    draws = {name: torch.stack([run[0][name] for run in runs]) for name in shape.latents}
    draws = {name: _without_padding(value, name, shape) for name, value in draws.items()}
    return Posterior(
        draws=to_dataset(draws, shape.latents, pair.model, coords),
        method="nuts",
        dependence="chains",
        stats=_statistics([run[1] for run in runs]),
        seconds=time.perf_counter() - start,
    )


def _chain(
    kernel: NUTS, data: tuple[Any, ...], num_draws: int, warmup: int, advance: Callable[[int, str], None]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    steps: list[float] = []
    accepted = [np.nan]

    def hook(kernel: NUTS, _params: Any, stage: str, _number: int) -> None:
        if stage == "Sample":
            steps.append(float(kernel.step_size))
            # Pyro keeps the running mean of the acceptance probability nowhere else.
            accepted[0] = float(kernel.logging()["acc. prob"])
        advance(1, f"step {float(kernel.step_size):.2g}")

    mcmc = MCMC(
        kernel, num_samples=num_draws, warmup_steps=warmup, disable_progbar=True, hook_fn=hook, num_chains=1
    )
    mcmc.run(*data)
    # The kernel forgets its counts when the run ends; MCMC keeps them, by chain.
    diagnostics = mcmc.diagnostics()
    diverging = np.zeros(num_draws, dtype=bool)
    diverging[diagnostics["divergences"]["chain 0"]] = True
    statistics = {
        "diverging": diverging,
        "acceptance_rate": accepted[0],
        "step_size": np.asarray(steps),
    }
    return {name: value.detach() for name, value in mcmc.get_samples().items()}, statistics


def _statistics(runs: list[dict[str, Any]]) -> xr.Dataset:
    """Under ArviZ's names; the acceptance rate is a chain's mean, which is what Pyro keeps."""
    num_draws = len(runs[0]["diverging"])
    return xr.Dataset(
        {
            "diverging": (("chain", "draw"), np.stack([run["diverging"] for run in runs])),
            "step_size": (("chain", "draw"), np.stack([run["step_size"] for run in runs])),
            "acceptance_rate": (
                ("chain", "draw"),
                np.stack([np.full(num_draws, run["acceptance_rate"]) for run in runs]),
            ),
        },
        coords={"chain": np.arange(len(runs)), "draw": np.arange(num_draws)},
    )


def _layout(pair: Pair, *data: Any) -> Layout:
    try:
        return layout(pair, *data)
    except RuntimeError as error:
        raise InputError(
            f"the model does not run in the sampler's precision: {error}; pass its own dtype="
        ) from error


def _without_padding(value: Tensor, name: str, shape: Layout) -> Tensor:
    """Pyro keeps plate dimensions of size one to the right of a site's own; drop them."""
    num_event = shape.event_dims[name]
    event = value.shape[value.dim() - num_event :]
    batch = value.shape[2 : value.dim() - num_event]
    plates = [batch[shape.dims[plate]] for plate in shape.latents[name]]
    return value.reshape((*value.shape[:2], *plates, *event))


def _cast(values: Any, dtype: torch.dtype) -> Any:
    return values.to(dtype) if isinstance(values, Tensor) and values.is_floating_point() else values


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
