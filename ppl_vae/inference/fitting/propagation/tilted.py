"""Normal predictors times their factors: the integrals that expectation propagation works with.

Where a predictor d ~ N(μ, v) meets a factor exp ℓ(d), the tilted density N(d; μ, v) exp ℓ(d) / Z has moments
that are derivatives of log Z (Minka 2001, section 3.2): mean μ + v α and variance v (1 − v β) with

α = ∂ log Z / ∂μ,   β = −∂² log Z / ∂μ².

Gauss–Hermite quadrature gives them for any smooth ℓ, its nodes laid where the tilted density is: first by its
mode and curvature there (Naylor and Smith 1982), then by the moments found so.

Sources: Minka, "Expectation Propagation for Approximate Bayesian Inference", UAI 2001; Naylor and Smith,
"Applications of a method for the efficient computation of posterior distributions", Applied Statistics 31
(1982); Liu and Pierce, "A note on Gauss–Hermite quadrature", Biometrika 81 (1994).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ppl_vae.program.factors import Tilted

__all__ = ["Quadrature"]

LogLikelihood = Callable[[Tensor], Tensor]

# Values of predictors at once, and where they are differentiated, which bounds the memory.
CHUNK, SMALL_CHUNK = 2**21, 2**19
# Of the search for modes: steps at most, and the step, in sds of the tilted density, at which it ends: nodes
# need no exact centre.
MODE_STEPS, MODE_TOLERANCE = 60, 1e-2
# Where ℓ is not concave, a mode's curvature is at least this part of the normal's.
LEAST_CURVATURE = 0.1
# Passes over the nodes: about the mode, then about the mean.
PASSES = 2


class Quadrature:
    """Moments of normals times factors of one predictor each.

    Args:
        log_likelihood: ℓ in nats, for predictors of shape (..., R): elementwise, and differentiable twice.
        num_nodes: nodes of the Gauss–Hermite rule.
    """

    def __init__(self, log_likelihood: LogLikelihood, num_nodes: int) -> None:
        self.log_likelihood = log_likelihood
        nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
        self._nodes = torch.from_numpy(nodes)
        # The rule is for the integral against exp(−t²/2), which the integrand has inside.
        self._weights = torch.from_numpy(weights * np.exp(nodes**2 / 2))
        self._mode: Tensor | None = None

    @torch.no_grad()
    def __call__(self, mean: Tensor, variance: Tensor) -> Tilted:
        """log Z, α and β of normals of these moments, of shape (R,); modes are sought from the last ones."""
        mode, curvature, height = self._modes(mean, variance)
        self._mode = mode
        centre, sd = mode, curvature.rsqrt()
        for _ in range(PASSES):
            total, first, second = self._sums(mean, variance, centre, sd, height)
            away, log_total = first / total, height + (total * sd).log()
            centre, sd = centre + sd * away, sd * (second / total - away**2).sqrt()
        return Tilted(
            log_normaliser=log_total - 0.5 * (2 * math.pi * variance).log(),
            slope=(centre - mean) / variance,
            curvature=(1 - sd**2 / variance) / variance,
        )

    def expected_log_likelihood(self, mean: Tensor, variance: Tensor, counts: Tensor) -> Iterator[Tensor]:
        """Σ_r c_r E ℓ(d_r) under the tilted densities, in parts that are to be added, shape ().

        The parts are differentiable in what ℓ itself depends on: with all else held, the sum has the
        derivatives of Σ_r c_r log Z_r. Each is made when it is asked for, so that memory is bounded.

        Args:
            mean, variance: of the normals, shape (R,).
            counts: c, shape (R,).
        """
        with torch.no_grad():
            found = self(mean, variance)
            centre, sd = mean + variance * found.slope, (variance * (1 - variance * found.curvature)).sqrt()
            scale = found.log_normaliser + 0.5 * (2 * math.pi * variance).log() - sd.log()
        size = max(1, SMALL_CHUNK // len(mean))
        for nodes, weights in zip(self._nodes.split(size), self._weights.split(size), strict=True):
            at = centre + sd * nodes[:, None]
            with torch.no_grad():
                density = weights[:, None] * (self._objective(at, mean, variance) - scale).exp()
            yield (self.log_likelihood(at) * (density * counts)).sum()

    def _sums(
        self, mean: Tensor, variance: Tensor, centre: Tensor, sd: Tensor, height: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """∫ exp(F − height), the same times t and times t², over t = (d − centre) / sd."""
        sums = [torch.zeros_like(mean) for _ in range(3)]
        size = max(1, CHUNK // len(mean))
        for nodes, weights in zip(self._nodes.split(size), self._weights.split(size), strict=True):
            at = centre + sd * nodes[:, None]
            value = weights[:, None] * (self._objective(at, mean, variance) - height).exp()
            for power, total in enumerate(sums):
                total += (nodes**power) @ value
        return sums[0], sums[1], sums[2]

    def _objective(self, at: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """F: the tilted density's logarithm, up to a constant."""
        return self.log_likelihood(at) - (at - mean) ** 2 / (2 * variance)

    def _modes(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tilted densities' modes, minus their logarithms' curvature there, and F."""
        at = _Point.of(self, mean if self._mode is None else self._mode, mean, variance)
        step = at.slope / at.curvature
        for _ in range(MODE_STEPS):
            if (step.abs() * at.curvature.sqrt()).max() <= MODE_TOLERANCE:
                break
            new = _Point.of(self, at.place + step, mean, variance)
            # NaN is no rise. What rounding takes from a height is no fall.
            rises = new.height >= at.height - 1e-12 * at.height.abs()
            at = at.where(rises, new)
            step = torch.where(rises, at.slope / at.curvature, step / 2)
        return at.place, at.curvature, at.height


@dataclass(frozen=True, eq=False)
class _Point:
    """F, its slope and minus its curvature where a search for modes stands, each of shape (R,)."""

    place: Tensor
    height: Tensor
    slope: Tensor
    curvature: Tensor

    @classmethod
    def of(cls, rule: Quadrature, place: Tensor, mean: Tensor, variance: Tensor) -> "_Point":
        with torch.enable_grad():
            leaf = place.detach().requires_grad_()
            value = rule.log_likelihood(leaf)
            (slope,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
            curvature = torch.zeros_like(place)
            if slope.requires_grad:
                found = torch.autograd.grad(slope.sum(), leaf, allow_unused=True)[0]
                curvature = curvature if found is None else found
        away = (place - mean) / variance
        return cls(
            place,
            value.detach() - 0.5 * away * (place - mean),
            slope.detach() - away,
            torch.maximum(1 / variance - curvature, LEAST_CURVATURE / variance),
        )

    def where(self, chosen: Tensor, other: "_Point") -> "_Point":
        """The other's entries where they are chosen."""
        pairs = ((getattr(other, name), getattr(self, name)) for name in self.__dataclass_fields__)
        return _Point(*(torch.where(chosen, new, old) for new, old in pairs))
