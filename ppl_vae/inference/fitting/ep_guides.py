"""Guides that hold the answer of expectation propagation: normals that leave chains independent."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from pyro.infer.autoguide import AutoNormal
from torch.distributions import transform_to

from ppl_vae.base.errors import InputError
from ppl_vae.inference.fitting.ep_loop import Propagated
from ppl_vae.program.chains import Chains, Innovations

__all__ = ["check_guide", "holds", "write"]


def holds(guide: Any) -> bool:
    """Whether a guide is of a kind that `write` knows."""
    return isinstance(guide, AutoNormal)


def check_guide(guide: Any, site: str, chains: Chains) -> None:
    """Refuse a guide that cannot hold the answer.

    Raises:
        InputError: saying which can.
    """
    if not holds(guide):
        raise InputError(
            f"expectation propagation sets Pyro's AutoNormal or a ChainNormal, and the guide is a "
            f"{type(guide).__name__}"
        )
    if len(chains.sizes) > 1:
        raise InputError(
            "an AutoNormal holds states that are independent of each other, and the model's are chains; take "
            "a ChainNormal"
        )
    guided = {name: tuple(leaf.shape) for name, leaf in guide.locs.named_parameters()}
    if guided != {f"{site}_unconstrained": (chains.num_states,)}:
        raise InputError(
            f"the model's latent site is {site} of {chains.num_states}, and the guide has {guided}"
        )


@torch.no_grad()
def write(guide: Any, site: str, chains: Chains, found: Propagated) -> None:
    """Set the guide's parameters in place: optimisers and stores that hold them see the change."""
    mean, sd = found.sites.mean, found.smoother.variance.sqrt()
    if isinstance(guide.prototype_trace.nodes[site]["fn"].support, Innovations):
        prior = chains.variance.sqrt()
        mean, sd = (mean - chains.mean) / prior, sd / prior
    leaf: Any = attrgetter(f"{site}_unconstrained")
    loc, raw_scale = (leaf(part) for part in (guide.locs, guide.scales))
    loc.copy_(mean)
    raw_scale.copy_(transform_to(AutoNormal.scale_constraint).inv(sd))
