"""Cases from posteriordb: the truth is its reference draws."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from benchmarks.alarms import posteriordb
from benchmarks.alarms.posteriordb import Entry, entry, reference_draws, unordered_mixture
from benchmarks.alarms.posteriordb_new import NEW_ENTRIES, NewEntry
from benchmarks.alarms.problems import GLOBAL_GUIDES, Problem

__all__ = ["NEW_PROBLEMS", "PROBLEMS"]

FITTED = ("fitted mean-field", "fitted full-rank")


def _latents(one: Entry) -> dict[str, Tensor]:
    """The reference draws by our sites, each of shape (10000, *site)."""
    sites = one.sites(reference_draws(one))
    return {name: torch.from_numpy(values.reshape(-1, *values.shape[2:])) for name, values in sites.items()}


def _problem(name: str, family: str, fitted: tuple[str, ...]) -> Problem:
    one = entry(name)
    changes = one.identifiable is not posteriordb.same
    return Problem(
        one.name.split("-")[1],
        family,
        one.model,
        one.data(),
        _latents(one),
        (*GLOBAL_GUIDES, *fitted),
        identifiable=one.identifiable if changes else None,
    )


def _swapped(draws: xr.Dataset) -> xr.Dataset:
    """Components in ascending order of their means, whatever the labels."""
    mu, sigma = (draws[name].transpose("chain", "draw", ...) for name in ("mu", "sigma"))
    order = np.argsort(mu.to_numpy(), -1)
    theta = draws["theta"].transpose("chain", "draw").to_numpy()
    found = {
        name: (("chain", "draw", "component"), np.take_along_axis(values.to_numpy(), order, -1))
        for name, values in (("mu", mu), ("sigma", sigma))
    }
    share = np.where(order[..., 0] == 0, theta, 1 - theta)
    return xr.Dataset({**found, "theta": (("chain", "draw"), share)})


def _exchangeable() -> Problem:
    """A mixture with one of its two labellings in the guide: the other mode is the same answer."""
    one = entry("low_dim_gauss_mix-low_dim_gauss_mix")
    guides = ("full-rank", "almost", "narrow", "wide", "shifted", "few steps")
    return Problem(
        "gauss_mix_unordered", "mixture", unordered_mixture, one.data(), _latents(one), guides,
        identifiable=_swapped,
    )  # fmt: skip


FAMILIES = {
    "arK-arK": "time series",
    "eight_schools-eight_schools_centered": "eight schools",
    "eight_schools-eight_schools_noncentered": "eight schools",
    "gp_pois_regr-gp_regr": "Gaussian process",
    "kidiq-kidscore_momiq": "regression",
    "low_dim_gauss_mix-low_dim_gauss_mix": "mixture",
    "mesquite-logmesquite": "regression",
    "sblrc-blr": "regression",
}
# Coefficients whose scales are far apart keep a fit busy for tens of thousands of steps.
SLOW = ("kidiq-kidscore_momiq", "sblrc-blr")

PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    **{
        name.split("-")[1]: partial(_problem, name, family, () if name in SLOW else FITTED)
        for name, family in FAMILIES.items()
    },
    "gauss_mix_unordered": _exchangeable,
}

NEW_GUIDES = (
    "full-rank", "almost", "narrow", "wide", "shifted", "mean-field", "mean-field optimum", "AutoDelta",
)  # fmt: skip


def _new_name(new: NewEntry) -> str:
    data, model = new.name.split("-")
    return data if model == "nes" else model


def _new(new: NewEntry) -> Problem:
    one = new.entry
    data = one.data()
    return Problem(
        _new_name(new), new.family, one.model, data, _latents(one), new.guides or NEW_GUIDES,
        asked=(lambda: (new.program(True), data)) if new.improper else None,
        group="posteriordb, new", draws=new.draws,
    )  # fmt: skip


NEW_PROBLEMS: Mapping[str, Callable[[], Problem]] = {
    _new_name(new): partial(_new, new) for new in NEW_ENTRIES
}
