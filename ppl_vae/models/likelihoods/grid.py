"""Greys on a grid of evenly spaced levels, as the mass that a logistic distribution has around each."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from ppl_vae.base.arguments import check_whole
from ppl_vae.models.likelihoods.base import Likelihood, check_values
from ppl_vae.models.likelihoods.own import OwnDistribution

__all__ = ["GREYS", "GridLikelihood", "GridLogistic", "location_of_mean"]

GREYS = 256


class _Levels(constraints.Constraint):
    """Levels in [0, 1], which have masses and no density."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        """Whether values are between the ends; which levels there are is a matter of the likelihood."""
        return (value >= 0) & (value <= 1)


class GridLogistic(OwnDistribution):
    """Mass on the levels 0, 1/(L−1), …, 1 that a logistic distribution has nearer to each than to the others.

    The two ends take what lies beyond them, so that the masses sum to 1.

    Source: Kingma et al., "Improving variational inference with inverse autoregressive flow" (2016), section
    5.2; Salimans et al., "PixelCNN++" (2017), section 2.1.

    Args:
        loc, scale: of the logistic distribution, in units in which the greys end at 1.
        num_levels: L.
    """

    support = _Levels()

    def __init__(self, loc: Tensor, scale: Tensor, num_levels: int = GREYS) -> None:
        super().__init__(loc, scale)
        self.num_levels = num_levels

    def with_parameters(self, *parameters: Tensor) -> Self:
        """See `OwnDistribution`."""
        loc, scale = parameters
        return type(self)(loc, scale, self.num_levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """log (F(b) − F(a)) of a level's cell [a, b] as log F(b) + log (1 − F(a)) + log (1 − exp(a − b)).

        No term cancels, however far the level or narrow the cell. At the ends a = −∞ or b = ∞.
        """
        loc, scale = self.parameters
        width = 1 / (self.num_levels - 1)
        centre, half = (value - loc) / scale, width / (2 * scale)
        upper, lower = logsigmoid(centre + half), logsigmoid(half - centre)
        inside = torch.log(-torch.expm1(-2 * half))
        first, last = value < width / 2, value > 1 - width / 2
        return torch.where(first, upper, torch.where(last, lower, upper + lower + inside))

    @property
    def mean(self) -> Tensor:
        """E[x]: the sum over levels of the probability to be above."""
        loc, scale = self.parameters
        steps = self.num_levels - 1
        total = torch.zeros_like(loc)
        for level in range(steps):
            total = total + torch.sigmoid((loc - (level + 0.5) / steps) / scale)
        return total / steps

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Any:  # noqa: B008
        """A logistic draw, moved to the nearest level."""
        loc, scale = self.parameters
        steps = self.num_levels - 1
        drawn = loc + scale * self.uniform(sample_shape).logit()
        return (drawn.clamp(0, 1) * steps).round() / steps


def location_of_mean(mean: Tensor, scale: Tensor) -> Tensor:
    """The location at which a logistic draw of a scale, cut to [0, 1], has this mean.

    E = s log ((1 + exp(μ/s)) / (1 + exp((μ−1)/s))), solved for μ; the grid adds less than its step squared.
    Means nearer to the ends than 0.001 count as 0.001.
    """
    mean = mean.clamp(1e-3, 1 - 1e-3)
    return mean + scale * ((-(-mean / scale).expm1()).log() - (-((mean - 1) / scale).expm1()).log())


class GridLikelihood(Likelihood):
    """What likelihoods of greys on a grid share: their levels.

    Args:
        num_levels: L; 256 of bytes that were divided by 255.

    Raises:
        InputError: for fewer than two levels.
    """

    def __init__(self, num_levels: int = GREYS) -> None:
        super().__init__()
        check_whole(2, num_levels=num_levels)
        self.num_levels = num_levels

    def check(self, x: Tensor) -> None:
        """Refuse what is no level.

        Raises:
            InputError: naming the first such value.
        """
        steps = self.num_levels - 1
        # What float32 may miss a level by, and dequantised values do not.
        near = 1e-3

        def wrong(rows: Tensor) -> Tensor:
            at = rows * steps
            return (rows < 0) | (rows > 1) | ((at - at.round()).abs() > near)

        check_values(
            x,
            wrong,
            f"a likelihood of {self.num_levels} grey levels takes multiples of 1/{steps} in [0, 1]",
            "say how many levels there are (--num-levels), and neither standardise nor dequantise",
        )
