"""Stochastic variational inference: Adam on the ELBO or the IWAE bound, resumable to the last digit.

`fit` is the whole; `init` and `step` are its steps, for a loop of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from pyro.infer import ELBO as PyroELBO

from ppl_vae.base.clock import no_deadline
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.seeds import seeded
from ppl_vae.base.threads import one_thread
from ppl_vae.inference.evidence.elbo import elbo
from ppl_vae.inference.fitting.checkpoint import Checkpoint
from ppl_vae.inference.fitting.fit_result import Fit, final_particles
from ppl_vae.inference.fitting.fixed_data import convergence
from ppl_vae.inference.fitting.iwae import IWAE
from ppl_vae.inference.fitting.objective import MeanFieldELBO, Objective, TraceELBO
from ppl_vae.inference.fitting.observers import Callback, Guarded, Log, Observer, keeping, observed
from ppl_vae.inference.fitting.options import FitKeywords, FitOptions
from ppl_vae.inference.fitting.parts import Average, Bar, HeldOut, LastQuarter, StoppingRule
from ppl_vae.inference.fitting.settling import Settling
from ppl_vae.inference.fitting.state import State, init, step
from ppl_vae.program.abilities import ChecksData
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.terms import check_data

if TYPE_CHECKING:
    from ppl_vae.inference.fitting.whitening import Whitened

__all__ = [
    "IWAE",
    "Callback",
    "Fit",
    "FitKeywords",
    "FitOptions",
    "Log",
    "MeanFieldELBO",
    "Objective",
    "Observer",
    "Problem",
    "State",
    "TraceELBO",
    "convergence",
    "fit",
    "init",
    "step",
]

# A short fit hardly moves in its last quarter, whether or not it has arrived.
FEWEST_STEPS = 200


def fit(
    pair: Pair,
    *data: Any,
    loss: PyroELBO | None = None,
    held_out: tuple[Any, ...] | None = None,
    refresh: Callable[[int], tuple[Any, ...]] | None = None,
    observers: Sequence[Observer] = (),
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
        observers: look at the fit between steps, and may end it: `Callback`, `Log`, or any object with the
            methods of `Observer`.
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
    white = _whitened(pair, data, seed) if options.get("whiten") else None
    own, plain = (pair, options) if white is None else (white.own, white.options(FitOptions(**options)))
    state = init(own, *data, loss=loss, refresh=refresh, seed=seed, **plain)
    asked = state.options
    _check_held_out(pair, held_out)
    judge = white.distance if white is not None and white.judged else None
    rule = StoppingRule(state, held_out, judge if held_out is None else None) if asked.stop else None
    average = Average(asked.num_steps, asked.average) if asked.average else None
    quarter = None if rule else LastQuarter(state)
    checks = None if held_out is None else HeldOut(state, held_out)
    looking: list[Observer] = [part for part in (average, rule, checks, quarter) if part is not None]
    looking += [Guarded(observer, number) for number, observer in enumerate(observers)]
    if checkpoint is not None:
        saved = Checkpoint(checkpoint, asked.checkpoint_every, keeping(looking))
        if resume:
            saved.load(state)
        looking.append(saved)
    bar = progress_bar("SVI", asked.num_steps, start=state.step, open_ended=asked.stop, show=progress)
    until = state.step if rule is not None and rule.done else asked.num_steps
    with state.running(), bar as advance:
        state.prepare()
        late = observed(state, [*looking, Bar(advance, state.step)], until, may_end=asked.stop)
    # What belongs to an end is done also after the time is over, or when it ends meanwhile.
    with seeded(seed), one_thread(state.small), no_deadline():
        stopping = None if rule is None else rule.stopping(state, late)
        distance = judge() if judge is not None else None
        if white is not None:
            white.write()
        Settling(state.problem, seed=seed, train=asked.train)()
        final = elbo(pair, *data, num_particles=final_particles(state.layout, late), seed=seed)
    converged, reason = _judged(state, quarter) if stopping is None else (stopping.converged, stopping.reason)
    return Fit(
        elbo=state.elbo,
        held_out=np.asarray(checks.checks if checks else []).reshape(-1, 2),
        final=final,
        steps=state.step,
        seconds=state.seconds,
        converged=converged,
        reason=reason,
        engine=state.stepper.engine,
        compile_seconds=state.stepper.compile_seconds,
        stopping=stopping,
        distance=distance,
    )


def _whitened(pair: Pair, data: tuple[Any, ...], seed: int) -> Whitened:
    from ppl_vae.inference.fitting.whitening import Whitened

    return Whitened(pair, data, seed)


def _judged(state: State, quarter: LastQuarter | None) -> tuple[bool | None, str]:
    """False where a fixed number of steps has not levelled off, else None: more steps were not judged."""
    options = state.options
    num_steps = options.num_steps
    if state.step < num_steps:
        return None, f"an observer ended the fit after {state.step} steps; convergence was not judged"
    if num_steps < FEWEST_STEPS or quarter is None or quarter.log_weights is None:
        return False, (
            f"{num_steps} steps are too few to judge convergence; at least {FEWEST_STEPS} are needed"
        )
    if options.kl_warmup > num_steps - num_steps // 4:
        return False, "the KL warm-up reaches into the last quarter of the steps"
    what = "the ELBO" if state.weighted is None else "the IWAE bound"
    level, reason = convergence(
        quarter.log_weights, quarter.fixed.log_weights(), options.tolerance, what=what
    )
    return None if level else False, reason


def _check_held_out(pair: Pair, held_out: tuple[Any, ...] | None) -> None:
    if held_out is None:
        return
    check_data(pair.model, *held_out)
    if isinstance(pair.guide, ChecksData):
        pair.guide.check_data(*held_out)
