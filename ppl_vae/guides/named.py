"""Guides of any model by the name of their family, most of them Pyro's AutoGuides.

Sources: Kucukelbir et al., "Automatic differentiation variational inference", *JMLR* 18 (2017), for
mean-field and full-rank; Ong, Nott and Smith (2018) for low-rank; Kingma et al. (2016) for flow; Ambrogioni
et al., "Automatic structured variational inference" (2021), for structured. The others say theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pyro import poutine
from pyro.distributions.transforms import affine_autoregressive, iterated
from pyro.infer.autoguide import (
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
    AutoStructured,
    init_to_median,
)
from pyro.infer.autoguide.initialization import InitMessenger
from torch.distributions import biject_to

from ppl_vae.base.errors import InputError
from ppl_vae.guides.mixture import MixtureNormal
from ppl_vae.guides.sparse import SparseNormal
from ppl_vae.guides.spline_flow import SplineFlow
from ppl_vae.program.improper import Feasible
from ppl_vae.program.pair import Program
from ppl_vae.program.pyro_internals import structured_sites

__all__ = ["GUIDES", "BlockNormal", "flow", "low_rank", "mixture", "named_guide", "numbered"]


class BlockNormal(AutoGuideList):  # type: ignore[misc]
    """One normal with full covariance a latent site, in unconstrained space, and the sites independent.

    An ``AutoGuideList`` of ``AutoMultivariateNormal``, made when the sites are seen.

    Args:
        model: a Pyro model with continuous latents.
    """

    def __init__(self, model: Program) -> None:
        # Sites start where they do together, also those whose prior depends on others.
        super().__init__(InitMessenger(init_to_median)(model))

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        for name, _ in self.prototype_trace.iter_stochastic_nodes():
            self.append(AutoMultivariateNormal(poutine.block(self.model, expose=[name])))


class Structured(AutoStructured):  # type: ignore[misc]
    """Pyro's ``AutoStructured``, which says of which site it cannot take the support."""

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        for name, site in structured_sites(self):
            if biject_to(site["fn"].support).codomain.event_dim != site["fn"].event_dim:
                raise InputError(
                    f"a structured guide cannot take the support of site {name}, {site['fn'].support}, which "
                    "has fewer event dimensions than the site; constraints.independent adds them"
                )


def low_rank(model: Program, rank: int | None = None) -> Program:
    """One normal with a covariance of low rank plus a diagonal.

    Args:
        model: a Pyro model with continuous latents.
        rank: about √(number of latents) by default.

    Raises:
        InputError: if the rank is not positive.
    """
    if rank is not None and rank < 1:
        raise InputError(f"the rank of a low-rank guide is {rank}; it must be at least 1")
    guide: Program = AutoLowRankMultivariateNormal(_drawn(model), rank=rank)
    return guide


def mixture(model: Program, num_components: int = 3) -> Program:
    """A mixture of normals that starts at draws of the prior; `inference.fitting.started` knows better."""
    guide: Program = MixtureNormal(_drawn(model), num_components)
    return guide


def flow(model: Program, num_transforms: int = 2, hidden: int = 32) -> Program:
    """Inverse autoregressive flows over all latents; needs at least two latent numbers.

    Args:
        model: a Pyro model with continuous latents.
        num_transforms: flows in sequence.
        hidden: hidden units of each one's network, at least the number of latents.
    """

    def transforms(latent_dim: int) -> Any:
        # An autoregressive network of one input has nothing to regress on; Pyro only warns of it.
        if latent_dim < 2:
            raise InputError("a flow needs at least two latent numbers; full-rank serves one")
        units = max(hidden, latent_dim)
        return iterated(num_transforms, affine_autoregressive, latent_dim, hidden_dims=[units, units])

    guide: Program = AutoNormalizingFlow(_drawn(model), transforms)
    return guide


def _auto(kind: Any, model: Program) -> Program:
    guide: Program = kind(_drawn(model))
    return guide


def _drawn(model: Program) -> Program:
    """A model as AutoGuides read it: Pyro draws a start from each prior, so that flat ones, which have no
    draws, get a value first; and sites that are summed out are none of the guide's."""
    found: Program = poutine.block(Feasible()(model), hide_fn=_summed_out)
    return found


def _summed_out(site: dict[str, Any]) -> bool:
    marked = site["type"] == "sample" and not site["is_observed"]
    return marked and (site.get("infer") or {}).get("enumerate") == "parallel"


GUIDES: Mapping[str, Callable[[Program], Program]] = {
    "mean-field": partial(_auto, AutoNormal),
    "block": partial(_auto, BlockNormal),
    "low-rank": low_rank,
    "structured": partial(_auto, Structured),
    "sparse": partial(_auto, SparseNormal),
    "full-rank": partial(_auto, AutoMultivariateNormal),
    "flow": flow,
    "spline-flow": partial(_auto, SplineFlow),
    "mixture": mixture,
}
_SIZED: Mapping[str, Callable[[Program, int], Program]] = {"low-rank": low_rank, "mixture": mixture}


def numbered(name: str) -> tuple[str, int | None]:
    """A family and its size: the rank in ``low-rank:5``, the components in ``mixture:2``.

    Raises:
        InputError: for an unknown name, or a size that is no number or belongs to none.
    """
    family, _, size = name.partition(":")
    if family not in GUIDES or (size and not (family in _SIZED and size.isdecimal())):
        raise InputError(f"the guide {name!r} is not known; there are {', '.join(GUIDES)}")
    return family, int(size) if size else None


def named_guide(name: str, model: Program) -> Program:
    """A guide for any model with continuous latents, by the name of its family; see `numbered`.

    Raises:
        InputError: for an unknown name, or a size that cannot be.
    """
    family, size = numbered(name)
    return GUIDES[family](model) if size is None else _SIZED[family](model, size)
