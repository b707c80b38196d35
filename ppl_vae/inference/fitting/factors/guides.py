"""Guides of models of linear predictors as members of Gaussian families, read and written in place."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor
from torch.distributions import constraints, transform_to

from ppl_vae.base.errors import InputError
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.guides.joint_normal import MOST_DENSE, JointNormal
from ppl_vae.inference.fitting.factors.expectations import Factors
from ppl_vae.inference.fitting.factors.families import (
    ChainFamily,
    FactorFamily,
    InnovationFamily,
    JointFamily,
)
from ppl_vae.inference.fitting.factors.spreads import DenseSpread, InnovationSpread, Spread
from ppl_vae.inference.fitting.gaussians.autoguides import read_gaussian, write_gaussian
from ppl_vae.program.chain_prior import Innovations
from ppl_vae.program.chains import Chains, Smoother
from ppl_vae.program.pair import Pair

__all__ = ["FactorGuide", "coordinates", "guide_of", "refuse_meetings", "set_positive", "takes"]


class FactorGuide(Protocol):
    """A guide's parameters as a member of a Gaussian family of states."""

    def family(self, factors: Factors) -> FactorFamily:
        """The family.

        Raises:
            InputError: where the guide does not fit the model.
        """
        ...

    def read(self, factors: Factors) -> tuple[Tensor, Tensor | Spread]:
        """The mean, and the sites, or what is around the mean where that is none of sites; in float64."""
        ...

    def write(
        self, factors: Factors, mean: Tensor, sites: Tensor, spread: Spread, curvature: Tensor | None = None
    ) -> None:
        """Set the guide's parameters in place: optimisers and stores that hold them see the change.

        Args:
            factors: the model's.
            mean, sites, spread: of the best member of the family.
            curvature: of the rows at it, which a `JointNormal` of more than 4,000 states takes.
        """
        ...


def takes(guide: Any, chains: Chains) -> bool:
    """Whether a guide of a model with these chains is of one of the families."""
    if isinstance(guide, ChainNormal | AutoNormal | JointNormal):
        return True
    return type(guide) is AutoMultivariateNormal and chains.num_states <= MOST_DENSE


def guide_of(pair: Pair, factors: Factors) -> FactorGuide:
    """How a pair's guide is read and written.

    Raises:
        InputError: for a guide of none of the families.
    """
    guide, chains = pair.guide, factors.chains
    if isinstance(guide, AutoMultivariateNormal) and not takes(guide, chains):
        raise InputError(
            f"a joint covariance of {chains.num_states:,} states is dense, and takes at most {MOST_DENSE:,}; "
            "a sparse precision (the guide JointNormal) and independent chains (ChainNormal) take any number"
        )
    for kind, access in _ACCESS.items():
        if isinstance(guide, kind):
            found: FactorGuide = access(guide)
            return found
    names = ", ".join(kind.__name__ for kind in _ACCESS)
    raise InputError(
        f"natural gradients by quadrature need one of the guides {names}; this pair's is "
        f"{type(guide).__name__}"
    )


@dataclass(frozen=True, eq=False)
class _MeanField:
    """Pyro's ``AutoNormal``, over the chains' innovations or over the states themselves."""

    guide: Any

    def family(self, factors: Factors) -> InnovationFamily:
        guided = {name: leaf.shape for name, leaf in self.guide.locs.named_parameters()}
        size = factors.chains.num_states
        if guided != {f"{factors.site}_unconstrained": (size,)}:
            listed = (f"{name.removesuffix('_unconstrained')} {tuple(s)}" for name, s in guided.items())
            raise InputError(
                f"the model's latent site is {factors.site} ({size},), and the guide has {', '.join(listed)}"
            )
        refuse_meetings(factors)
        return InnovationFamily(factors, coordinates(self.guide, factors.site, factors.chains))

    def read(self, factors: Factors) -> tuple[Tensor, Tensor]:
        loc, raw = (leaf.detach().cpu().double() for leaf in self._leaves(factors.site))
        scale = transform_to(AutoNormal.scale_constraint)(raw)
        family = self.family(factors)
        return family.own.unwhiten(loc), scale**-2 - family.prior

    @torch.no_grad()
    def write(
        self, factors: Factors, mean: Tensor, sites: Tensor, spread: Spread, curvature: Tensor | None = None
    ) -> None:
        own, (loc, raw) = coordinates(self.guide, factors.site, factors.chains), self._leaves(factors.site)
        if isinstance(spread, InnovationSpread):
            innovation = spread.innovation
        else:  # what other methods found of chains of one state
            innovation = spread.variance / own.variance
        loc.copy_(own.whiten(mean))
        raw.copy_(transform_to(AutoNormal.scale_constraint).inv(innovation.sqrt()))

    def _leaves(self, site: str) -> tuple[Tensor, Tensor]:
        leaf = attrgetter(f"{site}_unconstrained")
        return leaf(self.guide.locs), leaf(self.guide.scales)


@dataclass(frozen=True, eq=False)
class _Chains:
    """The suite's `ChainNormal`."""

    guide: ChainNormal

    def family(self, factors: Factors) -> ChainFamily:
        refuse_meetings(factors)
        return ChainFamily(factors)

    def read(self, factors: Factors) -> tuple[Tensor, Tensor]:
        loc, sites = self.guide.loc, self.guide.site_precision
        return loc.detach().cpu().double().clone(), sites.detach().cpu().double()

    @torch.no_grad()
    def write(
        self, factors: Factors, mean: Tensor, sites: Tensor, spread: Spread, curvature: Tensor | None = None
    ) -> None:
        self.guide.loc.copy_(mean)
        set_positive(self.guide, "site_precision", sites)


@dataclass(frozen=True, eq=False)
class _Joint:
    """The suite's `JointNormal`.

    Beyond dense matrices, and where links do not leave it sparse, the variances of predictors are not known
    under it, and those of independent chains stand in: mean and curvatures are those of the best guide of
    that family.
    """

    guide: JointNormal

    def family(self, factors: Factors) -> JointFamily | ChainFamily:
        own, columns = len(self.guide.weight), factors.design.column
        if own != factors.size:
            raise InputError(
                f"the joint guide was made for {own:,} distinct rows of data, and these have "
                f"{factors.size:,}; make a new guide for other data"
            )
        if not torch.equal(self.guide.design().column.cpu().long(), columns.long()):
            raise InputError(
                "the joint guide was made for rows of data that read other states; make a new guide for them"
            )
        if factors.chains.num_states <= MOST_DENSE:
            return JointFamily(factors)
        if factors.blocks is not None:
            return JointFamily(factors, factors.blocks)
        refuse_meetings(factors)
        return ChainFamily(factors)

    def read(self, factors: Factors) -> tuple[Tensor, Tensor]:
        loc, weight = (part.detach().cpu().double() for part in (self.guide.loc, self.guide.weight))
        together = isinstance(self.family(factors), JointFamily)
        return loc.clone(), weight if together else factors.gather_squares(weight)

    @torch.no_grad()
    def write(
        self, factors: Factors, mean: Tensor, sites: Tensor, spread: Spread, curvature: Tensor | None = None
    ) -> None:
        self.guide.loc.copy_(mean)
        if isinstance(spread, Smoother):
            if curvature is None:
                raise InputError("a JointNormal of so many states is set by curvatures, which are not known")
            sites = -curvature
        set_positive(self.guide, "weight", sites)


@dataclass(frozen=True, eq=False)
class _FullRank:
    """Pyro's ``AutoMultivariateNormal``, over the states or over their innovations."""

    guide: Any

    def family(self, factors: Factors) -> JointFamily:
        size = factors.chains.num_states
        names = [name for name, _ in self.guide.prototype_trace.iter_stochastic_nodes()]
        if names != [factors.site] or len(self.guide.loc) != size:
            raise InputError(
                f"the model's latent site is {factors.site} ({size},), and the guide has {', '.join(names)} "
                f"of {len(self.guide.loc)} numbers"
            )
        return JointFamily(factors)

    def read(self, factors: Factors) -> tuple[Tensor, Spread]:
        loc, root = (part.detach().cpu().double() for part in read_gaussian(self.guide))
        own = coordinates(self.guide, factors.site, factors.chains)
        loc, root = own.unwhiten(loc), (own.unwhiten(root.T) - own.mean).T
        spread = DenseSpread.of(factors.chains, torch.cholesky_inverse(torch.linalg.qr(root.T)[1].T))
        if spread is None:
            raise InputError("the guide's covariance is not positive definite where it stands")
        return loc, spread

    @torch.no_grad()
    def write(
        self, factors: Factors, mean: Tensor, sites: Tensor, spread: Spread, curvature: Tensor | None = None
    ) -> None:
        assert isinstance(spread, DenseSpread)
        size, own = len(mean), coordinates(self.guide, factors.site, factors.chains)
        root = torch.linalg.solve_triangular(spread.root.T, torch.eye(size).double(), upper=True)
        write_gaussian(self.guide, own.whiten(mean), own.whiten(root.T + own.mean).T)


_ACCESS: dict[type, Any] = {
    AutoNormal: _MeanField,
    ChainNormal: _Chains,
    JointNormal: _Joint,
    AutoMultivariateNormal: _FullRank,
}


def coordinates(guide: Any, site: str, chains: Chains) -> Chains:
    """The chains whose innovations an AutoGuide's coordinates are: the prior's as they were when it was made,
    whatever has been learnt since; of others, chains whose states are their innovations."""
    support = guide.prototype_trace.nodes[site]["fn"].support
    if isinstance(support, Innovations):
        return support.chains.detach()
    zero = torch.zeros_like(chains.mean)
    return Chains(zero, torch.ones_like(zero), zero, chains.rounds)


def set_positive(guide: Any, name: str, values: Tensor) -> None:
    """A positive parameter into its unconstrained leaf; zeros become the least positive number."""
    leaf = getattr(guide, f"{name}_unconstrained")
    least = torch.finfo(leaf.dtype).tiny
    leaf.copy_(transform_to(constraints.positive).inv(values.to(leaf).clamp_min(least)))


def refuse_meetings(factors: Factors) -> None:
    """Refuse data of which a row reads a chain twice, which guides of independent chains cannot take.

    Raises:
        InputError: naming the first.
    """
    if factors.meeting is not None:
        row, states = factors.meeting
        raise InputError(
            f"datum {row} reads the states {', '.join(map(str, states))}, of which two are one or of the "
            "same chain; a guide of independent chains needs a chain at most once in a row"
        )
