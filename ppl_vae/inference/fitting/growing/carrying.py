"""Guides of models of Gaussian chains carried on to further states, which are where the prior has them.

Where further states are at the ends of their chains, or chains of their own, what was known of the others is
known of them as it was, and their innovations are those of the prior: independent N(0, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides.chain_normal import ChainNormal, chains_of
from ppl_vae.guides.joint_normal import JointNormal
from ppl_vae.inference.fitting.factors.guides import coordinates, set_positive
from ppl_vae.inference.fitting.gaussians.autoguides import read_gaussian, write_gaussian
from ppl_vae.program.chains import Chains
from ppl_vae.program.pair import Pair

__all__ = ["carry", "check_carried"]


def check_carried(guide: Any) -> None:
    """Refuse a guide that `carry` does not know.

    Raises:
        InputError: saying which it knows.
    """
    if type(guide) not in _CARRIERS:
        raise InputError(
            "an update goes on from guides whose Gaussians are known state by state (markov, mean-field, "
            f"full-rank and sparse-precision), and this run has {type(guide).__name__}; fit it to all "
            "games from nothing"
        )


@torch.no_grad()
def carry(before: Pair, after: Pair, place: Tensor) -> None:
    """Set the guide of a model of more states to what another of fewer says, and the prior of the others.

    A `JointNormal` gets the mean alone, since its precisions are of rows of data.

    Args:
        before: of fewer states.
        after: of more, with a guide of the same type; both have run once.
        place: where the states of the first are among those of the second, int64 of shape (N,).

    Raises:
        InputError: for another guide.
    """
    check_carried(before.guide)
    site, old = chains_of(before.model)
    new = chains_of(after.model)[1]
    _CARRIERS[type(before.guide)](before.guide, after.guide, place, site, (old.detach(), new.detach()))


Both = tuple[Chains, Chains]


def _mean(mean: Tensor, place: Tensor, chains: Both) -> Tensor:
    """Means of all states, of those of the first chains' states."""
    old, new = chains
    noise = torch.zeros_like(new.mean).index_copy(0, place, old.whiten(mean))
    return new.unwhiten(noise)


def _chain_normal(before: Any, after: Any, place: Tensor, site: str, chains: Both) -> None:
    _loc(before, after, place, site, chains)
    sites = before.site_precision.detach().cpu().double()
    set_positive(after, "site_precision", torch.zeros_like(chains[1].mean).index_copy(0, place, sites))


def _loc(before: Any, after: Any, place: Tensor, site: str, chains: Both) -> None:
    after.loc.copy_(_mean(before.loc.detach().cpu().double(), place, chains))


def _mean_field(before: Any, after: Any, place: Tensor, site: str, chains: Both) -> None:
    own, others = coordinates(before, site, chains[0]), coordinates(after, site, chains[1])
    loc, scale = (part.detach().cpu().double() for part in read_gaussian(before))
    mean = _mean(own.unwhiten(loc), place, chains)
    sd = chains[1].variance.sqrt().index_copy(0, place, scale * own.variance.sqrt())
    write_gaussian(after, others.whiten(mean), sd / others.variance.sqrt())


def _full_rank(before: Any, after: Any, place: Tensor, site: str, chains: Both) -> None:
    old, new = chains
    own, others = coordinates(before, site, old), coordinates(after, site, new)
    loc, root = (part.detach().cpu().double() for part in read_gaussian(before))
    mean = _mean(own.unwhiten(loc), place, chains)
    # Innovations of the priors, of which all but the known ones are independent N(0, 1).
    known = old.whiten(own.unwhiten(root.T) - own.mean + old.mean).T
    whole = torch.eye(new.num_states, dtype=torch.float64)
    whole[place[:, None], place] = known
    spread = others.whiten(new.unwhiten(whole.T) - new.mean + others.mean).T
    write_gaussian(after, others.whiten(mean), spread)


_CARRIERS: dict[type, Callable[[Any, Any, Tensor, str, Both], None]] = {
    ChainNormal: _chain_normal,
    AutoNormal: _mean_field,
    AutoMultivariateNormal: _full_rank,
    JointNormal: _loc,
}
