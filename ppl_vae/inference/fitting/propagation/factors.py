"""What expectation propagation works with, from a model and its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError, listed
from ppl_vae.guides.joint_normal import MOST_DENSE, links_of
from ppl_vae.inference.fitting.factors.expectations import meeting_of
from ppl_vae.inference.fitting.propagation.joint import JointFactors
from ppl_vae.inference.fitting.propagation.steps import Factors
from ppl_vae.inference.fitting.propagation.tilted import Quadrature
from ppl_vae.program.block_tridiagonal import blocks_of
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from ppl_vae.program.factors import LinearFactors, RankingFactors, Tilted, TiltedFactors
from ppl_vae.program.pairwise import as_linear
from ppl_vae.program.probe import check_data
from ppl_vae.program.program_names import name_of

__all__ = ["factors_of", "is_for"]


def is_for(model: Any) -> bool:
    """Whether a model has factors that `factors_of` knows."""
    return as_linear(model) is not None or isinstance(model, RankingFactors)


@torch.no_grad()
def factors_of(model: Any, *data: Any, num_nodes: int, together: bool = False) -> Factors:
    """A model's factors.

    Args:
        model: with the ability `LinearFactors` or `RankingFactors`.
        data: the programs' full data.
        num_nodes: nodes of the quadrature, where moments are not known in closed form.
        together: whether states are to be kept together, where factors have one row each and the precision
            is small or sparse enough.

    Raises:
        InputError: for a model without these abilities, data that it does not take, a row without a state, or
            of two of the same chain where chains are apart.
    """
    linear = as_linear(model)
    if linear is None and not isinstance(model, RankingFactors):
        raise InputError(
            f"{name_of(model)} has no linear factors of Gaussian chains, which expectation propagation "
            "is for; take svi.fit"
        )
    check_data(model, *data)
    if isinstance(model, RankingFactors) and (ranked := model.rankings(*data)) is not None:
        site, chains = model.normal_prior()
        (design, sizes), moments = ranked, model.ranking_moments
        chains = chains.detach()
        plain = _plain(design, chains, apart=True)
        return Factors(site, chains, plain, sizes.cpu(), lambda mean, var: moments(mean, var, *data))
    if linear is None:
        raise InputError(f"{name_of(model)} has neither rankings nor linear factors for these data")
    site, chains = linear.normal_prior()
    chains = chains.detach()
    rows = linear.rows(*data)
    joint, blocks = together, None
    if together and chains.num_states > MOST_DENSE:
        blocks = blocks_of(links_of(chains, rows))
        joint = blocks is not None
    design = _plain(rows, chains, apart=not joint)
    powers = design.count
    if powers is not None:  # of their rows' likelihoods
        design = replace(design, count=None)
    elif joint or not together:
        # Equal rows are copies, with sites of their own. What a joint guide is told of rows that are apart is
        # told of every one.
        design = design.merged()
    rule = Quadrature(_log_likelihood(linear, design, powers), num_nodes)
    found = site, chains, design, None, _tilted(linear, design, rule, powers is None), rule
    return JointFactors(*found, blocks) if joint else Factors(*found)


def _log_likelihood(
    model: LinearFactors, design: Design, powers: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """ℓ of all rows, with its powers."""

    def found(predictor: Tensor) -> Tensor:
        value = model.log_likelihood(predictor, *design.observed)
        return value if powers is None else powers * value

    return found


def _tilted(
    model: LinearFactors, design: Design, rule: Quadrature, plain: bool
) -> Callable[[Tensor, Tensor], Tilted]:
    """The moments in closed form where there is one, for likelihoods without powers; else by quadrature."""
    if not isinstance(model, TiltedFactors) or not plain:
        return rule
    closed = model.tilted
    return lambda mean, var: closed(mean, var, *design.observed) or rule(mean, var)


def _plain(design: Design, chains: Chains, *, apart: bool) -> Design:
    """The same on the processor, in float64; where chains are to be apart with every state of a row once."""
    from scipy.sparse import csr_array

    design.check(chains.num_states)
    pointer, column, value = (part.cpu() for part in (design.pointer, design.column, design.value.double()))
    matrix = csr_array(design.csr(chains.num_states), copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    empty = np.flatnonzero(np.diff(matrix.indptr) == 0)
    if len(empty):
        raise InputError(f"row {empty[0]} of the design matrix reads no state, or in all none of it")
    if apart and matrix.nnz < len(column):
        pointer, column = (
            torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices)
        )
        value = torch.from_numpy(matrix.data.astype(np.float64))
    count = None if design.count is None else design.count.cpu().double()
    seen = (part.cpu() for part in design.observed)
    observed = tuple(part.double() if part.is_floating_point() else part for part in seen)
    found = Design(pointer, column, value, observed, count)
    if apart and (meeting := meeting_of(found, chains)) is not None:
        row, states = meeting
        raise InputError(
            f"row {row} of the design matrix reads the states {listed(states)}, of which two are of the same "
            "chain; expectation propagation needs a chain at most once in a row"
        )
    return found
