"""What every inference method answers with: draws of the latent variables, as xarray."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Posterior"]

Dependence = Literal["chains", "independent"]


SUPERCHAINS = 8


def _no_statistics() -> xr.Dataset:
    import xarray as xr

    return xr.Dataset()


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws from p(z | x), or from an approximation of it.

    Attributes:
        draws: one variable per latent, with dimensions (chain, draw, *plates, *event).
        method: the method's name, such as "nuts" or "guide".
        dependence: "chains" for Markov chains, "independent" for draws of a guide or an exact formula.
        log_weights: optional log importance weights (unnormalised) over (chain, draw, *unit).
        stats: optional sampler statistics over (chain, draw), under ArviZ's names.
        seconds: wall time that the draws took.
    """

    draws: xr.Dataset
    method: str
    dependence: Dependence
    log_weights: xr.DataArray | None = None
    stats: xr.Dataset = field(default_factory=_no_statistics)
    seconds: float = float("nan")

    @property
    def num_chains(self) -> int:
        """Number of chains; 1 for independent draws."""
        return self.draws.sizes["chain"]

    @property
    def num_draws(self) -> int:
        """Number of draws in all chains together."""
        return self.draws.sizes["chain"] * self.draws.sizes["draw"]

    def map(self, draws: xr.Dataset) -> Self:
        """The same answer in other coordinates, such as a model's identifiable functions."""
        return replace(self, draws=draws)

    def isel(self, indexers: Mapping[Hashable, object]) -> Self:
        """Some entries along named dimensions, in the draws and their weights."""
        weights = self.log_weights
        if weights is not None:
            weights = weights.isel(indexers, missing_dims="ignore")
        return replace(self, draws=self.draws.isel(indexers, missing_dims="ignore"), log_weights=weights)

    def scalars(self) -> dict[str, np.ndarray]:
        """Every scalar quantity by name, such as ``skill[Detroit]``: arrays of shape (chain, draw)."""
        found = {}
        for name, variable in self.draws.data_vars.items():
            rest = [dim for dim in variable.dims if dim not in ("chain", "draw")]
            ordered = variable.transpose("chain", "draw", *rest)
            labels = [_labels(ordered, dim) for dim in rest]
            values = ordered.to_numpy()
            for place in np.ndindex(*(len(label) for label in labels)):
                inside = ", ".join(labels[axis][at] for axis, at in enumerate(place))
                found[f"{name}[{inside}]" if inside else str(name)] = values[(..., *place)]
        return found

    def summary(self) -> pd.DataFrame:
        """Mean, standard deviation and Monte Carlo error of every scalar; R-hat and ESS for chains.

        R-hat is rank-normalised and split; for more than eight chains it is the nested R-hat of
        Margossian et al. (2024) with pairs of neighbouring chains as superchains. Independent draws
        have no R-hat, and their ESS is their number.
        """
        import pandas as pd

        rows = {name: _summarise(values, self.dependence) for name, values in self.scalars().items()}
        return pd.DataFrame.from_dict(rows, orient="index")

    def to_datatree(self) -> xr.DataTree:
        """The groups that ArviZ expects: ``posterior``, ``sample_stats`` and ``log_weights``."""
        import xarray as xr

        groups = {"posterior": self.draws.assign_attrs(self._attributes())}
        if self.stats.data_vars:
            groups["sample_stats"] = self.stats
        if self.log_weights is not None:
            groups["importance_weights"] = self.log_weights.to_dataset(name="log_weight")
        return xr.DataTree.from_dict(groups)

    def save(self, path: str | Path) -> None:
        """Write a NetCDF file that ArviZ and xarray open."""
        self.to_datatree().to_netcdf(path, engine="h5netcdf")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        import xarray as xr

        with xr.open_datatree(path, engine="h5netcdf") as tree:
            tree = tree.load()
        draws = tree["posterior"].to_dataset()
        weights = None
        if "importance_weights" in tree:
            weights = tree["importance_weights"].to_dataset()["log_weight"]
        return cls(
            draws=draws,
            method=str(draws.attrs["method"]),
            dependence="chains" if draws.attrs["dependence"] == "chains" else "independent",
            log_weights=weights,
            stats=tree["sample_stats"].to_dataset() if "sample_stats" in tree else xr.Dataset(),
            seconds=float(draws.attrs["sampling_time"]),
        )

    def _attributes(self) -> dict[str, object]:
        return {
            "method": self.method,
            "dependence": self.dependence,
            "sampling_time": self.seconds,
            "inference_library": "ppl_vae",
        }


def _labels(variable: xr.DataArray, dim: Hashable) -> list[str]:
    if dim in variable.coords:
        return [str(label) for label in variable.coords[dim].to_numpy()]
    return [str(place) for place in range(variable.sizes[dim])]


def _summarise(values: np.ndarray, dependence: Dependence) -> dict[str, float]:
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if dependence == "independent" or sd == 0.0:
        size = float(values.size)
        return {
            "mean": mean,
            "sd": sd,
            "mcse_mean": sd / size**0.5,
            "ess_bulk": size,
            "ess_tail": size,
            "r_hat": np.nan,
        }

    from arviz_stats.base import array_stats

    chains = values.shape[0]
    # Chains that never moved have no variance within: their R-hat is infinite.
    with np.errstate(divide="ignore", invalid="ignore"):
        if chains > SUPERCHAINS:
            # Eight superchains of equal size (Margossian et al. 2024); a remainder is left out.
            size = chains // SUPERCHAINS
            superchains = np.repeat(np.arange(SUPERCHAINS), size)
            r_hat = array_stats.rhat_nested(values[: SUPERCHAINS * size], superchains)
        else:
            r_hat = array_stats.rhat(values)
    return {
        "mean": mean,
        "sd": sd,
        "mcse_mean": float(array_stats.mcse(values, method="mean")),
        "ess_bulk": float(array_stats.ess(values, method="bulk")),
        "ess_tail": float(array_stats.ess(values, method="tail", prob=(0.05, 0.95))),
        "r_hat": float(r_hat),
    }
