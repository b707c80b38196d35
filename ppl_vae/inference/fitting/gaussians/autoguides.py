"""Pyro's Gaussian AutoGuides as Gaussians over a density's vector, read and written in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor
from torch.distributions import transform_to

from ppl_vae.base.errors import InputError
from ppl_vae.engine.density import Density
from ppl_vae.inference.fitting.gaussians.gaussian import Block, Family, Gaussian

__all__ = ["GaussianGuide", "family_of", "is_gaussian", "read_gaussian", "write_gaussian"]

_KINDS = (AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal)
_NAMES = ", ".join(kind.__name__ for kind in _KINDS)


def is_gaussian(guide: Any) -> bool:
    """Whether a guide is one of Pyro's that are normal in unconstrained space, or a list of them."""
    if isinstance(guide, AutoGuideList):
        return len(guide) > 0 and all(is_gaussian(part) for part in guide)
    return type(guide) in _KINDS


def family_of(guide: Any) -> Family:
    """The family of a Gaussian guide that has run once, its coordinates in the guide's own order."""
    parts = list(guide) if isinstance(guide, AutoGuideList) else [guide]
    blocks: list[Block] = []
    for part in parts:
        if isinstance(part, AutoGuideList):
            blocks += family_of(part).blocks
        else:
            blocks.append(_block(part, torch.arange(len(_reader(part)(part)[0]))))
    return Family(tuple(blocks))


@dataclass(frozen=True, eq=False)
class GaussianGuide:
    """An AutoGuide's parameters as a `Gaussian` over a density's vector.

    Attributes:
        parts: of the guide, each with the columns of the vector that its own coordinates are.
        family: their blocks.
    """

    parts: tuple[tuple[Any, Tensor], ...]
    family: Family

    @classmethod
    def of(cls, guide: Any, density: Density) -> GaussianGuide:
        """Of a guide that has run once.

        Raises:
            InputError: if the guide is another, or its sites are not the density's.
        """
        if not is_gaussian(guide):
            raise InputError(
                f"Gaussian methods need a guide that is normal in unconstrained space: Pyro's {_NAMES}, or "
                f"an AutoGuideList of them; this pair's is {type(guide).__name__}, which svi.fit takes"
            )
        if density.moving:
            raise InputError(
                "the support of a latent site depends on other latents, so that the guide and the density do "
                "not share their unconstrained space; svi.fit takes such a model"
            )
        columns = _columns(density)
        parts = tuple(_parts(guide, columns))
        held = torch.cat([own for _, own in parts]) if parts else torch.zeros(0, dtype=torch.long)
        if not torch.equal(held.sort().values, torch.arange(density.dim)):
            raise InputError("the guide's sites are not the model's continuous latents, each once")
        return cls(parts, Family(tuple(_block(part, own) for part, own in parts)))

    @torch.no_grad()
    def read(self) -> Gaussian:
        """The guide as it stands, in float64."""
        dim = self.family.dim
        loc, roots = torch.zeros(dim, dtype=torch.float64), []
        for part, columns in self.parts:
            own, root = _reader(part)(part)
            loc[columns] = own.detach().double().cpu()
            roots.append(root.detach().double().cpu())
        return Gaussian(self.family, loc, tuple(roots))

    @torch.no_grad()
    def write(self, found: Gaussian) -> None:
        """Set the guide's parameters in place, in their own precision."""
        for (part, columns), root in zip(self.parts, found.roots, strict=True):
            _writer(part)(part, found.loc[columns], root)


def _columns(density: Density) -> dict[str, Tensor]:
    """The columns of each site."""
    sizes = [density.shapes[name].numel() for name in density.names]
    return dict(zip(density.names, torch.arange(density.dim).split(sizes), strict=True))


def _parts(guide: Any, columns: dict[str, Tensor]) -> Iterator[tuple[Any, Tensor]]:
    if isinstance(guide, AutoGuideList):
        for part in guide:
            yield from _parts(part, columns)
        return
    names = [name for name, _ in guide.prototype_trace.iter_stochastic_nodes()]
    if not columns.keys() >= set(names):
        raise InputError("the guide's sites are not the model's continuous latents, each once")
    yield guide, torch.cat([columns[name] for name in names])


def _block(part: Any, columns: Tensor) -> Block:
    if isinstance(part, AutoMultivariateNormal):
        return Block(columns, "dense")
    if isinstance(part, AutoLowRankMultivariateNormal):
        return Block(columns, "low-rank", part.cov_factor.shape[1])
    return Block(columns, "diagonal")


# Reading and writing each guide's parameters -----------------------------------------------------------


def _read_sites(part: Any) -> tuple[Tensor, Tensor]:
    leaves = [attrgetter(name) for name, _ in part.prototype_trace.iter_stochastic_nodes()]
    locs, scales = ([leaf(of).reshape(-1) for leaf in leaves] for of in (part.locs, part.scales))
    return torch.cat(locs), torch.cat(scales)


def _write_sites(part: Any, loc: Tensor, root: Tensor) -> None:
    start = 0
    for name, _ in part.prototype_trace.iter_stochastic_nodes():
        leaf = attrgetter(f"{name}_unconstrained")
        own, scale = leaf(part.locs), leaf(part.scales)
        here = slice(start, start := start + own.numel())
        own.copy_(loc[here].reshape(own.shape))
        _set_scale(part, scale, root[here])


def _read_vector(part: Any) -> tuple[Tensor, Tensor]:
    return part.loc, part.scale


def _write_vector(part: Any, loc: Tensor, root: Tensor) -> None:
    part.loc.copy_(loc)
    _set_scale(part, part.scale_unconstrained, root)


def _read_dense(part: Any) -> tuple[Tensor, Tensor]:
    return part.loc, part.scale.unsqueeze(-1) * part.scale_tril


def _write_dense(part: Any, loc: Tensor, root: Tensor) -> None:
    tril = _cholesky(root)
    scale = tril.diagonal()
    part.loc.copy_(loc)
    _set_scale(part, part.scale_unconstrained, scale)
    unit = transform_to(part.scale_tril_constraint).inv(tril / scale.unsqueeze(1))
    part.scale_tril_unconstrained.copy_(unit)


def _read_low_rank(part: Any) -> tuple[Tensor, Tensor]:
    scale = part.scale.unsqueeze(1)
    return part.loc, torch.cat([scale, part.cov_factor * scale], 1)


def _write_low_rank(part: Any, loc: Tensor, root: Tensor) -> None:
    scale = root[:, 0].abs()
    part.loc.copy_(loc)
    _set_scale(part, part.scale_unconstrained, scale)
    part.cov_factor.copy_(root[:, 1:] / scale.unsqueeze(1))


def _set_scale(part: Any, leaf: Tensor, scale: Tensor) -> None:
    """A positive scale into its unconstrained leaf, of the leaf's shape."""
    value = transform_to(part.scale_constraint).inv(scale.abs().double())
    leaf.copy_(value.reshape(leaf.shape))


def _cholesky(root: Tensor) -> Tensor:
    """The lower-triangular root, its diagonal positive, of the same covariance, by QR."""
    _, upper = torch.linalg.qr(root.T)
    lower = upper.T
    return lower * torch.where(lower.diagonal() < 0, -1.0, 1.0)


_ACCESS: dict[type, tuple[Callable[..., Any], Callable[..., Any]]] = {
    AutoNormal: (_read_sites, _write_sites),
    AutoDiagonalNormal: (_read_vector, _write_vector),
    AutoMultivariateNormal: (_read_dense, _write_dense),
    AutoLowRankMultivariateNormal: (_read_low_rank, _write_low_rank),
}


def read_gaussian(part: Any) -> tuple[Tensor, Tensor]:
    """Mean and root of one AutoGuide, as its `Block` has them."""
    loc, root = _reader(part)(part)
    return loc, root


@torch.no_grad()
def write_gaussian(part: Any, loc: Tensor, root: Tensor) -> None:
    """Set one AutoGuide's parameters in place, in their own precision."""
    _writer(part)(part, loc, root)


def _reader(part: Any) -> Callable[[Any], tuple[Tensor, Tensor]]:
    return _ACCESS[type(part)][0]


def _writer(part: Any) -> Callable[[Any, Tensor, Tensor], None]:
    return _ACCESS[type(part)][1]
