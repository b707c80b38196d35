"""Guides that hold the answer of expectation propagation: normals that leave chains independent."""

from __future__ import annotations

from typing import Any, cast

from pyro.infer.autoguide import AutoNormal

from ppl_vae.base.errors import InputError
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.inference.fitting.factors import expectations as linear_factors
from ppl_vae.inference.fitting.factors.guides import guide_of
from ppl_vae.inference.fitting.propagation.loop import Propagated
from ppl_vae.inference.fitting.propagation.steps import Factors
from ppl_vae.program.pair import Pair

__all__ = ["check_guide", "holds", "write"]


def holds(guide: Any) -> bool:
    """Whether a guide is of a kind that `write` knows."""
    return isinstance(guide, AutoNormal | ChainNormal)


def check_guide(guide: Any, factors: Factors) -> None:
    """Refuse a guide that cannot hold the answer.

    Raises:
        InputError: saying which can.
    """
    if not holds(guide):
        raise InputError(
            f"expectation propagation sets Pyro's AutoNormal or a ChainNormal, and the guide is a "
            f"{type(guide).__name__}"
        )
    if isinstance(guide, ChainNormal):
        return
    if len(factors.chains.sizes) > 1:
        raise InputError(
            "an AutoNormal holds states that are independent of each other, and the model's are chains; take "
            "a ChainNormal"
        )
    guided = {name: tuple(leaf.shape) for name, leaf in guide.locs.named_parameters()}
    if guided != {f"{factors.site}_unconstrained": (factors.chains.num_states,)}:
        size = factors.chains.num_states
        raise InputError(f"the model's latent site is {factors.site} of {size}, and the guide has {guided}")


def write(pair: Pair, factors: Factors, found: Propagated) -> None:
    """Set the guide's parameters in place: optimisers and stores that hold them see the change."""
    # Guides are written by the site and the chains alone, which these factors have as well.
    like = cast(linear_factors.Factors, factors)
    smoother = found.smoother
    guide_of(pair, like).write(like, found.sites.mean, smoother.site_precision, cast(Any, smoother))
