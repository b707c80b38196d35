"""What is known exactly where scores are normal: the posterior of all states and log p(scores).

Source: Rasmussen and Williams, *Gaussian Processes for Machine Learning* (2006), sections 2.1 and 2.2, for a
linear model of normal weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design

__all__ = ["MOST_STATES", "Seen", "log_evidence", "posterior"]

# States up to which their covariances are held: a matrix of 128 MB.
MOST_STATES = 4000


@dataclass(frozen=True, eq=False)
class Seen:
    """Observations of linear predictors: y_r ~ N((A s)_r, c_r²), raised to the power w_r.

    Attributes:
        rows: A.
        value, scale, power: y, c and w, each of shape (R,).
    """

    rows: Design
    value: Tensor
    scale: Tensor
    power: Tensor

    def times(self, states: Tensor) -> Tensor:
        """A s, shape (R,)."""
        return self._dense(len(states)) @ states

    def _dense(self, num_states: int) -> Tensor:
        found = self.value.new_zeros(self.rows.num_rows, num_states)
        row = torch.arange(self.rows.num_rows).repeat_interleave(self.rows.pointer.diff())
        return found.index_put((row, self.rows.column), self.rows.value.to(found), accumulate=True)

    def precision(self, num_states: int) -> Tensor:
        """Aᵀ diag(w / c²) A, shape (N, N)."""
        rows = self._dense(num_states) * (self.power.sqrt() / self.scale)[:, None]
        return rows.T @ rows

    def pull(self, mean: Tensor) -> Tensor:
        """Aᵀ diag(w / c²) (y − A m), shape (N,)."""
        rows = self._dense(len(mean))
        return rows.T @ (self.power / self.scale.square() * (self.value - rows @ mean))


def posterior(chains: Chains, seen: Seen) -> tuple[Tensor, Tensor]:
    """Mean, shape (N,), and the lower Cholesky factor of the precision P + Aᵀ W A, of all states.

    Args:
        chains: the prior N(μ, P⁻¹).
        seen: the observations.

    Raises:
        InputError: for more states than `MOST_STATES`.
    """
    size = chains.num_states
    if size > MOST_STATES:
        raise InputError(
            f"the model has {size:,} states; exact answers are known of {MOST_STATES:,} at most: fit a guide "
            "by natural gradients instead"
        )
    prior = chains.precision_times(torch.eye(size, dtype=seen.value.dtype))
    factor = torch.linalg.cholesky(prior + seen.precision(size))
    step = torch.cholesky_solve(seen.pull(chains.mean)[:, None], factor)[:, 0]
    return chains.mean + step, factor


def log_evidence(chains: Chains, seen: Seen) -> Tensor:
    """log ∫ p(s) Π p(y | s)^w ds in nats, a scalar: what Bayes' rule says at the posterior's mean.

    Args:
        chains, seen: as for `posterior`.
    """
    mean, factor = posterior(chains, seen)
    off = (seen.value - seen.times(mean)) / seen.scale
    each = -0.5 * off.square() - seen.scale.log() - 0.5 * math.log(2 * math.pi)
    height = factor.diagonal().log().sum() - 0.5 * len(mean) * math.log(2 * math.pi)
    return (seen.power * each).sum() + chains.log_prob(mean) - height
