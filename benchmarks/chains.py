"""Chains of any sampler, judged by the same function."""

from dataclasses import dataclass

import numpy as np
from arviz_stats.base import array_stats

from benchmarks.problems import Draws, Sampling

__all__ = ["Chains", "check_same_means", "smallest_ess"]


@dataclass(frozen=True, eq=False)
class Chains:
    """Draws of shape (chain, draw, …) by site, in the model's own (constrained) space.

    Attributes:
        draws: by site.
        seconds: wall time of warm-up and sampling, without compilation.
        compile_seconds: what was left out.
    """

    draws: Draws
    seconds: float
    compile_seconds: float


def smallest_ess(problem: Sampling, chains: Chains) -> float:
    """The smallest bulk effective sample size of any identifiable quantity."""
    return min(array_stats.ess(values, method="bulk") for values in _scalars(problem, chains))


def check_same_means(problem: Sampling, one: Chains, other: Chains, limit: float = 6.0) -> float:
    """Compare the posterior means of all identifiable quantities.

    Returns:
        The largest difference in units of its Monte Carlo error.

    Raises:
        AssertionError: if it is beyond the limit: the sides do not sample the same posterior.
    """
    pairs = zip(_scalars(problem, one), _scalars(problem, other), strict=True)
    largest = max(_z_score(a, b) for a, b in pairs)
    assert largest < limit, f"posterior means differ by {largest:.1f} Monte Carlo errors"
    return largest


def _z_score(a: np.ndarray, b: np.ndarray) -> float:
    errors = [array_stats.mcse(values, method="mean") for values in (a, b)]
    return float(abs(a.mean() - b.mean()) / np.hypot(*errors))


def _scalars(problem: Sampling, chains: Chains) -> list[np.ndarray]:
    found = problem.identifiable(chains.draws)
    flat = [found[name].reshape(*found[name].shape[:2], -1) for name in sorted(found)]
    return list(np.moveaxis(np.concatenate(flat, axis=-1), -1, 0))
