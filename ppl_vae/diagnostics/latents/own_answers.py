"""What a pair's own guide answers for some units, as Gaussians over their vectors of latents."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.distributions import Independent, LogNormal, MultivariateNormal, Normal
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppl_vae.guides.local import LocalSite, LocalVector
from ppl_vae.guides.normal import COVARIANCES, VARIANCE_FLOOR
from ppl_vae.guides.per_datum import PerDatum, PerDatumNormal
from ppl_vae.program.layout import site_value
from ppl_vae.program.problem import Problem

__all__ = ["OwnAnswer", "own_answer"]

# Draws a unit that stand for a guide that is no Gaussian.
DRAWS = 500


@dataclass(frozen=True, eq=False)
class OwnAnswer:
    """N(μ_n, L_n L_nᵀ) over the unconstrained vectors of some units.

    Attributes:
        loc: μ, shape (units, q).
        scale_tril: L, shape (units, q, q).
        family: "diagonal" or "full"; "other" where the guide is no such Gaussian: μ and a diagonal L are then
            the moments of its draws.
        floor: the guide's lower bound on its variances.
        vector: the latents of a unit, one after another.
    """

    loc: Tensor
    scale_tril: Tensor
    family: str
    floor: float
    vector: LocalVector

    @torch.no_grad()
    def as_per_datum(self, family: str) -> PerDatumNormal:
        """The same Gaussians as free parameters; as "diagonal", their best mean-field approximation.

        That one has the same means and the inverse diagonal of the precision as its variances (Bishop
        2006, section 10.1.2).
        """
        units, q = self.loc.shape
        guide = PerDatumNormal(
            units, q, covariance=family, floor=self.floor, dtype=self.loc.dtype,
            vector=replace(self.vector, num_units=units),
        ).to(self.loc.device)  # fmt: skip
        scale = self.scale_tril.double()
        if family == "diagonal" and self.family == "full":
            precision = torch.cholesky_inverse(scale)
            scale = torch.diag_embed(precision.diagonal(dim1=-2, dim2=-1).rsqrt())
        variances = scale.diagonal(dim1=-2, dim2=-1).square()
        parts = [self.loc, _softplus_inverse(variances - self.floor)]
        if family == "full":
            rows, columns = torch.tril_indices(q, q, offset=-1, device=scale.device)
            parts.append(scale[:, rows, columns])
        guide.raw.copy_(torch.cat([part.to(self.loc.dtype) for part in parts], dim=1))
        return guide


@torch.no_grad()
def own_answer(problem: Problem) -> OwnAnswer:
    """Read off what a pair's own guide answers for its units.

    Raises:
        InputError: if the model's latents are not a vector of real numbers for every unit.
    """
    pair = problem.pair
    with pair.scope():
        vector = LocalVector.of(pair.model, *problem.data, without=problem.layout.summed)
    found = _gaussian(problem, vector)
    loc, scale_tril, family = found or (*_moments(problem, vector), "other")
    smallest = float(scale_tril.diagonal(dim1=-2, dim2=-1).min()) ** 2
    floor = float(getattr(pair.guide, "floor", min(VARIANCE_FLOOR, 0.5 * smallest)))
    return OwnAnswer(loc, scale_tril, family, floor, vector)


def _gaussian(problem: Problem, vector: LocalVector) -> tuple[Tensor, Tensor, str] | None:
    """Means, Cholesky factors and family of a guide whose vectors are Gaussian; None for any other.

    Two runs on other draws tell whether a site's distribution depends on another's draw.
    """
    guide = problem.pair.guide
    auto = isinstance(guide, AutoNormal)
    family = "diagonal" if auto else getattr(guide, "covariance", None)
    if family not in COVARIANCES:
        return None
    if isinstance(guide, PerDatum):
        fn = guide.at(problem.units, *problem.data)
        (site,) = LocalVector.one("", vector.size, "", problem.layout.num_units).sites
        read = _as_gaussian(fn, site, 0)
        return None if read is None else (*read, family)
    traces = [_askable(problem).traces()[1] for _ in range(2)]
    parts = []
    for site in vector.sites:
        name = f"{site.name}_unconstrained" if auto else site.name
        one, two = (_as_gaussian(t.nodes[name]["fn"], site, -1 - vector.dim) for t in traces)
        if one is None or two is None or not all(torch.equal(a, b) for a, b in zip(one, two, strict=True)):
            return None
        parts.append(tuple(_chosen(values, problem) for values in one))
    return torch.cat([loc for loc, _ in parts], 1), _blocks([scale for _, scale in parts]), family


def _askable(problem: Problem) -> Problem:
    """The same units, or all of them where the programs cannot be asked for some alone."""
    return problem if problem.layout.can_index else problem.rows(None)


def _chosen(values: Tensor, problem: Problem) -> Tensor:
    """Of what `_askable` gave, that of the units meant."""
    return values if problem.index is None or problem.layout.can_index else values[problem.index]


def _as_gaussian(fn: Any, site: LocalSite, right: int) -> tuple[Tensor, Tensor] | None:
    """A site's Gaussian as (units, d) and (units, d, d), the entries of inner plates with their unit.

    Args:
        fn: the guide's distribution of it.
        site: what it is of.
        right: batch dimensions right of the units'.
    """
    base = fn
    while isinstance(base, Independent):
        base = base.base_dist
    if isinstance(base, LogNormal) and not _is_positive(site):
        return None
    if not isinstance(base, LogNormal | MultivariateNormal | Normal):
        return None
    whole = fn.shape()
    units = whole[len(whole) - len(fn.event_shape) - right - 1]
    loc = base.loc.expand(whole).reshape(units, -1)
    if not isinstance(base, MultivariateNormal):
        return loc, torch.diag_embed(base.scale.expand(whole).reshape(units, -1))
    size = whole[-1]
    factors = base.scale_tril.expand(*whole, size).reshape(units, -1, size, size)
    return loc, _blocks(list(factors.unbind(1)))


def _is_positive(site: LocalSite) -> bool:
    """Whether a site's unconstrained value is its logarithm."""
    support = site.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return bool(getattr(support, "lower_bound", None) == 0 and not hasattr(support, "upper_bound"))


def _blocks(parts: list[Tensor]) -> Tensor:
    """Block-diagonal matrices, shape (units, Σ d, Σ d)."""
    if len(parts) == 1:
        return parts[0]
    sizes = [part.shape[-1] for part in parts]
    found = parts[0].new_zeros(len(parts[0]), sum(sizes), sum(sizes))
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        found[:, start : start + size, start : start + size] = part
        start += size
    return found


def _moments(problem: Problem, vector: LocalVector) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of any guide's draws, unconstrained; the latter as diagonal matrices."""
    means, scales = [], []
    layout = replace(problem.layout, vectorized=True)
    for chunk in _askable(problem).chunks(DRAWS):
        draws = chunk.terms(DRAWS).draws
        placed = {name: site_value(name, draws[name], layout) for name in draws}
        free = vector.vector(placed).flatten(1, -2)
        means.append(free.mean(0))
        scales.append(free.std(0).clamp_min(VARIANCE_FLOOR))
    loc, scale = (_chosen(torch.cat(parts), problem) for parts in (means, scales))
    return loc, torch.diag_embed(scale)


def _softplus_inverse(values: Tensor) -> Tensor:
    values = values.clamp_min(torch.finfo(values.dtype).tiny)
    return values + (-(-values).expm1()).log()
