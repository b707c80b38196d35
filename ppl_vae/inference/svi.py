"""Stochastic variational inference: Adam on the ELBO or the IWAE bound, resumable to the last digit."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyro
import torch
from pyro.infer import ELBO as PyroELBO
from torch import Tensor

from ppl_vae.clock import OutOfTime, no_deadline, time_left
from ppl_vae.errors import InputError
from ppl_vae.inference import bounds
from ppl_vae.inference.batches import Batches
from ppl_vae.inference.checkpoint import Checkpoint, Progress
from ppl_vae.inference.compiler import fall_back
from ppl_vae.inference.elbo import ELBO, elbo
from ppl_vae.inference.fitting.options import FitKeywords, FitOptions
from ppl_vae.inference.fixed_data import FixedData, convergence
from ppl_vae.inference.graph import Compile, Untraceable
from ppl_vae.inference.iwae import IWAE, check_iwae
from ppl_vae.inference.memory import refuse_beyond_memory
from ppl_vae.inference.rule import Rule
from ppl_vae.inference.schedule import Schedule
from ppl_vae.inference.sites import Layout
from ppl_vae.inference.steps import engine_for, stepper
from ppl_vae.inference.stopping import Stopping
from ppl_vae.inference.stops import Stops
from ppl_vae.inference.supports import outside_support
from ppl_vae.inference.terms import check_data, layout
from ppl_vae.inference.unrolled import UNROLLED
from ppl_vae.program import Pair
from ppl_vae.progress import progress_bar
from ppl_vae.rng import keep_generator, seeded
from ppl_vae.threads import SMALL_WORK, one_thread

__all__ = ["Fit", "FitKeywords", "FitOptions", "convergence", "fit"]

# A short fit hardly moves in its last quarter, whether or not it has arrived.
FEWEST_STEPS = 200
# Steps of the shortest stretch of iterates that the stopping rule averages.
FEWEST_WIDTH, MOST_WIDTH = 100, 2000


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit did. The parameters themselves stay in the pair.

    Attributes:
        elbo: the objective's estimate at every step (the ELBO or the IWAE bound), in nats for the whole
            data, shape (steps,).
        held_out: step and held-out objective per unit at every check, shape (checks, 2).
        final: the ELBO of the training data under the final parameters, with its error and parts.
        steps: number of steps.
        seconds: wall time, resumed runs included.
        converged: whether ten times as many steps are expected to gain no more than the tolerance; None where
            that is not known, after a fixed number of steps whose ELBO has levelled off (see `convergence`).
        reason: the numbers behind it in words.
        engine: how the steps ran: "pyro" (stock), "traced" (a graph, operation by operation), "compiled",
            or "quadrature" (natural gradients).
        compile_seconds: what compiling or loading the compiled graph took, part of ``seconds``.
        stopping: why the fit ended where it did, if it was to stop by itself.
    """

    elbo: np.ndarray
    held_out: np.ndarray
    final: ELBO
    steps: int
    seconds: float
    converged: bool | None
    reason: str
    engine: str
    compile_seconds: float
    stopping: Stopping | None = None


def fit(
    pair: Pair,
    *data: Any,
    loss: PyroELBO | None = None,
    held_out: tuple[Any, ...] | None = None,
    refresh: Callable[[int], tuple[Any, ...]] | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **options: Unpack[FitKeywords],
) -> Fit:
    """Fit the parameters of a pair by SVI.

    Args:
        pair: model and guide; their parameters are changed in place.
        data: the programs' full data.
        loss: another Pyro ELBO than ``Trace_ELBO``, such as ``TraceMeanField_ELBO()``.
        held_out: data on which the objective per unit is checked every ``check_every`` steps, and by which
            ``stop`` judges.
        refresh: gives an epoch's data, for data drawn anew every epoch, in the shapes and types of
            ``data``. What else it may change (an attribute of a model) a traced graph does not see.
        seed: of initial values, batches and noise.
        checkpoint: folder for checkpoints; none by default.
        resume: go on from the folder's checkpoint. The result is that of an unbroken fit.
        progress: whether to show a progress bar on a terminal.
        options: the fields of `FitOptions`.

    Raises:
        InputError: for options out of range, data that the model cannot take, minibatches of a
            model that does not index its plate, a loss that stops being finite, or a damaged
            checkpoint.
        TypeError: for an option that there is not.
    """
    asked = FitOptions(**options)
    weighted = _iwae(asked, loss)
    check_data(pair.model, *data)
    start = time.perf_counter()
    with seeded(seed):
        pair.initialise(*data, seed=seed)
        shape = layout(pair, *data)
        _check_held_out(pair, held_out)
        batches = _batches(shape, asked.batch_size, seed)
        if weighted is not None:
            check_iwae(weighted, pair, data, shape, batches.batch_size)
        _refuse_beyond_memory(shape, batches, asked.num_particles, data)
        leaves = pair.parameters(asked.train)
        if not leaves:
            raise InputError(f"there is nothing to train: no parameters with train={asked.train!r}")
        began = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        saved = Checkpoint(checkpoint, pair) if checkpoint else None
        at = saved.load(asked.num_steps) if resume and saved else Progress.at_start(asked.num_steps)
        fixed = FixedData(pair, data, shape, seed, weighted)
        rule = None
        if asked.stop:
            rule = _rule(
                pair, data, held_out, shape, batches, list(leaves.values()), weighted,
                lr=asked.lr, start=asked.kl_warmup, num_steps=asked.num_steps,
                tolerance=asked.tolerance, seed=seed,
                traced=engine_for(asked.compile, asked.num_steps, asked.stop) != "pyro",
            )  # fmt: skip
            _resume_rule(rule, at)
        small = _work(leaves, batches, asked.num_particles) < SMALL_WORK
        schedule = Schedule(
            asked.num_steps,
            asked.lr,
            asked.lr_end,
            asked.kl_warmup,
            asked.clip_norm,
            batches,
            None if rule is None else rule.rate,
        )
        current, epoch = data, -1
        average_from = asked.num_steps - round(asked.average * asked.num_steps)
        stops = Stops(
            asked.num_steps,
            every=[
                100,
                *([asked.check_every] if held_out else []),
                *([asked.checkpoint_every] if saved else []),
            ],
            once=[asked.num_steps - asked.num_steps // 4, average_from],
            average_from=average_from,
            epochs=batches if refresh else None,
            rule=rule,
        )
        with (
            one_thread(small),
            # `layout` has run both programs with Pyro's checks on; they cost a quarter of a small step.
            pyro.validation_enabled(False),
            progress_bar(
                "SVI", asked.num_steps, start=at.step, open_ended=asked.stop, show=progress
            ) as advance,
        ):
            with keep_generator():
                steps = stepper(
                    pair, data, shape, leaves, schedule, num_particles=asked.num_particles,
                    loss=loss if weighted is None else weighted,
                    engine=_engine(asked.compile, asked.num_steps, asked.stop, data if refresh else ()),
                    precision=torch.bfloat16 if asked.precision == "bfloat16" else None,
                )  # fmt: skip
            if at.step:
                steps.load_state(at.state, at.step)
            late = False
            while at.step < asked.num_steps and not late and not (rule is not None and rule.done):
                if refresh is not None and batches.epoch(at.step) != epoch:
                    epoch = batches.epoch(at.step)
                    current = _same_form(refresh(epoch), data)
                count = stops.after(at.step) - at.step
                if rule is not None and math.isfinite(time_left()):
                    # Short stretches, of whole groups of steps: the clock is looked at between them.
                    count = min(count, UNROLLED - at.step % UNROLLED)
                try:
                    losses = steps.run(at.step, count, current)
                except OutOfTime:
                    if rule is None:
                        raise
                    losses = np.empty(0)
                count = len(losses)
                at.history[at.step : at.step + count] = -_finite(losses, at.step, pair, data, began)
                at.step += count
                if asked.average and at.step > average_from and at.step % UNROLLED == 0:
                    at.add_to_average(list(leaves.values()))
                if at.step == asked.num_steps and asked.average:
                    at.write_average(list(leaves.values()))
                if rule is not None and count:
                    with suppress(OutOfTime):
                        rule.see(at.step)
                late = rule is not None and time_left() <= 0
                ended = late or at.step == asked.num_steps or (rule is not None and rule.done)
                with no_deadline():  # short, and not to be left half done
                    if held_out is not None and (at.step % asked.check_every == 0 or ended):
                        at.checks.append((at.step, _held_out_mean(pair, held_out, weighted, seed)))
                    if at.step == asked.num_steps - asked.num_steps // 4:
                        at.earlier = fixed.log_weights()
                if saved and (at.step % asked.checkpoint_every == 0 or ended):
                    at.state = steps.state()
                    if rule is not None:
                        at.rule, at.rule_about = rule.tensors(), rule.about()
                    saved.save(at, time.perf_counter() - start)
                # A fit that may stop ends after its next stretch, with everything that belongs to an end.
                with nullcontext() if rule is None else suppress(OutOfTime):
                    advance(count, f"ELBO {at.history[at.step - 1]:.1f}")
        # What belongs to an end is done also after the time is over, or when it ends meanwhile.
        with one_thread(small), no_deadline():
            stopping = None if rule is None else rule.finish(at.step, late)
            final = elbo(pair, *data, num_particles=_final_particles(shape, late), seed=seed)
        if stopping is None:
            converged, reason = _judged(
                at, fixed, asked.kl_warmup, asked.tolerance, "elbo" if weighted is None else "iwae"
            )
        else:
            converged, reason = stopping.converged, stopping.reason
    return Fit(
        elbo=at.history[: at.step],
        held_out=np.asarray(at.checks).reshape(-1, 2),
        final=final,
        steps=at.step,
        seconds=at.seconds + time.perf_counter() - start,
        converged=converged,
        reason=reason,
        engine=steps.engine,
        compile_seconds=steps.compile_seconds,
        stopping=stopping,
    )


def _judged(
    at: Progress, fixed: FixedData, kl_warmup: int, tolerance: float, objective: str
) -> tuple[bool | None, str]:
    """False where a fixed number of steps has not levelled off, else None: more steps were not judged."""
    num_steps = len(at.history)
    if num_steps < FEWEST_STEPS or at.earlier is None:
        return False, (
            f"{num_steps} steps are too few to judge convergence; at least {FEWEST_STEPS} are needed"
        )
    if kl_warmup > num_steps - num_steps // 4:
        return False, "the KL warm-up reaches into the last quarter of the steps"
    what = "the ELBO" if objective == "elbo" else "the IWAE bound"
    level, reason = convergence(at.earlier, fixed.log_weights(), tolerance, what=what)
    return None if level else False, reason


def _rule(
    pair: Pair,
    data: tuple[Any, ...],
    held_out: tuple[Any, ...] | None,
    shape: Layout,
    batches: Batches,
    leaves: list[Tensor],
    weighted: IWAE | None,
    *,
    lr: float,
    start: int,
    num_steps: int,
    tolerance: float,
    seed: int,
    traced: bool,
) -> Rule:
    judged_by = data if held_out is None else held_out
    judged_shape = shape if held_out is None else layout(pair, *held_out)
    # A guide of one datum's own parameters moves once an epoch: a segment has two of them.
    epoch = batches.num_data / batches.batch_size if batches.batch_size else 1
    width = max(FEWEST_WIDTH, min(MOST_WIDTH, 2 * math.ceil(epoch)))
    return Rule(
        leaves,
        FixedData(
            pair, judged_by, judged_shape, seed, weighted,
            most_units=2048, most_particles=4096, budget=2**22, traced=traced,
        ),
        FixedData(pair, data, shape, seed, weighted, most_units=64, most_particles=8, traced=traced),
        lr=lr, start=start, width=-(-width // UNROLLED) * UNROLLED, num_steps=num_steps,
        tolerance=tolerance, on_held_out=held_out is not None, seed=seed,
    )  # fmt: skip


def _resume_rule(rule: Rule, at: Progress) -> None:
    """Put a checkpoint's state back into the stopping rule.

    Raises:
        InputError: if the checkpoint is of a fit that had no rule, or is damaged.
    """
    if not at.step:
        return
    if not at.rule_about:
        raise InputError("the checkpoint is of a fit of a fixed number of steps; resume it with stop=False")
    try:
        rule.load(at.rule, at.rule_about)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"the checkpoint's stopping rule is damaged: {error}") from error


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


def _refuse_beyond_memory(shape: Layout, batches: Batches, num_particles: int, data: tuple[Any, ...]) -> None:
    batch = batches.batch_size or shape.batch_plate_size
    # Of a model with one unit, the largest site has all the data; minibatches cut it.
    numbers = num_particles * shape.num_units * shape.event_size * batch // max(1, shape.batch_plate_size)
    itemsize = max(
        (
            values.element_size()
            for values in data
            if isinstance(values, Tensor) and values.is_floating_point()
        ),
        default=4,
    )
    refuse_beyond_memory(
        numbers, itemsize, f"a step of {num_particles} particles on {batch:,} data",
        "take minibatches (batch_size) or fewer particles (num_particles)",
    )  # fmt: skip


def _final_particles(shape: Layout, late: bool, budget: int = 2**20) -> int:
    """Draws for the reported ELBO: many where they cost nothing, few where units average the noise.

    After the time has run out (``late``), two where each runs the programs anew.
    """
    fewest = 4 if shape.num_units >= 1000 else 16
    if not shape.vectorized:
        return 2 if late else fewest
    return min(1000, max(fewest, budget // (shape.num_units * shape.event_size)))


def _work(parameters: dict[str, Tensor], batches: Batches, num_particles: int) -> int:
    """A rough count of a step's multiplications: every entry of a matrix meets every datum and draw."""
    batch = batches.batch_size or batches.num_data
    matrices = sum(leaf.numel() for leaf in parameters.values() if leaf.dim() > 1)
    vectors = sum(leaf.numel() for leaf in parameters.values() if leaf.dim() <= 1)
    return (matrices * batch + vectors + batch) * num_particles


def _engine(compile: Compile, num_steps: int, stop: bool, drawn_anew: tuple[Any, ...]) -> str:
    """How the steps are to run; a graph sees only tensors change."""
    engine = engine_for(compile, num_steps, stop)
    if engine != "pyro" and not all(isinstance(values, Tensor) for values in drawn_anew):
        fall_back("this fit", Untraceable("data that are drawn anew are no tensors"))
        return "pyro"
    return engine


def _same_form(drawn: tuple[Any, ...], data: tuple[Any, ...]) -> tuple[Any, ...]:
    """Data drawn anew, if they have the first data's shapes and types.

    Raises:
        InputError: otherwise.
    """
    if len(drawn) != len(data):
        raise InputError(f"refresh gave {len(drawn)} data arguments; the programs take {len(data)}")
    for position, (values, first) in enumerate(zip(drawn, data, strict=True)):
        if isinstance(first, Tensor) and not isinstance(values, Tensor):
            raise InputError(
                f"refresh gave data argument {position} as {type(values).__name__}, not a tensor"
            )
        if isinstance(first, Tensor) and (values.shape, values.dtype) != (first.shape, first.dtype):
            raise InputError(
                f"refresh gave data argument {position} the shape {tuple(values.shape)} and {values.dtype}; "
                f"the first data have {tuple(first.shape)} and {first.dtype}"
            )
    return drawn


def _iwae(asked: FitOptions, loss: PyroELBO | None) -> IWAE | None:
    if asked.objective == "elbo":
        return None
    if loss is not None:
        raise InputError("loss and objective='iwae' exclude each other")
    return IWAE(asked.num_particles, asked.doubly_reparameterised)


def _held_out_mean(pair: Pair, data: tuple[Any, ...], weighted: IWAE | None, seed: int) -> float:
    if weighted is None:
        return elbo(pair, *data, num_particles=4, seed=seed).mean
    return bounds.iwae(
        pair, *data, num_particles=weighted.num_particles, num_repeats=2, seed=seed, progress=False
    ).mean


def _finite(
    losses: np.ndarray, first: int, pair: Pair, data: tuple[Any, ...], start: dict[str, Tensor]
) -> np.ndarray:
    """The losses, if they are numbers; else the parameters are put back to where they began.

    Raises:
        InputError: saying what may be the cause: a support, or steps that are too large.
    """
    if np.isfinite(losses).all():
        return losses
    at = int(np.flatnonzero(~np.isfinite(losses))[0])
    with torch.no_grad():
        for name, leaf in pair.parameters().items():
            if name in start:
                leaf.copy_(start[name])
    found = f"the loss became {losses[at]} at step {first + at}"
    if outside := outside_support(pair, *data):
        raise InputError(f"{found}: {outside}; give the guide the model's support, as Pyro's AutoGuides do")
    raise InputError(f"{found}: try a smaller lr, clip_norm, or bounded scales")


def _check_held_out(pair: Pair, held_out: tuple[Any, ...] | None) -> None:
    if held_out is None:
        return
    check_data(pair.model, *held_out)
    check = getattr(pair.guide, "check_data", None)
    if check is not None:
        check(*held_out)
