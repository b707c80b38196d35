"""Pyro as it comes: its own SVI, potential energy, NUTS, and log p(x) the plain way."""

import math
import time
import warnings
from collections.abc import Callable

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.mcmc.util import initialize_model
from pyro.ops.integrator import potential_grad
from torch import Tensor

from benchmarks.chains import Chains
from benchmarks.problems import Fitting, Sampling
from ppl_vae import Pair

__all__ = ["Potential", "Steps", "log_evidence", "nuts"]

Point = dict[str, Tensor]


def one_thread() -> None:
    """Small operators gain nothing from a second thread, and wait long for it on a busy machine.

    Measured with the cores half taken by others: a stock step on the skills takes 20 times as long on two
    threads, which would flatter this package, whose small work has one thread anyway.
    """
    torch.set_num_threads(1)


class Steps:
    """``SVI.step`` in a loop, on batches of shuffled data where the problem has batches."""

    def __init__(self, problem: Fitting, lr: float | None = None) -> None:
        pair = problem.fresh()
        if problem.batch_size is None:
            one_thread()
        pyro.clear_param_store()
        optimiser = pyro.optim.Adam({"lr": problem.lr if lr is None else lr})
        self.svi = SVI(pair.model, pair.guide, optimiser, Trace_ELBO())
        self.data, self.batch_size = problem.data, problem.batch_size

    def run(self, num_steps: int) -> np.ndarray:
        """So many steps; the losses, scaled to the whole data."""
        if self.batch_size is None:
            return np.asarray([self.svi.step(*self.data) for _ in range(num_steps)])
        (x,) = self.data
        scale = len(x) / self.batch_size
        losses: list[float] = []
        while len(losses) < num_steps:
            whole = torch.randperm(len(x)).split(self.batch_size)[: len(x) // self.batch_size]
            losses += [scale * self.svi.step(x[index]) for index in whole[: num_steps - len(losses)]]
        return np.asarray(losses)


class Potential:
    """``potential_grad`` of a model's potential energy in unconstrained space, in float64.

    Attributes:
        names: the latent sites, in the order in which the model draws them.
        shapes: of their unconstrained values.
    """

    def __init__(self, problem: Sampling) -> None:
        one_thread()
        torch.set_default_dtype(torch.float64)
        pyro.set_rng_seed(0)
        start, self.potential, _, trace = initialize_model(problem.model, problem.data)
        self.names = [name for name in trace.stochastic_nodes if name in start]
        self.shapes = {name: start[name].shape for name in self.names}

    def point(self, seed: int) -> Point:
        """Unconstrained values from U(−2, 2), as Pyro starts its chains."""
        generator = torch.Generator().manual_seed(seed)
        shapes = self.shapes.items()
        return {name: 4 * torch.rand(shape, generator=generator) - 2 for name, shape in shapes}

    def __call__(self, z: Point) -> tuple[Tensor, Point]:
        """The potential energy and its gradient."""
        gradient, value = potential_grad(self.potential, z)
        return value, gradient

    def flat(self, z: Point) -> Tensor:
        """The sites' values in one vector, in the model's order."""
        return torch.cat([z[name].reshape(-1) for name in self.names])


def nuts(problem: Sampling, seed: int, num_draws: int = 500, warmup: int = 500, chains: int = 4) -> Chains:
    """``MCMC`` over ``NUTS(jit_compile=True)``; tracing is measured apart and taken off.

    Pyro runs chains in parallel where there are more cores than chains, else one after another.
    """
    one_thread()
    torch.set_default_dtype(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracing = _run(problem, seed, 1, 1, 1)[1]
        draws, seconds = _run(problem, seed, num_draws, warmup, chains)
    return Chains(draws, seconds - tracing, tracing)


def _run(
    problem: Sampling, seed: int, num_draws: int, warmup: int, chains: int
) -> tuple[dict[str, np.ndarray], float]:
    pyro.set_rng_seed(seed)
    kernel = NUTS(problem.model, jit_compile=True, ignore_jit_warnings=True)
    mcmc = MCMC(kernel, num_draws, warmup, num_chains=chains, disable_progbar=True)
    start = time.perf_counter()
    mcmc.run(*problem.data)
    took = time.perf_counter() - start
    draws = mcmc.get_samples(group_by_chain=True)
    return {name: value.numpy() for name, value in draws.items()}, took


@torch.no_grad()
def log_evidence(pair: Pair, x: Tensor, num_samples: int) -> np.ndarray:
    """log p(x) the plain Pyro way: one image at a time, a vectorised plate of samples.

    Returns:
        One row an image: log p(x), and the mean log weight with its standard error.
    """
    found = []
    with pair.scope():
        for row in x:
            traces = _traces(pair.model, pair.guide, row[None], num_samples)
            log_p, log_q = (_log_prob(trace) for trace in traces)
            log_w = log_p - log_q
            value = log_w.logsumexp(0).item() - math.log(num_samples)
            found.append((value, log_w.mean().item(), log_w.std().item() / math.sqrt(num_samples)))
    return np.asarray(found)


def _traces(
    model: Callable, guide: Callable, row: Tensor, num_samples: int
) -> tuple[poutine.Trace, poutine.Trace]:
    with pyro.plate("samples", num_samples, dim=-2):
        guide_trace = poutine.trace(guide).get_trace(row)
    with pyro.plate("samples", num_samples, dim=-2):
        model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(row)
    return model_trace, guide_trace


def _log_prob(trace: poutine.Trace) -> Tensor:
    trace.compute_log_prob()
    return sum(site["log_prob"] for site in trace.nodes.values() if "log_prob" in site).squeeze(-1)
