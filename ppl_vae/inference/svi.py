"""Stochastic variational inference: Adam on Pyro's ``Trace_ELBO``, resumable to the last digit."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyro
import torch
from pyro.infer import ELBO as PyroELBO
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from ppl_vae.errors import InputError
from ppl_vae.inference.batches import Batches
from ppl_vae.inference.checkpoint import Checkpoint
from ppl_vae.inference.elbo import ELBO, elbo
from ppl_vae.inference.sites import Given, Layout
from ppl_vae.inference.terms import check_data, layout, terms
from ppl_vae.program import Pair
from ppl_vae.progress import progress_bar
from ppl_vae.rng import seeded
from ppl_vae.threads import one_thread

__all__ = ["Fit", "convergence", "fit"]

# Below this many multiplications a step runs on one thread: a fixed function of the problem's size,
# so that the numbers do not depend on the number of cores.
SMALL_WORK = 2**25
# A short fit hardly moves in its last quarter, whether or not it has arrived.
FEWEST_STEPS = 200


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit did. The parameters themselves stay in the pair.

    Attributes:
        elbo: the Trace_ELBO estimate of every step, in nats for the whole data, shape (steps,).
        held_out: step and held-out ELBO per unit at every check, shape (checks, 2).
        final: the ELBO of the training data under the final parameters, with its error and parts.
        steps: number of steps.
        seconds: wall time, resumed runs included.
        converged: whether the documented test was met; see `convergence`.
        reason: the test's numbers in words.
    """

    elbo: np.ndarray
    held_out: np.ndarray
    final: ELBO
    steps: int
    seconds: float
    converged: bool
    reason: str


def fit(
    pair: Pair,
    *data: Any,
    num_steps: int = 2000,
    batch_size: int | None = None,
    lr: float = 0.01,
    lr_end: float = 0.01,
    num_particles: int = 1,
    clip_norm: float | None = None,
    kl_warmup: int = 0,
    train: Literal["both", "guide"] = "both",
    loss: PyroELBO | None = None,
    held_out: tuple[Any, ...] | None = None,
    check_every: int = 200,
    refresh: Callable[[int], tuple[Any, ...]] | None = None,
    tolerance: float = 0.05,
    seed: int = 0,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    resume: bool = False,
    progress: bool = True,
) -> Fit:
    """Fit the parameters of a pair by SVI.

    Args:
        pair: model and guide; their parameters are changed in place.
        data: the programs' full data.
        num_steps: number of Adam steps, in all.
        batch_size: entries of the data plate a step; all by default.
        lr: learning rate of the first step. It falls along a half cosine.
        lr_end: the last step's learning rate as a fraction of ``lr``; 1 keeps it constant.
        num_particles: draws of the guide a step.
        clip_norm: largest gradient norm, in units of nats; no clipping by default.
        kl_warmup: steps over which β, the weight of the latents' terms, rises from 0 to 1.
        train: "both", or "guide" to hold the model's parameters.
        loss: another Pyro ELBO than ``Trace_ELBO``, such as ``TraceMeanField_ELBO()``.
        held_out: data on which the ELBO per unit is checked every ``check_every`` steps.
        check_every: steps between those checks.
        refresh: gives an epoch's data, for data drawn anew every epoch; ``data`` is epoch 0's shape.
        tolerance: of the convergence test, in nats a unit.
        seed: of initial values, batches and noise.
        checkpoint: folder for checkpoints; none by default.
        checkpoint_every: steps between checkpoints.
        resume: go on from the folder's checkpoint. The result is that of an unbroken fit.
        progress: whether to show a progress bar on a terminal.

    Raises:
        InputError: for arguments out of range, data that the model cannot take, minibatches of a
            model that does not index its plate, a loss that stops being finite, or a damaged
            checkpoint.
    """
    _check_arguments(num_steps, batch_size, lr, num_particles, check_every, checkpoint_every)
    check_data(pair.model, *data)
    start = time.perf_counter()
    with seeded(seed):
        pair.initialise(*data, seed=seed)
        shape = layout(pair, *data)
        _check_held_out(pair, held_out, train)
        batches = _batches(shape, batch_size, seed)
        parameters = pair.parameters(train)
        if not parameters:
            raise InputError(f"there is nothing to train: no parameters with train={train!r}")
        optimizer = torch.optim.Adam(parameters.values(), lr=lr)
        objective = loss if loss is not None else _trace_elbo(shape, num_particles)
        saved = Checkpoint(checkpoint, pair, optimizer) if checkpoint else None
        history = np.full(num_steps, np.nan)
        checks: list[tuple[float, float]] = []
        first, spent = 0, 0.0
        fixed = _FixedData(pair, data, shape, seed)
        earlier: Tensor | None = None
        if resume and saved is not None:
            first, spent, history, checks, earlier = saved.load(num_steps)
        current, epoch = data, -1
        small = _work(parameters, batches, num_particles) < SMALL_WORK
        with (
            pair.scope(),
            one_thread(small),
            # `layout` has run both programs with Pyro's checks on; they cost a quarter of a small step.
            pyro.validation_enabled(False),
            progress_bar("SVI", num_steps, start=first, show=progress) as advance,
        ):
            for step in range(first, num_steps):
                if refresh is not None and batches.epoch(step) != epoch:
                    epoch = batches.epoch(step)
                    current = refresh(epoch)
                for group in optimizer.param_groups:
                    group["lr"] = lr * cosine(step, num_steps, lr_end)
                with _step_handlers(shape, batches.index(step), step, kl_warmup):
                    value = objective.differentiable_loss(pair.model, pair.guide, *current)
                history[step] = -_finite(value, step)
                _update(optimizer, value, list(parameters.values()), clip_norm)
                done = step + 1
                if held_out is not None and (done % check_every == 0 or done == num_steps):
                    checks.append((done, elbo(pair, *held_out, num_particles=4, seed=seed).mean))
                if done == num_steps - num_steps // 4:
                    earlier = fixed.log_weights()
                if saved and (done % checkpoint_every == 0 or done == num_steps):
                    saved.save(done, spent + time.perf_counter() - start, history, checks, earlier)
                if step % 20 == 0:
                    advance(min(20, num_steps - step), f"ELBO {history[step]:.1f}")
        final = elbo(pair, *data, num_particles=_final_particles(shape), seed=seed)
        if num_steps < FEWEST_STEPS or earlier is None:
            converged = False
            reason = f"{num_steps} steps are too few to judge convergence; at least {FEWEST_STEPS} are needed"
        elif kl_warmup > num_steps - num_steps // 4:
            converged, reason = False, "the KL warm-up reaches into the last quarter of the steps"
        else:
            converged, reason = convergence(earlier, fixed.log_weights(), tolerance)
    return Fit(
        elbo=history,
        held_out=np.asarray(checks).reshape(-1, 2),
        final=final,
        steps=num_steps,
        seconds=spent + time.perf_counter() - start,
        converged=converged,
        reason=reason,
    )


def convergence(earlier: Tensor, later: Tensor, tolerance: float = 0.05) -> tuple[bool, str]:
    """Whether the ELBO has stopped rising.

    The ELBO is evaluated on the same data with the same noise three quarters through the fit and at
    its end; the fit has converged if it rose by no more than the tolerance. Common random numbers make
    the difference far more precise than the noisy ELBO of single steps. The test sees only the ELBO:
    passing it says nothing about the quality of the posterior.

    Args:
        earlier, later: log p(x, z) − log q(z) at the two moments, shape (particles, units).
        tolerance: in nats a unit.

    Returns:
        Whether it is met, and a sentence with the numbers.
    """
    rise = (later - earlier).mean(1)
    mean = rise.mean().item()
    error = rise.std().item() / math.sqrt(len(rise)) if len(rise) > 1 else math.nan
    return mean <= tolerance, (
        f"over the last quarter of the steps the ELBO rose by {mean:.2g} ± {error:.1g} nats a unit "
        f"(tolerance {tolerance:g})"
    )


def cosine(step: int, num_steps: int, end: float) -> float:
    """The learning rate's factor: 1 at the first step, ``end`` at the last, half a cosine between."""
    at = step / max(1, num_steps - 1)
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * at))


class _Tempered(Messenger):  # type: ignore[misc]
    """Weigh the latents' terms of model and guide by β, and thereby the KL of the ELBO."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not msg["is_observed"] and not isinstance(msg["fn"], _Subsample):
            msg["scale"] = msg["scale"] * self.beta


class _FixedData:
    """The log weights of a few fixed data under fixed noise, for judging progress."""

    def __init__(self, pair: Pair, data: tuple[Any, ...], shape: Layout, seed: int) -> None:
        self.pair, self.data, self.shape, self.seed = pair, data, shape, seed
        self.index: Tensor | None = None
        if shape.can_index and shape.num_units > 512:
            generator = torch.Generator().manual_seed(seed)
            self.index = torch.randperm(shape.num_units, generator=generator)[:512]

    @torch.no_grad()
    def log_weights(self) -> Tensor:
        units = self.shape.num_units if self.index is None else len(self.index)
        most = 256 if self.shape.vectorized else 16
        particles = min(most, max(8, self.shape.particles_per_chunk(units, budget=2**20)))
        with seeded(self.seed):
            drawn = terms(self.pair, *self.data, layout=self.shape, num_particles=particles, index=self.index)
        return drawn.log_weights.double().cpu()


@contextmanager
def _step_handlers(shape: Layout, index: Tensor | None, step: int, kl_warmup: int) -> Iterator[None]:
    batch = Given({shape.batch_plate: index}) if index is not None and shape.batch_plate else nullcontext()
    # β starts above zero: at zero the guide's scale has no gradient and its entropy term is lost.
    warm = _Tempered((step + 1) / kl_warmup) if step + 1 < kl_warmup else nullcontext()
    with batch, warm:
        yield


def _update(
    optimizer: torch.optim.Optimizer, loss: Tensor, leaves: list[Tensor], clip_norm: float | None
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=leaves)
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(leaves, clip_norm)
    optimizer.step()


def _trace_elbo(shape: Layout, num_particles: int) -> Trace_ELBO:
    together = shape.vectorized and num_particles > 1
    return Trace_ELBO(
        num_particles=num_particles, vectorize_particles=together, max_plate_nesting=shape.nesting
    )


def _batches(shape: Layout, batch_size: int | None, seed: int) -> Batches:
    if batch_size is not None and batch_size < shape.batch_plate_size:
        if shape.batch_plate is None:
            raise InputError("minibatches need a plate around the observed sites, and this model has none")
        if shape.batch_plate not in shape.indexable:
            raise InputError(
                f"minibatches need programs that index their data by the plate {shape.batch_plate!r} "
                "(`with pyro.plate(…) as i: … x[i]`); these do not"
            )
    return Batches(shape.batch_plate_size, batch_size, seed)


def _final_particles(shape: Layout, budget: int = 2**20) -> int:
    """Draws for the ELBO that is reported: many where they cost nothing."""
    if not shape.vectorized:
        return 16
    return min(1000, max(16, budget // (shape.num_units * shape.event_size)))


def _work(parameters: dict[str, Tensor], batches: Batches, num_particles: int) -> int:
    """A rough count of a step's multiplications: every parameter meets every datum and draw."""
    batch = batches.batch_size or batches.num_data
    return sum(leaf.numel() for leaf in parameters.values()) * batch * num_particles


def _finite(value: Tensor, step: int) -> float:
    number = value.item()
    if not math.isfinite(number):
        raise InputError(
            f"the loss became {number} at step {step}: try a smaller lr, clip_norm, or bounded scales"
        )
    return float(number)


def _check_held_out(pair: Pair, held_out: tuple[Any, ...] | None, train: str) -> None:
    if held_out is None:
        return
    check_data(pair.model, *held_out)
    check = getattr(pair.guide, "check_data", None)
    if check is not None:
        check(*held_out)


def _check_arguments(
    num_steps: int,
    batch_size: int | None,
    lr: float,
    num_particles: int,
    check_every: int,
    checkpoint_every: int,
) -> None:
    counts = {
        "num_steps": num_steps,
        "batch_size": 1 if batch_size is None else batch_size,
        "num_particles": num_particles,
        "check_every": check_every,
        "checkpoint_every": checkpoint_every,
    }
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} is {count}; it must be at least 1")
    if not (math.isfinite(lr) and lr > 0):
        raise InputError(f"lr is {lr}; it must be a positive number")
