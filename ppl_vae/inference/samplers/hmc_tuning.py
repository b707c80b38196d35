"""What many chains of HMC learn together: a step size, a diagonal metric, and a trajectory length.

Sources: Hoffman, Radul and Sountsov (2021), for adapting across chains; Sountsov and Hoffman, "Focusing on
difficult directions for learning HMC trajectory lengths" (2021), for learning the principal direction.
"""

import math

import torch
from torch import Tensor

__all__ = ["Learner"]

# Mean trajectory length in standard deviations of the widest direction: the maximum of sin²(x)/x, which is
# SNAPER's expected squared change along that direction, per gradient, on a Gaussian.
_TURN = 1.1656
# Iteration t of a running moment weighs k / (k + t), so it remembers about the last t/k iterations; while
# chains still travel, t is held at k, so that far starts are forgotten at an exponential rate.
_FORGETTING = 4
# A log step size moves by this times the excess of acceptance: the acceptance rate falls by about one half
# an e-fold, so the error shrinks by a quarter an iteration; averaging at the end removes the noise.
_GAIN = 0.5


class Learner:
    """The tuning, learnt from all chains at once.

    Attributes:
        log_step: log step sizes, (chains, 1).
        mean: running mean of each coordinate, (dim,).
        variance: running variance of each coordinate, (dim,): the inverse mass.
        directions: two estimates of the principal direction, unnormalised, (2, dim).
        spread: running variance along it, in standardised coordinates.
    """

    def __init__(
        self, position: Tensor, step_size: Tensor, target_accept: float, generator: torch.Generator
    ) -> None:
        chains, dim = position.shape
        self.log_step = step_size.log()
        self.mean = position.mean(0)
        self.variance = position.new_ones(dim)
        self.directions = position.new_empty(2, dim).normal_(generator=generator)
        self.spread = 1.0
        self._target = target_accept
        self._recent_acceptance = position.new_full((chains,), target_accept)
        self._iteration = 0
        self._pooled = False
        self._averaged: list[Tensor] = []

    @property
    def step_size(self) -> float:
        """The common step size; the median while each chain has its own."""
        return float(self.log_step.median().exp())

    @property
    def trajectory_length(self) -> float:
        """The mean length that the principal direction wants, in units of the metric."""
        return _TURN * math.sqrt(self.spread)

    @property
    def mean_leapfrogs(self) -> float:
        """Mean number of steps of a trajectory."""
        return self.trajectory_length / self.step_size

    @property
    def principal_direction(self) -> Tensor:
        """Unit vector (dim,): the mean of both estimates, whose signs are arbitrary."""
        one, other = _unit(self.directions)
        return _unit(one + other) if one @ other > 0 else _unit(one - other)

    def learn_step_size(self, acceptance: Tensor, *, averaging: bool) -> None:
        """Move the log step size towards the target: each chain its own, or all one together."""
        self._recent_acceptance.lerp_(acceptance, 0.1)
        if self._pooled:
            self.log_step = self.log_step + _GAIN * (acceptance.mean() - self._target)
        else:
            self.log_step = self.log_step + 2 * _GAIN * (acceptance - self._target).unsqueeze(1)
        if averaging:
            self._averaged.append(self.log_step)

    def pool(self) -> None:
        """From now on all chains share one step size: the median, which stragglers do not move."""
        self.log_step = self.log_step.median().expand_as(self.log_step).contiguous()
        self._pooled = True

    def finish(self) -> None:
        """Average the last log step sizes (Polyak and Juditsky 1992)."""
        self.log_step = torch.stack(self._averaged).mean(0)

    def learn_moments(self, position: Tensor) -> None:
        """Mean, variance and principal direction, forgetting early iterations.

        Chains that accept next to nothing are stuck somewhere and say nothing about the posterior.
        """
        position = position[self._recent_acceptance > 0.1 * self._target]
        if not len(position):
            return
        self._iteration = self._iteration + 1 if self._pooled else min(self._iteration + 1, _FORGETTING)
        rate = _FORGETTING / (_FORGETTING + self._iteration)
        centre = position.mean(0)
        within = (position - centre).square().mean(0)
        between = (centre - self.mean).square()
        # The moments of a mixture of what was known, with weight 1 − rate, and what is new.
        before = self.variance
        self.variance = (1 - rate) * (before + rate * between) + rate * within
        self.variance.clamp_(min=torch.finfo(position.dtype).tiny)
        self.mean = self.mean.lerp(centre, rate)
        # Step sizes are in units of the metric: keep their physical length.
        self.log_step = self.log_step + 0.5 * (before.log() - self.variance.log()).mean()
        self._learn_direction((position - self.mean) * self.variance.rsqrt(), rate)

    def _learn_direction(self, standardised: Tensor, rate: float) -> None:
        """Power iteration on the covariance of standardised positions, a little at a time (Oja 1982).

        Each half of the chains learns its own direction, and the other half measures the spread along
        it: a direction fitted to noise then shows no more spread than any other.
        """
        # A single chain is both halves.
        halves = (standardised[::2], standardised[1::2] if len(standardised) > 1 else standardised)
        units = _unit(self.directions)
        spread = 0.0
        for this, half in enumerate(halves):
            along = half @ units[this]
            self.directions[this].lerp_(along @ half / len(half), rate)
            spread += 0.5 * float((halves[1 - this] @ units[this]).square().mean())
        self.spread += rate * (spread - self.spread)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)
