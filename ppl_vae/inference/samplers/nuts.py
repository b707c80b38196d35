"""Markov chains from p(z | x): NUTS by nutpie, by Pyro or with gradients in batches, or many chains of HMC.

Source: Hoffman and Gelman, "The No-U-Turn Sampler" (2014).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.base.precision import cast_data, default_dtype
from ppl_vae.base.progress import progress_bar, stage
from ppl_vae.base.seeds import check_seed, derived, keep_generator
from ppl_vae.base.threads import one_thread
from ppl_vae.engine.compiler import fall_back
from ppl_vae.engine.density import Density, density
from ppl_vae.engine.gradients import Gradient, begin, engine_of_chains, gradient
from ppl_vae.engine.graph import Compile, Untraceable, check_compile
from ppl_vae.guides.prior import Prior
from ppl_vae.inference.samplers import batched_nuts, many_chains, nutpie_nuts, pathfinder, pyro_nuts
from ppl_vae.inference.samplers.chains import ChainSettings
from ppl_vae.inference.samplers.starts import Proposal, given_starts, starting_points
from ppl_vae.inference.samplers.unconstrained import labelled, prepare, read
from ppl_vae.program.abilities import HasStarts
from ppl_vae.program.improper import Feasible
from ppl_vae.program.memory import refuse_too_many_draws
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.problem import Problem

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Mass",
    "NutsKeywords",
    "NutsOptions",
    "Sampler",
    "begin_compiling",
    "nuts_positions",
    "sample",
]

Sampler = Literal["nutpie", "pyro", "hmc"]
Mass = Literal["diagonal", "low-rank", "dense"]
Start = Mapping[str, Any] | Literal["pathfinder"] | None
# Starts that a model makes.
MOST_STARTS = 8
MASSES = {"nutpie": ("diagonal", "low-rank"), "pyro": ("diagonal", "dense"), "hmc": ("diagonal",)}


@dataclass(frozen=True, kw_only=True)
class NutsOptions:
    """The options of Markov chains. Values out of range raise `InputError`.

    Attributes:
        num_draws: kept draws a chain.
        warmup: adaptation steps a chain: 500, or 150 of "hmc".
        chains: number of chains: 4, or 64 of "hmc". R-hat wants at least 2.
        sampler: "nutpie" runs the chains in parallel threads on one compiled gradient, and where a gradient
            needs Python (it is not compiled, or calls LAPACK) the chains' gradients are one batch of NUTS of
            our own ("batched" in ``stats.attrs["sampler"]``); "pyro" is Pyro's own NUTS on the same gradient,
            one chain after another; "hmc" moves many chains together in one graph, with trajectories of one
            jittered length.
        mass: the mass matrix that is adapted: "diagonal", or "low-rank" (nutpie; in batches it is dense) or
            "dense" (pyro) for correlated posteriors.
        target_accept: acceptance probability that the step size is tuned to.
        max_tree_depth: at most 2^depth gradients a draw.
        compile: whether to compile the gradient; "auto" does from 2,000 iterations of all chains on, and
            runs the traced graph below; of more than 1,500 operations only where that takes less time than
            the traced graph would, all chains at once. False calls stock Pyro for every gradient.
        dtype: of the sampler's arithmetic; nutpie's is float64.
    """

    num_draws: int = 500
    warmup: int | None = None
    chains: int | None = None
    sampler: Sampler = "nutpie"
    mass: Mass = "diagonal"
    target_accept: float = 0.8
    max_tree_depth: int = 10
    compile: Compile = "auto"
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if self.sampler not in MASSES:
            raise InputError(f"sampler={self.sampler!r} is not known; it is {' or '.join(map(repr, MASSES))}")
        if self.mass not in (masses := MASSES[self.sampler]):
            raise InputError(
                f"mass={self.mass!r} is not known to {self.sampler}; it is {' or '.join(masses)}"
            )
        self.settings(self.sampler, 0)
        check_compile(self.compile)
        if self.sampler == "nutpie" and self.dtype != torch.float64:
            raise InputError(f"nutpie samples in float64, not {self.dtype}; the other samplers take others")

    def settings(self, sampler: str, seed: int) -> ChainSettings:
        """The settings with a sampler's own defaults."""
        many = sampler == "hmc"
        warmup = (150 if many else 500) if self.warmup is None else self.warmup
        chains = (64 if many else 4) if self.chains is None else self.chains
        return ChainSettings(
            self.num_draws, warmup, chains, self.target_accept, self.max_tree_depth, check_seed(seed)
        )


class NutsKeywords(TypedDict, total=False):
    """The fields of `NutsOptions` as keywords; a test holds the two equal."""

    num_draws: int
    warmup: int | None
    chains: int | None
    sampler: Sampler
    mass: Mass
    target_accept: float
    max_tree_depth: int
    compile: Compile
    dtype: torch.dtype


def sample(
    model: Program | Pair,
    *data: Any,
    start: Start = None,
    coords: dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[NutsKeywords],
) -> Posterior:
    """Draw from the exact posterior of a model, its parameters held.

    The model is copied into ``dtype`` if it is a module, and floating-point data are cast; constants
    that a plain function makes get that precision too. Every chain has its own start: uniform in [−2, 2] of
    the unconstrained space, or, where the density is not finite there, a draw of the pair's guide or of the
    prior. A model may have starts of its own (`HasStarts`). Priors may be flat (``ImproperUniform``,
    ``.mask(False)``).

    Args:
        model: a Pyro model, or a pair whose model (with its ``pyro.param`` values) is meant.
        data: the model's data, all of it: NUTS takes no minibatches.
        start: where chains start, values of latent sites by name: one for all chains, or one a chain along a
            leading dimension. Sites left out start in [−2, 2] of their unconstrained space. "pathfinder"
            starts every chain at a draw of its own of `pathfinder`, by importance weights.
        coords: labels of dimensions, such as the indices of the data given.
        seed: of the chains.
        progress: whether to show a progress bar on a terminal.
        options: the fields of `NutsOptions`.

    Returns:
        Draws of shape (chains, num_draws, …) with ``diverging``, ``acceptance_rate`` and
        ``step_size`` among the statistics.

    Raises:
        InputError: for options out of range, draws that do not fit into memory, or a model that is not
            differentiable in ``dtype``.
    """
    asked = NutsOptions(**options)
    settings, dtype = asked.settings(asked.sampler, seed), asked.dtype
    begun = time.perf_counter()
    problem, proposals = prepare(model, data, dtype)
    with default_dtype(dtype), one_thread(), pyro.validation_enabled(False), keep_generator():
        try:
            found = _unconstrained(problem, settings, asked, start, proposals, progress)
        except Untraceable as reason:
            if asked.sampler != "pyro":
                fall_back("NUTS", reason)
            settings = asked.settings("pyro", seed)
            found = _stock(problem, settings, dense=asked.mass != "diagonal", progress=progress)
    return Posterior(
        draws=labelled(found[0], problem, coords),
        method="hmc" if found[1].attrs["sampler"] == "hmc" else "nuts",
        dependence="chains",
        stats=found[1].assign_attrs(compile_seconds=found[2]),
        seconds=time.perf_counter() - begun,
    )


def begin_compiling(pair: Pair, *data: Any) -> None:
    """Begin to compile what `sample` will want of a pair's model, inside `compile_apart.ahead`.

    The parameters need not have their values yet: they are inputs of the graph.
    """
    cast = cast_data(data, torch.float64)
    with default_dtype(torch.float64), one_thread(), pyro.validation_enabled(False), keep_generator():
        own = pair.cast_model(torch.float64, Prior)
        with Feasible():
            read(own, cast, torch.float64)
        begin(density(own, *cast))


def _stock(
    problem: Problem, settings: ChainSettings, *, dense: bool, progress: bool
) -> tuple[dict[str, Tensor], xr.Dataset, float]:
    """Draws of Pyro's own NUTS on the model itself, which sums discrete latents out."""
    pair = problem.pair
    with pair.scope(), progress_bar("NUTS", settings.iterations, show=progress) as advance:
        draws, stats = pyro_nuts.sample_model(
            pair.model, problem.data, settings, dense=dense, jit_compile=False, advance=advance
        )
    return draws, stats.assign_attrs(sampler="pyro"), 0.0


def _unconstrained(
    problem: Problem,
    settings: ChainSettings,
    asked: NutsOptions,
    start: Start,
    proposals: list[Proposal],
    progress: bool,
) -> tuple[dict[str, Tensor], xr.Dataset, float]:
    """Draws by site of samplers that work on vectors, statistics, and the seconds that compiling took."""
    sampler, mass = asked.sampler, asked.mass
    engine = engine_of_chains(asked.compile, settings.iterations)
    target = density(problem.pair, *problem.data)
    refuse_too_many_draws(settings.chains * (settings.num_draws + settings.warmup), target.dim)
    given = _given(problem, target, start, settings, proposals, progress)

    def starts(slope: Gradient) -> Tensor:
        return starting_points(target, slope.of_each, settings.chains, settings.seed, given, proposals)

    if sampler == "hmc":
        positions, stats, seconds = many_chains.sample_positions(target, settings, engine, starts, progress)
        stats = stats.assign_attrs(sampler="hmc")
    else:
        slope = gradient(
            target,
            engine,
            chains=None if sampler == "pyro" else settings.chains,
            native=sampler == "nutpie",
            iterations=_of_each_run(settings, sampler) if asked.compile == "auto" else None,
            tell=lambda text: stage(f"NUTS: {text}", show=progress),
        )
        first, seconds = starts(slope), slope.seconds
        if seconds > 10:
            stage("NUTS: sampling", show=progress)
        with progress_bar("NUTS", settings.iterations, show=progress) as advance:
            if sampler == "pyro":
                positions, stats = pyro_nuts.sample_positions(
                    slope, first, settings, dense=mass != "diagonal", advance=advance
                )
                stats = stats.assign_attrs(sampler="pyro")
            else:
                positions, stats = nuts_positions(
                    slope, first, settings, correlated=mass != "diagonal", advance=advance
                )
        stats = stats.assign_attrs(late=int(slope.late))
    with torch.no_grad():
        return target.constrain(positions), stats, seconds


def _given(
    problem: Problem,
    target: Density,
    start: Start,
    settings: ChainSettings,
    proposals: list[Proposal],
    progress: bool,
) -> Tensor | None:
    """Positions (chains, dim) that were asked for, or the model's own."""
    if start is None and isinstance(problem.pair.model, HasStarts):
        start = _own_starts(problem.pair.model, problem, settings)
    if start is None or isinstance(start, Mapping):
        return None if start is None else given_starts(target, start, settings.chains, settings.seed)
    if start != "pathfinder":
        raise InputError(
            f'start={start!r} is not known; it is values of latent sites by name, or "pathfinder"'
        )
    asked = pathfinder.PathfinderOptions(num_draws=max(100, settings.chains))
    found = pathfinder.paths_of(problem, asked, proposals, seed=settings.seed, progress=progress)
    return found.starts(settings.chains, settings.seed)


def _own_starts(model: HasStarts, problem: Problem, settings: ChainSettings) -> dict[str, Tensor]:
    """A model's starts, one for each of the first chains and the same again for more."""
    seeds = [derived(settings.seed, "start", number) for number in range(min(settings.chains, MOST_STARTS))]
    places = [model.starting_latents(*problem.data, seed=seed) for seed in seeds]
    chains = range(settings.chains)
    return {name: torch.stack([places[c % len(places)][name] for c in chains]) for name in places[0]}


def nuts_positions(
    slope: Gradient,
    starts: Tensor,
    settings: ChainSettings,
    *,
    correlated: bool,
    advance: Callable[[int, str], None],
) -> tuple[Tensor, xr.Dataset]:
    """Chains of nutpie on a C function, or of our own NUTS where the gradient is called from Python.

    Args:
        slope: the gradient.
        starts: positions (chains, dim) of finite density.
        settings: counts and tuning.
        correlated: whether to adapt to correlations.
        advance: called with (n, text) after n more iterations.

    Returns:
        Positions (chains, num_draws, dim), and statistics under ArviZ's names, which one ran among the
        attributes.
    """
    if slope.compiled is not None and slope.batched is None:
        try:
            positions, stats = nutpie_nuts.sample_positions(
                slope, starts, settings, low_rank=correlated, advance=advance
            )
            return positions, stats.assign_attrs(sampler="nutpie")
        except Untraceable as reason:
            fall_back("NUTS", reason, "calls its compiled gradient from Python")
    positions, stats = batched_nuts.sample_positions(
        partial(_numbers, slope), starts, settings, dense=correlated, advance=advance
    )
    return positions, stats.assign_attrs(sampler="batched")


def _of_each_run(settings: ChainSettings, sampler: str) -> int:
    """Iterations, one after another, of whatever chains share a gradient."""
    return settings.iterations // (1 if sampler == "pyro" else settings.chains)


def _numbers(slope: Gradient, positions: np.ndarray, which: list[int]) -> tuple[np.ndarray, np.ndarray]:
    check_time()
    like = slope.density.like
    values, slopes = slope.of_each(torch.from_numpy(positions).to(like), which)
    return values.double().cpu().numpy(), slopes.double().cpu().numpy()
