"""Chains one after another, against dense matrices and the smoother by rounds."""

import numpy as np
import pytest
import torch

from ppl_vae.program.chains import Chains
from ppl_vae.program.tridiagonal import Tridiagonal, by_chain


def some_chains(rounds: tuple[int, ...] = (0, 4, 7, 9, 10), seed: int = 0) -> Chains:
    rng = np.random.default_rng(seed)
    parts = (rng.normal(size=rounds[-1]), rng.gamma(2.0, size=rounds[-1]), rng.uniform(0.2, 1, rounds[-1]))
    return Chains(*(torch.as_tensor(part) for part in parts), rounds)


@pytest.mark.parametrize("rounds", [(0, 4, 7, 9, 10), (0, 3), (0, 1)])
def test_it_is_the_precision_of_the_chains(rounds: tuple[int, ...]) -> None:
    chains = some_chains(rounds)
    order, lines = by_chain(chains), Tridiagonal.of(chains)
    dense = chains.dense_precision() if len(rounds) > 2 else chains.variance.reciprocal().diag()
    dense = dense.numpy()[np.ix_(order, order)]
    x, seen = np.random.default_rng(1).normal(size=(2, chains.num_states))
    seen = seen**2
    np.testing.assert_allclose(lines.times(x), dense @ x, rtol=1e-12)
    factored, inverse = lines.factored(seen), np.linalg.inv(dense + np.diag(seen))
    np.testing.assert_allclose(factored.solve(x), inverse @ x, rtol=1e-10)
    np.testing.assert_allclose(factored.variance, inverse.diagonal(), rtol=1e-10)


def test_states_are_put_where_they_belong() -> None:
    """Chains of which the ends were taken off and put on again."""
    chains = some_chains()
    whole = Tridiagonal.of(chains)
    firsts = np.flatnonzero(whole.transition == 0)
    ends = np.r_[firsts[1:], len(whole.mean)] - 1
    later = np.setdiff1d(ends, firsts)
    some = np.setdiff1d(np.arange(len(whole.mean)), later)
    parts = (whole.mean, whole.variance, whole.transition)
    fewer, taken = (Tridiagonal(*(part[at] for part in parts)) for at in (some, later))
    again = fewer.inserted(np.searchsorted(some, later), taken)
    np.testing.assert_array_equal(again.mean, whole.mean)
    np.testing.assert_array_equal(again.diagonal, whole.diagonal)


def test_what_is_no_gaussian_is_refused() -> None:
    lines = Tridiagonal.of(some_chains())
    with pytest.raises(FloatingPointError, match="not positive definite"):
        lines.factored(np.full(10, -100.0))
