"""Stochastic variational inference: Adam on the ELBO or the IWAE bound, resumable to the last digit."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyro
import torch
from pyro.infer import ELBO as PyroELBO
from torch import Tensor

from ppl_vae.arguments import check_real, check_whole
from ppl_vae.clock import OutOfTime, no_deadline, time_left
from ppl_vae.errors import InputError
from ppl_vae.inference import bounds
from ppl_vae.inference.batches import Batches
from ppl_vae.inference.checkpoint import Checkpoint, Progress
from ppl_vae.inference.compiler import fall_back
from ppl_vae.inference.elbo import ELBO, elbo
from ppl_vae.inference.fixed_data import FixedData, convergence
from ppl_vae.inference.graph import Compile, Untraceable, check_compile
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

__all__ = ["Fit", "convergence", "fit"]

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
    num_steps: int = 2000,
    batch_size: int | None = None,
    lr: float = 0.01,
    lr_end: float = 0.01,
    num_particles: int = 1,
    clip_norm: float | None = None,
    kl_warmup: int = 0,
    train: Literal["both", "guide"] = "both",
    loss: PyroELBO | None = None,
    objective: Literal["elbo", "iwae"] = "elbo",
    doubly_reparameterised: bool = False,
    held_out: tuple[Any, ...] | None = None,
    check_every: int = 200,
    refresh: Callable[[int], tuple[Any, ...]] | None = None,
    tolerance: float = 0.05,
    average: float = 0.0,
    stop: bool = False,
    precision: Literal["bfloat16"] | None = None,
    compile: Compile = "auto",
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
        num_steps: number of Adam steps, in all; with ``stop``, the most.
        batch_size: entries of the data plate a step; all by default.
        lr: learning rate of the first step. It falls along a half cosine, or as ``stop`` says.
        lr_end: the last step's learning rate as a fraction of ``lr``; 1 keeps it constant.
        num_particles: draws of the guide a step.
        clip_norm: largest gradient norm, in units of nats; no clipping by default.
        kl_warmup: steps over which β, the weight of the latents' terms, rises from 0 to 1.
        train: "both", or "guide" to hold the model's parameters.
        loss: another Pyro ELBO than ``Trace_ELBO``, such as ``TraceMeanField_ELBO()``.
        objective: "elbo", or "iwae" for the importance-weighted bound of ``num_particles`` draws (Burda et
            al. 2016), which is right with minibatches too.
        doubly_reparameterised: the guide's gradient of that bound by Tucker et al. (2019): less noise.
        held_out: data on which the objective per unit is checked every ``check_every`` steps.
        check_every: steps between those checks.
        refresh: gives an epoch's data, for data drawn anew every epoch, in the shapes and types of
            ``data``. What else it may change (an attribute of a model) a traced graph does not see.
        tolerance: in nats a unit: with ``stop`` of what ten times as many steps are expected to gain, else of
            the rise over the last quarter of the steps (see `convergence`).
        average: fraction of the steps, at the end, over which the unconstrained parameters are averaged
            (every fifth iterate; Polyak and Juditsky 1992). The noise of single gradients then no longer
            limits the fit.
        stop: whether to end the fit where going on is expected to gain less than the tolerance. The
            learning rate is then constant until the iterates are stationary (split R-hat of their tail at
            most 1.1) or rise no more, falls by a factor of 0.3, and so on; the answer is the average of
            the iterates' tail. It is judged by the ELBO of ``held_out`` where that is given, else by that
            of the data, under common random numbers. The rule begins after the KL warm-up. Only in the
            last tenth below the cap does ``num_steps`` play a part: the learning rate is then lowered to
            nothing, and the fit counts as not converged. ``lr_end`` and ``average`` have no part in it.
            A deadline (`clock.deadline`) ends such a fit as the cap does, and any other with `OutOfTime`.
            See `Fit.stopping` (Dhaka et al. 2020; Welandawe et al. 2024).
        precision: "bfloat16" runs the programs under autocast.
        compile: True traces and compiles the steps, False runs stock Pyro, and "auto" decides by the
            number of steps; see `engine_for`. The numbers are the same to rounding.
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
    counts = {"num_steps": num_steps, "batch_size": 1 if batch_size is None else batch_size,
              "num_particles": num_particles, "check_every": check_every,
              "checkpoint_every": checkpoint_every}  # fmt: skip
    check_whole(1, **counts)
    check_whole(0, kl_warmup=kl_warmup)
    _check_reals(lr, average, tolerance, clip_norm)
    if precision not in (None, "bfloat16"):
        raise InputError(f"precision={precision!r} is not known; it is 'bfloat16' or None")
    if stop and average:
        raise InputError(
            "average belongs to a fixed number of steps; with stop=True the tail is averaged anyway"
        )
    weighted = _iwae(objective, num_particles, doubly_reparameterised, loss)
    check_compile(compile)
    check_data(pair.model, *data)
    start = time.perf_counter()
    with seeded(seed):
        pair.initialise(*data, seed=seed)
        shape = layout(pair, *data)
        _check_held_out(pair, held_out)
        batches = _batches(shape, batch_size, seed)
        if weighted is not None:
            check_iwae(weighted, pair, data, shape, batches.batch_size)
        _refuse_beyond_memory(shape, batches, num_particles, data)
        leaves = pair.parameters(train)
        if not leaves:
            raise InputError(f"there is nothing to train: no parameters with train={train!r}")
        began = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        saved = Checkpoint(checkpoint, pair) if checkpoint else None
        at = saved.load(num_steps) if resume and saved else Progress.at_start(num_steps)
        fixed = FixedData(pair, data, shape, seed, weighted)
        rule = None
        if stop:
            rule = _rule(
                pair, data, held_out, shape, batches, list(leaves.values()), weighted,
                lr=lr, start=kl_warmup, num_steps=num_steps, tolerance=tolerance, seed=seed,
                traced=engine_for(compile, num_steps, stop) != "pyro",
            )  # fmt: skip
            _resume_rule(rule, at)
        small = _work(leaves, batches, num_particles) < SMALL_WORK
        schedule = Schedule(
            num_steps, lr, lr_end, kl_warmup, clip_norm, batches, None if rule is None else rule.rate
        )
        current, epoch = data, -1
        average_from = num_steps - round(average * num_steps)
        stops = Stops(
            num_steps,
            every=[100, *([check_every] if held_out else []), *([checkpoint_every] if saved else [])],
            once=[num_steps - num_steps // 4, average_from],
            average_from=average_from,
            epochs=batches if refresh else None,
            rule=rule,
        )
        with (
            one_thread(small),
            # `layout` has run both programs with Pyro's checks on; they cost a quarter of a small step.
            pyro.validation_enabled(False),
            progress_bar("SVI", num_steps, start=at.step, open_ended=stop, show=progress) as advance,
        ):
            with keep_generator():
                steps = stepper(
                    pair, data, shape, leaves, schedule, num_particles=num_particles,
                    loss=loss if weighted is None else weighted,
                    engine=_engine(compile, num_steps, stop, data if refresh else ()),
                    precision=torch.bfloat16 if precision else None,
                )  # fmt: skip
            if at.step:
                steps.load_state(at.state, at.step)
            late = False
            while at.step < num_steps and not late and not (rule is not None and rule.done):
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
                if average and at.step > average_from and at.step % UNROLLED == 0:
                    at.add_to_average(list(leaves.values()))
                if at.step == num_steps and average:
                    at.write_average(list(leaves.values()))
                if rule is not None and count:
                    with suppress(OutOfTime):
                        rule.see(at.step)
                late = rule is not None and time_left() <= 0
                ended = late or at.step == num_steps or (rule is not None and rule.done)
                with no_deadline():  # short, and not to be left half done
                    if held_out is not None and (at.step % check_every == 0 or ended):
                        at.checks.append((at.step, _held_out_mean(pair, held_out, weighted, seed)))
                    if at.step == num_steps - num_steps // 4:
                        at.earlier = fixed.log_weights()
                if saved and (at.step % checkpoint_every == 0 or ended):
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
                at, fixed, kl_warmup, tolerance, "elbo" if weighted is None else "iwae"
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


def _iwae(
    objective: str, num_particles: int, doubly_reparameterised: bool, loss: PyroELBO | None
) -> IWAE | None:
    if objective not in ("elbo", "iwae"):
        raise InputError(f"objective={objective!r} is not known; it is 'elbo' or 'iwae'")
    if objective == "elbo":
        if doubly_reparameterised:
            raise InputError("doubly_reparameterised belongs to objective='iwae'")
        return None
    if loss is not None:
        raise InputError("loss and objective='iwae' exclude each other")
    return IWAE(num_particles, doubly_reparameterised)


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


def _check_reals(lr: float, average: float, tolerance: float, clip_norm: float | None) -> None:
    check_real(lambda v: 0 < v < math.inf, "must be a positive number", lr=lr, tolerance=tolerance)
    check_real(lambda v: 0 <= v <= 1, "is a fraction of the steps, from 0 to 1", average=average)
    if clip_norm is not None:
        check_real(lambda v: v > 0, "must be a positive number", clip_norm=clip_norm)
