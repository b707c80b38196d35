"""Expectation propagation that keeps all states together: a site a row, and a Gaussian of all states.

The answer is N(m, (P + Aᵀ diag(c π) A)⁻¹), with c the copies of a row and π the precision of each copy's
site. A row's cavity is the normal that this is of its predictor, without the site of one copy: nothing is
lost between states, as where every chain is by itself. It is what is called expectation propagation of
generalised linear models and of Gaussian process classification.

Sources: Minka, "Expectation Propagation for Approximate Bayesian Inference", UAI 2001; Kuss and Rasmussen,
"Assessing Approximate Inference for Binary Gaussian Process Classification", JMLR 6 (2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference.fitting.factors.spreads import JointSpread, Spread, joint_spread
from ppl_vae.inference.fitting.propagation.steps import LEAST_PART, Factors, Linear
from ppl_vae.program.block_tridiagonal import Blocks

__all__ = ["JointFactors"]


@dataclass(frozen=True, eq=False)
class JointFactors(Factors):
    """Factors of one row each, with a site a row in place of one an entry.

    Attributes:
        blocks: an order of the states in which the precision is sparse; None to take it as a dense matrix.
    """

    blocks: Blocks | None = None

    @property
    def num_sites(self) -> int:
        """R."""
        return self.design.num_rows

    def around(self, precision: Tensor) -> JointSpread:
        """The Gaussian that rows' sites make of the prior.

        Raises:
            InputError: where it is none, as may be where factors are not log-concave.
        """
        count = self.design.count
        weight = precision if count is None else precision * count
        found = joint_spread(self.chains, self.design, weight, self.blocks)
        if found is None:
            raise InputError(
                "expectation propagation comes to sites that make no normal, as it may where factors are not "
                "log-concave"
            )
        return found

    def cavities(self, precision: Tensor, around: Spread) -> Tensor:
        """u of every row."""
        assert isinstance(around, JointSpread)
        marginal = 1 / around.row_variances(self.design)
        return 1 / torch.maximum(marginal - precision, LEAST_PART * marginal)

    def spread(self, cavity: Tensor) -> Tensor:
        """u itself."""
        return cavity

    def bends(self, curvature: Tensor) -> Tensor:
        """β itself."""
        return curvature

    def by_row(self, of_sites: Tensor) -> Tensor:
        """Themselves."""
        return of_sites

    def newton(self, linear: Linear, right: Tensor) -> Tensor:
        """Solved exactly."""
        return self.around(linear.weight).solve(right)
