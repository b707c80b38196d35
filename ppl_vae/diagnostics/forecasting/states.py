"""Gaussian posteriors over states, and the same posteriors with further states of the same chains.

States are those of Gaussian Markov chains (`program.chains`), such as skills at the dates of games. States at
other dates, after the last, between two or of new chains, are known through the prior alone: given the states
that data have seen, they are what the chains say. So forecasts at any date need nothing but the larger prior,
and where the present states are in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae.base.seeds import derived, seeded
from ppl_vae.program.chains import Chains

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["ChainStates", "DenseStates", "DrawnStates", "States"]

Floats = NDArray[np.float64]

# An observation this many times as precise as the prior's step holds a state, to ten digits.
HELD = 1e10
# Numbers held at a time.
CHUNK = 2 * 10**7


class States(Protocol):
    """A Gaussian posterior over N states."""

    @property
    def mean(self) -> Tensor:
        """Shape (N,)."""
        ...

    def moments(self, rows: csr_array, num_sides: int = 1) -> tuple[Tensor, Tensor]:
        """Mean and covariance of A s, of so many rows of A together.

        Args:
            rows: A, shape (G K, N).
            num_sides: K: which rows stand together.

        Returns:
            Shapes (G, K) and (G, K, K), float64.
        """
        ...

    def draws(self, num_draws: int, seed: int = 0) -> Tensor:
        """Joint draws, shape (draws, N)."""
        ...

    def level_draws(self, rows: csr_array, num_draws: int, seed: int = 0) -> Floats:
        """Joint draws of A s for rows A (R, N), shape (draws, R), without those of all states at once."""
        ...

    def extended(self, chains: Chains, place: Tensor) -> States:
        """The posterior over more states.

        Args:
            chains: the prior of all of them; of the present states alone it is the present prior.
            place: where the present states are among them, int64 of shape (N,).
        """
        ...


@dataclass(frozen=True, eq=False)
class ChainStates:
    """N(m, (P + diag x)⁻¹): chains that are independent of each other, as prior and posterior.

    Attributes:
        chains: the prior, without gradients, in float64.
        mean: m, shape (N,).
        site_precision: x ≥ 0, shape (N,): what data add to the prior's precision P.
    """

    chains: Chains
    mean: Tensor
    site_precision: Tensor

    @property
    def variance(self) -> Tensor:
        """Of every state, shape (N,)."""
        return self.chains.smoother(self.site_precision).variance

    def moments(self, rows: csr_array, num_sides: int = 1) -> tuple[Tensor, Tensor]:
        """See `States`; rows that stand together have at most one state of each chain."""
        from scipy.sparse import csr_array

        variance = self.variance.numpy()
        mean = torch.as_tensor(rows @ self.mean.numpy()).reshape(-1, num_sides)
        if num_sides == 1:
            own = csr_array((rows.data**2, rows.indices, rows.indptr), rows.shape) @ variance
            return mean, torch.as_tensor(own).reshape(-1, 1, 1)
        scaled = csr_array((rows.data * variance[rows.indices], rows.indices, rows.indptr), rows.shape)
        covariance = np.empty((len(mean), num_sides, num_sides))
        # Side k of every game with side l of the same game, row by row.
        sides = [(rows[k::num_sides], scaled[k::num_sides]) for k in range(num_sides)]
        for k, (own, _) in enumerate(sides):
            for other in range(k, num_sides):
                both = own.multiply(sides[other][1]).sum(axis=1)
                covariance[:, k, other] = covariance[:, other, k] = both
        return mean, torch.as_tensor(covariance)

    def draws(self, num_draws: int, seed: int = 0) -> Tensor:
        """See `States`."""
        smoother = self.chains.smoother(self.site_precision)
        with seeded(seed):
            noise = torch.randn(num_draws, self.chains.num_states, dtype=torch.float64)
        return self.mean + smoother.sample(noise)

    def level_draws(self, rows: csr_array, num_draws: int, seed: int = 0) -> Floats:
        """See `States`: rows of a state each, of chains apart, are independent of each other."""
        smoother, found = self.chains.smoother(self.site_precision), np.empty((num_draws, rows.shape[0]))
        with seeded(seed):
            if self._apart(rows):
                torch.randn(found.shape, dtype=torch.float64, out=torch.from_numpy(found))
                found *= np.abs(rows.data) * smoother.variance.numpy()[rows.indices] ** 0.5
                found += rows @ self.mean.numpy()
                return found
            for start in range(0, num_draws, size := max(1, CHUNK // self.chains.num_states)):
                shape = len(found[start : start + size]), self.chains.num_states
                noise = torch.randn(shape, dtype=torch.float64)
                drawn = self.mean + smoother.sample(noise)
                found[start : start + size] = (rows @ drawn.numpy().T).T
        return found

    def _apart(self, rows: csr_array) -> bool:
        """Whether every row is of one state, and no two of one chain."""
        offsets = np.array(self.chains.rounds)
        if not np.all(np.diff(rows.indptr) == 1):
            return False
        chain = rows.indices - offsets[np.searchsorted(offsets, rows.indices, side="right") - 1]
        return len(np.unique(chain)) == len(chain)

    def extended(self, chains: Chains, place: Tensor) -> ChainStates:
        """See `States`: what data say stays where it was, and the larger prior carries it on.

        q ∝ p(s) exp(hᵀ(s − μ) − ½ (s − μ)ᵀ diag(x) (s − μ)), with h and x of the states that data have seen.
        """
        chains = chains.detach()
        deviation = self.mean - self.chains.mean
        said = self.chains.precision_times(deviation) + self.site_precision * deviation
        pull, precision = (
            deviation.new_zeros(chains.num_states).index_copy(0, place, part)
            for part in (said, self.site_precision)
        )
        mean = chains.mean + chains.smoother(precision).solve(pull)
        # What is there already is known to the last digit.
        return ChainStates(chains, mean.index_copy(0, place, self.mean), precision)


@dataclass(frozen=True, eq=False)
class DenseStates:
    """N(m, Σ) with any covariance, of up to some thousands of states.

    Attributes:
        mean: m, shape (N,), float64.
        covariance: Σ, shape (N, N).
    """

    mean: Tensor
    covariance: Tensor

    @property
    def variance(self) -> Tensor:
        """Of every state, shape (N,)."""
        return self.covariance.diagonal()

    def moments(self, rows: csr_array, num_sides: int = 1) -> tuple[Tensor, Tensor]:
        """See `States`."""
        mean = torch.as_tensor(rows @ self.mean.numpy()).reshape(-1, num_sides)
        smeared = torch.as_tensor(rows @ self.covariance.numpy()).reshape(len(mean), num_sides, -1)
        found = torch.empty(len(mean), num_sides, num_sides, dtype=torch.float64)
        for side in range(num_sides):
            own = rows[side::num_sides]
            for other in range(num_sides):
                both = own.multiply(smeared[:, other].numpy()).sum(axis=1)
                found[:, side, other] = torch.as_tensor(both)
        return mean, found

    def draws(self, num_draws: int, seed: int = 0) -> Tensor:
        """See `States`."""
        root = torch.linalg.cholesky(self.covariance)
        with seeded(seed):
            noise = torch.randn(num_draws, len(self.mean), dtype=torch.float64)
        return self.mean + noise @ root.T

    def level_draws(self, rows: csr_array, num_draws: int, seed: int = 0) -> Floats:
        """See `States`."""
        return _levels(rows, self.draws(num_draws, seed))

    def extended(self, chains: Chains, place: Tensor) -> DenseStates:
        """See `States`: L m and L Σ Lᵀ + C, where the prior says L s and C of all states given s."""
        chains = chains.detach()
        precision = torch.zeros_like(chains.mean)
        precision[place] = HELD / chains.variance[place]
        given = chains.smoother(precision).solve(torch.eye(chains.num_states, dtype=torch.float64))
        gain = given[:, place] * precision[place]
        mean = chains.mean + gain @ (self.mean - chains.mean[place])
        return DenseStates(mean, given + gain @ self.covariance @ gain.T)


@dataclass(frozen=True, eq=False)
class DrawnStates:
    """A posterior of any form through joint draws, whose moments stand for it.

    Attributes:
        values: shape (draws, N), in float64.
    """

    values: Tensor

    @property
    def mean(self) -> Tensor:
        """See `States`."""
        return self.values.mean(0)

    @property
    def variance(self) -> Tensor:
        """Of every state, shape (N,)."""
        return self.values.var(0)

    def moments(self, rows: csr_array, num_sides: int = 1) -> tuple[Tensor, Tensor]:
        """See `States`."""
        found = torch.as_tensor(rows @ self.values.numpy().T).reshape(-1, num_sides, len(self.values))
        mean = found.mean(-1)
        away = found - mean[..., None]
        return mean, away @ away.transpose(-1, -2) / (len(self.values) - 1)

    def draws(self, num_draws: int, seed: int = 0) -> Tensor:
        """See `States`: those that there are, in an order of the seed; some again where there are too few."""
        generator = torch.Generator().manual_seed(seed)
        times = -(-num_draws // len(self.values))
        order = [torch.randperm(len(self.values), generator=generator) for _ in range(times)]
        return self.values[torch.cat(order)[:num_draws]]

    def level_draws(self, rows: csr_array, num_draws: int, seed: int = 0) -> Floats:
        """See `States`."""
        return _levels(rows, self.draws(num_draws, seed))

    def extended(self, chains: Chains, place: Tensor) -> DrawnStates:
        """See `States`: further states are drawn given those that there are, draw by draw.

        A draw of the prior is moved by what the difference of its states from the given ones implies
        (Matheron's rule; Journel and Huijbregts 1978).
        """
        chains = chains.detach()
        precision = torch.zeros_like(chains.mean)
        precision[place] = HELD / chains.variance[place]
        smoother = chains.smoother(precision)
        found = []
        for number, part in enumerate(self.values.split(max(1, CHUNK // chains.num_states))):
            with seeded(derived(0, "further states", number)):
                prior = chains.unwhiten(torch.randn(len(part), chains.num_states, dtype=torch.float64))
            missing = torch.zeros_like(prior)
            missing[:, place] = part - prior[:, place]
            moved = prior + smoother.solve(precision * missing)
            moved[:, place] = part
            found.append(moved)
        return DrawnStates(torch.cat(found))


def _levels(rows: csr_array, draws: Tensor) -> Floats:
    found: Floats = (rows @ draws.numpy().T).T
    return found
