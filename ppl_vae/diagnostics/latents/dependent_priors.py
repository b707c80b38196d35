"""Draws of latents whose priors depend on each other, each compared with its prior given its parents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Delta
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.diagnostics.latents.collapse_parts import (
    LatentCase,
    Moments,
    base,
    checked,
    elementwise_kl,
    is_normal,
)
from ppl_vae.inference.evidence.elbo import analytic_kls
from ppl_vae.program.given_latents import has_log_density
from ppl_vae.program.layout import (
    canonical_value,
    local_matrix,
    log_prob_per_unit,
    log_q_per_unit,
    sample_sites,
    sizes,
)
from ppl_vae.program.problem import Problem

__all__ = ["Drawn", "by_parents", "total_kl"]


@dataclass(frozen=True, eq=False)
class Drawn:
    """What draws of all latents together say, each site measured from its prior given its parents' draws.

    Attributes:
        moments: of (z − E[z | parents]) / sd[z | parents], which the prior makes (0, 1).
        kl, kl_std_error: of every dimension, an expectation over the draws of the parents, and its Monte
            Carlo error; None where the guide's conditional distributions are not known.
        site_kl: by site, the same of all its dimensions together, and the error. Where the guide draws in
            another order than the model (from the data upwards), no site has a KL of its own; its part of the
            whole, E_q[log q(z_s | before) − log p(z_s | parents)], comes from the draws then.
        normal: whether every conditional prior is Normal.
    """

    moments: Moments
    kl: Tensor | None
    kl_std_error: Tensor | None
    site_kl: Mapping[str, tuple[float, float]]
    normal: bool


def by_parents(case: LatentCase) -> Drawn:
    """Draw every latent, and compare each with its prior given its parents.

    Raises:
        InputError: if a prior depends on a latent that is summed out, or has no finite mean and variance.
    """
    chunks = [_chunk(case, chunk) for chunk in case.problem.chunks(case.num_draws)]
    z = torch.cat([chunk.z for chunk in chunks], 1)
    kl = None
    if all(chunk.kl is not None for chunk in chunks):
        kl = torch.cat([chunk.kl for chunk in chunks if chunk.kl is not None], 1)
    site_kl = {}
    # Of the data set as one unit, sites' sums are over all data.
    if case.layout.unit_plate is not None and all(chunk.site_kl for chunk in chunks):
        together = {name: torch.cat([c.site_kl[name] for c in chunks], 1) for name in case.names}
        site_kl = {name: _with_error(values) for name, values in together.items()}
    return Drawn(
        Moments(z.mean(0), z.var(0), case.num_draws),
        None if kl is None else kl.mean((0, 1)),
        None if kl is None else _errors(kl),
        site_kl,
        all(chunk.normal for chunk in chunks),
    )


@dataclass(frozen=True, eq=False)
class _Chunk:
    """z and kl of shape (draws, data, dimensions), site_kl by site of shape (draws, data)."""

    z: Tensor
    kl: Tensor | None
    site_kl: Mapping[str, Tensor]
    normal: bool


def _chunk(case: LatentCase, problem: Problem) -> _Chunk:
    most = case.num_draws if case.layout.vectorized else 1
    parts = [_block(case, problem, block) for block in sizes(case.num_draws, most)]
    kls = [part.kl for part in parts if part.kl is not None]
    by_site = {}
    if all(part.site_kl for part in parts):
        by_site = {name: torch.cat([part.site_kl[name] for part in parts]) for name in case.names}
    return _Chunk(
        torch.cat([part.z for part in parts]),
        torch.cat(kls) if len(kls) == len(parts) else None,
        by_site,
        all(part.normal for part in parts),
    )


def _block(case: LatentCase, problem: Problem, num_draws: int) -> _Chunk:
    model, guide = problem.traces(num_draws)
    conditional = analytic_kls(model, guide, case.layout)
    standard, kls = {}, {}
    for name in case.names:
        site, prior = model.nodes[name], model.nodes[name]["fn"]
        _refuse_summed(case, name, prior, site["value"])
        centre, scale = _prior(prior, site["value"].shape)
        standard[name] = _canonical(case, name, site, (site["value"] - centre) / scale)
        kl = elementwise_kl(guide.nodes[name]["fn"], prior) if conditional else None
        if kl is not None:
            kls[name] = _canonical(case, name, site, kl.expand(site["value"].shape))
    whole = len(kls) == len(case.names)
    site_kl = conditional or _drawn_parts(case, model, guide, num_draws)
    return _Chunk(
        local_matrix(standard, case.layout, case.names),
        local_matrix(kls, case.layout, case.names) if whole else None,
        {name: value.double().expand(num_draws, -1) for name, value in site_kl.items()},
        all(is_normal(model.nodes[name]["fn"]) for name in case.names),
    )


def _drawn_parts(case: LatentCase, model: Trace, guide: Trace, num_draws: int) -> dict[str, Tensor]:
    """log q − log p of every site at its draws, (draws, units); nothing where q has no density by site."""
    drawn = [name for name, site in sample_sites(guide) if not site["is_observed"]]
    points = any(isinstance(base(guide.nodes[name]["fn"]), Delta) for name in drawn)
    if case.layout.summed or case.layout.unit_plate is None or points or {*drawn} != {*case.layout.latents}:
        return {}
    return {
        name: log_prob_per_unit(guide, case.layout, num_draws, (name,))
        - log_prob_per_unit(model, case.layout, num_draws, (name,))
        for name in case.names
    }


def _canonical(case: LatentCase, name: str, site: Any, value: Tensor) -> Tensor:
    return canonical_value(name, {**site, "value": value.double()}, case.layout)


def _prior(fn: Any, shape: torch.Size) -> tuple[Tensor, Tensor]:
    try:
        return checked(fn.mean.expand(shape), fn.variance.expand(shape))
    except NotImplementedError as error:
        raise InputError(f"the prior's mean and variance are not known: {error}") from error


def _refuse_summed(case: LatentCase, name: str, fn: Any, value: Tensor) -> None:
    """Under enumeration a distribution that depends on a summed latent has a dimension for its values."""
    if case.layout.summed and len(fn.shape()) > value.dim():
        raise InputError(
            f"the prior of {name} depends on {', '.join(case.layout.summed)}, which is summed out: its KL "
            "has no parts by site"
        )


def _with_error(values: Tensor) -> tuple[float, float]:
    """Mean over data and draws, and the error of these very data's: shape (draws, data)."""
    return float(values.mean()), float(_errors(values.unsqueeze(-1)))


def _errors(values: Tensor) -> Tensor:
    draws, data = values.shape[:2]
    return (values.var(0).sum(0) / draws).sqrt() / data


def total_kl(case: LatentCase) -> tuple[float, float]:
    """Mean KL of a datum's latents from draws, E[log q(z) − log p(z)], and its Monte Carlo error.

    NaN where the guide's density is not available, or the data set is the one unit.
    """
    if case.layout.unit_plate is None or not has_log_density(case.pair, *case.problem.data):
        return float("nan"), float("nan")
    most = case.num_draws if case.layout.vectorized else 1
    found = []
    for chunk in case.problem.chunks(case.num_draws):
        parts = []
        for block in sizes(case.num_draws, most):
            model, guide = chunk.traces(block)
            prior = log_prob_per_unit(model, case.layout, block, tuple(case.layout.latents))
            parts.append((log_q_per_unit(guide, case.layout, block) - prior).double())
        found.append(torch.cat(parts))
    return _with_error(torch.cat(found, 1))
