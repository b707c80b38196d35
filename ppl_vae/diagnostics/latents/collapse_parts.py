"""What a guide's and a prior's distributions say about each dimension of a datum's latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import Delta, Independent, MultivariateNormal, Normal
from torch import Tensor

from ppl_vae.base.clock import check_time
from ppl_vae.base.errors import InputError
from ppl_vae.guides.per_datum import PerDatum
from ppl_vae.inference.evidence.elbo import analytic_kl
from ppl_vae.program.abilities import Labelled
from ppl_vae.program.layout import (
    Layout,
    Substitute,
    local_matrix,
)
from ppl_vae.program.pair import Pair
from ppl_vae.program.problem import Problem

__all__ = [
    "LatentCase",
    "Moments",
    "Programs",
    "base",
    "checked",
    "component_names",
    "elementwise_kl",
    "formula_kls",
    "independent_moments",
    "is_normal",
    "mutual_information",
    "read_programs",
    "site_kls",
]

# Draws of z behind the mutual information, and numbers in one block of its log densities.
NUM_MUTUAL, BLOCK = 500, 2**22


@dataclass(frozen=True, eq=False)
class LatentCase:
    """A pair, its data, and which of its latents are looked at.

    Attributes:
        problem: the pair with the units to look at.
        names: the sites, all local and continuous.
        num_draws: draws a unit where there is no formula.
    """

    problem: Problem
    names: tuple[str, ...]
    num_draws: int

    @property
    def pair(self) -> Pair:
        """Model and guide."""
        return self.problem.pair

    @property
    def layout(self) -> Layout:
        """What they look like on the data."""
        return self.problem.layout

    def flat(self, value: Tensor, name: str) -> Tensor:
        """A site's values as (data, dimensions): inner plates and event dimensions are dimensions."""
        layout = self.layout
        moved = value.movedim(layout.dims[str(layout.local_plate)] - layout.event_dims[name], 0)
        return moved.reshape(len(moved), -1).double()


@dataclass(frozen=True, eq=False)
class Programs:
    """The distributions of the sites in one run of both programs.

    Attributes:
        guides: by site; None where auxiliary draws make it, or where it depends on earlier draws.
        priors: by site.
        dependent: sites whose prior depends on other latents.
    """

    guides: Mapping[str, Any]
    priors: Mapping[str, Any]
    dependent: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Moments:
    """Of every dimension, in the prior's own scale: (data, dimensions), and the draws behind them."""

    mean: Tensor
    variance: Tensor
    num_draws: int | None


def read_programs(case: LatentCase) -> Programs:
    """Guide's and prior's distribution of every site; two runs on other draws tell what depends on draws.

    Raises:
        InputError: if the guide gives points.
    """
    pair, data = case.pair, case.problem.data
    runs = []
    for _ in range(2):
        with pair.scope(), Substitute(case.problem.chosen):
            guide = poutine.trace(pair.guide).get_trace(*data)
            model = poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(*data)
        runs.append((guide, model))
    guides, priors, dependent = {}, {}, []
    samples = [site for site in runs[0][0].nodes.values() if site["type"] == "sample"]
    auxiliary = any(site["infer"].get("is_auxiliary") for site in samples)
    for name in case.names:
        first, second = (model.nodes[name]["fn"] for _, model in runs)
        if not _same(first, second):
            dependent.append(name)
        priors[name] = first
        own, other = (guide.nodes[name]["fn"] for guide, _ in runs)
        if not auxiliary and isinstance(base(own), Delta):
            raise InputError(f"the guide gives {name} one point and no distribution: it has no KL")
        # Depending on earlier draws, a conditional's moments are not those of q(z | x).
        guides[name] = None if auxiliary or not _same(own, other) else own
    return Programs(guides, priors, tuple(dependent))


def base(fn: Any) -> Any:
    """A distribution without the dimensions that were made its event's."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def is_normal(fn: Any) -> bool:
    """Whether a distribution is Normal, in one dimension or more."""
    return fn is not None and (
        isinstance(fn, MultivariateNormal) or isinstance(base(fn), Normal | torch.distributions.Normal)
    )


def _same(one: Any, two: Any) -> bool:
    """Whether two distributions give the same density to the same points, up to the rounding of inverses."""
    point = one.sample()
    return torch.allclose(one.log_prob(point), two.log_prob(point), rtol=1e-4, atol=1e-4)


# Priors that are independent of each other -------------------------------------------------------------


def _moments_of(fns: Mapping[str, Any], case: LatentCase) -> tuple[Tensor, Tensor]:
    means, variances = [], []
    for name, fn in fns.items():
        full = fn.shape()
        means.append(case.flat(fn.mean.expand(full), name))
        variances.append(case.flat(fn.variance.expand(full), name))
    return torch.cat(means, 1), torch.cat(variances, 1)


def checked(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """A prior's means and standard deviations.

    Raises:
        InputError: if they are not finite.
    """
    if not bool((variance > 0).all() and mean.isfinite().all() and variance.isfinite().all()):
        raise InputError("the prior of the latents has no finite mean and variance to compare with")
    return mean, variance.sqrt()


def independent_moments(case: LatentCase, found: Programs) -> Moments:
    """Means and variances of every dimension where no prior depends on other latents.

    Raises:
        InputError: if the prior has no finite mean and variance.
    """
    try:
        centre, scale = checked(*_moments_of(found.priors, case))
    except NotImplementedError as error:
        raise InputError(f"the prior's mean and variance are not known: {error}") from error
    if all(is_normal(fn) for fn in found.guides.values()):
        mean, variance = _moments_of(found.guides, case)
        return Moments((mean - centre) / scale, variance / scale.square(), None)
    means, variances = [], []
    for chunk in case.problem.chunks(case.num_draws):
        drawn = chunk.terms(case.num_draws).draws
        z = local_matrix({name: drawn[name].double() for name in case.names}, case.layout, case.names)
        means.append(z.mean(0))
        variances.append(z.var(0))
    mean, variance = torch.cat(means), torch.cat(variances)
    return Moments((mean - centre) / scale, variance / scale.square(), case.num_draws)


def formula_kls(case: LatentCase, found: Programs) -> Tensor | None:
    """KL of every dimension where guide and prior have one by formula but are not Normal; (dimensions,)."""
    parts = []
    for name in case.names:
        own, prior = found.guides[name], found.priors[name]
        kl = None if own is None else elementwise_kl(own, prior)
        if kl is None:
            return None
        parts.append(case.flat(kl.expand(own.shape()), name).mean(0))
    return torch.cat(parts)


def site_kls(case: LatentCase, found: Programs) -> dict[str, float]:
    """Mean KL of a datum's values of each site by formula; NaN without one."""
    totals = {}
    for name, fn in found.guides.items():
        kl = None if fn is None else analytic_kl(fn, found.priors[name])
        totals[name] = float("nan")
        if kl is not None:
            # All but the units' plate are summed over.
            total = float(kl.double().expand(fn.batch_shape).sum())
            totals[name] = total / _data_size(case, name, fn)
    return totals


def elementwise_kl(own: Any, prior: Any) -> Tensor | None:
    """KL of each dimension's marginals, of the shape of a value; None where no formula is known."""
    if is_normal(own) and is_normal(prior):
        ratio = own.variance / prior.variance
        return 0.5 * (ratio + (own.mean - prior.mean).square() / prior.variance - 1 - ratio.log())
    own, prior = base(own), base(prior)
    if own.event_shape or prior.event_shape:
        return None
    return analytic_kl(own, prior)


# The rest ------------------------------------------------------------------------------------------------


def mutual_information(case: LatentCase, guides: Mapping[str, Any], num_units: int) -> tuple[float, float]:
    """E_n E_q(z|x_n)[log q(z | x_n) − log 1/N Σ_m q(z | x_m)] and its standard error.

    The aggregated posterior is that of the N data themselves: no value can exceed log N. It is the same of
    unconstrained vectors, whose density a guide with parameters for every datum knows.
    """
    guide = case.pair.guide
    if isinstance(guide, PerDatum) and not guide.vector.direct:
        guides = {"": guide.at(case.problem.units)}
    elif any(fn is None or len(fn.batch_shape) != _depth(case) for fn in guides.values()):
        return float("nan"), float("nan")
    if num_units < 2:
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
            each = fn.log_prob(draws[name][part].unsqueeze(1)).double().cpu()
            log_q = log_q + each.reshape(len(part), num_units, -1).sum(-1)
        own = log_q[torch.arange(len(part)), part]
        values.append(own - log_q.logsumexp(1) + float(np.log(num_units)))
    found = torch.cat(values)
    return float(found.mean()), float(found.std()) / number**0.5


def _depth(case: LatentCase) -> int:
    """Batch dimensions from that of the data on."""
    return -case.layout.dims[str(case.layout.local_plate)]


def component_names(case: LatentCase, found: Programs, size: int) -> tuple[list[str], list[str]]:
    """Names like ``z[1]`` or ``z[2, 1]``, with the model's own labels where they fit, and the sites'."""
    names, sites = [], []
    for name in case.names:
        fn = found.priors[name]
        width = fn.shape().numel() // _data_size(case, name, fn)
        labels = _labels(case, name, width, fn)
        names += [name] if width == 1 and size > 1 else [f"{name}[{label}]" for label in labels]
        sites += [name] * width
    return names, sites


def _data_size(case: LatentCase, name: str, fn: Any) -> int:
    """How many data a distribution is of."""
    return int(fn.shape()[case.layout.dims[str(case.layout.local_plate)] - case.layout.event_dims[name]])


def _labels(case: LatentCase, name: str, size: int, fn: Any) -> list[str]:
    model = case.pair.model
    if isinstance(model, Labelled):
        own = [list(model.coords().get(dim, ())) for dim in model.event_dims().get(name, ())]
        if len(own) == 1 and len(own[0]) == size:
            return [str(label) for label in own[0]]
    event = fn.event_shape.numel()
    if event in (1, size):
        return [str(k + 1) for k in range(size)]
    return [f"{j + 1}, {k + 1}" for j in range(size // event) for k in range(event)]
