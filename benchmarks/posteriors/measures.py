"""What is measured of a posterior: whether reference draws are the density's, and how near a normal it is.

The score identities are E[∇ log p] = 0 and E[∇_i log p · θ_j] = −δ_ij on the unconstrained scale (Stein 1972;
Gorham and Mackey, "Measuring sample quality with Stein's method", 2015): they hold where density and draws
agree, its Jacobian and its priors included.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from benchmarks.posteriors.target import Target
from ppl_vae.answers.pareto import pareto_k, tail_length
from ppl_vae.engine.gradients import gradient

__all__ = ["Nearness", "Normal", "compiled_seconds", "eager_seconds", "identities", "nearness"]

# Nats that the normal of a near-normal posterior's moments may lose: what two fits may differ by and count as
# the same. The tail index of its weights would not do: tails hardly move means and sds, and those of
# regressions, Student's of many degrees of freedom, reach .6 and more.
SMALL = 0.05


@dataclass(frozen=True, eq=False)
class Normal:
    """The normal with the moments of draws: mean (dim,), and L (dim, dim) with L Lᵀ their covariance."""

    loc: Tensor
    scale: Tensor

    @classmethod
    def of(cls, draws: Tensor) -> "Normal":
        """From draws (n, dim)."""
        # Not by way of the covariance: it has lost the digits of coordinates that determine each other.
        centred = draws - draws.mean(0)
        upper = torch.linalg.qr(centred / math.sqrt(len(draws) - 1), mode="r").R
        return cls(draws.mean(0), (upper * upper.diagonal().sign()[:, None]).T)

    def draws(self, noise: Tensor) -> Tensor:
        """Its draws from standard normal ones, shape (n, dim)."""
        return self.loc + noise @ self.scale.T

    def log_prob(self, noise: Tensor) -> Tensor:
        """Its log density at the draws that such noise gives, shape (n,)."""
        volume = self.scale.diagonal().log().sum() + noise.shape[1] * 0.5 * math.log(2 * math.pi)
        return -0.5 * noise.square().sum(1) - volume

    def whiten(self, positions: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and scores (n, dim) in the coordinates where it is standard normal."""
        centred = (positions - self.loc).T
        return torch.linalg.solve_triangular(self.scale, centred, upper=False).T, scores @ self.scale


def identities(target: Target, draws: Tensor) -> tuple[Tensor, Tensor]:
    """z-scores of the two score identities, in whitened coordinates: shapes (dim,) and (dim, dim).

    Args:
        target: a posterior.
        draws: of it, on the unconstrained scale, shape (n, dim); they count as independent, as reference
            draws may, which were thinned until neighbours correlate by less than .05.
    """
    white, scores = Normal.of(draws).whiten(draws, target.evaluate(draws)[1])
    products = scores[:, :, None] * white[:, None, :] + torch.eye(draws.shape[1], dtype=draws.dtype)
    return _z(scores), _z(products)


def _z(values: Tensor) -> Tensor:
    return values.mean(0) / values.std(0) * math.sqrt(len(values))


@dataclass(frozen=True)
class Nearness:
    """How near a posterior is to the normal of its moments, on the unconstrained scale.

    Attributes:
        pareto_k: k̂ of the normal's weights.
        gap: log p(x) less its ELBO, in nats: KL(q ‖ p).
        error: the gap's Monte Carlo error.
        skewness: the largest of a coordinate, in absolute value.
        kurtosis: the largest excess of a coordinate, in absolute value.
    """

    pareto_k: float
    gap: float
    error: float
    skewness: float
    kurtosis: float

    @property
    def near(self) -> bool:
        """Whether the gap is below .05 nats."""
        return self.gap < SMALL


def nearness(target: Target, reference: Tensor, num_draws: int = 10_000, seed: int = 0) -> Nearness:
    """Measure it by draws of that normal.

    Args:
        target: a posterior.
        reference: draws of it, on the unconstrained scale, shape (n, dim).
        num_draws: of the normal.
        seed: of those.
    """
    normal = Normal.of(reference)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_draws, target.density.dim, dtype=reference.dtype, generator=generator)
    log_w = target.evaluate(normal.draws(noise))[0] - normal.log_prob(noise)
    relative = (log_w - log_w.logsumexp(0) + math.log(num_draws)).exp()
    tail = log_w.topk(tail_length(num_draws) + 1).values
    ratio = (reference - reference.mean(0)) / reference.std(0)
    return Nearness(
        pareto_k=float(pareto_k(tail[:, None])),
        gap=float(log_w.logsumexp(0) - math.log(num_draws) - log_w.mean()),
        error=float((relative - log_w).std()) / math.sqrt(num_draws),
        skewness=float(ratio.pow(3).mean(0).abs().max()),
        kurtosis=float((ratio.pow(4).mean(0) - 3).abs().max()),
    )


def eager_seconds(target: Target, repeats: int = 30) -> float:
    """What one gradient costs through stock Pyro, in seconds."""
    return _seconds(target.density.value_and_gradient, target, repeats)


def compiled_seconds(target: Target, repeats: int = 300) -> tuple[str, float, float]:
    """The engine that runs it, what one gradient costs there, and what compiling cost, in seconds."""
    with pyro.validation_enabled(False):  # which reads values, as no graph can
        slope = gradient(target.density, "compiled")
    return slope.engine, _seconds(slope, target, repeats), slope.seconds


def _seconds(run: Callable[[Tensor], object], target: Target, repeats: int) -> float:
    at = torch.zeros(target.density.dim, dtype=torch.float64)
    times = []
    with pyro.validation_enabled(False):
        for _ in range(repeats + 3):
            start = time.perf_counter()
            run(at)
            times.append(time.perf_counter() - start)
    return sorted(times[3:])[repeats // 2]
