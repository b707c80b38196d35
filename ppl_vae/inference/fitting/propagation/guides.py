"""Guides that hold the answer of expectation propagation: normals of chains apart, or of all states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.guides.chain_normal import ChainNormal
from ppl_vae.guides.joint_normal import MOST_DENSE, JointNormal, rows_of
from ppl_vae.inference.fitting.factors import expectations as linear_factors
from ppl_vae.inference.fitting.factors.guides import guide_of
from ppl_vae.inference.fitting.factors.spreads import JointSpread, joint_spread
from ppl_vae.inference.fitting.propagation.factors import is_for
from ppl_vae.inference.fitting.propagation.loop import Propagated
from ppl_vae.inference.fitting.propagation.steps import Factors, log_evidence_together, stiffness
from ppl_vae.program.block_tridiagonal import Blocks
from ppl_vae.program.chains import Chains, Smoother
from ppl_vae.program.design import Design
from ppl_vae.program.pair import Pair
from ppl_vae.program.pairwise import as_linear

__all__ = ["check_guide", "holds", "is_joint", "takes", "write"]


def holds(guide: Any, chains: Chains) -> bool:
    """Whether a guide of a model with these chains is of a kind that `write` knows."""
    if isinstance(guide, AutoNormal):
        return len(chains.sizes) == 1
    return isinstance(guide, ChainNormal) or is_joint(guide)


def takes(pair: Pair) -> bool:
    """Whether a pair has factors that are known, and a guide for them."""
    model: Any = as_linear(pair.model) or pair.model
    return is_for(pair.model) and holds(pair.guide, model.normal_prior()[1])


def is_joint(guide: Any) -> bool:
    """Whether a guide is a normal of all states together."""
    return isinstance(guide, JointNormal) or type(guide) is AutoMultivariateNormal


def check_guide(guide: Any, factors: Factors, *data: Any) -> None:
    """Refuse a guide that cannot hold the answer.

    Args:
        guide: which has run.
        factors, data: of the model.

    Raises:
        InputError: saying which can.
    """
    if not isinstance(guide, AutoNormal | ChainNormal) and not is_joint(guide):
        raise InputError(
            "expectation propagation sets a ChainNormal (markov), a JointNormal (sparse-precision), Pyro's "
            f"AutoNormal and AutoMultivariateNormal, and the guide is a {type(guide).__name__}"
        )
    size = factors.chains.num_states
    if is_joint(guide):
        _check_size(guide, factors, *data)
    elif not holds(guide, factors.chains):
        raise InputError(
            "an AutoNormal (mean-field) has innovations that are independent of each other, and the model's "
            "are chains, whose states the answer leaves together; take a ChainNormal (markov)"
        )
    if isinstance(guide, AutoNormal):
        guided = {name: tuple(leaf.shape) for name, leaf in guide.locs.named_parameters()}
        if guided != {f"{factors.site}_unconstrained": (size,)}:
            raise InputError(
                f"the model's latent site is {factors.site} of {size}, and the guide has {guided}"
            )


def _check_size(guide: Any, factors: Factors, *data: Any) -> None:
    size = factors.chains.num_states
    if size <= MOST_DENSE or (factors.sizes is None and isinstance(guide, JointNormal)):
        return
    # Of rankings no other ELBO is known than that of draws and their densities.
    if _blocks(guide, factors, *data) is None:
        raise InputError(
            f"a normal of all {size:,} states together is dense, and takes at most {MOST_DENSE:,}; take a "
            "ChainNormal (markov)"
        )


@torch.no_grad()
def write(pair: Pair, factors: Factors, found: Propagated, *data: Any) -> float:
    """Set the guide's parameters in place: optimisers and stores that hold them see the change.

    A guide of all states together takes sites of rows as they are. Where there are none, because factors have
    several rows or states are too many, it gets the precision by which the means answer to a pull
    (`steps.stiffness`): what linear response makes of chains that are apart.

    Args:
        pair: whose guide.
        factors, found: the answer.
        data: the programs'.

    Returns:
        The estimate of log p(x): of chains that are apart, or of those that the guide has together.
    """
    # Guides are written by the site and the chains alone, which these factors have as well.
    like, mean = cast(linear_factors.Factors, factors), found.sites.mean
    around, curvature, precision = found.around, None, found.sites.precision
    estimate = found.log_evidence[-1]
    if isinstance(around, Smoother):
        precision = around.site_precision
        if is_joint(pair.guide):
            design = told(pair.model, factors, stiffness(factors, found.sites), *data)
            assert design.count is not None
            precision, curvature = design.count, -design.count
            blocks = _blocks(pair.guide, factors, *data)
            if blocks is not None or factors.chains.num_states <= MOST_DENSE:
                around = cast(JointSpread, joint_spread(factors.chains, design, precision, blocks))
                estimate = log_evidence_together(factors, found.sites, around.log_det)
    elif isinstance(pair.guide, JointNormal):
        count = factors.design.count
        found_of = precision if count is None else precision * count
        precision = cast(Tensor, _counted(factors.design, found_of).count)
    guide_of(pair, like).write(like, mean, precision, cast(Any, around), curvature)
    return estimate


def _blocks(guide: Any, factors: Factors, *data: Any) -> Blocks | None:
    """The order in which a guide of more states than dense matrices take is sparse; None where it is not."""
    if factors.chains.num_states <= MOST_DENSE or not isinstance(guide, JointNormal):
        return None
    return guide.posterior(*data)[1].blocks


def told(model: Any, factors: Factors, weight: Tensor, *data: Any) -> Design:
    """The distinct rows of a joint guide, counted by the precisions that the factors tell of them.

    What several rows of a factor are told, diag w − w wᵀ / Σw, is w_i w_j / Σw of the differences of any two.

    Args:
        model, data: of the factors.
        factors: whose chains are apart, and whose rows are not merged.
        weight: the diagonal w of every row, shape (R,).
    """
    if factors.sizes is None:
        return _counted(rows_of(model, *data), weight)
    design, first, second = factors.design.contrasts(factors.sizes, factors.chains.num_states)
    factor = torch.repeat_interleave(torch.arange(len(factors.sizes)), factors.sizes)
    total = torch.zeros(len(factors.sizes)).double().index_add_(0, factor, weight)[factor]
    shared = weight[first] * weight[second] / total[first]
    return replace(design, count=shared.nan_to_num(0.0)).merged()


def _counted(design: Design, weight: Tensor) -> Design:
    """Distinct rows, with the sums of what all copies have."""
    return replace(design, values=design.values.detach().cpu().double(), count=weight).merged()
