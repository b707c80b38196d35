"""Simulation-based calibration: does an answer hold the truth as often as it says, on data from the model?

Sources: Talts, Betancourt, Simpson, Vehtari and Gelman, "Validating Bayesian inference algorithms with
simulation-based calibration" (2018), for the ranks; Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman
and Vehtari, "Simulation-based calibration checking for Bayesian computation: the choice of test quantities
shapes sensitivity" (2023), for quantities that depend on the data; Yao, Vehtari, Simpson and Gelman, "Yes,
but did it work? Evaluating variational inference" (2018), section 3.2, for calibrating variational answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.clock import OutOfTime, TooLittleTime, deadline
from ppl_vae.base.errors import InputError
from ppl_vae.base.names import in_sentence
from ppl_vae.base.progress import progress_bar
from ppl_vae.base.saved import Saved
from ppl_vae.base.seeds import derived
from ppl_vae.base.threads import one_thread
from ppl_vae.diagnostics.calibration.answers import (
    Answers,
    Called,
    Exact,
    GuideAsItIs,
    Refitted,
    ThinnedNuts,
    reads_data,
)
from ppl_vae.diagnostics.calibration.options import CalibrationKeywords, CalibrationOptions
from ppl_vae.diagnostics.calibration.ranks import band, describe, evaluation_points, holm, p_value
from ppl_vae.diagnostics.calibration.simulations import JOINT, LIKELIHOOD, Simulated, World, quantities, world
from ppl_vae.guides.prior import Prior
from ppl_vae.program.pair import Pair, Program

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Calibration", "sbc"]

Answer = Literal["guide", "nuts", "exact"] | Callable[..., Posterior]

# Fewer simulations see too little.
FEWEST = 50
# Within a budget, one of these counts is kept, so that a clock that runs a little otherwise changes nothing.
COUNTS = (FEWEST, 100, 200, 350, 500)
# Refits of one block; within a budget, so many that the first block is enough to say something.
BLOCK, HURRIED = 256, FEWEST

WORDS = {
    "uniform": "uniform: no fault is seen",
    "too narrow": "too narrow (overconfident): the truth lies among the lowest and highest draws too often",
    "too wide": "too wide (underconfident): the truth lies in the middle of the draws too often",
    "too low": "too low: the truth lies above most draws too often",
    "too high": "too high: the truth lies below most draws too often",
    "not uniform": "wrong in shape: the ranks of the truth are not uniform",
}


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Saved):
    """Ranks of simulated true values among the draws that answer the data simulated from them.

    Attributes:
        ranks: ``rank`` over (simulation, quantity), integers from 0 to ``num_draws``.
        num_draws: L, nearly independent draws for every simulation.
        method: what answered.
        alpha: the probability with which a right answer fails in any of its quantities.
        notes: what there is to say about how it was done.
        cut: whether a budget played a part, so that the numbers depend on the time that things take.
        seconds: wall time.
        cpu_seconds: of all threads together.
    """

    ranks: xr.Dataset
    num_draws: int
    method: str
    alpha: float = 0.05
    notes: tuple[str, ...] = ()
    seconds: float = float("nan")
    cpu_seconds: float = float("nan")
    cut: bool = False

    @property
    def num_simulations(self) -> int:
        """Number of simulated truths."""
        return int(self.ranks.sizes["simulation"])

    @property
    def names(self) -> list[str]:
        """The quantities."""
        return [str(name) for name in self.ranks["quantity"].to_numpy()]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a quantity, the worst first.

        ``p_value`` of the quantity alone; ``adjusted`` for the number of quantities (Holm); ``level`` of its
        own test; ``passed``; ``shape`` in words; ``shift`` of the mean rank, as a fraction, and ``spread``,
        the ranks' variance relative to a uniform one's; and in how many simulations the central 50 % and
        90 % of the draws held the truth.
        """
        import pandas as pd

        columns = [self.ranks["rank"].sel(quantity=name).to_numpy() for name in self.names]
        p_values = np.array([p_value(found, self.num_draws) for found in columns])
        adjusted, levels = holm(p_values, self.alpha)
        rows = {}
        for name, found, p, q, level in zip(self.names, columns, p_values, adjusted, levels, strict=True):
            told = describe(found, self.num_draws, passed=bool(q > self.alpha))
            inside = np.abs((found + 0.5) / (self.num_draws + 1) - 0.5)
            rows[name] = {
                "p_value": p,
                "adjusted": q,
                "level": level,
                "passed": bool(q > self.alpha),
                "shape": told.shape,
                "shift": told.shift,
                "spread": told.spread,
                "coverage_50": float((inside < 0.25).mean()),
                "coverage_90": float((inside < 0.45).mean()),
            }
        table = pd.DataFrame.from_dict(rows, orient="index")
        far = -(table["spread"] - 1).abs() - table["shift"].abs()
        density = [name in (LIKELIHOOD, JOINT) for name in table.index]
        table = table.assign(density=density, far=far).sort_values(["p_value", "density", "far"])
        return table.drop(columns=["density", "far"])

    @property
    def passed(self) -> bool:
        """Whether no quantity's ranks leave their band."""
        return bool(self.table["passed"].all())

    @property
    def failing(self) -> dict[str, str]:
        """The quantities that fail, each with how, in words; the worst first."""
        wrong = self.table[~self.table["passed"]]
        return {str(name): WORDS[str(shape)] for name, shape in wrong["shape"].items()}

    def __repr__(self) -> str:
        size = f"{self.num_simulations:,} simulations, {len(self.names):,} quantities"
        found = (
            f"{len(self.failing)} fail, {next(iter(self.failing))} the most" if self.failing else "none fails"
        )
        return f"Calibration({self.method}: {size}; {found})"

    def sentence(self) -> str:
        """What was found, in one sentence."""
        table, size = self.table, len(self.table)
        head = f"{self.num_simulations} simulations, {size} {'quantity' if size == 1 else 'quantities'}: "
        if self.passed:
            return (
                f"{head}the ranks of the truth among draws of {in_sentence(self.method)} are uniform as far "
                "as these can see (smallest p-value, corrected for their number, "
                f"{table['adjusted'].iloc[0]:.2g})"
            )
        worst = str(table.index[0])
        row = table.loc[worst]
        others = len(self.failing) - 1
        return (
            f"{head}{worst} is {WORDS[str(row['shape'])]}; the central 90 % of draws of "
            f"{in_sentence(self.method)} held the truth in {row['coverage_90'] * 100:.0f} % of them"
            + (f"; {others} more {'quantity fails' if others == 1 else 'quantities fail'}" if others else "")
        )

    def ecdf_difference(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What a picture shows of a quantity.

        Returns:
            Fractions u; the ECDF of the ranks at u, less u; and the lower and upper end of the band there,
            at the level of the quantity's own test: each of shape (points,).
        """
        points = evaluation_points(self.num_draws)
        at = points / (self.num_draws + 1)
        found = np.sort(self.ranks["rank"].sel(quantity=name).to_numpy())
        low, high = band(len(found), self.num_draws, float(self.table.loc[name, "level"]))
        size = len(found)
        return at, np.searchsorted(found, points) / size - at, low / size - at, high / size - at


def sbc(
    pair: Pair | Program,
    *data: Any,
    answer: Answer = "guide",
    identifiable: Callable[[xr.Dataset], xr.Dataset] | None = None,
    functions: Callable[[xr.Dataset], xr.Dataset] | None = None,
    index: Tensor | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[CalibrationKeywords],
) -> Calibration:
    """Calibrate an answer to a model on data simulated from the model.

    z* ~ p(z), x* ~ p(x | z*), then draws that claim to come from p(z | x*): if they do, the rank of f(z*, x*)
    among f(z, x*) of the draws is uniform for every function f. Ranked are the model's identifiable
    functions, the log-likelihood log p(x* | z) and the log joint density log p(x*, z). The last two depend on
    the data, and see what no parameter can, such as an answer that never looked at the data.

    Units of one data set (rows, images) are independent, and each is a simulation of its
    own.

    Args:
        pair: model and guide; for other answers than the guide a model will do.
        data: their shapes, and whatever in them is not random, are kept.
        answer: "guide", "nuts", "exact", or a function of ``(*data, num_draws=…, seed=…)`` that gives a
            `Posterior` of that many (nearly) independent draws or a multiple of it.
        identifiable: functions of the latents to be ranked, draw by draw, from a data set of draws to another
            with the same (chain, draw) dimensions; by default the model's own, else all latents.
        functions: more of them, ranked as well.
        index: units of the data to work with, for models of one tensor whose rows are the units.
        seed: of everything.
        progress: whether to show a progress bar on a terminal.
        options: the fields of `CalibrationOptions`.

    Raises:
        InputError: for options out of range, data that cannot be simulated, an answer that the model or
            guide cannot give, or a budget that is too short.
    """
    begin, cpu = time.perf_counter(), time.process_time()
    asked = CalibrationOptions(**options)
    num_simulations, budget = asked.num_simulations, asked.budget
    _check_answer(answer)
    source = pair if isinstance(pair, Pair) else Pair(pair, Prior(pair))
    if answer == "guide" and not isinstance(pair, Pair):
        raise InputError("calibrating a guide needs a pair of model and guide, and this is a model alone")
    with one_thread():
        place = world(source, *data, index=index)
        if not place.apart.layout.latents:
            raise InputError("no latent can be ranked: all of them are summed out")
        with nullcontext() if budget is None else deadline(begin + budget - time.perf_counter()):
            try:
                answers, place = _answers(source, answer, place, asked, seed)
            except OutOfTime:
                raise TooLittleTime("the time was over before data were simulated") from None
            found, late = _collect(answers, place, num_simulations, seed, progress)
        if late:
            found = _enough(found, place.units, num_simulations, budget or 0.0)
        names, columns, said = quantities(found, place, identifiable, functions, seed)
    columns = columns[: _kept(len(columns)) if late else num_simulations]
    notes = [*answers.notes(), *said]
    if late:
        notes.append(
            f"the budget allowed {len(columns)} of {num_simulations} simulations; fewer see less, and how "
            "many there are depends on the time that they take"
        )
    if answers.late:
        notes.append("nothing was compiled: there was no time for it")
    return Calibration(
        ranks=_labelled(names, columns),
        num_draws=asked.num_draws,
        method=answers.method,
        alpha=asked.alpha,
        notes=tuple(notes),
        seconds=time.perf_counter() - begin,
        cpu_seconds=time.process_time() - cpu,
        cut=late or answers.late,
    )


def _collect(
    answers: Answers, place: World, num_simulations: int, seed: int, progress: bool
) -> tuple[list[Simulated], bool]:
    """Simulate and answer block after block; also whether the time ran out."""
    found: list[Simulated] = []
    with progress_bar("calibration", num_simulations, show=progress) as advance:
        try:
            while (done := len(found) * place.units) < num_simulations:
                missing = -(-(num_simulations - done) // place.units)
                first = len(found)
                block = [
                    place.simulate(derived(seed, 1, first + number))
                    for number in range(min(answers.block, missing))
                ]
                drawn = answers([one.data for one in block], first)
                found += [one.answered(draws, place) for one, draws in zip(block, drawn, strict=True)]
                advance(len(block) * place.units, answers.method)
        except OutOfTime:
            return found, len(found) * place.units < num_simulations
    return found, False


def _enough(found: list[Simulated], units: int, wanted: int, budget: float) -> list[Simulated]:
    """What was finished in time.

    Raises:
        TooLittleTime: if it is too little to say anything.
    """
    done = len(found) * units
    if done < min(FEWEST, wanted):
        raise TooLittleTime(
            f"only {done} of the {min(FEWEST, wanted)} simulations that calibration needs to say anything "
            f"fit into {budget:.3g} s"
        )
    return found


def _kept(done: int) -> int:
    """How many of the simulations that were finished in time count."""
    return max((count for count in COUNTS if count <= done), default=done)


def _answers(
    pair: Pair, answer: Answer, place: World, asked: CalibrationOptions, seed: int
) -> tuple[Answers, World]:
    """What answers, and the world with no more units than are asked for where they can be left out."""
    num_simulations, num_draws, refit = asked.num_simulations, asked.num_draws, asked.refit
    if answer == "guide":
        two = [place.simulate(derived(seed, 0, number)).data for number in range(2)]
        reads = reads_data(place.problem, two[0], two[1])
        own = bool(pair.parameters("guide"))
        if refit is False and not reads and own:
            raise InputError(
                "this guide does not look at its data: it knows only those it was fitted to and must be "
                "refitted (refit=True)"
            )
        if refit or (refit is None and not reads and own):
            sets = -(-num_simulations // place.units)
            most = BLOCK if asked.budget is None else HURRIED
            refitted = Refitted(
                place.problem, sets, num_draws, num_steps=asked.num_steps,
                num_particles=asked.num_particles, lr=asked.lr, compile=asked.compile, most=most, seed=seed,
            )  # fmt: skip
            return refitted, place
    # With a budget, NUTS takes the rows in small parts, after each of which it may stop.
    most = FEWEST if answer == "nuts" and asked.budget is not None else num_simulations
    place = place.shortened(min(most, num_simulations))
    sets = -(-num_simulations // place.units)
    if answer == "guide":
        return GuideAsItIs(place.problem, num_draws, seed), place
    if answer == "nuts":
        return ThinnedNuts(pair, sets, num_draws, units=place.units, compile=asked.compile, seed=seed), place
    if answer == "exact":
        return Exact(pair, num_draws, seed), place
    assert callable(answer)
    return Called(answer, num_draws, seed), place


def _labelled(names: list[str], columns: np.ndarray) -> xr.Dataset:
    import xarray as xr

    return xr.Dataset(
        {"rank": (("simulation", "quantity"), columns)},
        coords={"simulation": np.arange(len(columns)), "quantity": names},
    )


def _check_answer(answer: Any) -> None:
    if not callable(answer) and answer not in ("guide", "nuts", "exact"):
        raise InputError(f"answer={answer!r} is not known; it is 'guide', 'nuts', 'exact' or a function")
