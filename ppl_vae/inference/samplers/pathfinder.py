"""Pathfinder: Gaussians along quasi-Newton paths to the mode, of each path the one of the largest ELBO.

Source: Zhang, Carpenter, Gelman and Vehtari, "Pathfinder: Parallel quasi-Newton variational inference",
*JMLR* 23 (2022). One thing differs: a draw's importance weight has the density of all paths' mixture below
(Veach and Guibas 1995; Owen and Zhou 2000), not of its own path's Gaussian, so that modes weigh what they
hold, however many paths came there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.answers.pareto import pareto_k, smoothed_weights, systematic, tail_length
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.base.precision import default_dtype
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.seeds import check_seed, derived, keep_generator
from ppl_vae.base.threads import one_thread
from ppl_vae.engine.density import Density, density
from ppl_vae.engine.graph import Compile, Untraceable, check_compile
from ppl_vae.inference.samplers.climb import climb
from ppl_vae.inference.samplers.inverse_hessians import LowRankNormal
from ppl_vae.inference.samplers.path_search import Counted, PathSearch
from ppl_vae.inference.samplers.starts import Proposal, given_starts, starting_points
from ppl_vae.inference.samplers.unconstrained import labelled, prepare
from ppl_vae.program.memory import refuse_too_many_draws
from ppl_vae.program.pair import Pair, Program
from ppl_vae.program.problem import Problem

__all__ = [
    "Path",
    "PathfinderKeywords",
    "PathfinderOptions",
    "Paths",
    "climbed",
    "paths",
    "paths_of",
    "sample",
]


@dataclass(frozen=True, kw_only=True)
class PathfinderOptions:
    """The options of Pathfinder. Values out of range raise `InputError`.

    Attributes:
        num_draws: draws of every path's Gaussian, and of the answer.
        num_paths: from how many starts.
        draws_per_elbo: with how many draws, the same along a path, its Gaussians are told apart.
        max_iterations: steps of a path at most.
        history: how many steps the inverse Hessian is made of, and L-BFGS remembers; the paper's 6 cost more
            gradients for smaller ELBOs (posteriordb's time series and logarithms of mesquite).
        resample: whether the answer is drawn from all paths' draws by Pareto-smoothed importance weights;
            else it has equal shares of the paths, and their weights as `log_weights`.
        compile: "auto" runs the traced graph; "on" compiles the gradient along the paths; "off" calls stock
            Pyro for every density.
    """

    num_draws: int = 1000
    num_paths: int = 4
    draws_per_elbo: int = 10
    max_iterations: int = 1000
    history: int = 12
    resample: bool = True
    compile: Compile = "auto"

    def __post_init__(self) -> None:
        check_whole(
            1, num_draws=self.num_draws, num_paths=self.num_paths, max_iterations=self.max_iterations,
            history=self.history,
        )  # fmt: skip
        check_whole(2, draws_per_elbo=self.draws_per_elbo)
        check_compile(self.compile)


class PathfinderKeywords(TypedDict, total=False):
    """The fields of `PathfinderOptions` as keywords; a test holds the two equal."""

    num_draws: int
    num_paths: int
    draws_per_elbo: int
    max_iterations: int
    history: int
    resample: bool
    compile: Compile


@dataclass(frozen=True, eq=False)
class Path:
    """One path, and the Gaussian that was chosen of it.

    Attributes:
        number: its key: start and draws do not depend on how many other paths there are.
        normal: the Gaussian, in unconstrained space; None where the path failed.
        draws: of it, shape (num_draws, dim); not those that it was chosen by.
        log_p: the log density at the draws, −∞ where it is not finite, shape (num_draws,).
        iterations: steps of L-BFGS.
        gradients: evaluations of the log density with its gradient, along the path.
        densities: evaluations of the log density alone, of the Gaussians and of the draws.
        failure: why there is no Gaussian; empty where there is one.
    """

    number: int
    normal: LowRankNormal | None
    draws: Tensor
    log_p: Tensor
    iterations: int
    gradients: int
    densities: int
    failure: str = ""

    @property
    def elbo(self) -> float:
        """In nats, by the draws; NaN where the path failed."""
        return float(self._differences().mean())

    @property
    def elbo_error(self) -> float:
        """Its standard error."""
        found = self._differences()
        return float(found.std() / math.sqrt(len(found))) if len(found) > 1 else math.nan

    def _differences(self) -> Tensor:
        if self.normal is None:
            return self.log_p.new_full((1,), torch.nan)
        return self.log_p - self.normal.log_prob(self.draws)


@dataclass(frozen=True, eq=False)
class Paths:
    """Several paths of one posterior.

    Attributes:
        density: the log density in unconstrained space that they climbed.
        each: the paths, those that failed among them.
    """

    density: Density
    each: tuple[Path, ...]

    @property
    def good(self) -> tuple[Path, ...]:
        """Those that have a Gaussian."""
        return tuple(path for path in self.each if path.normal is not None)

    @property
    def best(self) -> Path:
        """The one of the largest ELBO."""
        return max(self.good, key=lambda path: path.elbo)

    @property
    def draws(self) -> Tensor:
        """Of all Gaussians, one path after another, shape (paths × num_draws, dim)."""
        return torch.cat([path.draws for path in self.good])

    @property
    def log_p(self) -> Tensor:
        """The log density at the draws."""
        return torch.cat([path.log_p for path in self.good])

    @property
    def log_weights(self) -> Tensor:
        """Of the draws, against the Gaussians' mixture."""
        return self.log_p - self.log_q(self.draws)

    def log_q(self, positions: Tensor) -> Tensor:
        """The log density (n,) of the Gaussians' mixture in equal parts at positions (n, dim)."""
        parts = [path.normal.log_prob(positions) for path in self.each if path.normal is not None]
        return torch.stack(parts).logsumexp(0) - math.log(len(parts))

    def starts(self, chains: int, seed: int) -> Tensor:
        """Positions (chains, dim) for chains: draws by their importance weights, none of them twice."""
        raw = self.log_weights
        smooth = smoothed_weights(raw[:, None])[:, 0]
        # Weights that vanish keep their order.
        log_weights = torch.where(smooth > 0, smooth.log(), raw - raw.logsumexp(0))
        keys = log_weights + _gumbel(len(raw), derived(seed, "starts")).to(raw)
        return self.draws[keys.topk(chains).indices]


def sample(
    model: Program | Pair,
    *data: Any,
    start: Mapping[str, Any] | None = None,
    coords: dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[PathfinderKeywords],
) -> Posterior:
    """Draw from a posterior's approximation by the Gaussians of several quasi-Newton paths.

    Model, data, starts and flat priors are those of `nuts.sample`. The answer is approximate:
    ``stats.attrs["pareto_k"]`` above .7 says that not even its reweighted draws are to be relied on.

    Args:
        model: a Pyro model, or a pair whose model (with its ``pyro.param`` values) is meant.
        data: the model's data, all of it.
        start: where paths start, values of latent sites by name: one for all paths, or one a path along a
            leading dimension. Sites left out start in [−2, 2] of their unconstrained space.
        coords: labels of dimensions, such as the indices of the data given.
        seed: of starts and draws.
        progress: whether to show a progress bar on a terminal.
        options: the fields of `PathfinderOptions`.

    Returns:
        One chain of num_draws draws in random order, with ``lp``, ``log_q`` (of all paths' mixture) and
        ``path`` among the statistics, and among their attributes, by path, ``elbo``, ``elbo_error``,
        ``iterations``, ``gradient_evaluations`` and ``density_evaluations``, with ``pareto_k`` of the weights
        and ``failed``, the paths without a Gaussian and why.

    Raises:
        InputError: for options out of range, draws that do not fit into memory, discrete latents that are not
            enumerated, or if no path comes to a point with finite ELBO, as where a posterior is improper.
    """
    asked = PathfinderOptions(**options)
    begun = time.perf_counter()
    with _working(model, data) as (problem, proposals):
        found = paths_of(problem, asked, proposals, start=start, seed=seed, progress=progress)
        return _answer(found, problem, asked, seed, coords, begun)


def paths(
    model: Program | Pair,
    *data: Any,
    start: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[PathfinderKeywords],
) -> Paths:
    """The Gaussian of every path, in unconstrained space: starts for fits and for chains.

    Args and errors are those of `sample`; nothing is resampled.
    """
    asked = PathfinderOptions(**options)
    with _working(model, data) as (problem, proposals):
        return paths_of(problem, asked, proposals, start=start, seed=seed, progress=progress)


@contextmanager
def _working(model: Program | Pair, data: tuple[Any, ...]) -> Iterator[tuple[Problem, list[Proposal]]]:
    problem, proposals = prepare(model, data, torch.float64)
    with default_dtype(torch.float64), one_thread(), pyro.validation_enabled(False), keep_generator():
        yield problem, proposals


def paths_of(
    problem: Problem,
    asked: PathfinderOptions,
    proposals: list[Proposal],
    *,
    start: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Paths:
    """As `paths`, of a problem that `unconstrained.prepare` made, in its precision."""
    try:
        target = density(problem.pair, *problem.data)
    except Untraceable as reason:
        raise InputError(
            f"Pathfinder needs continuous latents, or discrete ones that can be summed out: {reason}"
        ) from reason
    refuse_too_many_draws(asked.num_paths * asked.num_draws, target.dim)
    given = None if start is None else given_starts(target, start, asked.num_paths, seed)
    counted = Counted.of(target, asked.compile, problem.layout.particles_per_chunk(problem.num_units))
    return climbed(counted, asked, proposals, given, seed, progress)


def climbed(
    counted: Counted,
    asked: PathfinderOptions,
    proposals: list[Proposal],
    given: Tensor | None,
    seed: int,
    progress: bool,
) -> Paths:
    """As `paths`, of a density that is traced, in its precision; ``given`` are starts (num_paths, dim)."""
    check_seed(seed)
    each = []
    with progress_bar("Pathfinder", asked.num_paths, show=progress) as advance:
        for number in range(asked.num_paths):
            own = None if given is None else given[number : number + 1]
            each.append(_path(number, counted, asked, own, proposals, derived(seed, "path", number)))
            advance(1, "")
    if not any(path.normal for path in each):
        raise InputError(f"no path came to a point with finite ELBO: {_failures(each)}")
    return Paths(counted.target, tuple(each))


def _path(
    number: int,
    counted: Counted,
    asked: PathfinderOptions,
    given: Tensor | None,
    proposals: list[Proposal],
    seed: int,
) -> Path:
    target, before = counted.target, (counted.gradients, counted.densities)
    noise = _normal((asked.draws_per_elbo, target.dim), derived(seed, "elbo")).to(target.like)
    search, iterations = PathSearch(counted, noise, asked.history), 0

    def one_by_one(positions: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = counted.one(positions[0])
        return positions.new_tensor([value]), slope[None]

    try:
        (start,) = starting_points(target, one_by_one, 1, derived(seed, "start") % 2**63, given, proposals)
        iterations = climb(
            counted.one, start, search.step, history=asked.history, max_iterations=asked.max_iterations
        )
        search.look()
        failure = search.failure
    except InputError as reason:  # no start
        failure = str(reason)
    normal = None if failure else search.best
    draws, log_p = noise.new_zeros(0, target.dim), noise.new_zeros(0)
    if normal is not None:
        draws = normal.place(_normal((asked.num_draws, target.dim), derived(seed, "draws")).to(noise))
        log_p = counted.each(draws)
        if not log_p.isfinite().any():
            failure, normal = "none of its draws has a finite density", None
    spent = counted.gradients - before[0], counted.densities - before[1]
    return Path(number, normal, draws, log_p, iterations, *spent, failure)


def _answer(
    found: Paths,
    problem: Problem,
    asked: PathfinderOptions,
    seed: int,
    coords: Mapping[str, Any] | None,
    begun: float,
) -> Posterior:
    import xarray as xr

    pool, log_p, log_q = found.draws, found.log_p, found.log_q(found.draws)
    log_weights = log_p - log_q
    weights = smoothed_weights(log_weights[:, None]) if asked.resample else torch.ones(len(pool), 1)
    generator = np.random.default_rng(derived(seed, "resampling"))
    places = systematic((weights / weights.sum()).numpy(), generator, asked.num_draws)[:, 0]
    places = generator.permutation(places)
    number = torch.cat([torch.full((len(path.draws),), path.number) for path in found.good])
    columns = {"lp": log_p, "log_q": log_q, "path": number}
    over = ("chain", "draw")
    with torch.no_grad():
        values = found.density.constrain(pool[places][None])
    return Posterior(
        draws=labelled(values, problem, coords),
        method="pathfinder",
        dependence="independent",
        log_weights=None if asked.resample else xr.DataArray(log_weights[places][None].numpy(), dims=over),
        effective_size=xr.DataArray(_worth(weights, len(places))) if asked.resample else None,
        stats=xr.Dataset(
            {name: (over, values[places][None].numpy()) for name, values in columns.items()},
            coords={"chain": [0], "draw": np.arange(len(places))},
            attrs=_attributes(found, log_weights),
        ),
        seconds=time.perf_counter() - begun,
    )


def _worth(weights: Tensor, size: int) -> float:
    """How many independent draws so many of a weighted pool are: Kish's number, less what thinning takes."""
    return float(1 / (weights.square().sum() + 1 / size - 1 / len(weights)))


def _attributes(found: Paths, log_weights: Tensor) -> dict[str, Any]:
    largest = log_weights.topk(min(len(log_weights), tail_length(len(log_weights)) + 1)).values
    return {
        "elbo": [path.elbo for path in found.each],
        "elbo_error": [path.elbo_error for path in found.each],
        "iterations": [path.iterations for path in found.each],
        "gradient_evaluations": [path.gradients for path in found.each],
        "density_evaluations": [path.densities for path in found.each],
        "pareto_k": float(pareto_k(largest[:, None])[0]),
        "failed": _failures(found.each),
    }


def _failures(each: tuple[Path, ...] | list[Path]) -> str:
    """Which paths failed and why, one reason once."""
    reasons: dict[str, list[int]] = {}
    for path in each:
        if path.failure:
            reasons.setdefault(path.failure, []).append(path.number)
    named = [
        f"path{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}: {reason}"
        for reason, numbers in reasons.items()
    ]
    return "; ".join(named)


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _gumbel(size: int, seed: int) -> Tensor:
    uniform = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return -(-uniform.log()).log()
