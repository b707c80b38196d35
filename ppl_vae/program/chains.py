"""Many Gaussian Markov chains side by side, such as skills over time, stored by rounds.

A chain's states x_1, x_2, … follow x_n − μ_n = φ_n (x_{n−1} − μ_{n−1}) + N(0, v_n). Their joint precision P
is tridiagonal. Chains are sorted by length, longest first, and the states of the same round, the r-th states
of all chains that have so many, lie side by side: round r is rows ``rounds[r] : rounds[r + 1]``, and the
predecessor of its k-th row is the k-th row of round r − 1. Every recursion along the chains is a loop over
rounds of vector operations, without padding or scattering.

Sources: Kalman (1960) and Rauch, Tung and Striebel (1965), filter and smoother; Rue and Held, *Gaussian
Markov Random Fields* (2005), section 2.4, for draws; Blelloch, "Prefix sums and their applications" (1990),
for recursions by doubling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ppl_vae.base.errors import InputError

__all__ = ["ONE_DRAW", "Chains", "Smoother"]

ONE_DRAW = torch.Size()
# Rounds up to which a recursion that is differentiated or traced goes round by round.
FEW_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class Chains:
    """Independent Gaussian Markov chains of altogether N states.

    Attributes:
        mean: μ, shape (N,).
        variance: v, of a state given its predecessor; of a chain's first state, its prior variance. Positive,
            shape (N,).
        transition: φ, shape (N,); what it is at first states is not read.
        rounds: offsets of the rounds, from 0 to N; rounds do not grow.

    All three may carry gradients, and further dimensions on the left where hyperparameters are drawn.

    Raises:
        InputError: where shapes or offsets do not fit each other.
    """

    mean: Tensor
    variance: Tensor
    transition: Tensor
    rounds: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes, offsets = self.sizes, self.rounds
        if offsets[:1] != (0,) or not sizes or min(sizes) < 1 or any(np.diff(sizes) > 0):
            raise InputError(
                f"the rounds of chains start at {offsets[:4]}…; offsets begin at 0 and rounds do not grow"
            )
        shapes = [tuple(part.shape[-1:]) for part in (self.mean, self.variance, self.transition)]
        if shapes != [(self.num_states,)] * 3:
            raise InputError(
                f"chains of {self.num_states} states need as many means, variances and transitions; got "
                f"{shapes}"
            )

    @classmethod
    def static(cls, mean: Tensor, variance: Tensor) -> Chains:
        """Chains of one state each: independent normals."""
        return cls(mean, variance, torch.zeros_like(mean), (0, mean.shape[-1]))

    @property
    def num_states(self) -> int:
        """N."""
        return self.rounds[-1]

    @property
    def num_chains(self) -> int:
        """How many there are, which is how many states the first round has."""
        return self.rounds[1]

    @property
    def batch_shape(self) -> torch.Size:
        """What there is left of the states' dimension."""
        shapes = (part.shape[:-1] for part in (self.mean, self.variance, self.transition))
        return (
            torch.Size(np.broadcast_shapes(*shapes))
            if self.mean.dim() > 1 or self.variance.dim() > 1
            else ONE_DRAW
        )

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of every round."""
        return [after - before for before, after in zip(self.rounds, self.rounds[1:], strict=False)]

    @property
    def marginal_variance(self) -> Tensor:
        """Of every state under the prior, shape (..., N)."""
        return self._accumulate(self.transition**2, self.variance)

    @cached_property
    def previous(self) -> Tensor:
        """The predecessors' rows of all rows from the second round on, shape (N − chains,)."""
        return self._rows_before(1)

    def detach(self) -> Chains:
        """The same in float64 without gradients."""
        mean, variance, phi = (part.detach().double() for part in (self.mean, self.variance, self.transition))
        return Chains(mean, variance, phi, self.rounds)

    def log_prob(self, value: Tensor) -> Tensor:
        """log N(x) of states (..., N), shape (...)."""
        squares = self._innovations(value - self.mean) ** 2 / self.variance
        return -0.5 * (squares + self.variance.log() + math.log(2 * math.pi)).sum(-1)

    def whiten(self, value: Tensor) -> Tensor:
        """The independent N(0, 1) that states (..., N) are made of."""
        return self._innovations(value - self.mean) / self.variance.sqrt()

    def unwhiten(self, noise: Tensor) -> Tensor:
        """States made of independent N(0, 1), (..., N): a draw of the chains, and the inverse of `whiten`."""
        return self.mean + self._accumulate(self.transition, noise * self.variance.sqrt())

    def precision_times(self, deviation: Tensor) -> Tensor:
        """P x for x (..., N)."""
        return self._transposed(self._innovations(deviation) / self.variance)

    def precision_root(self, noise: Tensor) -> Tensor:
        """A linear function of independent N(0, 1), (..., N), whose covariance is P."""
        return self._transposed(noise / self.variance.sqrt())

    def dense_precision(self) -> Tensor:
        """P, shape (N, N)."""
        first, ratio = self.num_chains, self.transition / self.variance
        diagonal = 1 / self.variance
        if len(self.sizes) == 1:
            return diagonal.diag()
        squares = (ratio * self.transition)[first:]
        found = diagonal.index_add(0, self.previous, squares).diag()
        rows = torch.arange(first, self.num_states, device=found.device)
        found[rows, self.previous] = found[self.previous, rows] = -ratio[first:]
        return found

    def expected_log_prob(self, mean: Tensor, variance: Tensor, lag_covariance: Tensor) -> Tensor:
        """E[log N(x)] under a Gaussian of these moments, a scalar, differentiable in the chains' own.

        Args:
            mean, variance: of every state, shape (N,).
            lag_covariance: of the states from the second round on with their predecessors, shape
                (N − chains,).
        """
        squares = self._innovations(mean - self.mean) ** 2 + variance
        if len(self.sizes) > 1:
            first = squares.new_zeros(self.num_chains)
            phi = self.transition[self.num_chains :]
            before = variance.index_select(-1, self.previous)
            squares = squares + torch.cat([first, phi * (phi * before - 2 * lag_covariance)])
        return -0.5 * (squares / self.variance + self.variance.log() + math.log(2 * math.pi)).sum()

    def run_forward(self, factor: Tensor, added: Tensor) -> Tensor:
        """x_n = a_n x_{n−1} + b_n along every chain, for a, of which first states' are not read, and b (N,).

        As `run_back`, several times as fast where nothing is differentiated.
        """
        return _along(factor[..., self.num_chains :], added, self.rounds, plain=True)

    def run_back(self, factor: Tensor, added: Tensor) -> Tensor:
        """x_{n−1} = b_{n−1} + a_n x_n along every chain from its end, for a and b (N,)."""
        return _against(factor[..., self.num_chains :], added, self.rounds, plain=True)

    def smoother(self, site_precision: Tensor, *, plain: bool = False) -> Smoother:
        """Filter and smooth with an observation of this precision of every state.

        Args:
            site_precision: shape (N,).
            plain: whether recursions may run on NumPy's arrays, which is several times as fast where chains
                are long, and is neither differentiated nor traced.
        """
        return Smoother.of(self, site_precision, plain)

    def _innovations(self, deviation: Tensor) -> Tensor:
        if len(self.sizes) == 1:
            return deviation
        later = deviation[..., self.num_chains :]
        phi = self.transition[..., self.num_chains :]
        moved = later - phi * deviation.index_select(-1, self.previous)
        first = deviation[..., : self.num_chains]
        return torch.cat([first.expand(*moved.shape[:-1], -1), moved], -1)

    def _transposed(self, pull: Tensor) -> Tensor:
        """The transpose of what makes innovations of deviations."""
        if len(self.sizes) == 1:
            return pull
        back = self.transition[..., self.num_chains :] * pull[..., self.num_chains :]
        return pull.index_add(-1, self.previous, back, alpha=-1)

    def _accumulate(self, factor: Tensor, added: Tensor) -> Tensor:
        """x_n = a_n x_{n−1} + b_n along every chain, in operations that can be traced."""
        if len(self.sizes) > FEW_ROUNDS:
            return self._accumulate_by_doubling(factor, added)
        return _along(factor[..., self.num_chains :], added, self.rounds)

    def _accumulate_by_doubling(self, factor: Tensor, added: Tensor) -> Tensor:
        """The same in log₂ of the rounds, each over all states: a short graph for long chains."""
        stride = 1
        added = added.expand(*np.broadcast_shapes(factor.shape, added.shape))
        while stride < len(self.sizes):
            start, before = self.rounds[stride], self._rows_before(stride)
            own = factor[..., start:]
            added = torch.cat(
                [added[..., :start], added[..., start:] + own * added.index_select(-1, before)], -1
            )
            factor = torch.cat([factor[..., :start], own * factor.index_select(-1, before)], -1)
            stride *= 2
        return added

    def _rows_before(self, stride: int) -> Tensor:
        """Of all rows from round ``stride`` on, the rows so many states earlier in their chains."""
        offsets = np.asarray(self.rounds)
        moves = np.repeat(offsets[stride:-1] - offsets[: -1 - stride], self.sizes[stride:])
        rows = torch.from_numpy(np.arange(offsets[min(stride, len(self.sizes))], offsets[-1]) - moves)
        return rows.to(self.mean.device)


@dataclass(frozen=True, eq=False)
class Smoother:
    """Chains seen through an independent Gaussian observation of every state: N(·, (P + diag x)⁻¹).

    Attributes:
        chains: the prior.
        site_precision: x, not negative, shape (N,); 0 where nothing is seen.
        predictive: variances given the observations before, shape (N,).
        filtered: variances given those up to the state's own, shape (N,).
        gain: what a state's deviation moves its predecessor by, shape (N − chains,).
        plain: whether recursions may run on NumPy's arrays.
    """

    chains: Chains
    site_precision: Tensor
    predictive: Tensor
    filtered: Tensor
    gain: Tensor
    plain: bool = False

    @classmethod
    def of(cls, chains: Chains, site_precision: Tensor, plain: bool = False) -> Smoother:
        """Run the filter's variances, round by round."""
        ahead, here = _filter(chains, site_precision, plain)
        first = chains.num_chains
        gain = here.new_zeros(0)
        if len(chains.sizes) > 1:
            gain = chains.transition[first:] * here.index_select(-1, chains.previous) / ahead[first:]
        return cls(chains, site_precision, ahead, here, gain, plain)

    @cached_property
    def variance(self) -> Tensor:
        """Of every state given all observations: the diagonal of (P + diag x)⁻¹, shape (N,)."""
        return _against(self.gain**2, self._left, self.chains.rounds, self.plain)

    @property
    def lag_covariance(self) -> Tensor:
        """Of the states from the second round on with their predecessors, shape (N − chains,)."""
        return self.gain * self.variance[self.chains.num_chains :]

    @property
    def log_det(self) -> Tensor:
        """log |P + diag x| − log |P|, a scalar."""
        return (self.site_precision * self.predictive).log1p().sum()

    def solve(self, right: Tensor) -> Tensor:
        """(P + diag x)⁻¹ b for b (..., N): with b of observations, the smoothed deviations from the mean."""
        rounds = self.chains.rounds
        forward = _along(self._kept, self.filtered * right, rounds, self.plain)
        return _against(self.gain, self._share * forward, rounds, self.plain)

    def sample(self, noise: Tensor) -> Tensor:
        """Deviations from the mean made of independent N(0, 1), (..., N)."""
        return _against(self.gain, noise * self._left.sqrt(), self.chains.rounds, self.plain)

    def log_prob(self, deviation: Tensor) -> Tensor:
        """log density at deviations (..., N) from the mean, shape (...)."""
        pull = self.chains.precision_times(deviation) + self.site_precision * deviation
        volume = self.log_det - self.chains.variance.log().sum()
        size = self.chains.num_states * math.log(2 * math.pi)
        return 0.5 * (volume - size - (deviation * pull).sum(-1))

    @cached_property
    def _kept(self) -> Tensor:
        """What of its predecessor's filtered mean a state's has, shape (N − chains,)."""
        first = self.chains.num_chains
        return self.filtered[first:] * self.chains.transition[first:] / self.predictive[first:]

    @cached_property
    def _share(self) -> Tensor:
        """Of a state's filtered variance, what its successor does not know; 1 at the last, shape (N,)."""
        if len(self.chains.rounds) == 1:
            return torch.ones_like(self.filtered)
        first = self.chains.num_chains
        unknown = self.chains.variance[first:] / self.predictive[first:]
        return torch.ones_like(self.filtered).index_copy(0, self.chains.previous, unknown)

    @cached_property
    def _left(self) -> Tensor:
        """The variance of every state given its successor and the observations, shape (N,)."""
        return self.filtered * self._share


def _along(factor: Tensor, base: Tensor, rounds: Sequence[int], plain: bool = False) -> Tensor:
    """x_n = b_n + a_n x_{n−1}, round by round; a of shape (..., N − chains), b (..., N)."""
    if len(rounds) == 2:
        return base
    if plain and _are_plain(factor, base):
        found, first = base.numpy().copy(), rounds[1]
        factors = factor.numpy()
        for before, start, end in zip(rounds, rounds[1:], rounds[2:], strict=False):
            earlier = found[..., before : before + end - start]
            found[..., start:end] += factors[..., start - first : end - first] * earlier
        return torch.from_numpy(found)
    sizes = np.diff(rounds).tolist()
    parts = base.expand(*np.broadcast_shapes(factor.shape[:-1], base.shape[:-1]), -1).split(sizes, -1)
    done = [parts[0]]
    for a, part in zip(factor.split(sizes[1:], -1), parts[1:], strict=True):
        done.append(part + a * done[-1][..., : a.shape[-1]])
    return torch.cat(done, -1)


def _against(factor: Tensor, base: Tensor, rounds: Sequence[int], plain: bool = False) -> Tensor:
    """x_{n−1} = b_{n−1} + a_n x_n, from the last round back; a of shape (..., N − chains), b (..., N)."""
    if len(rounds) == 2:
        return base
    if plain and _are_plain(factor, base):
        found, first = base.numpy().copy(), rounds[1]
        factors = factor.numpy()
        for r in range(len(rounds) - 2, 0, -1):
            before, start, end = rounds[r - 1 : r + 2]
            own = factors[..., start - first : end - first] * found[..., start:end]
            found[..., before : before + end - start] += own
        return torch.from_numpy(found)
    sizes = np.diff(rounds).tolist()
    parts = base.split(sizes, -1)
    done = [parts[-1]]
    for a, part in zip(factor.split(sizes[1:], -1)[::-1], parts[-2::-1], strict=True):
        size = a.shape[-1]
        done.append(torch.cat([part[..., :size] + a * done[-1], part[..., size:]], -1))
    return torch.cat(done[::-1], -1)


def _filter(chains: Chains, site_precision: Tensor, plain: bool) -> tuple[Tensor, Tensor]:
    """Predictive and filtered variances, each of shape (N,)."""
    squares, variance, rounds = chains.transition**2, chains.variance, chains.rounds
    if plain and _are_plain(squares, variance, site_precision):
        found = _filter_plain(squares.numpy(), variance.numpy(), site_precision.numpy(), rounds)
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])
    sizes = chains.sizes
    parts = zip(*(part.split(sizes, -1) for part in (squares, variance, site_precision)), strict=True)
    predictive: list[Tensor] = []
    filtered: list[Tensor] = []
    for square, own, precision in parts:
        if filtered:
            own = torch.addcmul(own, square, filtered[-1][: len(own)])
        predictive.append(own)
        filtered.append(own / (1 + precision * own))
    return torch.cat(predictive), torch.cat(filtered)


def _filter_plain(
    squares: np.ndarray, variance: np.ndarray, seen: np.ndarray, rounds: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    ahead, here = variance.copy(), np.empty(rounds[-1])
    before = here[:0]
    for start, end in pairwise(rounds):
        own, kept = ahead[start:end], here[start:end]
        if start:
            own += squares[start:end] * before[: end - start]
        np.multiply(seen[start:end], own, out=kept)
        kept += 1
        before = np.divide(own, kept, out=kept)
    return ahead, here


def _are_plain(*tensors: Tensor) -> bool:
    """Whether NumPy, a call of which costs a fifth of PyTorch's, can stand in."""
    return all(
        tensor.dtype == torch.float64 and tensor.device.type == "cpu" and not tensor.requires_grad
        for tensor in tensors
    )
