"""A fit that is going on: what `init` makes, `step` moves, and a checkpoint keeps."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Unpack

import numpy as np
import pyro
import torch
from pyro.infer import ELBO as PyroELBO
from torch import Tensor

from ppl_vae.base.arguments import check_whole
from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import generator_state, keep_generator, restore_generator, seeded
from ppl_vae.base.threads import SMALL_WORK, one_thread
from ppl_vae.engine.compiler import fall_back
from ppl_vae.engine.graph import Untraceable
from ppl_vae.guides.mixture import MixtureNormal
from ppl_vae.inference.fitting.iwae import IWAE
from ppl_vae.inference.fitting.objective import (
    Checked,
    MeanFieldELBO,
    Objective,
    PyroLoss,
    StratifiedELBO,
    TraceELBO,
)
from ppl_vae.inference.fitting.options import FitKeywords, FitOptions
from ppl_vae.inference.fitting.schedule import Schedule
from ppl_vae.inference.fitting.steps import Stepper, engine_of_fit, stepper
from ppl_vae.program.abilities import HasObjective
from ppl_vae.program.batches import Batches
from ppl_vae.program.layout import Layout
from ppl_vae.program.memory import refuse_beyond_memory
from ppl_vae.program.pair import Pair
from ppl_vae.program.probe import check_data
from ppl_vae.program.problem import Problem
from ppl_vae.program.supports import outside_support

__all__ = ["State", "init", "step"]

Refresh = Callable[[int], tuple[Any, ...]]


def init(
    pair: Pair,
    *data: Any,
    loss: PyroELBO | None = None,
    refresh: Refresh | None = None,
    rate: Callable[[int], float] | None = None,
    seed: int = 0,
    **options: Unpack[FitKeywords],
) -> "State":
    """A fit before its first step, for a loop of one's own; `step` takes its steps.

    Args:
        pair: model and guide; their parameters are changed in place.
        data: the programs' full data.
        loss: see `svi.fit`.
        refresh: see `svi.fit`.
        rate: learning rate of a step, counted from 0, in place of ``lr`` and ``lr_end``. It is asked when the
            step comes, so that it may depend on what happened before.
        seed: of initial values, batches and noise.
        options: the fields of `FitOptions`. Those that say when a fit ends, what is averaged and what is
            looked at (``stop``, ``tolerance``, ``average``, ``check_every``, ``checkpoint_every``) are
            `svi.fit`'s business: `step` does not look at them.

    Raises:
        InputError: as `svi.fit` does.
    """
    return State(pair, data, FitOptions(**options), loss=loss, refresh=refresh, rate=rate, seed=seed)


def step(state: "State", count: int = 1) -> np.ndarray:
    """Take steps, and return their losses in nats for the whole data, shape (count,).

    The steps have random numbers of their own: what is drawn between two calls changes nothing, and a hundred
    calls of one step do what one call of a hundred does, to rounding.

    Raises:
        InputError: for more steps than the state's ``num_steps``, or a loss that is no number.
        OutOfTime: if a deadline passes before the first of them; where it passes later, fewer are taken.
    """
    check_whole(1, count=count)
    if state.step + count > state.options.num_steps:
        raise InputError(
            f"step {state.step + count} is past the num_steps={state.options.num_steps} that init was given"
        )
    check_time()
    with state.running():
        return state.advance(count)


class State:
    """A fit between two steps.

    Attributes:
        pair, data: what is fitted; ``data`` are those of the present epoch where they are drawn anew.
        options: of the fit.
        problem: the pair with its first data and its layout.
        objective: what the steps minimise.
        seed: of initial values, batches and noise.
        leaves: the unconstrained parameters that are trained, by name; steps change them in place.
        batches: the entries of every step.
        engine: how the steps are to run; `Stepper.engine` says how they do.
        rate: learning rate of a step, or None for that of the options; to be set before the first step.
        step: how many steps are done.
        small: whether a step is so small that it runs on one thread.
    """

    def __init__(
        self,
        pair: Pair,
        data: tuple[Any, ...],
        options: FitOptions,
        *,
        loss: PyroELBO | None = None,
        refresh: Refresh | None = None,
        rate: Callable[[int], float] | None = None,
        seed: int = 0,
    ) -> None:
        self.began, self.seconds_before = time.perf_counter(), 0.0
        self.pair, self.data, self.options, self.seed = pair, data, options, seed
        if options.method != "svi":
            raise InputError(f"these are steps of SVI; method={options.method!r} is for inference.fit")
        if options.whiten:
            raise InputError("whiten is for svi.fit, which sets the guide's coordinates up and back")
        self.objective = _objective(options, loss, pair)
        self.refresh, self.rate = refresh, rate
        check_data(pair.model, *data)
        with seeded(seed):
            pair.initialise(*data, seed=seed)
            self.problem = Problem.of(pair, *data)
            self._generator = generator_state()
        self.batches = _batches(self.problem.layout, options.batch_size, seed)
        if isinstance(self.objective, Checked):
            self.objective.check(self.problem, self.batches.batch_size)
        _refuse_beyond_memory(self.problem, self.batches, options.num_particles)
        self.leaves = pair.parameters(options.train)
        if not self.leaves:
            raise InputError(f"there is nothing to train: no parameters with train={options.train!r}")
        self.small = _work(self.leaves, self.batches, options.num_particles) < SMALL_WORK
        self.engine = engine_of_fit(options.compile, options.num_steps, options.stop)
        self.step = 0
        self._start = {name: leaf.detach().clone() for name, leaf in self.leaves.items()}
        self._epoch = -1
        self._losses: list[np.ndarray] = []
        self._moments: dict[str, Tensor] = {}
        self._stepper: Stepper | None = None
        self._running = False

    @property
    def layout(self) -> Layout:
        """The pair's layout for these data."""
        return self.problem.layout

    @property
    def weighted(self) -> IWAE | None:
        """The importance-weighted bound where that is the objective; all others are judged by the ELBO."""
        return self.objective if isinstance(self.objective, IWAE) else None

    @property
    def elbo(self) -> np.ndarray:
        """The objective's estimate at every step so far, in nats for the whole data, shape (steps,)."""
        return -np.concatenate(self._losses) if self._losses else np.empty(0)

    @property
    def last_elbo(self) -> float:
        """That of the last step; NaN before the first."""
        return float(-self._losses[-1][-1]) if self._losses else math.nan

    @property
    def seconds(self) -> float:
        """Wall time since the fit began, that of the processes before this one included."""
        return self.seconds_before + time.perf_counter() - self.began

    # Steps -------------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """As steps run: with the fit's own random numbers, on one thread if small, without Pyro's checks.

        `Problem.of` has run both programs with those checks on; they cost a quarter of a small step. Where
        the guide alone is trained, the model's modules are in evaluation mode meanwhile.
        """
        held = self.pair.holding(self.options.train)
        with keep_generator(), one_thread(self.small), pyro.validation_enabled(False), held:
            restore_generator(self._generator)
            self._running = True
            try:
                yield
            finally:
                self._running = False
                self._generator = generator_state()

    def advance(self, count: int) -> np.ndarray:
        """Take steps inside `running`, and return their losses; fewer where a deadline passes.

        Raises:
            InputError: if a loss is no number; the parameters are then those before the first step.
            OutOfTime: if a deadline passes at once; what was done before is kept, and counted.
        """
        last, found = self.step + count, []
        steps = self.stepper
        while self.step < last:
            end = self._renew(last)
            losses = steps.run(self.step, end - self.step, self.data)
            _refuse_unless_finite(losses, self.step, self.pair, self.problem.data, self._start)
            self._losses.append(losses)
            found.append(losses)
            self.step += len(losses)
            if self.step < end:
                break
        return np.concatenate(found)

    def _renew(self, last: int) -> int:
        """Draw the data anew where an epoch begins; the step after which this one ends, at most ``last``."""
        if self.refresh is None:
            return last
        epoch = self.batches.epoch(self.step)
        if epoch != self._epoch:
            self.data, self._epoch = _same_form(self.refresh(epoch), self.problem.data), epoch
        return next((at for at in range(self.step + 1, last) if self.batches.epoch(at) != epoch), last)

    def prepare(self) -> None:
        """Trace and compile the steps now, which the first step would do otherwise."""
        _ = self.stepper

    @property
    def stepper(self) -> Stepper:
        """What runs the steps; tracing and compiling happen when it is first asked for."""
        if self._stepper is None:
            with keep_generator():
                self._stepper = self._made()
            if self._moments:
                self._stepper.load_state(self._moments, self.step)
        return self._stepper

    def _made(self) -> Stepper:
        options, engine = self.options, self.engine
        schedule = Schedule(
            options.num_steps, options.lr, options.lr_end, options.kl_warmup, options.clip_norm, self.batches,
            self.rate,
        )  # fmt: skip
        # A graph sees only tensors change.
        if engine != "pyro" and self.refresh and not all(isinstance(v, Tensor) for v in self.problem.data):
            fall_back("this fit", Untraceable("data that are drawn anew are no tensors"))
            engine = "pyro"
        return stepper(
            self.problem, self.leaves, self.objective, schedule, engine=engine,
            precision=torch.bfloat16 if options.precision == "bfloat16" else None,
        )  # fmt: skip

    # What a checkpoint holds -------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Copies of everything that the next steps depend on, by name: `load` goes back to it."""
        moments = self._moments if self._stepper is None else self._stepper.state()
        found = {f"parameter/{name}": value for name, value in self.pair.state_dict().items()}
        found |= {f"optimizer/{name}": value for name, value in moments.items()}
        found |= generator_state() if self._running else self._generator
        found["elbo"] = torch.from_numpy(self.elbo)
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go to where `tensors` was called, in this process or in another.

        Raises:
            InputError: if it is another pair's, or past ``num_steps``.
            KeyError: if something is missing.
        """
        elbo = tensors["elbo"].numpy()
        if len(elbo) > self.options.num_steps:
            raise InputError(
                f"the checkpoint is at step {len(elbo)}, past the {self.options.num_steps} asked for"
            )
        self.pair.load_state_dict(under("parameter/", tensors))
        # Steps change them in place: what was given stays as it is.
        self._moments = {name: value.clone() for name, value in under("optimizer/", tensors).items()}
        self._generator = {name: tensors[name] for name in ("rng", "rng_cuda") if name in tensors}
        if self._running:
            restore_generator(self._generator)
        self._losses = [-elbo] if len(elbo) else []
        self.step, self._epoch = len(elbo), -1
        if not self._moments:
            self._stepper = None
        elif self._stepper is not None:
            self._stepper.load_state(self._moments, self.step)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _objective(options: FitOptions, loss: PyroELBO | None, pair: Pair) -> Objective:
    """What the options name, or the model makes of it where its own parameters are learnt."""
    usual, model = _usual_objective(options, loss), pair.model
    if isinstance(usual, TraceELBO) and isinstance(pair.guide, MixtureNormal):
        usual = StratifiedELBO(usual.num_particles)
    own = options.train == "both" and loss is None and isinstance(options.objective, str)
    if own and isinstance(model, HasObjective):
        found: Objective = model.objective(usual)
        return found
    return usual


def _usual_objective(options: FitOptions, loss: PyroELBO | None) -> Objective:
    wanted, num_particles = options.objective, options.num_particles
    if loss is not None:
        if wanted != "elbo":
            raise InputError(f"loss and objective={wanted!r} exclude each other")
        return PyroLoss(loss)
    if wanted == "iwae":
        return IWAE(num_particles, options.doubly_reparameterised)
    if wanted == "mean-field":
        return MeanFieldELBO(num_particles)
    return TraceELBO(num_particles) if wanted == "elbo" else wanted


def _batches(layout: Layout, batch_size: int | None, seed: int) -> Batches:
    if batch_size is not None and batch_size < layout.batch_plate_size:
        if layout.batch_plate is None:
            raise InputError("minibatches need a plate around the observed sites, and this model has none")
        if layout.batch_plate not in layout.indexable:
            raise InputError(
                f"minibatches need programs that index their data by the plate {layout.batch_plate!r} "
                "(`with pyro.plate(…) as i: … x[i]`); these do not"
            )
    return Batches(layout.batch_plate_size, batch_size, seed)


def _refuse_beyond_memory(problem: Problem, batches: Batches, num_particles: int) -> None:
    layout = problem.layout
    batch = batches.batch_size or layout.batch_plate_size
    # Of a model with one unit, the largest site has all the data; minibatches cut it.
    numbers = num_particles * layout.num_units * layout.event_size * batch // max(1, layout.batch_plate_size)
    itemsize = max(
        (
            values.element_size()
            for values in problem.data
            if isinstance(values, Tensor) and values.is_floating_point()
        ),
        default=4,
    )
    refuse_beyond_memory(
        numbers, itemsize, f"a step of {num_particles} particles on {batch:,} data",
        "take minibatches (batch_size) or fewer particles (num_particles)",
    )  # fmt: skip


def _work(parameters: dict[str, Tensor], batches: Batches, num_particles: int) -> int:
    """A rough count of a step's multiplications: every entry of a matrix meets every datum and draw."""
    batch = batches.batch_size or batches.num_data
    matrices = sum(leaf.numel() for leaf in parameters.values() if leaf.dim() > 1)
    vectors = sum(leaf.numel() for leaf in parameters.values() if leaf.dim() <= 1)
    return (matrices * batch + vectors + batch) * num_particles


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


def _refuse_unless_finite(
    losses: np.ndarray, first: int, pair: Pair, data: tuple[Any, ...], start: dict[str, Tensor]
) -> None:
    """Refuse losses that are no numbers; the parameters are put back to where they began.

    Raises:
        InputError: saying what may be the cause: a support, or steps that are too large.
    """
    if np.isfinite(losses).all():
        return
    at = int(np.flatnonzero(~np.isfinite(losses))[0])
    with torch.no_grad():
        for name, leaf in pair.parameters().items():
            if name in start:
                leaf.copy_(start[name])
    found = f"the loss became {losses[at]} at step {first + at}"
    if outside := outside_support(pair, *data):
        raise InputError(f"{found}: {outside}; give the guide the model's support, as Pyro's AutoGuides do")
    raise InputError(f"{found}: try a smaller lr, clip_norm, or bounded scales")
