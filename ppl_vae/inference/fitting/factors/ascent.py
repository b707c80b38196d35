"""The ELBO of a Gaussian family's members by quadrature, and its ascent by natural gradients.

One iteration takes sites and mean a length ρ ≤ 1 towards where `families` says. A mean-field step of
the mean would move all states at once without regard for each other and oscillate on crowded graphs; the one
with a full precision matrix does not. Both are ascent directions; ρ is halved until the ELBO rises.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ppl_vae.base.errors import InputError
from ppl_vae.inference.evidence.elbo import ELBO
from ppl_vae.inference.fitting.factors.expectations import Expected, hermite_rule
from ppl_vae.inference.fitting.factors.families import FactorFamily
from ppl_vae.inference.fitting.factors.spreads import Spread

__all__ = ["FEWEST_NODES", "ROUNDING", "Ascent", "Bound", "State"]

HALVINGS = 40
# Of the ELBO, what sums over many rows lose by rounding.
ROUNDING = 1e-12
# Nodes at first and at most, where nobody says how many.
FEWEST_NODES, MOST_NODES = 8, 64
# With fewer nodes than the last, iterations go on until they bring no more than so many tolerances.
ROUGHLY = 1000.0


@dataclass(frozen=True, eq=False)
class State:
    """A member of the family, and what the quadrature says there.

    Attributes:
        mean: m, shape (N,).
        sites: what describes the rest of it; empty where it is no member by sites.
        spread: what is around the mean.
        expected: of the data.
        kl: from the prior, in nats.
    """

    mean: Tensor
    sites: Tensor
    spread: Spread
    expected: Expected
    kl: float

    @property
    def elbo(self) -> float:
        """In nats."""
        return self.expected.value - self.kl

    def summary(self) -> ELBO:
        """Nothing was drawn, and the data set is one unit: its latents meet in every datum."""
        return ELBO(
            value=self.elbo,
            std_error=0.0,
            reconstruction=self.expected.value,
            kl=self.kl,
            kl_is_analytic=True,
            num_units=1,
            num_particles=0,
        )


@dataclass(frozen=True, eq=False)
class Bound:
    """The ELBO of a family's members.

    Attributes:
        family: of Gaussians.
        rule: nodes and weights of the expectation over N(0, 1), shape (2, num_nodes).
    """

    family: FactorFamily
    rule: Tensor

    @property
    def num_nodes(self) -> int:
        """Of the rule."""
        return self.rule.shape[1]

    @torch.no_grad()
    def begin(self, mean: Tensor, rest: Tensor | Spread) -> State:
        """The state of a guide as it was read.

        Raises:
            InputError: if its ELBO is not finite.
        """
        if isinstance(rest, Tensor):
            spread, sites = self.family.spread(rest), rest
        else:
            spread, sites = rest, mean.new_zeros(0)
        state = None if spread is None else self.at(mean, sites, spread)
        if state is None or not math.isfinite(state.elbo):
            value = math.nan if state is None else state.elbo
            raise InputError(f"the ELBO is {value} where the guide stands; give it other parameters")
        return state

    @torch.no_grad()
    def at(self, mean: Tensor, sites: Tensor, spread: Spread) -> State:
        """Evaluate the ELBO and its derivatives."""
        factors = self.family.factors
        variance = self.family.predictor_variance(spread)
        expected = factors.expect(factors.predictor(mean), variance, self.rule)
        chains = factors.chains
        deviation = mean - chains.mean
        if len(sites):
            inner = -torch.dot(sites, self.family.seen(spread, variance))
        else:  # tr P S − N, of a covariance that no sites describe
            squares = chains.expected_log_prob(chains.mean, spread.variance, spread.lag_covariance)
            inner = -2 * squares - (chains.variance.log() + math.log(2 * math.pi) + 1).sum()
        kl = 0.5 * (inner + torch.dot(deviation, chains.precision_times(deviation)) + spread.log_det)
        return State(mean, sites, spread, expected, kl.item())

    @torch.no_grad()
    def ascend(self, state: State) -> tuple[State, float]:
        """One iteration, and its length ρ; the state itself and length 1 where rounding allows no rise."""
        target = self.family.target(state.sites, state.spread, state.expected)
        ahead = self.family.spread(target)
        step = self.family.step(state.mean, ahead, state.expected)
        length = 1.0
        for _ in range(HALVINGS):
            sites = target if length == 1 else torch.lerp(state.sites, target, length)
            spread = ahead if length == 1 else self.family.spread(sites)
            if spread is not None:
                found = self.at(state.mean + length * step, sites, spread)
                if found.elbo > state.elbo:
                    return found, length
                if state.elbo - found.elbo <= ROUNDING * abs(state.elbo):
                    break
            length /= 2
        return state, 1.0

    def by_sites(self, state: State) -> State:
        """A member by sites with the same mean, for a state that is none."""
        if len(state.sites):
            return state
        sites = (-state.expected.curvature).clamp_min(0)
        spread = self.family.spread(sites)
        assert spread is not None
        return self.at(state.mean, sites, spread)

    def with_nodes(self, num_nodes: int) -> Bound:
        """The same with another rule."""
        return replace(self, rule=hermite_rule(num_nodes))


class Ascent:
    """Iterations until they bring no more than the tolerance, with as many nodes as that takes.

    Args:
        tolerance: in nats.
        max_iterations: most iterations.
        num_nodes: a fixed number, or None.
        advance: told of every iteration.

    Attributes:
        history: the ELBO after every iteration.
        done: whether the last run ended by the tolerance.
        rise: of the last iteration, in nats.
        state: the last one.
    """

    state: State

    def __init__(
        self,
        tolerance: float,
        max_iterations: int,
        num_nodes: int | None,
        advance: Callable[[int, str], None],
    ) -> None:
        self.tolerance, self.max_iterations, self.num_nodes = tolerance, max_iterations, num_nodes
        self.advance = advance
        self.history: list[float] = []
        self.done, self.rise = False, math.inf

    @property
    def first_nodes(self) -> int:
        """With how many to begin."""
        return self.num_nodes or FEWEST_NODES

    def within(self) -> Ascent:
        """A finer one, inside of another search that the caller shows."""
        return Ascent(0.1 * self.tolerance, self.max_iterations, self.num_nodes, lambda count, said: None)

    def run(self, bound: Bound, state: State) -> tuple[Bound, State]:
        """Iterate to the tolerance."""
        # States hold numbers of every row: none but the last is kept, here or by a name of a caller.
        self.state = bound.by_sites(state)
        del state
        while self.num_nodes is None:
            self._climb(bound, ROUGHLY * self.tolerance)
            finer = bound.with_nodes(2 * bound.num_nodes)
            with torch.no_grad():
                there = finer.at(self.state.mean, self.state.sites, self.state.spread)
            enough = abs(there.elbo - self.state.elbo) <= 0.5 * self.tolerance
            if enough or finer.num_nodes > MOST_NODES or not self.done:
                del there
                break
            bound, self.state = finer, there
            del there
            self.history[-1:] = [self.state.elbo]
        self._climb(bound, self.tolerance)
        return bound, self.state

    def climb(self, bound: Bound, state: State, tolerance: float) -> State:
        """Iterate with one rule."""
        self.state = state
        del state
        self._climb(bound, tolerance)
        return self.state

    def _climb(self, bound: Bound, tolerance: float) -> None:
        self.done = False
        while not self.done and len(self.history) < self.max_iterations:
            before = self.state.elbo
            self.state, length = bound.ascend(self.state)
            self.rise = self.state.elbo - before
            self.done = self.rise <= tolerance * length
            self.history.append(self.state.elbo)
            self.advance(1, f"ELBO {self.state.elbo:.4f}")
