"""Posterior collapse: which latent dimensions say anything about their datum.

Sources: active units after Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2016),
section 5.2; the split of the KL after Hoffman and Johnson, "ELBO surgery" (2016), section 2.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro.distributions import Delta, Independent, MultivariateNormal, Normal
from torch import Tensor

from ppl_vae.clock import check_time
from ppl_vae.errors import InputError
from ppl_vae.files import write_netcdf
from ppl_vae.inference.elbo import analytic_kl, check_index, unit_chunks
from ppl_vae.inference.sites import Given, Layout
from ppl_vae.inference.terms import layout, terms
from ppl_vae.program import Labelled, Pair
from ppl_vae.rng import seeded

__all__ = ["Collapse", "collapse"]

# Burda et al. call a dimension active above this variance of its posterior means (of a N(0, 1) prior).
ACTIVE = 0.01
# Draws of z behind the mutual information, and numbers in one block of its log densities.
NUM_MUTUAL, BLOCK = 500, 2**22


@dataclass(frozen=True, eq=False)
class Collapse:
    """How much each dimension of the latent vectors carries.

    Attributes:
        table: one row per latent dimension: ``component``; ``kl`` of the guide's marginal to the prior, the
            mean over the units in nats, with its Monte Carlo error ``kl_std_error`` (0 by formula);
            ``variance_of_means``, Var_x(E_q[z_d | x]), and ``mean_variance``, E_x[Var_q(z_d | x)], both in
            units of the prior's variance; ``active``: whether the first of them exceeds 0.01.
        kl: mean KL of a unit's whole latent vector in nats; NaN where there is no formula.
        mutual_information: I_q(x; z) in nats, the part of that KL by which the latents tell the data
            apart; at most log N. The rest, KL(q(z) ‖ p(z)), is what the aggregated posterior differs from
            the prior. NaN where the guide's density is not available.
        mutual_information_std_error: its Monte Carlo standard error.
        num_units: N, the number of data.
        analytic: whether means, variances and KL came from formulas rather than from draws.
        seconds: wall time.
        notes: what has to be said about the numbers, in sentences.
    """

    table: pd.DataFrame
    kl: float
    mutual_information: float
    mutual_information_std_error: float
    num_units: int
    analytic: bool
    seconds: float = float("nan")
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions."""
        return len(self.table)

    @property
    def num_active(self) -> int:
        """Number of active ones."""
        return int(self.table["active"].sum())

    @property
    def collapsed(self) -> bool:
        """Whether no dimension is active: the latents say nothing about the data."""
        return self.num_active == 0

    def sentence(self) -> str:
        """What was found, in a sentence or two."""
        if self.collapsed:
            return (
                f"Posterior collapse: none of the {self.latent_dim} latent dimensions is active, so "
                "that the latents say nothing about the data (the model ignores them, or the guide does); a "
                "KL warm-up or a weaker decoder may help."
            )
        information = ""
        if np.isfinite(self.mutual_information):
            information = f"; the latents carry {self.mutual_information:.2f} nats about which datum it is"
            if self._near_bound:
                information += f", as many as {self.num_units} data can show (log N)"
        if self.num_active == self.latent_dim:
            return f"All {self.latent_dim} latent dimensions are active{information}."
        rest = self.latent_dim - self.num_active
        verb = "does" if rest == 1 else "do"
        return (
            f"{self.num_active} of {self.latent_dim} latent dimensions are active, and {rest} {verb} "
            f"nothing{information}."
        )

    @property
    def _near_bound(self) -> bool:
        return self.mutual_information > 0.9 * float(np.log(self.num_units))

    def save(self, path: str | Path) -> None:
        """Write a NetCDF file."""
        import xarray as xr

        data = xr.Dataset.from_dataframe(self.table.assign(active=self.table["active"].astype("int8")))
        data.attrs = {name: getattr(self, name) for name in _NUMBERS}
        data.attrs |= {"analytic": int(self.analytic), "notes": "\n".join(self.notes)}
        write_netcdf(Path(path), data)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        import xarray as xr

        with xr.open_dataset(path, engine="h5netcdf") as data:
            data = data.load()
        table = data.to_dataframe().rename_axis(None)
        numbers: dict[str, Any] = {name: float(data.attrs[name]) for name in _NUMBERS}
        numbers["num_units"] = int(numbers["num_units"])
        notes = tuple(line for line in str(data.attrs["notes"]).split("\n") if line)
        table["active"] = table["active"].astype(bool)
        return cls(table, analytic=bool(data.attrs["analytic"]), notes=notes, **numbers)


_NUMBERS = ("kl", "mutual_information", "mutual_information_std_error", "num_units", "seconds")


@dataclass(frozen=True, eq=False)
class _Moments:
    """Of every latent dimension, in the prior's own scale: (units, dimensions), and their errors."""

    mean: Tensor
    variance: Tensor
    num_draws: int | None


@torch.no_grad()
def collapse(
    pair: Pair, *data: Any, index: Tensor | None = None, num_draws: int = 200, seed: int = 0
) -> Collapse:
    """Judge how many dimensions of the latent vectors are used.

    Where the guide's sites are Normal, means, variances and KL come from formulas; else from draws, whose
    KL is that of Normals with the same moments: a lower bound, tight where the marginals are Normal. A
    mean is taken relative to the prior's, and a variance in units of the prior's.

    Args:
        pair: a model with latents for every datum, and its guide; nothing is trained.
        data: the programs' full data.
        index: the units to look at (all by default).
        num_draws: draws a unit where there is no formula, at least 10.
        seed: of the draws.

    Raises:
        InputError: if the latents are shared by all data, or depend on each other in the prior; if the
            guide gives points; or for an index that does not fit.
    """
    if num_draws < 10:
        raise InputError(f"num_draws is {num_draws}; variances of draws need at least 10")
    start = time.perf_counter()
    shape = layout(pair, *data)
    check_index(index, shape.num_units)
    if shape.unit_plate is None or not shape.latents:
        raise InputError("collapse is asked of models with latents for every datum; here all data share them")
    if index is not None and not shape.can_index:
        raise InputError("part of the data was asked for, but the programs do not index their units")
    with seeded(seed):
        guides, priors = _sites(pair, data, shape, index)
        centre, scale = _prior_moments(priors, shape)
        if all(_normal(fn) for fn in guides.values()):
            moments = _by_formula(guides, centre, scale, shape)
        else:
            moments = _by_draws(pair, data, shape, index, centre, scale, num_draws)
        mutual, error = _mutual_information(guides, len(moments.mean))
    kl, notes = _joint_kl(guides, priors, shape), _notes(guides, priors, moments)
    return Collapse(
        table=_table(moments, _components(pair, shape, moments), normal=_all_normal(priors)),
        kl=kl,
        mutual_information=mutual,
        mutual_information_std_error=error,
        num_units=len(moments.mean),
        analytic=moments.num_draws is None,
        seconds=time.perf_counter() - start,
        notes=notes,
    )


def _sites(
    pair: Pair, data: tuple[Any, ...], shape: Layout, index: Tensor | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Guide's and prior's distribution of every latent; the guide's None where auxiliary draws make it.

    Two runs on other draws tell whether they depend on other latents.
    """
    given = {} if index is None else {str(shape.unit_plate): index}
    runs = []
    for _ in range(2):
        with pair.scope(), Given(given):
            guide = poutine.trace(pair.guide).get_trace(*data)
            model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(*data)
        runs.append((guide, model))
    guides, priors = {}, {}
    auxiliary = any(site["infer"].get("is_auxiliary") for site in _samples(runs[0][0]))
    for name in shape.latents:
        first, second = (model.nodes[name]["fn"] for _, model in runs)
        if not _same(first, second):
            raise InputError(
                f"the prior of {name} depends on other latents; collapse is asked of latents that are "
                "independent in the prior"
            )
        priors[name] = first
        own, other = (guide.nodes[name]["fn"] for guide, _ in runs)
        if not auxiliary and isinstance(_base(own), Delta):
            raise InputError(f"the guide gives {name} one point and no distribution: it has no KL")
        # Depending on earlier draws, a conditional's moments are not those of q(z | x).
        guides[name] = None if auxiliary or not _same(own, other) else own
    return guides, priors


def _samples(trace: poutine.Trace) -> list[dict[str, Any]]:
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


def _base(fn: Any) -> Any:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def _same(one: Any, two: Any) -> bool:
    """Whether two distributions give the same density to the same points, up to the rounding of inverses."""
    point = one.sample()
    return torch.allclose(one.log_prob(point), two.log_prob(point), rtol=1e-4, atol=1e-4)


def _normal(fn: Any) -> bool:
    return fn is not None and (
        isinstance(fn, MultivariateNormal) or isinstance(_base(fn), Normal | torch.distributions.Normal)
    )


def _all_normal(priors: Mapping[str, Any]) -> bool:
    return all(_normal(fn) for fn in priors.values())


def _flat(value: Tensor, shape: Layout, name: str) -> Tensor:
    """A site's values as (units, dimensions): inner plates and event dimensions are dimensions."""
    moved = value.movedim(shape.dims[str(shape.unit_plate)] - shape.event_dims[name], 0)
    return moved.reshape(len(moved), -1).double()


def _moments_of(fns: Mapping[str, Any], shape: Layout) -> tuple[Tensor, Tensor]:
    means, variances = [], []
    for name, fn in fns.items():
        full = fn.shape()
        means.append(_flat(fn.mean.expand(full), shape, name))
        variances.append(_flat(fn.variance.expand(full), shape, name))
    return torch.cat(means, 1), torch.cat(variances, 1)


def _prior_moments(priors: Mapping[str, Any], shape: Layout) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the prior, shape (units, dimensions)."""
    try:
        mean, variance = _moments_of(priors, shape)
    except NotImplementedError as error:
        raise InputError(f"the prior's mean and variance are not known: {error}") from error
    if not bool((variance > 0).all() and mean.isfinite().all() and variance.isfinite().all()):
        raise InputError("the prior of the latents has no finite mean and variance to compare with")
    return mean, variance.sqrt()


def _by_formula(guides: Mapping[str, Any], centre: Tensor, scale: Tensor, shape: Layout) -> _Moments:
    mean, variance = _moments_of(guides, shape)
    return _Moments((mean - centre) / scale, variance / scale.square(), None)


def _by_draws(
    pair: Pair,
    data: tuple[Any, ...],
    shape: Layout,
    index: Tensor | None,
    centre: Tensor,
    scale: Tensor,
    num_draws: int,
) -> _Moments:
    means, variances = [], []
    for chunk in unit_chunks(shape, num_draws, index):
        drawn = terms(pair, *data, layout=shape, num_particles=num_draws, index=chunk).draws
        flat = []
        for name in shape.latents:
            axis = 1 + shape.latents[name].index(str(shape.unit_plate))
            z = drawn[name].double().movedim(axis, 1)
            flat.append(z.reshape(*z.shape[:2], -1))
        z = torch.cat(flat, 2)
        means.append(z.mean(0))
        variances.append(z.var(0))
    mean, variance = torch.cat(means), torch.cat(variances)
    return _Moments((mean - centre) / scale, variance / scale.square(), num_draws)


def _table(moments: _Moments, components: list[str], *, normal: bool) -> pd.DataFrame:
    """KL of Normals to N(0, 1) in the prior's scale, without the bias that draws bring."""
    mean, variance = moments.mean, moments.variance.clamp(min=1e-300)
    kl = 0.5 * (variance + mean.square() - 1 - variance.log())
    spread, error = mean.var(0, unbiased=False), torch.zeros(mean.shape[1])
    if (draws := moments.num_draws) is not None:
        # E m² exceeds μ² by σ²/S, and E ln s² is below ln σ² by 1/(S−1) about.
        kl = kl - 0.5 * (variance / draws + 1 / (draws - 1))
        spread = (spread - variance.mean(0) / draws).clamp(min=0)
        single = mean.square() * variance / draws + 0.5 * (variance - 1).square() / draws + draws**-2
        error = single.mean(0).sqrt() / len(mean) ** 0.5
    if not normal:
        kl, error = torch.full_like(kl, torch.nan), torch.full_like(error, torch.nan)
    return pd.DataFrame(
        {
            "component": components,
            "kl": kl.mean(0).cpu().numpy(),
            "kl_std_error": error.cpu().numpy(),
            "variance_of_means": spread.cpu().numpy(),
            "mean_variance": moments.variance.mean(0).cpu().numpy(),
            "active": (spread > ACTIVE).cpu().numpy(),
        }
    )


def _joint_kl(guides: Mapping[str, Any], priors: Mapping[str, Any], shape: Layout) -> float:
    total = 0.0
    for name, fn in guides.items():
        kl = None if fn is None else analytic_kl(fn, priors[name])
        if kl is None:
            return float("nan")
        # All but the units' plate are summed over.
        units = fn.shape()[shape.dims[str(shape.unit_plate)] - shape.event_dims[name]]
        total += float(kl.double().expand(fn.batch_shape).sum()) / units
    return total


def _mutual_information(guides: Mapping[str, Any], num_units: int) -> tuple[float, float]:
    """E_n E_q(z|x_n)[log q(z | x_n) − log 1/N Σ_m q(z | x_m)] and its standard error.

    The aggregated posterior is that of the N data themselves: no value can exceed log N.
    """
    if any(fn is None or len(fn.batch_shape) != 1 for fn in guides.values()) or num_units < 2:
        return float("nan"), float("nan")
    number = min(NUM_MUTUAL, num_units)
    chosen = torch.randperm(num_units)[:number]
    draws = {name: fn.sample() for name, fn in guides.items()}
    size = max(z[0].numel() for z in draws.values())
    values = []
    for part in chosen.split(max(1, BLOCK // (num_units * size))):
        check_time()
        log_q = torch.zeros(len(part), num_units, dtype=torch.float64)
        for name, fn in guides.items():
            log_q = log_q + fn.log_prob(draws[name][part].unsqueeze(1)).double().cpu()
        own = log_q[torch.arange(len(part)), part]
        values.append(own - log_q.logsumexp(1) + float(np.log(num_units)))
    found = torch.cat(values)
    return float(found.mean()), float(found.std()) / number**0.5


def _components(pair: Pair, shape: Layout, moments: _Moments) -> list[str]:
    """Names like ``z[1]``, with the model's own labels where they fit."""
    size = moments.mean.shape[1]
    if len(shape.latents) > 1:
        return [f"{' + '.join(shape.latents)}[{k + 1}]" for k in range(size)]
    (name,) = shape.latents
    labels: list[Any] = list(range(1, size + 1))
    if isinstance(pair.model, Labelled):
        own = [list(pair.model.coords().get(dim, ())) for dim in pair.model.event_dims().get(name, ())]
        labels = own[0] if len(own) == 1 and len(own[0]) == size else labels
    return [f"{name}[{label}]" for label in labels]


def _notes(guides: Mapping[str, Any], priors: Mapping[str, Any], moments: _Moments) -> tuple[str, ...]:
    notes = []
    if any(isinstance(fn, MultivariateNormal) for fn in guides.values()):
        notes.append(
            "the guide's covariance is full: the KL of each dimension is that of its marginal, and their sum "
            "is below the KL of the whole vector"
        )
    if moments.num_draws is not None:
        notes.append(
            f"means and variances come from {moments.num_draws} draws a unit, and each KL is that of Normals "
            "with these moments: a lower bound"
        )
    if not _all_normal(priors):
        notes.append("the prior is not Normal: there is no formula for the KL of a dimension")
    notes.append(f"no mutual information above log N = {np.log(len(moments.mean)):.2f} nats can be seen")
    return tuple(notes)
