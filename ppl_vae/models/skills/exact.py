"""What is known exactly where scores are normal: the posterior of all states and log p(scores).

Source: Rasmussen and Williams, *Gaussian Processes for Machine Learning* (2006), sections 2.1 and 2.2, for a
linear model of normal weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.program.chains import Chains

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["MOST_STATES", "log_evidence", "posterior"]

# States up to which their covariances are held: a matrix of 128 MB.
MOST_STATES = 4000


def posterior(chains: Chains, rows: csr_array, precision: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """Mean m, shape (N,), and the lower Cholesky factor of the precision P + Aᵀ W A, of all states.

    Args:
        chains: the prior N(μ, P⁻¹).
        rows: A, shape (R, N).
        precision: W of each row's normal likelihood, shape (R,).
        score: y, shape (R,).

    Raises:
        InputError: for more states than `MOST_STATES`.
    """
    if chains.num_states > MOST_STATES:
        raise InputError(
            f"the model has {chains.num_states:,} states; exact answers are known of {MOST_STATES:,} at "
            "most: fit a guide by natural gradients instead"
        )
    prior = chains.precision_times(torch.eye(chains.num_states, dtype=score.dtype))
    scaled = rows.multiply(precision.numpy()[:, None]).tocsr()
    matrix = torch.linalg.cholesky(prior + torch.as_tensor((rows.T @ scaled).toarray()))
    off = score - torch.as_tensor(rows @ chains.mean.numpy())
    step = torch.as_tensor(scaled.T @ off.numpy())
    return chains.mean + torch.cholesky_solve(step[:, None], matrix)[:, 0], matrix


def log_evidence(
    chains: Chains, rows: csr_array, precision: Tensor, score: Tensor, power: Tensor, scale: Tensor
) -> Tensor:
    """log ∫ p(s) Π p(y | s)^w ds in nats, a scalar: what Bayes' rule says at the posterior's mean.

    Args:
        chains, rows, precision, score: as for `posterior`.
        power: w, shape (R,).
        scale: sd of each row's likelihood, shape (R,).
    """
    mean, matrix = posterior(chains, rows, precision, score)
    off = (score - torch.as_tensor(rows @ mean.numpy())) / scale
    likelihood = (power * (-0.5 * off.square() - scale.log() - 0.5 * math.log(2 * math.pi))).sum()
    height = matrix.diagonal().log().sum() - 0.5 * len(mean) * math.log(2 * math.pi)
    return likelihood + chains.log_prob(mean) - height
