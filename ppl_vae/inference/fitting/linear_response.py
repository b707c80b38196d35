"""Linear response: the covariances that a mean-field guide lost, from how its optimum would move.

Where log p(x, u) is tilted by t h(u), the optimum η of the family moves by H⁻¹ ∇E_q[h] t, with H the negative
Hessian of the ELBO there, and E_q[g] by

    cov(g, h) = ∇E_q[g]ᵀ H⁻¹ ∇E_q[h].

The posterior's own mean of g moves by its covariance of g and h; so this is an estimate of that, as good as
the family's means are for posteriors near this one, and exact for a Gaussian. The ELBO and all E_q are means
over draws that are held, with their negatives and nothing else done to them, in groups by which errors are
estimated: by what each would have answered alone, from its own optimum.

Source: Giordano, Broderick and Jordan, "Covariances, Robustness, and Variational Bayes", JMLR 19 (2018),
theorem 1 and definition 4; Giordano, Ingram and Broderick, JMLR 25 (2024), for draws that are held.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.base.notebook import panel, paragraph, table
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.saved import Saved, kept
from ppl_vae.base.seeds import check_seed, derived
from ppl_vae.engine.batches import NoCurvature
from ppl_vae.engine.density import Density
from ppl_vae.inference.fitting.autoguides import family_of, is_gaussian
from ppl_vae.inference.fitting.distance import Distance
from ppl_vae.inference.fitting.fixed_noise import FixedNoise, Objective, solve
from ppl_vae.inference.fitting.gaussian import Gaussian, antithetic, symmetric
from ppl_vae.inference.fitting.gaussian_fit import JUDGES, GaussianOptions
from ppl_vae.inference.fitting.gaussian_starts import best_start
from ppl_vae.inference.fitting.target import Target, target_of
from ppl_vae.inference.samplers.unconstrained import labelled
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Functions", "LinearResponse", "covariances", "lacks_covariances", "posterior"]

Functions = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
# Groups of common draws, by which errors are estimated.
GROUPS = 8
# Coordinates (a mean and a scale a latent) of the largest Hessian that is made as a matrix, and for how many
# of them a function: fewer functions take fewer products by conjugate gradients. And the most that are solved
# so.
MOST_DENSE, A_FUNCTION, MOST_SOLVED = 2000, 30, 500
# A copy counts as fitted at this distance on the common draws, in nats; a guide as arrived below the other.
POLISHED, NEAR = 1e-6, 0.05
# The smallest curvature at an optimum, over the largest.
STRICT = 1e-10


@dataclass(frozen=True, eq=False, repr=False)
class LinearResponse(Saved):
    """Means and covariances of functions of the latents.

    Attributes:
        names: of the functions, such as ``beta[0]``.
        means: E_q of each at the optimum, shape (functions,).
        mean_errors: Monte Carlo errors of these, from the common draws.
        covariance: by linear response, shape (functions, functions).
        sd_errors: Monte Carlo errors of `sds`, shape (functions,).
        mean_field_sds: the guide's own standard deviations at the optimum.
        distance: of the Gaussian that was used from the best of its family, by other draws.
        note: what was done before, where the guide was not at its optimum.
        num_draws: common draws.
        seconds: wall time.
    """

    names: tuple[str, ...]
    means: np.ndarray = field(metadata=kept("function"))
    mean_errors: np.ndarray = field(metadata=kept("function"))
    covariance: np.ndarray = field(metadata=kept("function", "other_function"))
    sd_errors: np.ndarray = field(metadata=kept("function"))
    mean_field_sds: np.ndarray = field(metadata=kept("function"))
    distance: Distance
    note: str = ""
    num_draws: int = 0
    seconds: float = float("nan")

    @property
    def sds(self) -> np.ndarray:
        """Standard deviations by linear response, shape (functions,)."""
        found: np.ndarray = np.sqrt(self.covariance.diagonal())
        return found

    @property
    def correlation(self) -> np.ndarray:
        """By linear response, shape (functions, functions)."""
        found: np.ndarray = self.covariance / np.outer(self.sds, self.sds)
        return found

    def summary(self) -> pd.DataFrame:
        """A row a function: mean, standard deviation, their errors, and the guide's own sd."""
        import pandas as pd

        columns = {
            "mean": self.means,
            "mean_error": self.mean_errors,
            "sd": self.sds,
            "sd_error": self.sd_errors,
            "mean_field_sd": self.mean_field_sds,
        }
        return pd.DataFrame(columns, index=list(self.names))

    def __repr__(self) -> str:
        widest = float((self.sds / self.mean_field_sds).max())
        return (
            f"LinearResponse({len(self.names):,} functions; sds up to {widest:.2f} of the guide's; "
            f"{self.num_draws:,} common draws)"
        )

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        found = self.summary()
        rows = [(str(name), *row) for name, *row in found.itertuples()]
        said = f"{self.note}. " if self.note else ""
        return panel(
            "Linear response",
            table(["function", *(name.replace("_", " ") for name in found)], rows),
            paragraph(f"{said}By {self.num_draws:,} common draws, {self.distance} below the family's best."),
        )


def lacks_covariances(guide: Any) -> bool:
    """Whether a guide, which has run once, is of independent normals or blocks: one that this can mend."""
    return is_gaussian(guide) and family_of(guide).name in ("mean-field", "block-diagonal")


def covariances(
    pair: Pair,
    *data: Any,
    functions: Functions | Literal["latents", "unconstrained"] = "latents",
    num_draws: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> LinearResponse:
    """Posterior means and covariances by linear response of a mean-field guide.

    Args:
        pair: with Pyro's ``AutoNormal`` or ``AutoDiagonalNormal``, or an ``AutoGuideList`` of Gaussian guides
            (whose blocks' covariances are then their own). Nothing of it is changed: where the guide is not
            at the optimum of its family, a copy of its Gaussian is brought there first.
        data: the programs' full data.
        functions: "latents" for the sites' values, "unconstrained" for those of unconstrained space, or a
            function that takes values by site with a leading dimension of draws, and gives tensors by name
            with the same leading dimension, differentiably and draw by draw.
        num_draws: common draws, in eight groups; of block guides more where they need them.
        seed: of the draws.
        progress: whether to show a progress bar on a terminal.

    Raises:
        InputError: for another guide, one of full or low rank, discrete latents that cannot be summed out,
            densities without second derivatives, functions that are none, and where the optimum is no strict
            one: some direction is not determined.
    """
    check_seed(seed)
    check_whole(4 * GROUPS, num_draws=num_draws)
    begun = time.perf_counter()
    with target_of(pair, *data) as target, _refusing_flat():
        asked = _chosen(functions, target.batches.density)
        return _respond(_optimum(target, num_draws, seed), asked, progress, begun)


def posterior(
    pair: Pair,
    *data: Any,
    num_draws: int = 1000,
    num_common: int = 256,
    coords: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Posterior:
    """Draws of N(m, Σ) in unconstrained space, m the mean-field optimum's and Σ by linear response.

    Args:
        pair, data: as for `covariances`.
        num_draws: of the answer.
        num_common: common draws.
        coords: labels of dimensions.
        seed: of all draws.
        progress: whether to show a progress bar on a terminal.

    Returns:
        One chain with log importance weights, ``lp`` and ``log_q`` among the statistics, and among their
        attributes ``distance``, ``distance_error`` and ``note`` of the optimum.

    Raises:
        InputError: as `covariances` does.
    """
    import xarray as xr

    check_seed(seed)
    check_whole(1, num_draws=num_draws)
    check_whole(4 * GROUPS, num_common=num_common)
    begun = time.perf_counter()
    with target_of(pair, *data) as target, _refusing_flat():
        optimum = _optimum(target, num_common, seed)
        density = target.batches.density
        noise = torch.cat(optimum.groups)
        _, covariance = _moments(target, optimum.at, noise, _chosen("unconstrained", density), progress)
        generator = torch.Generator().manual_seed(derived(seed, "posterior"))
        noise = torch.empty(num_draws, target.dim, dtype=torch.float64).normal_(generator=generator)
        root = torch.linalg.cholesky(symmetric(torch.from_numpy(covariance)))
        normal = torch.distributions.MultivariateNormal(optimum.at.loc, scale_tril=root)
        positions = normal.loc + noise @ root.T
        log_p, log_q = target.batches(positions)[0].detach(), normal.log_prob(positions)
        with torch.no_grad():
            values = density.constrain(positions[None])
        draws = labelled(values, Problem.of(density.pair, *density.data), coords)
    over = ("chain", "draw")
    attributes = {
        "distance": optimum.distance.value,
        "distance_error": optimum.distance.std_error,
        "note": optimum.note,
    }
    return Posterior(
        draws=draws,
        method="linear-response",
        dependence="independent",
        log_weights=xr.DataArray((log_p - log_q)[None].numpy(), dims=over),
        stats=xr.Dataset(
            {"lp": (over, log_p[None].numpy()), "log_q": (over, log_q[None].numpy())}, attrs=attributes
        ),
        seconds=time.perf_counter() - begun,
    )


@contextmanager
def _refusing_flat() -> Iterator[None]:
    try:
        yield
    except NoCurvature as reason:
        raise InputError(
            f"linear response needs second derivatives of log p(x, z), and autograd has none: {reason}"
        ) from reason


# The optimum on common draws ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Optimum:
    """A family's best member on common draws.

    Attributes:
        target: the density.
        at: the member.
        groups: the draws, of equal numbers.
        distance: from the best of the family, by other draws.
        note: what was done before.
    """

    target: Target
    at: Gaussian
    groups: tuple[Tensor, ...]
    distance: Distance
    note: str


def _optimum(target: Target, num_draws: int, seed: int) -> _Optimum:
    """Where the guide's family is best on common draws, from the guide or, if that is far, from a start."""
    own = target.guide.read()
    _refuse_mended(own)
    method = FixedNoise()
    size = -(-max(num_draws, method.first_draws(own)) // (2 * GROUPS))
    groups = tuple(
        antithetic(size, own.family.noise_dim, derived(seed, "common draws", group))
        for group in range(GROUPS)
    )
    judges = max(JUDGES, 4 * target.dim)

    def distance(at: Gaussian, name: str) -> Distance:
        return method.distance(target, at, groups[0], judges, derived(seed, name))

    far, start = distance(own, "guide"), own
    arrived = far.upper <= NEAR
    if not arrived:
        start = _best(target, best_start(target, "best", derived(seed, "start"))[0].at, groups[0])
    at = _best(target, start, torch.cat(groups))
    below = f"the guide was {far} below the best of the {own.family.name} family, and a copy of it was "
    return _Optimum(target, at, groups, distance(at, "distance"), "" if arrived else f"{below}fitted first")


def _best(target: Target, start: Gaussian, noise: Tensor) -> Gaussian:
    """The best member on common draws."""
    options = GaussianOptions(tolerance=POLISHED)
    return FixedNoise().maximise(target, start, noise, options, lambda elbo: None)[0]


def _refuse_mended(own: Gaussian) -> None:
    family = own.family
    if family.name == "full-rank":
        raise InputError(
            "linear response gives a mean-field guide the correlations that it lacks, and this full-rank one "
            "has its correlations already: natural.fit brings it to its optimum"
        )
    if any(block.kind == "low-rank" for block in family.blocks):
        raise InputError(
            "linear response takes mean-field guides and blocks of full covariance; the factor of a low-rank "
            "one may be turned without changing it, so that its optimum is no strict one"
        )


# What is asked for --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Asked:
    """Functions of unconstrained vectors.

    Attributes:
        names: one a number.
        of: values (n, functions) at positions (n, dim).
    """

    names: tuple[str, ...]
    of: Callable[[Tensor], Tensor]

    def slopes(self, positions: Tensor) -> Iterator[Tensor]:
        """Gradients (n, dim) at positions, of one function after another."""
        with torch.enable_grad():
            at = positions.detach().requires_grad_(True)
            values = self.of(at)
            for column in values.T:
                (slope,) = torch.autograd.grad(column.sum(), at, retain_graph=True, materialize_grads=True)
                yield slope

    def values(self, positions: Tensor) -> Tensor:
        """At positions, without a graph."""
        with torch.no_grad():
            return self.of(positions)


def _chosen(functions: Functions | str, density: Density) -> _Asked:
    if functions not in ("latents", "unconstrained") and not callable(functions):
        raise InputError(
            f"functions={functions!r} is not known; it is 'latents', 'unconstrained', or a function of the "
            "latents' values by site"
        )

    def by_name(positions: Tensor) -> Mapping[str, Tensor]:
        if functions == "unconstrained":
            return density.unflatten(positions)
        values = density.constrain(positions)
        return functions(values) if callable(functions) else values

    def of(positions: Tensor) -> Tensor:
        parts = by_name(positions).values()
        return torch.cat([part.reshape(len(positions), -1) for part in parts], 1)

    at = torch.zeros(3, density.dim, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        found = by_name(at)
    _refuse_others(found, len(at))
    names = tuple(name for key, part in found.items() for name in _names(key, tuple(part.shape[1:])))
    return _Asked(names, of)


def _refuse_others(found: Any, count: int) -> None:
    """What is no differentiable function of draws."""
    if not isinstance(found, Mapping) or not all(isinstance(part, Tensor) for part in found.values()):
        raise InputError("functions of the latents give tensors by name: {'ratio': sites['a'] / sites['b']}")
    for name, part in found.items():
        if part.dim() == 0 or len(part) != count:
            raise InputError(
                f"{name} has the shape {tuple(part.shape)} at {count} draws; functions of the latents keep a "
                "leading dimension of draws"
            )
    if not any(part.requires_grad for part in found.values()):
        raise InputError(f"{', '.join(found)} do not depend on the latents")


def _names(name: str, shape: tuple[int, ...]) -> list[str]:
    """One a number, as `Posterior.scalars` has them; dimensions of size one that pad plates are left out."""
    places = [", ".join(map(str, place)) for place in np.ndindex(*shape)]
    return [f"{name}[{place}]" if place else name for place in places]


# The response -------------------------------------------------------------------------------------------


def _respond(optimum: _Optimum, asked: _Asked, progress: bool, begun: float) -> LinearResponse:
    """On all draws, with errors by what the groups would have answered alone."""
    target, noise, at = optimum.target, torch.cat(optimum.groups), optimum.at
    means, covariance = _moments(target, at, noise, asked, progress)
    sds = np.sqrt(covariance.diagonal())
    alone = [_alone(target, at, own, asked) for own in optimum.groups]
    of_means, of_sds = (np.stack(each) for each in zip(*alone, strict=True))
    return LinearResponse(
        names=asked.names,
        means=means,
        mean_errors=_errors(of_means, means),
        covariance=covariance,
        sd_errors=_errors(of_sds, sds),
        mean_field_sds=asked.values(at.draws(noise)).std(0, correction=0).numpy(),
        distance=optimum.distance,
        note=optimum.note,
        num_draws=len(noise),
        seconds=time.perf_counter() - begun,
    )


def _alone(target: Target, near: Gaussian, noise: Tensor, asked: _Asked) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations by one group; NaN where its optimum is no strict one."""
    try:
        means, covariance = _moments(target, _best(target, near, noise), noise, asked, progress=False)
    except InputError:
        return (np.full(len(asked.names), np.nan),) * 2
    return means, np.sqrt(covariance.diagonal())


def _errors(alone: np.ndarray, together: np.ndarray) -> np.ndarray:
    """Root mean squared errors of answers by all draws, from those of groups, shape (groups, functions).

    A bias falls with the number of draws, so that the groups' own is so many times as large.
    """
    bias = (alone.mean(0) - together) / (len(alone) - 1)
    found: np.ndarray = np.sqrt(alone.var(0, ddof=1) / len(alone) + bias**2)
    return found


def _moments(
    target: Target, at: Gaussian, noise: Tensor, asked: _Asked, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances at the optimum on some draws."""
    objective, positions = Objective(target, at, noise), at.draws(noise)
    slopes = np.stack([objective.pull(slope, noise) for slope in asked.slopes(positions)], 1)
    moves = _solved(objective, slopes, progress)
    covariance = 0.5 * (slopes.T @ moves + moves.T @ slopes)
    if not (covariance.diagonal() > 0).all():
        _refuse_flat(float(covariance.diagonal().min() / covariance.diagonal().max()))
    return asked.values(positions).mean(0).numpy(), covariance


def _solved(objective: Objective, slopes: np.ndarray, progress: bool) -> np.ndarray:
    """H⁻¹ times slopes (coordinates, functions), by a matrix where that costs less or there are many."""
    at, (size, count) = objective.start, slopes.shape
    if size > MOST_DENSE or size > A_FUNCTION * count:
        if count > MOST_SOLVED:
            raise InputError(
                f"linear response of {count:,} functions at once takes too many products with Hessians; name "
                "those that matter (functions=)"
            )
        return np.stack([solve(objective, at, own, 1e-8) for own in slopes.T], 1)
    matrix = np.empty((size, size))
    with progress_bar("linear response", size, show=progress) as advance:
        for column, direction in enumerate(np.eye(size)):
            matrix[:, column] = objective.product(at, direction)
            advance(1, "")
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    if not values[0] > STRICT * values[-1]:
        _refuse_flat(float(values[0] / values[-1]))
    found: np.ndarray = vectors @ ((vectors.T @ slopes) / values[:, None])
    return found


def _refuse_flat(smallest: float) -> None:
    raise InputError(
        "linear response needs a strict optimum of the mean-field family, and this is no strict one: the "
        f"smallest curvature of the ELBO is {smallest:.2g} of the largest (the data leave some combination "
        "of latents undetermined, or draws are too few: num_draws)"
    )
