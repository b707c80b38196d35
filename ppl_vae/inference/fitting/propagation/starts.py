"""Where expectation propagation begins, from an answer for fewer data that a guide holds."""

from __future__ import annotations

import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.inference.fitting.factors.guides import coordinates
from ppl_vae.inference.fitting.gaussians.autoguides import read_gaussian
from ppl_vae.inference.fitting.propagation.steps import Factors, Linear, Sites
from ppl_vae.program.pair import Pair

__all__ = ["sites_at", "start_of"]

# Newton steps of slopes at means that are given.
SLOPE_STEPS = 3
# What is divided by where a state has no entry.
LEAST = 1e-300


def start_of(pair: Pair, factors: Factors) -> Sites | None:
    """Sites that suit what the guide holds; None for guides of all states together, which begin anew."""
    guide, chains = pair.guide, factors.chains
    if isinstance(guide, ChainNormal):
        mean, precision = (part.detach().cpu().double() for part in (guide.loc, guide.site_precision))
        return sites_at(factors, mean, precision)
    if not isinstance(guide, AutoNormal):
        return None
    own = coordinates(guide, factors.site, chains)
    loc, scale = (part.detach().cpu().double() for part in read_gaussian(guide))
    precision = (scale.square() * own.variance).reciprocal() - chains.variance.reciprocal()
    return sites_at(factors, own.unwhiten(loc), precision)


@torch.no_grad()
def sites_at(factors: Factors, mean: Tensor, site_precision: Tensor) -> Sites:
    """Sites where the states' means and site precisions are these, with slopes that suit them.

    A state's precision is shared by its entries as their squares are.

    Args:
        factors: of chains that are apart.
        mean, site_precision: shape (N,).
    """
    share = site_precision.clamp(min=0) / factors.by_state(factors.squares).clamp(min=LEAST)
    precision = factors.squares * share.index_select(0, factors.design.column)
    spread = factors.spread(factors.cavities(precision, factors.around(precision)))
    slope = mean.new_zeros(factors.design.num_rows)
    for _ in range(SLOPE_STEPS):
        tilted = factors.tilted(factors.predictors(mean) - spread * slope, spread)
        slope = Linear.of(factors, tilted, spread, slope).slope
    return Sites(mean.clone(), slope, precision)
