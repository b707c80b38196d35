"""Posterior predictive checks: do data replicated from the fitted model look like the data?

Source: Gelman, Meng and Stern, "Posterior predictive assessment of model fitness via realized
discrepancies" (1996), section 2; the joint test is the single-step maxT of Westfall and Young,
"Resampling-Based Multiple Testing" (1993), section 2.3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.arguments import check_whole
from ppl_vae.base.errors import InputError
from ppl_vae.base.saved import Saved, kept
from ppl_vae.base.seeds import seeded
from ppl_vae.diagnostics.prediction import statistics as of_data
from ppl_vae.diagnostics.prediction.profiles import Profile
from ppl_vae.diagnostics.prediction.replicated import Observed, observed_sites, replicate, thinned
from ppl_vae.diagnostics.prediction.statistics import MAX_FEATURES, Kind
from ppl_vae.program.layout import Layout
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem, check_index

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Predictive", "predictive_check"]

# Level of the joint test of all statistics.
LEVEL = 0.05
MIN_DRAWS = 40
CONSERVATIVE = (
    "posterior predictive p-values are conservative: the data were used to find the posterior as well, so "
    "that a p-value near a half is no proof"
)

Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Predictive(Saved):
    """Test statistics of the data beside those of replicated data.

    Attributes:
        table: one row per statistic, the most surprising first: ``statistic``, ``site``, ``observed``,
            ``replicated_mean``, ``replicated_sd``, ``p_value`` (two-sided mid-p), its Monte Carlo error
            ``p_std_error``, and ``p_adjusted`` for the number of statistics.
        replicates: every statistic of every replicated data set: a variable for each site over (chain,
            draw, ``<site>_statistic``).
        profiles: by site, what its figures need; see `Profile.dataset`.
        method: whose draws of the latents were used, such as "guide" or "nuts".
        num_draws: replicated data sets.
        seconds: wall time.
        notes: what has to be said about the numbers, in sentences.
    """

    table: pd.DataFrame
    replicates: xr.Dataset
    profiles: Mapping[str, xr.Dataset] = field(metadata=kept(key="site"))
    method: str
    num_draws: int
    seconds: float = float("nan")
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """Of data, by site: "real", "counts", "binary", "categories", or "own" to the model."""
        return {site: data.attrs["kind"] for site, data in self.profiles.items()}

    @property
    def kind(self) -> str:
        """The kind of data where all sites have the same, else "mixed"."""
        kinds = set(self.kinds.values())
        return kinds.pop() if len(kinds) == 1 else "mixed"

    @property
    def failing(self) -> pd.DataFrame:
        """The rows whose adjusted p-value is at most 0.05: a model that is right has any of them in at
        most 5 % of all checks."""
        return self.table[self.table["p_adjusted"] <= LEVEL]

    def sentence(self) -> str:
        """What was found, in a sentence or two."""
        number, failing = len(self.table), self.failing
        if not len(failing):
            worst = self.table.iloc[0]
            return (
                f"Data replicated from the model look like the data in all {number} test statistics (most "
                f"surprising: {self._name(worst)}, adjusted p = {worst['p_adjusted']:.2g})."
            )
        worst = failing.iloc[0]
        sd = worst["replicated_sd"]
        spread = f" ± {sd:.2g} in replicated data" if sd > 0 else " in every replicated data set"
        where = "Where the guide's posterior is right, this" if self.method == "guide" else "This"
        return (
            f"The model does not reproduce {len(failing)} of {number} test statistics of the data: "
            f"{self._name(worst)} is {worst['observed']:.4g} in the data and {worst['replicated_mean']:.4g}"
            f"{spread} (adjusted p = {worst['p_adjusted']:.2g}). "
            f"{where} is a finding about the model, not about the guide: no other way of inference mends it."
        )

    def values(self, row: pd.Series) -> np.ndarray:
        """The replicated values of a row of the table, chains joined."""
        draws = self.replicates[str(row["site"])].sel({f"{row['site']}_statistic": row["statistic"]})
        return draws.to_numpy().ravel()

    def _name(self, row: pd.Series) -> str:
        return f"{row['statistic']} ({row['site']})" if len(self.kinds) > 1 else str(row["statistic"])


@torch.no_grad()
def predictive_check(
    pair: Pair,
    *data: Any,
    posterior: Posterior | None = None,
    statistics: Mapping[str, Statistic] | None = None,
    num_draws: int = 200,
    index: Tensor | None = None,
    feature_names: Sequence[str] = (),
    seed: int = 0,
) -> Predictive:
    """Replicate the data from p(x | z), z drawn from the posterior, and compare test statistics.

    Each datum is replicated with its own latents. The kind of data, and with it the statistics, is read off
    the observed sites' supports, unless the model has statistics of its own (`HasStatistics`). A two-sided
    mid-p-value says how far out the data lie among their replicates. The adjusted ones take account of the
    number of statistics through the largest deviation in each replicated data set: Holm's correction of
    p-values from a few hundred draws could never fail anything.

    Args:
        pair: model and guide; nothing is trained.
        data: the programs' full data.
        posterior: draws of all latents to use instead of the guide's, of all units or of those in ``index``;
            its draws count alike (log weights are not used).
        statistics: more statistics, by name: functions of one data set to a number. They get the values of
            each observed site as (rows, features), in float64.
        num_draws: replicated data sets, at least 40.
        index: the units to look at (all by default).
        feature_names: names for the features of the data in the table.
        seed: of the draws.

    Raises:
        InputError: if there is nothing that can be replicated, or an argument does not fit.
    """
    check_whole(1, num_draws=num_draws)
    if num_draws < MIN_DRAWS:
        raise InputError(f"num_draws is {num_draws}; a check at the 5 % level needs at least {MIN_DRAWS}")
    start = time.perf_counter()
    problem = Problem.of(pair, *data).rows(index)
    check_index(index, problem.layout.num_units)
    with seeded(seed):
        sites, notes = observed_sites(problem)
        if not sites:
            raise InputError(f"the data cannot be replicated: {'; '.join(notes)}")
        latents, chains = None, 1
        if posterior is not None:
            latents, chains = thinned(posterior, problem, num_draws)
            num_draws = len(next(iter(latents.values())))
        names = {site.name: _names(site, feature_names) for site in sites}
        own = statistics or {}
        profiles = {site.name: Profile(site, names[site.name]) for site in sites}
        found: dict[str, list[dict[str, Tensor]]] = {site.name: [] for site in sites}
        for chunk in replicate(problem, sites, num_draws, latents):
            for site in sites:
                found[site.name].append(_statistics(site, chunk[site.name], names[site.name], own))
                profiles[site.name].add(chunk[site.name])
    columns = {site.name: _columns(site, found[site.name], profiles[site.name], own) for site in sites}
    return Predictive(
        table=_table(columns, chains, posterior),
        replicates=_replicates(columns, chains),
        profiles={name: profile.dataset() for name, profile in profiles.items()},
        method="guide" if posterior is None else posterior.method,
        num_draws=num_draws,
        seconds=time.perf_counter() - start,
        notes=(*notes, *_of_weights(problem.layout), *_of_missing(sites), CONSERVATIVE),
    )


def _of_weights(layout: Layout) -> list[str]:
    return [
        f"{name} counts by its weights in the posterior, and once in the statistics of the data and of every "
        "replicate"
        for name in layout.weighted
    ]


def _of_missing(sites: Sequence[Observed]) -> list[str]:
    return [
        f"values of {site.name} are missing: they stand at their feature's mean, in the data and in every "
        "replicate"
        for site in sites
        if site.missing is not None
    ]


def _names(site: Observed, given: Sequence[str]) -> list[str]:
    """Of a site's features, of the levels that its model shows, or of its categories."""
    if site.own is not None:
        return [*site.own.names]
    if site.kind == "categories":
        return [f"category {k}" for k in range(int(site.values.max()) + 1)]
    number = site.values.shape[1]
    if len(given) == number:
        return _distinct([str(name) for name in given])
    return [f"feature {k + 1}" for k in range(number)]


def _distinct(names: list[str]) -> list[str]:
    return names if len(set(names)) == len(names) else [f"{k + 1} {name}" for k, name in enumerate(names)]


def _statistics(
    site: Observed, values: Tensor, names: Sequence[str], own: Mapping[str, Statistic]
) -> dict[str, Tensor]:
    """Every statistic of the data sets in ``values``, by name, each of shape (sets,)."""
    if site.own is not None:
        found = dict(site.own.statistics(values))
    else:
        kinds = {"real": of_data.real, "counts": of_data.counts, "binary": of_data.binary,
                 "categories": of_data.categories}  # fmt: skip
        found = kinds[site.kind](values, names)
    for name, statistic in own.items():
        found[name] = torch.stack([_number(name, statistic(one)) for one in values])
    return found


def _number(name: str, value: Any) -> Tensor:
    number = torch.as_tensor(value, dtype=torch.float64)
    if number.numel() != 1 or not bool(number.isfinite()):
        raise InputError(
            f"the statistic {name!r} gave {value!r}; it takes one data set and gives one finite number"
        )
    return number.reshape(())


def _columns(
    site: Observed,
    found: Sequence[dict[str, Tensor]],
    profile: Profile,
    own: Mapping[str, Statistic],
) -> dict[str, tuple[np.ndarray, float]]:
    """Replicated values, shape (draws,), and the observed one, by statistic."""
    observed = _statistics(site, site.values[None], profile.names, own)
    columns = {
        name: (torch.cat([part[name] for part in found]).double().cpu().numpy(), float(observed[name][0]))
        for name in observed
    }
    if len(profile.names) > MAX_FEATURES:
        levels, level = (values.double().numpy() for values in profile.feature_levels())
        centre, scale = levels.mean(0), np.maximum(levels.std(0, ddof=1), 1 / len(levels) / len(site.values))
        distance = np.sqrt((((levels - centre) / scale) ** 2).mean(1))
        columns["distance of the features' means"] = (
            distance,
            float(np.sqrt((((level - centre) / scale) ** 2).mean())),
        )
    return columns


def _table(
    columns: Mapping[str, Mapping[str, tuple[np.ndarray, float]]], chains: int, posterior: Posterior | None
) -> pd.DataFrame:
    rows = [(name, site, *column) for site, found in columns.items() for name, column in found.items()]
    draws = np.stack([row[2] for row in rows], axis=1)
    observed = np.array([row[3] for row in rows])
    p_values, errors = _p_values(draws, observed, chains, posterior)
    deviation, largest = _scaled(observed, draws), _scaled(draws, draws).max(1)
    adjusted = ((largest[:, None] >= deviation).sum(0) + 1) / (len(draws) + 1)
    table = pd.DataFrame(
        {
            "statistic": [row[0] for row in rows],
            "site": [row[1] for row in rows],
            "observed": observed,
            "replicated_mean": draws.mean(0),
            "replicated_sd": draws.std(0, ddof=1),
            "p_value": p_values,
            "p_std_error": errors,
            "p_adjusted": np.maximum(adjusted, p_values),
        }
    )
    order = np.lexsort((-np.nan_to_num(deviation, posinf=1e300), table["p_adjusted"]))
    return table.iloc[order].reset_index(drop=True)


def _p_values(
    draws: np.ndarray, observed: np.ndarray, chains: int, posterior: Posterior | None
) -> tuple[np.ndarray, np.ndarray]:
    """2 min(u, 1 − u) of the mid-p u = P(T_rep > T) + ½ P(T_rep = T), and its Monte Carlo error.

    Half a draw is added on each side, so that no p-value is 0.
    """
    size = len(draws)
    tolerance = 1e-9 * (1e-6 + np.abs(observed))
    equal = np.abs(draws - observed) <= tolerance
    above = np.where(equal, 0.5, draws > observed)
    upper = (above.sum(0) + 0.5) / (size + 1)
    effective = np.full(draws.shape[1], float(size))
    if posterior is not None and posterior.effective_size is not None:
        effective = np.minimum(effective, float(posterior.effective_size.min()))
    elif posterior is not None and posterior.dependence == "chains":
        effective = np.array([_effective(column.reshape(chains, -1)) for column in above.T])
    return 2 * np.minimum(upper, 1 - upper), 2 * np.sqrt(upper * (1 - upper) / effective)


def _effective(indicator: np.ndarray) -> float:
    """Effective draws behind the mean of an indicator from chains."""
    from arviz_stats.base import array_stats

    if indicator.std() == 0 or indicator.shape[1] < 4:
        return float(indicator.size)
    return min(float(indicator.size), float(array_stats.ess(indicator, method="mean")))


def _spread(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median and root mean square deviations below and above it: skewed statistics have two scales."""
    centre = np.median(draws, axis=0)
    away = draws - centre
    both = np.sqrt((away**2).mean(0))
    scales = []
    for side in (away < 0, away > 0):
        number = side.sum(0)
        scale = np.sqrt((away**2 * side).sum(0) / np.maximum(number, 1))
        scales.append(np.where(number > 0, np.maximum(scale, both), both))
    return centre, scales[0], scales[1]


def _scaled(values: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """|value − median| in the scale of its side; 0 where a statistic that never varies is met, else ∞."""
    centre, below, above = _spread(draws)
    away = values - centre
    away = np.where(np.abs(away) <= 1e-9 * (1e-6 + np.abs(centre)), 0.0, away)
    scale = np.where(away < 0, below, above)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(away == 0, 0.0, np.abs(away) / scale)


def _replicates(columns: Mapping[str, Mapping[str, tuple[np.ndarray, float]]], chains: int) -> xr.Dataset:
    import xarray as xr

    variables, coords = {}, {}
    for site, found in columns.items():
        values = np.stack([column[0] for column in found.values()], axis=1)
        dim = f"{site}_statistic"
        variables[site] = (("chain", "draw", dim), values.reshape(chains, -1, values.shape[1]))
        coords[dim] = list(found)
    return xr.Dataset(variables, coords=coords)
