"""Variational Newton steps: a Gaussian towards the optimum of its family, by natural gradients.

With q = N(m, Σ), P = Σ⁻¹ and f = log p(x, u), the ELBO has the gradients g = E[∇f] in m and ½ (E[∇²f] + P) in
Σ (Bonnet's and Price's theorems; Opper and Archambeau 2009). In the natural coordinates of an exponential
family a step of length ρ mixes precisions, P ← (1 − ρ) P + ρ C with C = −E[∇²f] (Khan and Rue, "The Bayesian
Learning Rule", JMLR 24 (2023), section 4; Khan et al. 2018, "variational online Newton"), block by block
where Σ has blocks. The mean goes m ← m + ρ C⁻¹ g with the whole of C, also where Σ knows no correlations: for
independent coordinates it would else wait for them.

C comes from gradients alone, by Stein's lemma: E[∇²f] = E[∇f (u − m)ᵀ] P, whatever q's family. A low-rank
block goes towards the member of its family that is closest to N(m, C⁻¹).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.fitting.gaussians.gaussian import Block, Gaussian, log_volume, symmetric
from ppl_vae.inference.fitting.gaussians.target import Expectation, Target

__all__ = ["Ascent", "Direction", "ascend", "direction"]

# A precision falls at most to this fraction in one step: it stays positive where f is not concave. It rises
# at most so many times: draws that lie where f falls beyond all bounds would else make it singular.
LEAST, MOST = 0.1, 100.0
# Curvatures of the mean's system over the largest one, below which they count as none.
FLAT = 1e-12
HALVINGS = 30
# Halvings up to which the mean and the covariance go together.
TOGETHER = 3
# Least scale of a coordinate's own in a low-rank covariance, over its sd given all others. The best may be
# none at all, as in factor analysis; the guide divides by it.
THIN = 0.03


@dataclass(frozen=True, eq=False)
class Direction:
    """Where a Gaussian is to go.

    Attributes:
        start: the Gaussian.
        shift: of its mean, at full length, shape (dim,).
        curvature: C, shape (dim, dim).
        gain: rise in nats that a quadratic f would give the mean's step.
    """

    start: Gaussian
    shift: Tensor
    curvature: Tensor
    gain: float

    @cached_property
    def _spectra(self) -> list[tuple[Tensor, Tensor]]:
        """Eigenvalues and vectors of C in each dense block's own coordinates, where its precision is I."""
        pairs = zip(self.start.family.blocks, self.start.roots, strict=True)
        return [
            torch.linalg.eigh(symmetric(root.T @ self._own(block) @ root))
            if block.kind == "dense" else (torch.empty(0), torch.empty(0))
            for block, root in pairs
        ]  # fmt: skip

    @cached_property
    def _targets(self) -> list[Tensor]:
        """The low-rank blocks' roots at full length."""
        return [
            _closest(block, root, self._own(block)) if block.kind == "low-rank" else torch.empty(0)
            for block, root in zip(self.start.family.blocks, self.start.roots, strict=True)
        ]

    def _own(self, block: Block) -> Tensor:
        return self.curvature[block.columns][:, block.columns]

    def at(self, length: float, *, mean: bool = True, covariance: bool = True) -> Gaussian:
        """The Gaussian after a step of some length.

        Args:
            length: ρ in (0, 1].
            mean: whether its mean moves.
            covariance: whether its covariance does.
        """
        loc = self.start.loc + length * self.shift if mean else self.start.loc
        if not covariance:
            return self.start.replaced(loc, self.start.roots)
        roots = [self._root(number, length) for number in range(len(self.start.roots))]
        return self.start.replaced(loc, roots)

    def _root(self, number: int, length: float) -> Tensor:
        block, root = self.start.family.blocks[number], self.start.roots[number]
        if block.kind == "diagonal":
            before = root**-2
            after = torch.clamp(self._own(block).diagonal(), LEAST * before, MOST * before)
            return ((1 - length) * before + length * after) ** -0.5
        if block.kind == "dense":
            values, vectors = self._spectra[number]
            mixed = (1 - length) + length * values.clamp(LEAST, MOST)
            return root @ (vectors * mixed.rsqrt()) @ vectors.T
        return torch.lerp(root, self._targets[number], length)


def direction(here: Expectation) -> Direction:
    """The Newton step from a Gaussian.

    Args:
        here: what draws say there: more than dimensions, with the second moments of normals.
    """
    weighted = here.at.whiten(here.positions - here.at.loc)
    curvature = -symmetric(here.slopes.T @ weighted / len(weighted))
    # Units in which the coordinates are alike; the sign of a curvature that is none of a maximum is dropped.
    sd = here.at.variances().sqrt()
    values, vectors = torch.linalg.eigh(curvature * sd * sd.unsqueeze(1))
    size = values.abs()
    size = size.clamp_min(max(FLAT * float(size.max()), torch.finfo(size.dtype).tiny))
    slope = vectors.T @ (here.slopes.mean(0) * sd)
    shift = vectors @ (slope / size) * sd
    return Direction(here.at, shift, curvature, 0.5 * float((slope**2 / size).sum()))


@dataclass(frozen=True, eq=False)
class Ascent:
    """One iteration.

    Attributes:
        there: what the same draws say where it ends; the start's where nothing rose.
        length: of the step; 0 where nothing rose.
        rise: of the ELBO on these draws, in nats.
        gain: rise that the mean's step was expected to give.
    """

    there: Expectation
    length: float
    rise: float
    gain: float


def ascend(target: Target, here: Expectation) -> Ascent:
    """One step, halved until the ELBO on the same draws rises.

    Where the mean and the covariance do not go together, the best of these is taken: both a little way, and
    either alone. Far from an optimum one of the two may be of no use, and a covariance that can still rise
    by next to nothing must not keep a mean that is far off from moving.
    """
    towards = direction(here)
    for halving in range(TOGETHER):
        there = target.expect(towards.at(0.5**halving), here.noise)
        if there.elbo > here.elbo:
            return Ascent(there, 0.5**halving, there.elbo - here.elbo, towards.gain)
    ways = [_shortened(target, here, towards, *way) for way in ((True, True), (False, True), (True, False))]
    there, length = max(ways, key=lambda way: way[0].elbo)
    return Ascent(there, length, there.elbo - here.elbo, towards.gain)


def _shortened(
    target: Target, here: Expectation, towards: Direction, mean: bool, covariance: bool
) -> tuple[Expectation, float]:
    """The best of shorter and shorter steps, once one rises; the start and 0 where none does."""
    best, found = here, 0.0
    for halving in range(TOGETHER, HALVINGS):
        there = target.expect(towards.at(0.5**halving, mean=mean, covariance=covariance), here.noise)
        if there.elbo > best.elbo:
            best, found = there, 0.5**halving
        elif found:
            break
    return best, found


def _closest(block: Block, root: Tensor, curvature: Tensor) -> Tensor:
    """The low-rank root whose Gaussian is closest to one of a given precision, by KL(q ‖ p), from a root.

    Minimises ½ tr(C Σ) − ½ log |Σ| over Σ = S² + W Wᵀ, by L-BFGS in units of C's diagonal. C's curvatures
    are kept within what a step may do to the present precision.
    """
    from scipy.optimize import minimize

    dense = torch.linalg.cholesky(symmetric(block.covariance(root)))
    values, vectors = torch.linalg.eigh(symmetric(dense.T @ curvature @ dense))
    inverse = torch.linalg.inv(dense)
    lifted = symmetric(inverse.T @ (vectors * values.clamp(LEAST, MOST)) @ vectors.T @ inverse)
    unit = lifted.diagonal().rsqrt()
    scaled = lifted * unit * unit.unsqueeze(1)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(flat).reshape(root.shape)
        covariance = block.covariance(at)
        difference = scaled - block.whiten(at, torch.eye(block.dim).to(at))
        slope = torch.cat([(difference.diagonal() * at[:, 0]).unsqueeze(1), difference @ at[:, 1:]], 1)
        value = 0.5 * float((scaled * covariance).sum()) - float(log_volume(block, at))
        return (value if math.isfinite(value) else math.inf), slope.reshape(-1).numpy()

    start = root / unit.unsqueeze(1)
    start[:, 0] = start[:, 0].abs().clamp_min(THIN)
    bounds = [
        (THIN if column == 0 else None, None) for _ in range(block.dim) for column in range(root.shape[1])
    ]
    found = minimize(
        loss, start.reshape(-1).numpy(), jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": 500, "maxcor": 20},
    )  # fmt: skip
    return torch.from_numpy(found.x).reshape(root.shape) * unit.unsqueeze(1)
