"""Simulated truths, their data, and the values of the quantities that calibration ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.answers.labels import to_dataset
from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import derived
from ppl_vae.diagnostics.calibration.ranks import ranks
from ppl_vae.program.abilities import HasIdentifiable
from ppl_vae.program.defined import require_simulated
from ppl_vae.program.model_densities import log_densities
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem
from ppl_vae.program.simulate import simulate

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["JOINT", "LIKELIHOOD", "Simulated", "World", "quantities", "world"]

# More quantities cost power (the band is corrected for their number) and are seldom looked at.
MOST_QUANTITIES = 60
LIKELIHOOD, JOINT = "log p(x | z)", "log p(x, z)"


@dataclass(frozen=True, eq=False)
class World:
    """What data sets are simulated from.

    Attributes:
        problem: its model is run; its data have the shapes of simulated ones.
        apart: the same with the model's own units, whatever the guide's are: given its data, each is
            independent of the others under the exact posterior.
    """

    problem: Problem
    apart: Problem

    @property
    def units(self) -> int:
        """Simulations in one data set."""
        return self.apart.num_units

    def shortened(self, count: int) -> World:
        """A world of at most so many units, if they are the rows of one tensor; else this one."""
        if self.units <= count or not _is_one_table(self.apart):
            return self
        rows = torch.linspace(0, self.units - 1, count).round().long()
        return world(self.problem.pair, *self.apart.rows(rows).cut())

    def simulate(self, seed: int) -> Simulated:
        """Truths and their data."""
        truth, data = simulate(self.problem, seed)
        return Simulated(truth, data)


@dataclass(frozen=True, eq=False)
class Simulated:
    """One simulated data set.

    Attributes:
        latents: by site: the truth, followed by the draws that answer the data once there are any, of shape
            (1 + L, *plates, *event).
        data: what was simulated.
        likelihood, joint: log p(x | z) and log p(x, z) of all of them, (1 + L, units).
    """

    latents: Mapping[str, Tensor]
    data: tuple[Any, ...]
    likelihood: Tensor | None = None
    joint: Tensor | None = None

    def answered(self, draws: Mapping[str, Tensor], place: World) -> Simulated:
        """The same with draws behind the truth.

        Raises:
            InputError: if they are of other sites or shapes.
        """
        together = {}
        for name, truth in self.latents.items():
            if name not in draws or draws[name].shape[1:] != truth.shape[1:]:
                got = tuple(draws[name].shape[1:]) if name in draws else "none"
                raise InputError(
                    f"the answer's draws of site {name} have shape {got}; the model's is "
                    f"{tuple(truth.shape[1:])}"
                )
            together[name] = torch.cat([truth, draws[name].to(truth)])
        likelihood, joint = log_densities(replace(place.apart, data=self.data), together)
        return replace(self, latents=together, likelihood=likelihood, joint=joint)


def world(pair: Pair, *data: Any, index: Tensor | None = None) -> World:
    """Read off what there is to simulate.

    Raises:
        InputError: for models that cannot be simulated (`require_simulated`), and if ``index`` is given to a
            model whose units are not the rows of one tensor.
    """
    problem = Problem.of(pair, *data)
    layout = problem.layout
    require_simulated(layout)
    plate = layout.batch_plate
    units = plate is not None and all(plate in plates for plates in layout.latents.values())
    own = replace(
        layout,
        unit_plate=plate if units else None,
        num_units=layout.batch_plate_size if units else 1,
    )
    place = World(problem, replace(problem, layout=own))
    if index is None:
        return place
    if not units or not _is_one_table(place.apart):
        raise InputError(
            "index chooses rows, and this model's simulations are not the rows of one data tensor"
        )
    return world(pair, *place.apart.rows(index).cut())


def quantities(
    found: list[Simulated],
    place: World,
    identifiable: Callable[[xr.Dataset], xr.Dataset] | None,
    functions: Callable[[xr.Dataset], xr.Dataset] | None,
    seed: int,
) -> tuple[list[str], np.ndarray, list[str]]:
    """Rank everything that is to be ranked.

    Returns:
        Names; ranks of shape (simulations, quantities); and notes.
    """
    draws = _draws(found, place)
    model = place.problem.pair.model
    if identifiable is None and isinstance(model, HasIdentifiable):
        identifiable = model.identifiable
    values = _scalars(draws if identifiable is None else identifiable(draws), place)
    if functions is not None:
        values |= _scalars(functions(draws), place)
    notes = []
    if len(values) > MOST_QUANTITIES:
        chosen = np.linspace(0, len(values) - 1, MOST_QUANTITIES).round().astype(int)
        notes.append(
            f"{MOST_QUANTITIES} of {len(values)} functions of the latents, evenly chosen, were ranked"
        )
        names = list(values)
        values = {names[k]: values[names[k]] for k in chosen}
    values[LIKELIHOOD] = _by_simulation([one.likelihood for one in found])
    values[JOINT] = _by_simulation([one.joint for one in found])
    stacked_values = np.stack(list(values.values()), axis=-1)
    if bad := int((~np.isfinite(stacked_values)).any((0, 1)).sum()):
        notes.append(f"{bad} quantities have values that are not finite")
    columns = ranks(stacked_values[:, 0], stacked_values[:, 1:], derived(seed, 4))
    kept = _different(stacked_values, columns)
    return [list(values)[k] for k in kept], columns[:, kept], notes


def _by_simulation(parts: list[Tensor | None]) -> np.ndarray:
    """Values of all data sets' units, of shape (simulations, 1 + L)."""
    stacked = torch.stack([part for part in parts if part is not None])
    return stacked.movedim(2, 1).flatten(0, 1).cpu().double().numpy()


def _draws(found: list[Simulated], place: World) -> xr.Dataset:
    """Every simulation as a chain, whose first draw is the truth."""
    plate, plates = place.apart.layout.unit_plate, place.problem.layout.latents
    values = {}
    for name in plates:
        stacked = torch.stack([one.latents[name] for one in found])
        if plate is not None:
            at = 2 + plates[name].index(plate)
            stacked = stacked.movedim(at, 1).flatten(0, 1).unsqueeze(at)
        values[name] = stacked
    return to_dataset(values, plates, place.problem.pair.model)


def _scalars(draws: xr.Dataset, place: World) -> dict[str, np.ndarray]:
    """Every scalar by name, of shape (simulations, 1 + L)."""
    plate = place.apart.layout.unit_plate
    if plate is not None and draws.sizes.get(plate) == 1:
        draws = draws.isel({plate: 0}, drop=True)
    if draws.sizes.get("chain", 0) < 1 or "draw" not in draws.sizes:
        raise InputError(
            "identifiable functions must keep the dimensions (chain, draw) of what they are given"
        )
    return Posterior(draws=draws, method="", dependence="independent").scalars()


def _different(values: np.ndarray, columns: np.ndarray) -> list[int]:
    """Quantities that vary, each once: those of the same ranks, or of mirrored ones, are one test.

    Of two of them the later one stays: differences of skills come after skills relative to their mean.
    """
    num_draws = values.shape[1] - 1
    seen: set[bytes] = set()
    kept = []
    for k in reversed(range(columns.shape[1])):
        one = columns[:, k]
        key = min(one.tobytes(), (num_draws - one).tobytes())
        constant = bool((values[..., k] == values[0, 0, k]).all())
        if key in seen or constant:
            continue
        seen.add(key)
        kept.append(k)
    return kept[::-1]


def _is_one_table(apart: Problem) -> bool:
    """Whether the units are the rows of one tensor, or of all that the program takes."""
    return all(isinstance(t, Tensor) and t.dim() > 0 and len(t) == apart.num_units for t in apart.data)
