"""What every inference method answers with: draws of the latent variables, as xarray."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch

from ppl_vae.answers.pareto import smoothed_weights, systematic
from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.base.moments import standard_deviation
from ppl_vae.base.notebook import cell, panel, paragraph, table
from ppl_vae.base.saved import Saved, kept
from ppl_vae.base.seeds import check_seed

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Posterior"]

Dependence = Literal["chains", "independent"]


SUPERCHAINS = 8
# Latents that are named in a line.
MOST_NAMES = 6


def _sized(name: str, variable: xr.DataArray) -> str:
    """A latent's name with its sizes: ``theta (8)``."""
    sizes = _sizes(variable)
    return f"{name} ({' × '.join(map(str, sizes.values()))})" if sizes else name


def _sizes(variable: xr.DataArray) -> dict[str, int]:
    return {str(dim): size for dim, size in variable.sizes.items() if dim not in ("chain", "draw")}


def _row(name: str, variable: xr.DataArray) -> tuple[str, str, str, str]:
    """A latent, its dimensions, and from where to where its means and standard deviations go."""
    moments = [variable.mean(("chain", "draw")), variable.std(("chain", "draw"))]
    ranges = []
    for values in (moment.to_numpy() for moment in moments):
        low, high = cell(float(values.min())), cell(float(values.max()))
        ranges.append(low if low == high else f"{low} to {high}")
    dims = ", ".join(f"{dim}: {size:,}" for dim, size in _sizes(variable).items())
    return name, dims or "–", ranges[0], ranges[1]


def _no_statistics() -> xr.Dataset:
    import xarray as xr

    return xr.Dataset()


@dataclass(frozen=True, eq=False, repr=False)
class Posterior(Saved):
    """Draws from p(z | x), or from an approximation of it.

    Attributes:
        draws: one variable per latent, with dimensions (chain, draw, *plates, *event).
        method: the method's name, such as "nuts" or "guide".
        dependence: "chains" for Markov chains, "independent" for draws of a guide or an exact formula.
        log_weights: optional log importance weights (unnormalised) over (chain, draw, *unit). They count
            only once they are asked to: `resampled`.
        effective_size: how many independent draws these are worth, over (*unit,); None where every
            independent draw counts. Not used for chains, whose effective size is estimated.
        stats: optional sampler statistics over (chain, draw), under ArviZ's names.
        seconds: wall time that the draws took.
    """

    draws: xr.Dataset = field(metadata=kept(name="posterior"))
    method: str
    dependence: Dependence
    log_weights: xr.DataArray | None = field(
        default=None, metadata=kept(name="importance_weights/log_weight")
    )
    stats: xr.Dataset = field(default_factory=_no_statistics, metadata=kept(name="sample_stats"))
    seconds: float = field(default=float("nan"), metadata=kept(name="sampling_time"))
    effective_size: xr.DataArray | None = None

    @property
    def num_chains(self) -> int:
        """Number of chains; 1 for independent draws."""
        return self.draws.sizes["chain"]

    @property
    def num_draws(self) -> int:
        """Number of draws in all chains together."""
        return self.draws.sizes["chain"] * self.draws.sizes["draw"]

    def __repr__(self) -> str:
        names = [_sized(str(name), variable) for name, variable in self.draws.data_vars.items()]
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        return f"Posterior({self.method}: {self._amount()} of {', '.join(names[:MOST_NAMES])}{more})"

    def _repr_html_(self) -> str:
        """How a notebook shows it: every latent's means and standard deviations."""
        rows = [_row(str(name), variable) for name, variable in self.draws.data_vars.items()]
        weights = "They carry log importance weights (`resampled`)." if self.log_weights is not None else ""
        return panel(
            f"Posterior: {self._amount()} by {self.method}",
            table(["latent", "dimensions", "means", "standard deviations"], rows),
            paragraph(weights),
        )

    def _amount(self) -> str:
        """How many draws, in words."""
        if self.dependence == "chains":
            return f"{self.num_chains} chains of {self.draws.sizes['draw']:,} draws"
        return f"{self.num_draws:,} independent draws"

    def map(self, draws: xr.Dataset) -> Self:
        """The same answer in other coordinates, such as a model's identifiable functions."""
        return replace(self, draws=draws)

    def isel(self, indexers: Mapping[Hashable, object]) -> Self:
        """Some entries along named dimensions, in the draws and their weights."""
        weights, size = (
            None if part is None else part.isel(indexers, missing_dims="ignore")
            for part in (self.log_weights, self.effective_size)
        )
        draws = self.draws.isel(indexers, missing_dims="ignore")
        return replace(self, draws=draws, log_weights=weights, effective_size=size)

    def resampled(self, seed: int = 0) -> Self:
        """Draws of equal weight, by systematic resampling with Pareto-smoothed importance weights.

        The weights of every unit are its own: its latents are resampled together, and apart from other
        units'. Drawn points repeat; what they are worth is kept as `effective_size`, Kish's
        (Σw)²/Σw². Source: Vehtari et al., "Pareto smoothed importance sampling" (2024); Douc and Cappé,
        "Comparison of resampling schemes" (2005), section 2.4.

        Args:
            seed: of the resampling.

        Returns:
            One chain of as many draws, with the method "reweighted" and without weights.

        Raises:
            InputError: without weights, with weights that are all zero or not numbers, or if a variable
                lacks the weights' unit dimension.
        """
        return _resampled(self, seed)

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
        have no R-hat, and their ESS is their number, or what resampled ones are worth.
        """
        import pandas as pd

        sizes, rows = self.independent_sizes(), {}
        for name, values in self.scalars().items():
            check_time()
            rows[name] = _summarise(values, self.dependence, sizes[name])
        return pd.DataFrame.from_dict(rows, orient="index")

    def independent_sizes(self) -> dict[str, float]:
        """How many independent draws stand behind every scalar, by its name in `scalars`.

        It is `effective_size` of the scalar's unit, of the worst unit for a scalar of no unit, and the
        number of draws where there is none.
        """
        import xarray as xr

        size = self.effective_size
        if size is None:
            return dict.fromkeys(self.scalars(), float(self.num_draws))
        spread = self.draws.isel(chain=[0], draw=[0])
        for name, variable in spread.data_vars.items():
            own = size.min([dim for dim in size.dims if dim not in variable.dims])
            # Units are matched by place: labels may be missing on either side.
            own = own.drop_vars(list(own.coords))
            blank = xr.zeros_like(variable, dtype=float)
            spread[name] = (own + blank.drop_vars(list(blank.coords))).transpose(*variable.dims)
        return {name: float(value[0, 0]) for name, value in replace(self, draws=spread).scalars().items()}

    def to_datatree(self) -> xr.DataTree:
        """The groups that ArviZ expects: ``posterior``, ``sample_stats`` and our own; see `to_xarray`."""
        tree: xr.DataTree = self.to_xarray()
        return tree


def _resampled(answer: Posterior, seed: int) -> Any:
    import xarray as xr

    weights = answer.log_weights
    if weights is None:
        raise InputError(f"the answer {answer.method} has no importance weights to resample with")
    units = [dim for dim in weights.dims if dim not in ("chain", "draw")]
    lacking = [
        str(name) for name, variable in answer.draws.data_vars.items() if not {*units} <= {*variable.dims}
    ]
    if lacking:
        raise InputError(
            f"the weights belong to the entries of {', '.join(map(str, units))}, and {', '.join(lacking)} "
            "does not: resample before the draws are mapped to other quantities"
        )
    table = weights.transpose("chain", "draw", *units).to_numpy()
    sizes = table.shape[2:]
    table = table.reshape(answer.num_draws, -1).astype(float)
    if np.isnan(table).any() or np.isposinf(table).any() or (table.max(0) == -np.inf).any():
        raise InputError(f"some importance weights of {answer.method} are no numbers, or all are zero")
    smooth = smoothed_weights(torch.as_tensor(table)).numpy()
    places = systematic(smooth, np.random.default_rng(check_seed(seed))).reshape(-1, *sizes)
    found = {}
    for name, variable in answer.draws.data_vars.items():
        rest = [dim for dim in variable.dims if dim not in ("chain", "draw", *units)]
        ordered = variable.transpose("chain", "draw", *units, *rest)
        values = ordered.to_numpy().reshape(answer.num_draws, *ordered.shape[2:])
        taken = np.take_along_axis(values, places.reshape(*places.shape, *(1,) * len(rest)), axis=0)
        found[name] = (("chain", "draw", *units, *rest), taken[None])
    kept = {k: v for k, v in answer.draws.coords.items() if not {"chain", "draw"} & {*v.dims}}
    labels = {k: v for k, v in weights.coords.items() if not {"chain", "draw"} & {*v.dims}}
    return replace(
        answer,
        draws=xr.Dataset(found, coords=kept, attrs=answer.draws.attrs),
        method="reweighted",
        dependence="independent",
        log_weights=None,
        stats=xr.Dataset(),
        effective_size=xr.DataArray(1 / (smooth**2).sum(0).reshape(sizes), coords=labels, dims=units),
    )


def _labels(variable: xr.DataArray, dim: Hashable) -> list[str]:
    if dim in variable.coords:
        return [str(label) for label in variable.coords[dim].to_numpy()]
    return [str(place) for place in range(variable.sizes[dim])]


def _summarise(values: np.ndarray, dependence: Dependence, size: float) -> dict[str, float]:
    # Draws that overflowed have no mean or spread; they are reported as such and not warned about.
    with np.errstate(invalid="ignore", over="ignore"):
        mean, sd = float(values.mean()), float(standard_deviation(values, ddof=1))
    if dependence == "independent" or sd == 0.0 or not np.isfinite(sd):
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
            members = chains // SUPERCHAINS
            superchains = np.repeat(np.arange(SUPERCHAINS), members)
            r_hat = array_stats.rhat_nested(values[: SUPERCHAINS * members], superchains)
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
