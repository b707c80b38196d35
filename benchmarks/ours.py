"""This package's side of every row, through its public functions. All calls to it stand here."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.chains import Chains
from benchmarks.problems import Fitting, Sampling
from ppl_vae import Pair, importance, nuts, svi
from ppl_vae.base.threads import one_thread
from ppl_vae.engine import density as objectives
from ppl_vae.engine import gradients
from ppl_vae.guides import Prior
from ppl_vae.program.pair import Program

__all__ = [
    "chains",
    "closed_form",
    "fit",
    "gradient",
    "hmc",
    "log_evidence",
    "seconds_per_image",
    "seconds_per_step",
    "still",
]


def fit(
    problem: Fitting, num_steps: int, *, pair: Pair | None = None, lr: float | None = None, **options: Any
) -> svi.Fit:
    """A whole fit; of a fresh pair unless one is given."""
    return svi.fit(
        problem.fresh() if pair is None else pair,
        *problem.data,
        num_steps=num_steps,
        batch_size=problem.batch_size,
        lr=problem.lr if lr is None else lr,
        progress=False,
        **options,
    )


def still(problem: Fitting, num_steps: int) -> np.ndarray:
    """The losses of a fit whose parameters stand still: what it computes, before anything is learnt."""
    return -fit(problem, num_steps, lr=1e-12, compile=True).elbo


def seconds_per_step(problem: Fitting, short: int, long: int) -> Callable[[], float]:
    """Seconds a step: a long fit less a short one, both compiled, so that set-up and compilation cancel."""
    pair = problem.fresh()

    def net(num_steps: int) -> float:
        start = time.perf_counter()
        found = fit(problem, num_steps, pair=pair, compile=True)
        return time.perf_counter() - start - found.compile_seconds

    net(short)  # compiles, where the other calls load

    def each() -> float:
        before = net(short)
        return harness.less(before, net(long)) / (long - short)

    return each


def gradient(model: Program, *data: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """log p(x, z) and its gradient in unconstrained space.

    Returns:
        A function of one float64 vector that holds the sites' unconstrained values one after another,
        in the order in which the model draws them; it gives the log density and a vector like z.
    """
    pair = Pair(model, model).cast_model(torch.float64, Prior)
    # As `nuts.sample` makes it.
    with one_thread(), pyro.validation_enabled(False):
        found = gradients.gradient(objectives.density(pair, *data), "compiled")
    assert found.engine == "compiled", "the gradient was not compiled"
    return found


def chains(problem: Sampling, seed: int, num_draws: int = 500, warmup: int = 500) -> Chains:
    """NUTS as it comes, four chains; compilation is reported apart."""
    return _chains(problem, seed, num_draws=num_draws, warmup=warmup, chains=4)


def hmc(problem: Sampling, seed: int, num_draws: int) -> Chains:
    """64 chains of HMC in one batch."""
    return _chains(problem, seed, num_draws=num_draws, sampler="hmc")


def _chains(problem: Sampling, seed: int, **options: Any) -> Chains:
    start = time.perf_counter()
    posterior = nuts.sample(problem.model, *problem.data, seed=seed, progress=False, **options)
    seconds = time.perf_counter() - start
    excluded = float(posterior.stats.attrs.get("compile_seconds", 0.0))
    draws = {str(name): values.to_numpy() for name, values in posterior.draws.data_vars.items()}
    return Chains(draws, seconds - excluded, excluded)


def log_evidence(pair: Pair, x: Tensor, num_samples: int, images: int | None = None) -> Any:
    """log p(x) of the images (of the first so many of them), with its error."""
    index = None if images is None else torch.arange(images)
    return importance.log_evidence(
        pair, x, num_samples=num_samples, index=index, compile=True, progress=False
    )


def seconds_per_image(pair: Pair, x: Tensor, num_samples: int) -> Callable[[], float]:
    """Seconds an image: all images less a third of them, so that set-up and loading cancel."""
    some = len(x) // 3
    log_evidence(pair, x, num_samples, some)  # compiles
    return lambda: harness.per_step(lambda images: log_evidence(pair, x, num_samples, images), some, len(x))


def closed_form(model: Any, x: torch.Tensor) -> Callable[[], object]:
    """PPCA's maximum of the likelihood."""
    return lambda: model.set_maximum_likelihood(x)
