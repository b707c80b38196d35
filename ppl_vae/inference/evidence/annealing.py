"""log p(x) by annealed importance sampling, and bounds from both sides on simulated data.

Chains start from the guide (or the prior) and move through tempered posteriors; the product of the ratios
of successive densities is an unbiased estimate of p(x) (Neal 2001). On data simulated from the model the
latents that made them are an exact draw from the posterior: chains run from there backwards give an
unbiased estimate of 1/p(x), so that the true value lies between the two means' logs in expectation, and
their distance bounds the error of both (Grosse, Ghahramani and Adams 2015; Wu, Burda, Salakhutdinov and
Grosse 2017).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from ppl_vae.answers.evidence import Evidence
from ppl_vae.base.arguments import PROBABILITY, check_real, check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.seeds import derived, seeded
from ppl_vae.base.threads import one_thread
from ppl_vae.engine.choice import engine_for
from ppl_vae.engine.graph import Compile, check_compile
from ppl_vae.inference.evidence.partial import Partial, fingerprint
from ppl_vae.inference.evidence.temperatures import LENGTH, Plan, by_row, pilot, tempered
from ppl_vae.inference.evidence.tempered import TemperedPath
from ppl_vae.inference.evidence.tolerance import check_tolerance, samples_needed
from ppl_vae.inference.samplers.hmc import ChainState, jittered_length, transition
from ppl_vae.program.defined import about_weights, require_simulated, weighable
from ppl_vae.program.given_latents import has_log_density
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.simulate import simulate

__all__ = ["AnnealingOptions", "Settings", "bidirectional", "log_evidence"]

Start = Literal["guide", "prior"]

# Numbers in the largest site of all rows of a chunk.
CHUNK = 2**21
# Chains a unit beyond which a tolerance is given up.
MAX_CHAINS = 1024
# The same over all transitions of a run, from which on a compiled graph returns its ten seconds.
COMPILED = 2**29
# Numbers of one batch, below which threads cost more than they bring.
SMALL = 2**17


@dataclass(frozen=True)
class AnnealingOptions:
    """How chains are annealed.

    Attributes:
        start: "guide" or "prior": what the chains start from.
        num_temperatures: T, the number of steps along the path; the error falls as chains have more time to
            follow it.
        num_chains: K, chains a unit, each with an independent weight.
        target_accept: acceptance probability that the pilot run tunes step sizes to.

    Raises:
        InputError: for a value out of range.
    """

    start: Start = "guide"
    num_temperatures: int = 1000
    num_chains: int = 16
    target_accept: float = 0.8

    def __post_init__(self) -> None:
        if self.start not in ("guide", "prior"):
            raise InputError(f"start={self.start!r} is not known; it is 'guide' or 'prior'")
        check_whole(2, num_temperatures=self.num_temperatures, num_chains=self.num_chains)
        check_real(lambda v: 0 < v < 1, PROBABILITY, target_accept=self.target_accept)


# Its name in 0.1.0, where classes of runs and of annealing shared it.
Settings = AnnealingOptions


class AnnealingKeywords(TypedDict, total=False):
    """The fields of `AnnealingOptions` as keywords; a test holds the two equal."""

    start: Start
    num_temperatures: int
    num_chains: int
    target_accept: float


@torch.no_grad()
def log_evidence(
    pair: Pair,
    *data: Any,
    tolerance: float | None = None,
    max_chains: int = MAX_CHAINS,
    index: Tensor | None = None,
    compile: Compile = "auto",
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **options: Unpack[AnnealingKeywords],
) -> Evidence:
    """Estimate log p(x) of every unit by annealed importance sampling (Neal 2001).

    Step sizes, metric and temperatures are learnt in a pilot run along the path and then frozen; the
    weighed chains are new ones. Units are taken in chunks of bounded memory.

    Args:
        pair: model and guide; nothing is trained.
        data: the programs' data.
        tolerance: keep adding chains until the standard error of the mean over units is at most this, in
            nats; ``notes`` say why where it cannot be reached.
        max_chains: chains a unit at which that is given up.
        index: the units (all by default).
        compile: whether to compile the leapfrog steps; "auto" traces them, and compiles long runs.
        seed: of everything random.
        checkpoint: a file that keeps finished chunks of units, for an estimate that may be interrupted; it
            goes when the estimate is finished.
        resume: go on from that file. The result is that of an unbroken run.
        progress: whether to show a progress bar on a terminal.
        options: the fields of `AnnealingOptions`.

    Returns:
        Evidence with the standard error over the chains, the effective number of them, and their acceptance.

    Raises:
        InputError: for a value out of range, a discrete latent, a guide whose density at a given z is
            not available (start from the prior then), or a checkpoint of another estimate.
    """
    settings = AnnealingOptions(**options)
    check_tolerance(tolerance)
    begin = time.perf_counter()
    problem = Problem.of(pair, *data).rows(index)
    job = _Job(problem, settings, compile, seed)
    about = {
        **asdict(settings), "tolerance": tolerance, "seed": seed, "compile": compile,
        "problem": fingerprint(problem) if checkpoint else "",
    }  # fmt: skip
    partial = Partial(checkpoint, about, resume)
    total = len(job.chunks) * settings.num_temperatures
    notes: tuple[str, ...] = ()
    with seeded(seed), job.threads(), progress_bar("AIS", total, show=progress) as advance:
        log_w, acceptance = job.round(0, partial, advance)
        rounds = 1
        while tolerance is not None:
            found = job.evidence(log_w, acceptance, "ais", "estimate", begin)
            more, notes = samples_needed(found, tolerance, max_chains)
            if not more:
                break
            for _ in range(math.ceil(more / settings.num_chains)):
                others, accepted = job.round(rounds, partial, advance)
                acceptance = acceptance + (accepted - acceptance) / (rounds + 1)
                log_w, rounds = torch.cat([log_w, others]), rounds + 1
    partial.finish()
    notes = (*about_weights(problem.layout), *notes)
    return replace(job.evidence(log_w, acceptance, "ais", "estimate", begin), notes=notes)


@torch.no_grad()
def bidirectional(
    pair: Pair,
    *data: Any,
    start: Start = "guide",
    num_temperatures: int = 1000,
    num_chains: int = 16,
    target_accept: float = 0.8,
    index: Tensor | None = None,
    compile: Compile = "auto",
    seed: int = 0,
    progress: bool = True,
) -> tuple[Evidence, Evidence]:
    """Bounds on log p(x) from both sides, on data simulated from the model in the shape of those given.

    In expectation the forward chains' estimate is below and the reverse chains' above the truth, which they
    enclose however badly the chains mix: the distance between the two measures the estimator's own error
    (Grosse et al. 2015, section 3). It is informative about real data as far as the model resembles them.

    Args:
        pair: model and guide; an amortised guide is shown the simulated data.
        data: the programs' data, whose shapes are kept.
        start, num_temperatures, num_chains, target_accept, index, compile, seed, progress: as for
            `log_evidence`.

    Returns:
        The lower bound (method "ais") and the upper bound (method "bdmc", kind "upper bound") of the same
        simulated units. Standard errors are over chains; the reverse chains of a unit share their start.

    Raises:
        InputError: as for `log_evidence`, or if data cannot be simulated.
    """
    settings = AnnealingOptions(start, num_temperatures, num_chains, target_accept)
    begin = time.perf_counter()
    problem = weighable(Problem.of(pair, *data), drawn=start == "guide")
    require_simulated(problem.layout)
    latents, simulated = simulate(problem, seed)
    job = _Job(Problem.of(pair, *simulated).rows(index), settings, compile, seed)
    total = 2 * len(job.chunks) * num_temperatures
    with seeded(seed), job.threads(), progress_bar("BDMC", total, show=progress) as advance:
        runs = [job.both(number, latents, advance) for number in range(len(job.chunks))]
    forward, accepted, backward, accepted_back = (torch.cat(part, dim=-1) for part in zip(*runs, strict=True))
    lower = job.evidence(forward, accepted, "ais", "lower bound", begin)
    upper = job.evidence(backward, accepted_back, "bdmc", "upper bound", begin)
    return lower, upper


class _Job:
    """One estimate: its chunks of units, and how each of them is annealed."""

    def __init__(self, problem: Problem, settings: AnnealingOptions, compile: Compile, seed: int) -> None:
        check_compile(compile)
        self.settings, self.seed = settings, seed
        self.problem = weighable(problem, drawn=settings.start == "guide")
        if settings.start == "guide" and not has_log_density(problem.pair, *problem.data):
            raise InputError(
                "annealing from the guide needs log q at a given z, which this guide's hidden randomness "
                "denies; start from the prior"
            )
        self.chunks = self.problem.chunks(settings.num_chains, CHUNK)
        engine = _engine(compile, settings, self.problem)
        rows = settings.num_chains * self.chunks[0].num_units
        self.small = rows * self.problem.layout.event_size < SMALL
        # A compiled library keeps the number of threads that it was compiled for.
        with self.threads():
            self.path = TemperedPath(self.chunks[0], settings.num_chains, settings.start, engine)

    def threads(self) -> AbstractContextManager[None]:
        """One thread where a batch of rows is small."""
        return one_thread(self.small)

    def round(
        self, number: int, partial: Partial, advance: Callable[[int, str], None]
    ) -> tuple[Tensor, Tensor]:
        """Log weights (K, units) and acceptance (units,) of K new chains of every unit."""
        runs = []
        for chunk in range(len(self.chunks)):
            name = f"{number}/{chunk}"
            if (kept := partial.get(name)) is None:
                log_w, acceptance = self.forward(chunk, number, advance)
                partial.put(name, {"log_w": log_w, "acceptance": acceptance})
            else:
                log_w, acceptance = kept["log_w"], kept["acceptance"]
                advance(self.settings.num_temperatures, "")
            runs.append((log_w, acceptance))
        log_w, acceptance = (torch.cat(part, dim=-1) for part in zip(*runs, strict=True))
        return log_w, acceptance

    def forward(self, number: int, round: int, advance: Callable[[int, str], None]) -> tuple[Tensor, Tensor]:
        """Log weights (K, units) and acceptance (units,) of one chunk in one round."""
        units, plan, generator = self._planned(number, round, advance)
        state = self.path.state(self.path.draw(), 0.0)
        log_w, acceptance = _anneal(self.path, plan, state, generator, advance)
        return log_w[:, :units], acceptance[:units]

    def both(
        self, number: int, latents: dict[str, Tensor], advance: Callable[[int, str], None]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same forwards, and from exact posterior draws backwards."""
        units, plan, generator = self._planned(number, 0, advance)
        state = self.path.state(self.path.draw(), 0.0)
        forward, accepted = _anneal(self.path, plan, state, generator, advance)
        state = self.path.state(self.path.place(latents), 1.0)
        backward, accepted_back = _anneal(self.path, plan, state, generator, advance, backwards=True)
        return forward[:, :units], accepted[:units], backward[:, :units], accepted_back[:units]

    def _planned(
        self, number: int, round: int, advance: Callable[[int, str], None]
    ) -> tuple[int, Plan, torch.Generator]:
        units = self.path.choose(self.chunks[number].index)
        # Two streams: starting draws and momenta must not be the same numbers.
        torch.manual_seed(derived(self.seed, number, round, 0))
        generator = torch.Generator(self.path.device).manual_seed(derived(self.seed, number, round, 1))
        plan = pilot(
            self.path,
            self.settings.num_temperatures,
            target_accept=self.settings.target_accept,
            generator=generator,
            advance=advance,
        )
        return units, plan, generator

    def evidence(self, log_w: Tensor, acceptance: Tensor, method: str, kind: Any, begin: float) -> Evidence:
        """Log mean weights with their errors; the negative of it for reverse chains."""
        sign = -1.0 if method == "bdmc" else 1.0
        value, error, ess = log_mean(log_w)
        return Evidence(
            log_evidence=(sign * value).numpy(),
            method=method,
            unit=self.problem.layout.unit,
            kind=kind,
            std_error=error.numpy(),
            bias=(-0.5 * sign * error**2).numpy(),
            ess=ess.numpy(),
            acceptance=acceptance.double().numpy(),
            index=None if (index := self.problem.index) is None else index.cpu().numpy(),
            curve=_curve(log_w, sign),
            num_samples=len(log_w),
            proposal=f"{self.settings.start}, {self.settings.num_temperatures} temperatures",
            seconds=time.perf_counter() - begin,
            compile_seconds=self.path.compile_seconds,
        )


def _engine(compile: Compile, settings: AnnealingOptions, problem: Problem) -> str:
    """How the leapfrog steps run, by the numbers in the largest site over all of them; see `engine_for`."""
    numbers = 2 * settings.num_temperatures * settings.num_chains * problem.num_units
    numbers *= problem.layout.event_size
    return engine_for(compile, numbers, compiled=COMPILED)


def _anneal(
    path: TemperedPath,
    plan: Plan,
    state: ChainState,
    generator: torch.Generator,
    advance: Callable[[int, str], None],
    backwards: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log weights (K, units) in float64 and mean acceptance (units,) of one frozen run.

    Backwards, the very transitions of the forward run are made in the opposite order: each leaves its own
    tempered density invariant and is reversible.
    """
    steps = plan.num_steps
    log_w = torch.zeros(len(state.position), dtype=torch.float64, device=state.position.device)
    accepted = torch.zeros_like(log_w)
    unit_mass = state.position.new_ones(path.dim)
    largest = plan.step_size.median(1).values.tolist()
    for step in range(steps):
        here, there = (step, step + 1) if not backwards else (steps - step, steps - step - 1)
        before, after = float(plan.betas[here]), float(plan.betas[there])
        log_w += (after - before) * state.more[0].double()
        if 0 < there < steps:
            inner = there - 1
            factor, count = jittered_length(LENGTH, largest[inner], inner)
            moved = transition(
                path.leapfrog(after, plan.factor(inner)),
                tempered(state, before, after),
                step_size=by_row(plan.step_size[inner] * factor, path),
                num_leapfrogs=count,
                inverse_mass=unit_mass,
                generator=generator,
            )
            state = moved.state
            accepted += moved.acceptance
            if step % 20 == 0:
                advance(min(20, steps - step), f"acceptance {float(moved.acceptance.mean()):.2f}")
    shape = (path.num_chains, path.units)
    return log_w.reshape(shape).cpu(), accepted.reshape(shape).mean(0).cpu() / max(1, steps - 1)


def log_mean(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log of the mean weight, its standard error by the delta method, and the effective sample size.

    Args:
        log_w: shape (samples, units).
    """
    size = len(log_w)
    value = log_w.logsumexp(0) - math.log(size)
    relative = (log_w - value).exp()
    error = relative.std(0) / math.sqrt(size)
    return value, error, size / relative.square().mean(0)


def _curve(log_w: Tensor, sign: float) -> np.ndarray:
    """The mean over units as it is for fewer chains: columns samples, estimate, standard error."""
    size, points = 2, []
    while size <= len(log_w):
        value, error, _ = log_mean(log_w[:size])
        points.append((size, sign * float(value.mean()), float(error.square().sum().sqrt()) / len(value)))
        size *= 2
    return np.array(points).reshape(-1, 3)
