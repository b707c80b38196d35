"""Bits per dimension, the score of models of greys on a grid."""

import math

import torch

from ppl_vae.models.likelihoods.base import Likelihood
from ppl_vae.models.likelihoods.grid import GridLikelihood
from ppl_vae.program.problem import Problem
from ppl_vae.program.shown import ViewContext
from ppl_vae.views import Score

__all__ = ["bits_per_dim"]

# Units that it is the mean of, the first ones.
UNITS = 1000


def bits_per_dim(context: ViewContext, likelihood: Likelihood) -> list[Score]:
    """−ELBO / (d ln 2) of the units to show, by a draw each, where the likelihood is of greys on a grid.

    There log p(x) is of masses, and the bits are those of the greys themselves. Densities give no such number
    without the volume of a cell of the grid, by which evidence multiplies them (`Evidence.bits_per_dim`).
    """
    if not isinstance(likelihood, GridLikelihood):
        return []
    whole = Problem.of(context.pair, *context.data)
    problem = whole.rows(whole.units[:UNITS])
    with torch.no_grad():
        log_w = torch.cat([piece.terms().log_weights[0] for piece in problem.chunks(1)]).double()
    dims = context.data[0].shape[-1] * math.log(2)
    return [
        Score(
            title="bits per dimension",
            value=-float(log_w.mean()) / dims,
            std_error=float(log_w.std()) / math.sqrt(len(log_w)) / dims if len(log_w) > 1 else math.nan,
            caption=f"Of {len(log_w):,} {context.part} units by the ELBO, hence at least those by log p(x), "
            f"which evidence estimates; {math.log2(likelihood.num_levels):.3g} bits are a grey level that "
            "nothing is known of.",
        )
    ]
