"""What expectation propagation works with, from a model and its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference.fitting.ep_steps import Factors
from ppl_vae.inference.fitting.tilted import Quadrature
from ppl_vae.program.abilities import LinearFactors, RankingFactors, Tilted, TiltedFactors
from ppl_vae.program.design import Design
from ppl_vae.program.probe import check_data

__all__ = ["factors_of"]


@torch.no_grad()
def factors_of(model: Any, *data: Any, num_nodes: int) -> tuple[str, Factors]:
    """A model's latent site, and its factors.

    Args:
        model: with the ability `LinearFactors` or `RankingFactors`.
        data: the programs' full data.
        num_nodes: nodes of the quadrature, where moments are not known in closed form.

    Raises:
        InputError: for a model without these abilities, data that it does not take, or a row without a state.
    """
    if not isinstance(model, LinearFactors | RankingFactors):
        raise InputError(
            f"{type(model).__name__} has no linear factors of Gaussian chains, which expectation propagation "
            "is for; take svi.fit"
        )
    check_data(model, *data)
    site, chains = model.normal_prior()
    chains = chains.detach()
    if isinstance(model, RankingFactors) and (ranked := model.rankings(*data)) is not None:
        design, sizes = ranked
        moments = model.ranking_moments
        plain = _plain(design, chains.num_states)
        return site, Factors(chains, plain, sizes.cpu(), lambda mean, var: moments(mean, var, *data))
    if not isinstance(model, LinearFactors):
        raise InputError(f"{type(model).__name__} has neither rankings nor linear factors for these data")
    design = _plain(model.rows(*data), chains.num_states)
    powers = design.count
    # Equal rows are copies, with sites of their own; what rows count is a power of their likelihood.
    design = design.merged() if powers is None else replace(design, count=None)
    rule = Quadrature(_log_likelihood(model, design, powers), num_nodes)
    return site, Factors(chains, design, None, _tilted(model, design, rule, powers is None), rule)


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


def _plain(design: Design, num_states: int) -> Design:
    """The same on the processor, in float64, with every state of a row once."""
    from scipy.sparse import csr_array

    design.check(num_states)
    pointer, column, value = (part.cpu() for part in (design.pointer, design.column, design.value.double()))
    parts = [part.numpy().copy() for part in (value, column, pointer)]
    matrix = csr_array(tuple(parts), shape=(design.num_rows, num_states))
    matrix.sum_duplicates()
    empty = np.flatnonzero(abs(matrix).sum(1) == 0)
    if len(empty):
        raise InputError(f"row {empty[0]} of the design matrix reads no state, or in all none of it")
    if matrix.nnz < len(column):
        pointer, column, value = (
            torch.from_numpy(np.asarray(part, kind))
            for part, kind in ((matrix.indptr, np.int64), (matrix.indices, np.int64), (matrix.data, float))
        )
    observed = tuple(part.cpu() for part in design.observed)
    return Design(
        pointer, column, value, observed, None if design.count is None else design.count.cpu().double()
    )
