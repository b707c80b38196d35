"""Several fits of one problem from different starts, and whether they agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from ppl_vae.base.errors import InputError
from ppl_vae.base.moments import standard_deviation
from ppl_vae.base.seeds import derived, seeded
from ppl_vae.inference.fitting.choice import choose, facts_of
from ppl_vae.inference.fitting.fit_result import Fit
from ppl_vae.inference.fitting.fixed_data import FixedData
from ppl_vae.inference.fitting.gaussians.starts import best_start
from ppl_vae.inference.fitting.gaussians.target import target_of
from ppl_vae.inference.fitting.options import FitKeywords, FitOptions
from ppl_vae.inference.fitting.svi import fit
from ppl_vae.inference.samplers import guide
from ppl_vae.program.abilities import HasDegenerate, HasIdentifiable
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Restarts", "restarts"]

# Of units with a posterior each, so many are compared.
MOST_UNITS = 8
NUM_DRAWS = 2000
# Means further apart than this, in sd, and sds further apart than this factor, disagree.
MEAN_LIMIT, SD_LIMIT = 0.25, 1.25


@dataclass(frozen=True, eq=False)
class Restarts:
    """What several fits found.

    Attributes:
        pairs: the fitted pairs.
        fits: what each fit did.
        best: number of the one with the highest ELBO, those left out whose solution is degenerate.
        degenerate: what is wrong with each one's solution, as the model says it (`HasDegenerate`); None where
            nothing is.
        behind: how far each one's ELBO lies below the best one's, in nats a unit, shape (restarts,).
        behind_error: Monte Carlo errors of that, by common random numbers.
        mean_difference: largest difference between a mean and the best one's, in that one's sd, over all
            quantities compared; NaN where none could be.
        sd_ratio: largest ratio of two sds (at least 1), likewise.
        worst: the quantity whose means differ most; empty where none were compared.
        agree: whether all are as good and say the same.
        sentence: the numbers in words.
    """

    pairs: tuple[Pair, ...]
    fits: tuple[Fit, ...]
    best: int
    behind: np.ndarray
    behind_error: np.ndarray
    mean_difference: float
    sd_ratio: float
    worst: str
    agree: bool
    sentence: str
    degenerate: tuple[str | None, ...] = ()


def restarts(
    make_pair: Callable[[int], Pair],
    *data: Any,
    num_restarts: int = 3,
    identifiable: Callable[[xr.Dataset], xr.Dataset] | None = None,
    held_out: tuple[Any, ...] | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[FitKeywords],
) -> Restarts:
    """Fit several times from different initial values, and say whether the fits agree.

    A Gaussian AutoGuide of a model without parameters to learn first goes to the best start in reach of its
    initial values: itself, the Gaussian of a Pathfinder path from its mean, or the mode above with its
    curvature.

    They agree if none has an ELBO more than ``tolerance`` below the best one's (Monte Carlo error allowed
    for) and, where their latents can be compared, no mean lies more than a quarter of a sd from the best
    one's and no sd is off by more than a factor of 1.25. Latents can be compared if the model has no
    trained parameters, or through its identifiable functions: two VAEs may use their latents differently.
    Fits that end in a solution that the model calls degenerate are not compared, however high their ELBO.

    Args:
        make_pair: makes a new pair from a seed; run under that seed.
        data: the programs' full data.
        num_restarts: number of fits, at least 2.
        identifiable: functions of the latents to compare, draw by draw; the model's own by default.
        held_out, progress: of each fit; see `svi.fit`.
        seed: of the fits' seeds.
        options: of each fit, the fields of `svi.FitOptions`; by default at most 20,000 steps, which ``stop``
            ends.

    Raises:
        InputError: for fewer than two restarts, where all of them are degenerate, and as `svi.fit` does.
    """
    if num_restarts < 2:
        raise InputError(f"num_restarts is {num_restarts}; at least 2 can be compared")
    pairs, fits = [], []
    asked = FitKeywords(num_steps=20_000, stop=True) | options
    for number in range(num_restarts):
        own = derived(seed, number)
        with seeded(own):
            pair = make_pair(own)
        _to_own_start(pair, data, FitOptions(**asked), own)
        fits.append(fit(pair, *data, held_out=held_out, seed=own, progress=progress, **asked))
        pairs.append(pair)
    tolerance = FitOptions(**asked).tolerance
    return _compared(pairs, fits, data if held_out is None else held_out, identifiable, tolerance, seed)


def _to_own_start(pair: Pair, data: tuple[Any, ...], options: FitOptions, seed: int) -> None:
    """Move a Gaussian guide for which `fit` would take a second-order method to the best start in its reach.

    Not to the best of all starts, to which every restart would go: restarts are to tell modes apart. Where
    steps are to be whitened they have starts of their own.
    """
    if options.whiten or choose(facts_of(pair, *data, options=options, seed=seed)).method == "svi":
        return
    with target_of(pair, *data) as target, suppress(InputError):
        target.guide.write(best_start(target, "own", seed)[0].at)


def _compared(
    pairs: list[Pair],
    fits: list[Fit],
    data: tuple[Any, ...],
    identifiable: Callable[[xr.Dataset], xr.Dataset] | None,
    tolerance: float,
    seed: int,
) -> Restarts:
    wrong = tuple(_degenerate(pair) for pair in pairs)
    if all(wrong):
        raise InputError(f"all {len(pairs)} fits are degenerate: {wrong[0]}")
    proper = [number for number, each in enumerate(wrong) if each is None]
    elbos = torch.stack([_elbo(pair, data, seed) for pair in pairs])
    best = max(proper, key=lambda number: float(elbos[number].mean()))
    behind = elbos[best] - elbos
    mean, error = behind.mean(1).numpy(), (behind.std(1) / math.sqrt(behind.shape[1])).numpy()
    apart, ratio, worst = math.nan, math.nan, ""
    if _comparable(pairs[best], identifiable):
        kept = [pairs[number] for number in proper]
        apart, ratio, worst = _furthest(kept, proper.index(best), data, identifiable, seed)
    as_good = bool((mean - 2 * error <= tolerance)[proper].all())
    same = len(proper) > 1 and (not worst or (apart <= MEAN_LIMIT and ratio <= SD_LIMIT))
    last = max(proper, key=lambda number: mean[number])
    left = len(pairs) - len(proper)
    said = _sentence(len(proper), as_good and same, (mean[last], error[last]), apart, ratio, worst)
    if left:
        said += f"; {left} more are degenerate and left out: {next(filter(None, wrong))}"
    return Restarts(
        pairs=tuple(pairs), fits=tuple(fits), best=best, behind=mean, behind_error=error,
        mean_difference=apart, sd_ratio=ratio, worst=worst, agree=as_good and same,
        sentence=said, degenerate=wrong,
    )  # fmt: skip


def _sentence(
    number: int, agree: bool, behind: tuple[float, float], apart: float, ratio: float, worst: str
) -> str:
    if number == 1:
        return "one fit is left, which agrees with no other"
    word = "agree" if agree else "do not agree"
    said = f"{number} fits from different starts {word}: the ELBO of the worst lies {behind[0]:.2g} ± "
    said += f"{behind[1]:.1g} nats a unit below the best one's"
    if not worst:
        return f"{said}; their latents cannot be compared"
    return f"{said}, means differ by up to {apart:.2f} sd ({worst}) and sds by up to a factor of {ratio:.2f}"


def _degenerate(pair: Pair) -> str | None:
    return pair.model.degenerate() if isinstance(pair.model, HasDegenerate) else None


def _elbo(pair: Pair, data: tuple[Any, ...], seed: int) -> torch.Tensor:
    fixed = FixedData(Problem.of(pair, *data), seed, None, most_units=2048, most_particles=4096, budget=2**22)
    return fixed.log_weights().mean(1)


def _comparable(pair: Pair, identifiable: Callable[[xr.Dataset], xr.Dataset] | None) -> bool:
    trained_model = pair.parameters("both").keys() != pair.parameters("guide").keys()
    return identifiable is not None or isinstance(pair.model, HasIdentifiable) or not trained_model


def _furthest(
    pairs: list[Pair],
    best: int,
    data: tuple[Any, ...],
    identifiable: Callable[[xr.Dataset], xr.Dataset] | None,
    seed: int,
) -> tuple[float, float, str]:
    """The largest difference of means in sd, the largest ratio of sds, and where the first is."""
    moments = [_moments(pair, data, identifiable, seed) for pair in pairs]
    mean, sd, names = moments[best]
    moving = sd > 0
    apart = np.stack([np.abs(other - mean)[moving] / sd[moving] for other, _, _ in moments])
    logs = np.stack([np.abs(np.log(other[moving] / sd[moving])) for _, other, _ in moments])
    if not moving.any():
        return 0.0, 1.0, names[0]
    worst = int(apart.max(0).argmax())
    return float(apart.max()), float(np.exp(logs.max())), np.array(names)[moving][worst]


def _moments(
    pair: Pair, data: tuple[Any, ...], identifiable: Callable[[xr.Dataset], xr.Dataset] | None, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Mean and sd of every quantity under the guide, by draws of common noise, and their names."""
    layout = Problem.of(pair, *data).layout
    some = layout.can_index and layout.num_units > MOST_UNITS
    index = torch.arange(MOST_UNITS) if some else None
    drawn = guide.draws(pair, *data, num_draws=NUM_DRAWS, index=index, seed=seed).draws
    if identifiable is not None:
        drawn = identifiable(drawn)
    elif isinstance(pair.model, HasIdentifiable):
        drawn = pair.model.identifiable(drawn)
    means, sds, names = [], [], []
    for name, values in drawn.data_vars.items():
        flat = values.transpose("chain", "draw", ...).values.reshape(NUM_DRAWS, -1)
        means.append(flat.mean(0))
        sds.append(standard_deviation(flat, axis=0))
        names += [f"{name}[{at}]" for at in range(flat.shape[1])] if flat.shape[1] > 1 else [str(name)]
    return np.concatenate(means), np.concatenate(sds), names
