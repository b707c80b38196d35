"""Cases from posteriordb: the truth is its reference draws, or our own where it has none."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from benchmarks.alarms.family_guides import FAMILIES
from benchmarks.alarms.problems import GLOBAL_GUIDES, Problem
from benchmarks.posteriors import posterior
from benchmarks.posteriors.entry import Entry, same
from benchmarks.posteriors.others import unordered_mixture

__all__ = ["ENTRIES", "problems"]

FITTED = ("fitted mean-field", "fitted full-rank")
# With wide normals for flat priors in what is checked, too.
KNOWN = (
    "arK", "eight_schools_centered", "eight_schools_noncentered", "gp_regr", "kidscore_momiq",
    "low_dim_gauss_mix", "logmesquite", "blr",
)  # fmt: skip
# Coefficients whose scales are far apart keep a fit busy for tens of thousands of steps.
SLOW = ("kidscore_momiq", "blr")


def _latents(one: Entry) -> dict[str, Tensor]:
    """The reference draws by our sites, each of shape (10000, *site)."""
    sites = one.sites(one.reference_draws())
    return {name: torch.from_numpy(values.reshape(-1, *values.shape[2:])) for name, values in sites.items()}


def _problem(name: str) -> Problem:
    one = posterior(name)
    return Problem(
        one.short,
        one.family,
        one.proper,
        one.data(),
        _latents(one),
        (*GLOBAL_GUIDES, *(() if name in SLOW else FITTED), *FAMILIES),
        identifiable=None if one.identifiable is same else one.identifiable,
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
    one = posterior("low_dim_gauss_mix")
    guides = ("full-rank", "almost", "narrow", "wide", "shifted", "few steps")
    return Problem(
        "gauss_mix_unordered", "mixture", unordered_mixture, one.data(), _latents(one), guides,
        identifiable=_swapped,
    )  # fmt: skip


NEW_GUIDES = (
    "full-rank", "almost", "narrow", "wide", "shifted", "mean-field", "mean-field optimum", "AutoDelta",
    *FAMILIES,
)  # fmt: skip
# Draws behind the truth of a guide.
NEW = {
    "arma11": 2000, "hmm_drive_0": 2000, "diamonds": 1000, "earn_height": 4000, "logearn_interaction": 4000,
    "kidscore_momhs": 10_000, "kidscore_interaction_c2": 10_000, "kilpisjarvi": 10_000, "mesquite": 10_000,
    "nes1972": 4000, "nes2000": 4000,
}  # fmt: skip
# Likewise, where the reference draws are our own.
OWN = {
    "radon_hierarchical_intercept_centered": 1000, "rats_model": 1000, "surgical_model": 2000,
    "wells_interaction_model": 1000,
}  # fmt: skip
# Only these where a check is dear.
FEW = ("full-rank", "narrow", "mean-field", "AutoDelta", *FAMILIES)
FEWER = {
    **dict.fromkeys(("diamonds", "radon_hierarchical_intercept_centered", "rats_model"), FEW),
    # Where Pyro's guides start, at a median of 1e300, Adam's first loss is infinite.
    "surgical_model": tuple(name for name in NEW_GUIDES if name != "full-rank, stopped early"),
}


def _new(name: str) -> Problem:
    one = posterior(name)
    data = one.data()
    return Problem(
        name, one.family, one.proper, data, _latents(one), FEWER.get(name, NEW_GUIDES),
        asked=(lambda: (one.model, data)) if one.improper else None,
        group="posteriordb, new", draws=(NEW | OWN)[name],
    )  # fmt: skip


ENTRIES = tuple(posterior(name) for name in (*KNOWN, *NEW, *OWN))


def problems() -> Mapping[str, Callable[[], Problem]]:
    """By name, those whose reference draws are at hand."""
    at_hand = {one.short for one in ENTRIES if one.present}
    found: dict[str, Callable[[], Problem]] = {
        name: partial(_problem if name in KNOWN else _new, name)
        for name in (*KNOWN, *NEW, *OWN) if name in at_hand
    }  # fmt: skip
    return found | ({"gauss_mix_unordered": _exchangeable} if "low_dim_gauss_mix" in at_hand else {})
