"""What models say of how data hang on Gaussian states: linear factors, and what they make of normals.

All are optional, as those of `abilities`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ppl_vae.program.chains import Chains
    from ppl_vae.program.design import Design

__all__ = ["LinearFactors", "PairwiseFactors", "RankingFactors", "Tilted", "TiltedFactors"]


@runtime_checkable
class LinearFactors(Protocol):
    """A model of one latent site of Gaussian states s, independent Markov chains of them, whose data depend
    on it only through linear predictors, each with few of the states:

    log p(x, s) = Σ_chains log N(chain of s) + Σ_r c_r ℓ((A s)_r; x_r).

    Independent normals are chains of one state each; a game between two players is a row of A with the two
    entries 1 and −1. The site's prior is either a plate of ``Normal`` or a `ChainPrior`.
    """

    def __call__(self, *data: Any) -> Any:
        """The Pyro program."""
        ...

    def normal_prior(self) -> tuple[str, Chains]:
        """The latent site's name, and its prior, differentiable in the model's parameters."""
        ...

    def rows(self, *data: Any) -> Design:
        """A, with what is observed of every row and how many times the row counts."""
        ...

    def log_likelihood(self, predictor: Tensor, *observed: Tensor) -> Tensor:
        """ℓ in nats, elementwise, differentiable in predictors and the model's parameters.

        Args:
            predictor: (A s) of any rows, shape (..., rows), in the design's precision.
            observed: the design's own ``observed`` of the same rows.
        """
        ...


@runtime_checkable
class PairwiseFactors(Protocol):
    """A model of one latent site z of independent normals, z_k ~ N(μ_k, σ_k²) for k = 1 … n, whose
    data depend on z only through differences of two of them:

    log p(x, z) = Σ_k log N(z_k; μ_k, σ_k²) + Σ_d ℓ(z_i(d) − z_j(d)).

    It is the case of `LinearFactors` with two entries 1 and −1 a row, as which methods take it
    (`pairwise.as_linear`); new models are better written for that.
    """

    def __call__(self, *data: Any) -> Any:
        """The Pyro program."""
        ...

    def normal_prior(self) -> tuple[str, torch.distributions.Normal]:
        """The latent site's name, and its prior of batch shape (n,)."""
        ...

    def index_pairs(self, *data: Any) -> tuple[Tensor, Tensor]:
        """Which two entries of z each datum compares: i and j, integers of shape (num_data,)."""
        ...

    def log_likelihood(self, difference: Tensor) -> Tensor:
        """ℓ in nats, elementwise and differentiable, for floats of any shape and precision."""
        ...


@runtime_checkable
class RankingFactors(Protocol):
    """A model of Gaussian chains, as `LinearFactors` has them, whose factors take several predictors each,
    such as the order of all sides of a game."""

    def __call__(self, *data: Any) -> Any:
        """The Pyro program."""
        ...

    def normal_prior(self) -> tuple[str, Chains]:
        """The latent site's name, and its prior."""
        ...

    def rankings(self, *data: Any) -> tuple[Design, Tensor] | None:
        """A with the rows of a factor one after another, and how many each factor has, integers of shape
        (F,); None where every factor has one row, and `LinearFactors` serves."""
        ...

    def ranking_moments(self, mean: Tensor, variance: Tensor, *data: Any) -> Tilted:
        """What the factors make of independent normal predictors, in float64, each of shape (R,)."""
        ...


@dataclass(frozen=True, eq=False)
class Tilted:
    """What factors make of independent normal predictors d_r ~ N(μ_r, v_r).

    A factor's normaliser is Z = E[exp ℓ(d)], over all of its predictors.

    Attributes:
        log_normaliser: log Z of every factor in nats, shape (F,).
        slope: α_r = ∂ log Z / ∂μ_r of every predictor, shape (R,). Times its factor, the predictor has mean
            μ_r + v_r α_r,
        curvature: and variance v_r (1 − v_r β_r), with β_r = −∂² log Z / ∂μ_r², shape (R,).
    """

    log_normaliser: Tensor
    slope: Tensor
    curvature: Tensor


@runtime_checkable
class TiltedFactors(Protocol):
    """A model with `LinearFactors` that knows what its factors make of normal predictors in closed form."""

    def tilted(self, mean: Tensor, variance: Tensor, *observed: Tensor) -> Tilted | None:
        """Normalisers and moments, a factor a row; None where they are not known.

        Args:
            mean, variance: of the predictors, in float64, each of shape (R,).
            observed: the design's own ``observed``. Rows that count other than once are not asked for.
        """
        ...
