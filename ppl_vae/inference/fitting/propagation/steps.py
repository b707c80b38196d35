"""Expectation propagation for linear factors on Gaussian chains: its equations, and steps to their solution.

States s ~ N(μ, P⁻¹) meet data through factors exp ℓ of predictors d = A s, a row of A each. Every entry
(r, n) of A has a site, exp(t (s_n − m_n) − π (s_n − m_n)² / 2), so that the answer q = N(m, (P + diag X)⁻¹),
with X the sum of a state's π, leaves chains independent of each other: the factorisation that Herbrich et al.
rate players by, and Dangauthier et al. through time. An entry's cavity is the marginal N(m_n, v_n) of its
state without its own site, of precision 1/w = 1/v_n − π. A row's cavity is d_r ~ N(δ_r, u_r) with
u_r = Σ a² w; with α and β of its tilted density (`tilted`)

t = a α,   π = a² β / (1 − a² w β),   δ_r = (A m)_r − u_r α_r,   P (m − μ) = Aᵀ α.

Message passing sweeps over these equations, which is slow in what games tell only relatively (the common
level of players). Given the u, the last two are the stationarity of a function of m that is concave where ℓ
is, and are solved by Newton's method instead: linearised in δ, α moves with m by −W A dm, with
W = (I − H diag u)⁻¹ H and −H the second derivatives of the factors' log Z, and

(P + Aᵀ W A) dm = Aᵀ α − P (m − μ).

Then the π are set at the new cavities. One step costs two calls of `tilted`, one smoother, and conjugate
gradients with the chains' own solver before them; it converges linearly, by a factor of about 10 where every
factor has one row. The fixed points are those of message passing, whatever the path.

At a fixed point EP's estimate of the evidence is (Minka 2001, with sites as above)

log Z = Σ_f log Z_f + ½ Σ_r u_r α_r² + ½ Σ_e log(1 + π_e w_e) − ½ (m − μ)ᵀ P (m − μ)
        − ½ log(|P + diag X| / |P|).

It is no bound.

Sources: Minka, "Expectation Propagation for Approximate Bayesian Inference", UAI 2001; Herbrich, Minka and
Graepel, "A Bayesian Skill Rating System", NIPS 2006; Dangauthier, Herbrich, Minka and Graepel, "Revisiting
the History of Chess", NIPS 2007; Opper and Winther, "Expectation Consistent Approximate Inference", JMLR 6
(2005), for the free energy of which these are the stationary points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppl_vae.inference.fitting.factors.spreads import Spread
from ppl_vae.inference.fitting.propagation.tilted import Quadrature
from ppl_vae.program.chains import Chains
from ppl_vae.program.design import Design
from ppl_vae.program.factors import Tilted
from ppl_vae.program.solving import conjugate_gradients

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Factors", "Linear", "Sites", "log_evidence_together", "predictors", "step", "stiffness"]

# The Newton system is solved to this fraction; what is left is mended by the next step.
SOLVER_TOLERANCE, SOLVER_ITERATIONS = 1e-2, 300
# A cavity keeps at least this part of a state's precision, and a tilted density this part of its variance,
# where ℓ is not concave or rounding has eaten the rest.
LEAST_PART = 1e-6
# Of the closure of several rows' curvature.
CLOSURE_ITERATIONS, LEAST_SLACK = 60, 0.05


@dataclass(frozen=True, eq=False)
class Factors:
    """A, the prior, and the factors' integrals.

    Attributes:
        site: the latent site.
        chains: the prior of the N states, in float64 without gradients.
        design: A in float64; a row has at least one state, and each once. It counts copies of a row, which
            have sites of their own, all alike.
        sizes: rows of every factor, shape (F,); None where each has one.
        tilted: log Z, α and β of the factors under independent normal predictors (mean, variance).
        rule: the quadrature of factors of one row, for derivatives in what ℓ depends on; None of others.
    """

    site: str
    chains: Chains
    design: Design
    sizes: Tensor | None
    tilted: Callable[[Tensor, Tensor], Tilted]
    rule: Quadrature | None = None

    @cached_property
    def matrix(self) -> csr_array:
        """A, shape (R, N)."""
        return self.design.csr(self.chains.num_states)

    @cached_property
    def counted(self) -> csr_array:
        """Aᵀ with every row as often as it counts, shape (N, R), in compressed rows."""
        matrix = self.matrix.T.tocsr()
        return matrix if self.design.count is None else matrix * self.design.count.numpy()

    @cached_property
    def row(self) -> Tensor:
        """The row of every entry, shape (E,)."""
        return torch.repeat_interleave(torch.arange(self.design.num_rows), self.design.pointer.diff())

    @cached_property
    def squares(self) -> Tensor:
        """a² of every entry, shape (E,)."""
        return self.design.value**2

    def predictors(self, states: Tensor) -> Tensor:
        """A s, shape (R,)."""
        return torch.from_numpy(self.matrix @ states.numpy())

    def gathered(self, of_rows: Tensor) -> Tensor:
        """Aᵀ y over all copies, shape (N,)."""
        return torch.from_numpy(self.counted @ of_rows.numpy())

    @property
    def num_sites(self) -> int:
        """How many there are: one an entry."""
        return len(self.design.column)

    def around(self, precision: Tensor) -> Spread:
        """The Gaussian that sites of these precisions make of the prior, but for its mean."""
        return self.chains.smoother(self.by_state(precision))

    def cavities(self, precision: Tensor, around: Spread) -> Tensor:
        """w of every site."""
        marginal = 1 / around.variance.index_select(0, self.design.column)
        return 1 / torch.maximum(marginal - precision, LEAST_PART * marginal)

    def bends(self, curvature: Tensor) -> Tensor:
        """a² β of every site, of the rows' β."""
        return self.squares * curvature.index_select(0, self.row)

    def by_row(self, of_sites: Tensor) -> Tensor:
        """Sums over the sites of every row, shape (R,)."""
        zero = of_sites.new_zeros(self.design.num_rows)
        return zero.index_add_(0, self.row, of_sites)

    def spread(self, cavity: Tensor) -> Tensor:
        """u of every row, of the entries' w, shape (R,)."""
        scaled = (self.squares * cavity).numpy()
        return torch.from_numpy(np.add.reduceat(scaled, self.design.pointer.numpy()[:-1]))

    def total(self, of_rows: Tensor) -> Tensor:
        """The sum over rows or factors, copies included."""
        return of_rows.sum() if self.design.count is None else of_rows @ self.design.count

    def by_state(self, of_entries: Tensor) -> Tensor:
        """Sums over the entries of every state, copies included, shape (N,)."""
        if self.design.count is not None:
            of_entries = of_entries * self.design.count.index_select(0, self.row)
        found = np.bincount(self.design.column.numpy(), of_entries.numpy(), self.chains.num_states)
        return torch.from_numpy(found)

    def newton(self, linear: Linear, right: Tensor) -> Tensor:
        """(P + Aᵀ W A)⁻¹ b, roughly, by conjugate gradients with the chains' own solver before them."""
        chains = self.chains
        preconditioner = chains.smoother(self.by_state(self.bends(linear.weight)))

        def system(x: Tensor) -> Tensor:
            return chains.precision_times(x) + self.gathered(linear.times(self.predictors(x)))

        return conjugate_gradients(
            system, right, preconditioner.solve, tolerance=SOLVER_TOLERANCE, most=SOLVER_ITERATIONS
        )


@dataclass(frozen=True, eq=False)
class Sites:
    """Where expectation propagation stands.

    Attributes:
        mean: m of every state, shape (N,).
        slope: α of every row, shape (R,).
        precision: π of every entry, shape (E,); of every row where all states are together (`joint`).
    """

    mean: Tensor
    slope: Tensor
    precision: Tensor

    @classmethod
    def none(cls, factors: Factors) -> Sites:
        """Sites of one: the prior."""
        design, zero = factors.design, factors.chains.mean.new_zeros
        return cls(factors.chains.mean.clone(), zero(design.num_rows), zero(factors.num_sites))

    def around(self, factors: Factors) -> Spread:
        """What the sites make of the prior, but for its mean: a smoother whose site precisions are X."""
        return factors.around(self.precision)


@dataclass(frozen=True, eq=False)
class Step:
    """What a step did.

    Attributes:
        sites: after it.
        variance: the states' marginal variances before it, shape (N,).
        change: the largest move of a mean that a step of full length makes, in the state's sd.
        log_evidence: the estimate where it began, in nats.
    """

    sites: Sites
    variance: Tensor
    change: float
    log_evidence: float


@torch.no_grad()
def step(factors: Factors, sites: Sites, length: float = 1.0) -> Step:
    """One step of the given length (1: undamped)."""
    around = sites.around(factors)
    variance, cavity = around.variance, factors.cavities(sites.precision, around)
    spread = factors.spread(cavity)
    before = factors.tilted(factors.predictors(sites.mean) - spread * sites.slope, spread)
    evidence = log_evidence(factors, sites, around, cavity, before)
    moved = Linear.of(factors, before, spread, sites.slope)
    move = length * moved.solve(sites)
    mean, slope = sites.mean + move, moved.slope - moved.times(factors.predictors(move))
    after = factors.tilted(factors.predictors(mean) - spread * slope, spread)
    slope = Linear.of(factors, after, spread, slope).slope
    bend = factors.bends(after.curvature)
    precision = bend / (1 - cavity * bend).clamp(min=LEAST_PART)
    precision = torch.lerp(sites.precision, precision, length)
    change = float((move.abs() / variance.sqrt()).max()) / length
    return Step(Sites(mean, slope, precision), variance, change, evidence)


def log_evidence(factors: Factors, sites: Sites, around: Spread, cavity: Tensor, tilted: Tilted) -> float:
    """EP's estimate of log p(x) in nats, right to second order off a fixed point of the means."""
    spread = factors.spread(cavity)
    away = sites.mean - factors.chains.mean
    narrowed = factors.by_row((sites.precision * cavity).log1p())
    energy = factors.total(tilted.log_normaliser) + 0.5 * factors.total(spread * sites.slope**2 + narrowed)
    energy -= 0.5 * around.log_det
    return float(energy - 0.5 * away @ factors.chains.precision_times(away))


@torch.no_grad()
def predictors(factors: Factors, sites: Sites) -> tuple[Tensor, Tensor]:
    """δ and u: means and variances of the rows' cavities, each of shape (R,)."""
    spread = factors.spread(factors.cavities(sites.precision, sites.around(factors)))
    return factors.predictors(sites.mean) - spread * sites.slope, spread


@torch.no_grad()
def log_evidence_together(factors: Factors, sites: Sites, log_det: Tensor) -> float:
    """EP's estimate of log p(x) in nats with a site W a factor, and chains that these leave together.

    Args:
        factors, sites: of chains that are apart, whose cavities are taken.
        log_det: log |P + Aᵀ W A| − log |P|, a scalar.
    """
    mean, spread = predictors(factors, sites)
    tilted = factors.tilted(mean, spread)
    linear = Linear.of(factors, tilted, spread, sites.slope)
    scaled, away = linear.weight * spread, sites.mean - factors.chains.mean
    energy = factors.total(tilted.log_normaliser) + 0.5 * factors.total(
        spread * sites.slope**2 + scaled.log1p()
    )
    if linear.starts is not None and factors.sizes is not None:
        # |I + u W| of W = diag w − w wᵀ / Σw, by the lemma of determinants.
        top, bottom = (_sums(part, linear.starts) for part in (linear.weight / (1 + scaled), linear.weight))
        energy += 0.5 * torch.where((factors.sizes > 1) & (bottom > 0), (top / bottom).log(), 0.0).sum()
    return float(energy - 0.5 * (log_det + away @ factors.chains.precision_times(away)))


@torch.no_grad()
def stiffness(factors: Factors, sites: Sites) -> Tensor:
    """The diagonal part of W where the sites stand, shape (R,): means answer to a pull as those of a Gaussian
    of precision P + Aᵀ W A, in which states are together whose sites leave them apart."""
    mean, spread = predictors(factors, sites)
    return Linear.of(factors, factors.tilted(mean, spread), spread, sites.slope).weight


@dataclass(frozen=True, eq=False)
class Linear:
    """α as a linear function of the change of predictors A dm: α = slope − W A dm.

    W is diagonal for factors of one row. Those of several are closed by H ≈ D − D 1 1ᵀ D / ΣD with the
    diagonal that is known: rankings do not change when all sides gain the same, so that the rows of their
    curvature sum to zero. W is then of the same form.

    Attributes:
        slope: α where dm = 0, shape (R,).
        weight: the diagonal part of W, shape (R,).
        starts: first rows of factors of several rows, else None.
    """

    factors: Factors
    slope: Tensor
    weight: Tensor
    starts: np.ndarray | None

    @classmethod
    def of(cls, factors: Factors, tilted: Tilted, spread: Tensor, slope: Tensor) -> Linear:
        """Solve α = α(δ) − H (A dm − u (α − α₀)) for α."""
        sizes = factors.sizes
        if sizes is None:
            kept = (1 - tilted.curvature * spread).clamp(min=LEAST_PART)
            new = slope + (tilted.slope - slope) / kept
            return cls(factors, new, (tilted.curvature / kept).clamp(min=0), None)
        starts = np.r_[0, np.cumsum(sizes.numpy())[:-1]]
        diagonal = _closed(tilted.curvature.clamp(min=0), spread, starts, sizes)
        weight = diagonal / (1 - diagonal * spread).clamp(min=LEAST_SLACK)
        linear = cls(factors, slope, weight, starts)
        # (I − H u)⁻¹ y = y + W u y.
        off = tilted.slope - slope
        new = slope + off + linear.times(spread * off)
        return cls(factors, new, weight, starts)

    def times(self, of_rows: Tensor) -> Tensor:
        """W y, shape (R,)."""
        scaled = self.weight * of_rows
        if self.starts is None:
            return scaled
        sizes = self.factors.sizes
        assert sizes is not None
        top, bottom = _sums(scaled, self.starts), _sums(self.weight, self.starts)
        shift = torch.where((bottom > 0) & (sizes > 1), top / bottom, 0.0)
        return scaled - self.weight * _repeat(shift, sizes)

    def solve(self, sites: Sites) -> Tensor:
        """dm."""
        factors, chains = self.factors, self.factors.chains
        right = factors.gathered(self.slope) - chains.precision_times(sites.mean - chains.mean)
        return factors.newton(self, right)


def _closed(curvature: Tensor, spread: Tensor, starts: np.ndarray, sizes: Tensor) -> Tensor:
    """D of which D − D² / ΣD, sums within factors, is the given diagonal, by iteration; D itself for one row.

    With two rows there are many, of one H; that proportional to 1/u keeps I − D u positive.
    """
    found, several = curvature, _repeat(sizes, sizes) > 1
    for _ in range(CLOSURE_ITERATIONS):
        total = _repeat(_sums(found, starts), sizes)
        found = curvature + torch.where((total > 0) & several, found**2 / total, 0.0)
    two = _repeat(sizes, sizes) == 2
    return torch.where(two, curvature * _repeat(_sums(spread, starts), sizes) / spread, found)


def _sums(values: Tensor, starts: np.ndarray) -> Tensor:
    return torch.from_numpy(np.add.reduceat(values.numpy(), starts))


def _repeat(of_factors: Tensor, sizes: Tensor) -> Tensor:
    return torch.repeat_interleave(of_factors, sizes)
