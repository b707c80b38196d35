"""Data replicated from a model: x_rep ~ p(x | z) for draws z of a posterior."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import Unit
from torch import Tensor

from ppl_vae.answers.posterior import Posterior
from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.base.seeds import keep_generator
from ppl_vae.diagnostics.prediction.statistics import Kind, distribution_kind
from ppl_vae.program.abilities import HasStatistics, OwnStatistics
from ppl_vae.program.layout import (
    Layout,
    Substitute,
    canonical_value,
    particle_plate,
    redrawn,
    site_value,
)
from ppl_vae.program.problem import Problem

__all__ = ["Observed", "observed_sites", "replicate", "thinned"]

# Numbers in a chunk of replicates: statistics need several float64 copies of it.
CHUNK = 2**20


@dataclass(frozen=True, eq=False)
class Observed:
    """An observed site as a table, and how its replicates are put into the same form.

    Attributes:
        name: the site's.
        kind: of data.
        values: what was observed, shape (rows, features), float64. Missing values stand at the mean of those
            of their feature that are there.
        event_dim: of the site.
        missing: which values are, shape (rows, features); None where none is.
        own: what the model wants looked at; None for what its kind of data is looked at for.
    """

    name: str
    kind: Kind
    values: Tensor
    event_dim: int = 0
    missing: Tensor | None = None
    own: OwnStatistics | None = None

    def like_observed(self, values: Tensor) -> Tensor:
        """Replicates, shape (draws, rows, features), with what is missing in the data missing as there."""
        return values if self.missing is None else _at_means(values.masked_fill(self.missing, torch.nan))


def observed_sites(problem: Problem) -> tuple[list[Observed], list[str]]:
    """The observed sites that can be replicated, and sentences about the others.

    A site whose observed value is a constant written into the model is no data.
    """
    data, trace = problem.data, _trace(problem)
    with keep_generator():
        other = _trace(problem)
    found, notes = [], []
    for name in problem.layout.observed:
        site = trace.nodes[name]
        fn = site["fn"]
        if isinstance(fn, Unit) or isinstance(getattr(fn, "base_dist", None), Unit):
            notes.append(f"{name} is a factor and not data: it cannot be replicated")
            continue
        value = _leading(site["value"], problem.layout)
        given = torch.as_tensor(site["infer"]["obs"])
        if not _same(given, torch.as_tensor(other.nodes[name]["infer"]["obs"])):
            notes.append(f"the values observed at {name} depend on the latents: they cannot be replicated")
            continue
        if not _fits(given.shape, value.shape[1:]):
            notes.append(
                f"{name} has values of shape {tuple(given.shape)} from a distribution that draws "
                f"{tuple(value.shape[1:])}: they cannot be replicated"
            )
            continue
        values = as_rows(given.expand(value.shape[1:])[None].double(), fn.event_dim)
        missing = values[0].isnan() if values.isnan().any() else None
        values = values[0] if missing is None else _at_means(values)[0]
        site_found = Observed(name, distribution_kind(fn), values, fn.event_dim, missing=missing)
        constant = site_found.kind == "binary" and values.shape[1] == 1 and len(values.unique()) == 1
        if constant and not _is_data(values[:, 0], data, problem.index):
            notes.append(
                f"the values observed at {name} are all {values[0, 0]:g}, written into the model: what they "
                "would be in other data is not known; observe an argument of the program"
            )
            continue
        if isinstance(problem.pair.model, HasStatistics):
            own = problem.pair.model.statistics(name, *data)
            site_found = site_found if own is None else replace(site_found, kind="own", own=own)
        found.append(site_found)
    return found, notes


def replicate(
    problem: Problem,
    sites: Sequence[Observed],
    num_draws: int,
    latents: Mapping[str, Tensor] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Replicates of each site in chunks of draws, each of shape (draws, rows, features), float64.

    Args:
        problem: what is not random in its data is kept.
        sites: from `observed_sites`.
        num_draws: number of draws.
        latents: z by site, shape (num_draws, *plates, *event); draws of the guide by default.
    """
    sizes = [site.values.numel() // len(site.values) for site in sites]
    layout, done = problem.layout, 0
    wide = replace(layout, event_size=max(layout.event_size, *sizes))
    for size in replace(problem, layout=wide).blocks(num_draws, CHUNK):
        part = None if latents is None else {name: z[done : done + size] for name, z in latents.items()}
        done += size
        trace = _trace(problem, size, part)
        values = {site.name: _leading(trace.nodes[site.name]["value"], layout) for site in sites}
        rows = {site.name: as_rows(values[site.name].double(), site.event_dim) for site in sites}
        yield {site.name: site.like_observed(rows[site.name]) for site in sites}


def thinned(posterior: Posterior, problem: Problem, num_draws: int) -> tuple[dict[str, Tensor], int]:
    """Evenly spaced draws of every latent, chain after chain, and the number of chains.

    Raises:
        InputError: if the posterior is of other latents or of other units.
    """
    layout, index = problem.layout, problem.index
    if missing := sorted(layout.latents.keys() - set(map(str, posterior.draws.data_vars))):
        raise InputError(f"the posterior has no draws of {', '.join(missing)}")
    per_chain = min(posterior.draws.sizes["draw"], -(-num_draws // posterior.num_chains))
    places = np.linspace(0, posterior.draws.sizes["draw"] - 1, per_chain).round().astype(int)
    trace = _trace(problem)
    found = {}
    for name in layout.latents:
        draws = posterior.draws[name].transpose("chain", "draw", ...).to_numpy()[:, places]
        own = canonical_value(name, trace.nodes[name], layout)
        plates = layout.latents[name]
        if index is not None and layout.unit_plate in plates:
            axis = 2 + plates.index(layout.unit_plate)
            if draws.shape[axis] == layout.num_units:
                draws = draws.take(index.cpu().numpy(), axis)
        if draws.shape[2:] != own.shape[1:]:
            raise InputError(
                f"the posterior's draws of {name} have shape {draws.shape[2:]}; the model's latent has "
                f"{tuple(own.shape[1:])}"
            )
        found[name] = torch.as_tensor(draws.reshape(-1, *draws.shape[2:])).to(own)
    return found, posterior.num_chains


def as_rows(values: Tensor, event_dim: int) -> Tensor:
    """Values of shape (sets, *plates, *event) as (sets, rows, features), the outermost plate as rows."""
    end = values.dim() - event_dim
    plates = [size for size in values.shape[1:end] if size != 1]
    rows = plates[0] if plates else 1
    table = values.reshape(len(values), rows, -1)
    # One row of many features is a sample of one feature.
    return table.mT if rows == 1 else table


def _at_means(values: Tensor) -> Tensor:
    """NaN replaced by the mean of the other values of the same set and feature: (sets, rows, features)."""
    return torch.where(values.isnan(), values.nanmean(1, keepdim=True).nan_to_num(0.0), values)


def _fits(given: torch.Size, drawn: torch.Size) -> bool:
    """Whether values can be spread over a shape."""
    return len(given) <= len(drawn) and all(
        one in (1, other) for one, other in zip(reversed(given), reversed(drawn), strict=False)
    )


def _same(one: Tensor, two: Tensor) -> bool:
    """Whether values are equal; those that are missing are."""
    return one.shape == two.shape and torch.allclose(one.double(), two.double(), 0.0, 0.0, equal_nan=True)


def _trace(problem: Problem, size: int = 1, latents: Mapping[str, Tensor] | None = None) -> poutine.Trace:
    """The model with its observed sites drawn anew, on given latents or on draws of the guide."""
    check_time()
    pair, data, layout = problem.pair, problem.data, problem.layout
    given = problem.chosen
    model = redrawn(pair.model)
    with pair.scope():
        if latents is None:
            with Substitute(given), particle_plate(layout, size):
                guide_trace = poutine.trace(pair.guide).get_trace(*data)
            model = poutine.replay(model, trace=guide_trace)
        else:
            given |= {name: site_value(name, value, layout) for name, value in latents.items()}
        try:
            with Substitute(given), particle_plate(layout, size):
                return poutine.trace(model).get_trace(*data)
        except NotImplementedError as error:
            raise InputError(f"an observed site's distribution cannot be sampled: {error}") from error


def _leading(value: Tensor, layout: Layout) -> Tensor:
    """With a first dimension of draws."""
    return value if layout.vectorized else value[None]


def _is_data(values: Tensor, data: Sequence[Any], index: Tensor | None) -> bool:
    """Whether a column of the data arguments holds these values."""
    for argument in data:
        if isinstance(argument, Tensor) and argument.dim():
            chosen = argument if index is None or len(argument) == len(values) else argument[index]
            columns = chosen.double().reshape(len(chosen), -1)
            if len(columns) == len(values) and (columns == values[:, None]).all(0).any():
                return True
    return False
